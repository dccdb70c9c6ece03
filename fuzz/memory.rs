//! A limit on the memory that one input may take: what lies beyond is not given, which ends the program and is a finding.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What every input may take: buffers of decoders, the built-in tokenizer, threads.
const LEAST: usize = 64 << 20;

/// What a byte of input may take beyond that. Deflate, which pictures and archives have, makes at most 1032 bytes of one.
const PER_BYTE: usize = 2048;

/// Runs `entry` on `input` within the memory that the input's size justifies.
pub fn within(input: &[u8], entry: fn(&[u8])) {
    let most = MEMORY.allocated() + LEAST + PER_BYTE * input.len();
    MEMORY
        .set_limit(most)
        .expect("more than is allocated already");
    entry(input);
    MEMORY.set_limit(usize::MAX).expect("no limit");
}
