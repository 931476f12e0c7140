//! See `transom_http::fuzz::head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transom_http::fuzz::head(bytes));
