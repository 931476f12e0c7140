//! See `transom::fuzz::chunked`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transom::fuzz::chunked(bytes));
