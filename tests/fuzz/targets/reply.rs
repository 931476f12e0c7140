//! See `transom::fuzz::reply`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transom::fuzz::reply(bytes));
