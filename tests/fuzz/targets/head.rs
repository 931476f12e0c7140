//! See `transom::fuzz::head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transom::fuzz::head(bytes));
