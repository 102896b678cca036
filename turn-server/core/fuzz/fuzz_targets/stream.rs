#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| turn_server_core_fuzz::stream(input));
