#![no_main]

#[path = "../bytes.rs"]
#[allow(dead_code, reason = "each target has one of them")]
mod bytes;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bytes::safetensors(input));
