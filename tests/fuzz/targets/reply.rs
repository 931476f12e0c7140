//! See `transom_http::fuzz::reply`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transom_http::fuzz::reply(bytes));
