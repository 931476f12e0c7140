//! See `transom::fuzz::configuration`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transom::fuzz::configuration(bytes));
