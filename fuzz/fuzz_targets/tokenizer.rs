#![no_main]

#[path = "../words.rs"]
#[allow(dead_code, reason = "each target has one of them")]
mod words;

libfuzzer_sys::fuzz_target!(|input: &[u8]| words::tokenizer(input));
