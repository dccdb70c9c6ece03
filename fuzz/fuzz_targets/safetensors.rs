#![no_main]

#[path = "../bytes.rs"]
#[allow(dead_code, reason = "each target has one of them")]
mod bytes;
#[path = "../memory.rs"]
mod memory;

libfuzzer_sys::fuzz_target!(|input: &[u8]| memory::within(input, bytes::safetensors));
