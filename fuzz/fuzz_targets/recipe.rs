#![no_main]

#[path = "../memory.rs"]
mod memory;
#[path = "../words.rs"]
#[allow(dead_code, reason = "each target has one of them")]
mod words;

libfuzzer_sys::fuzz_target!(|input: &[u8]| memory::within(input, words::recipe));
