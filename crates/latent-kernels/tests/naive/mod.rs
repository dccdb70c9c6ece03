//! Each operation as its definition says, in f64: what the kernels are held against.
#![allow(dead_code, reason = "each test file uses some of these")]

use latent_kernels::{Activation, AttentionShape, ConvShape, GroupNormShape, Precision};

/// `x` as a product's operand.
pub(crate) fn operand(x: f32, precision: Precision) -> f64 {
    f64::from(match precision {
        Precision::F32 => x,
        Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
        Precision::Int8 => panic!("bytes have the scale of their row: see `in_bytes`"),
    })
}

/// The values as bytes stand for them: in each run of `len`, whole multiples of a 127th of the largest.
pub(crate) fn in_bytes(values: &[f32], len: usize) -> Vec<f32> {
    let run = |values: &[f32]| {
        let largest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let near = |x: &f32| (x * (127.0 / largest)).round_ties_even() * (largest / 127.0);
        values.iter().map(near).collect::<Vec<_>>()
    };
    values.chunks(len).flat_map(run).collect()
}

/// Values in -1..1 that look random, from a seed.
pub(crate) fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len)
        .map(|_| (next() >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// Fails where `got` is further from `expected` than `tolerance` times the largest expected value (at least 1).
pub(crate) fn assert_near(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    let scale = expected.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(*got) - expected).abs();
        assert!(
            difference <= tolerance * scale,
            "{what}: value {i} is {got}, not {expected} (scale {scale})"
        );
    }
}

/// `a [m, k] @ b [n, k]^T`.
pub(crate) fn product(a: &[f32], b: &[f32], k: usize, precision: Precision) -> Vec<f64> {
    let mut out = Vec::new();
    for a in a.chunks(k) {
        for b in b.chunks(k) {
            out.push(
                a.iter()
                    .zip(b)
                    .map(|(a, b)| operand(*a, precision) * operand(*b, precision))
                    .sum(),
            );
        }
    }
    out
}

pub(crate) fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns * rows)
        .map(|i| x[i % rows * columns + i / rows])
        .collect()
}

/// Calls `visit(pixel of x, pixel of y, tap)` for every product of a convolution.
pub(crate) fn each_product(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let scale = if s.upsample { 2 } else { 1 };
    for n in 0..s.n {
        for oy in 0..s.out_h() {
            for ox in 0..s.out_w() {
                for tap in 0..s.kh * s.kw {
                    let iy = (oy * s.stride + tap / s.kw).wrapping_sub(s.padding[0]);
                    let ix = (ox * s.stride + tap % s.kw).wrapping_sub(s.padding[1]);
                    if iy < scale * s.h && ix < scale * s.w {
                        let from = (n * s.h + iy / scale) * s.w + ix / scale;
                        visit(from, (n * s.out_h() + oy) * s.out_w() + ox, tap);
                    }
                }
            }
        }
    }
}

pub(crate) fn conv2d(x: &[f32], w: &[f32], s: &ConvShape, precision: Precision) -> Vec<f64> {
    let taps = s.kh * s.kw;
    let mut out = vec![0.0; s.n * s.out_h() * s.out_w() * s.co];
    each_product(s, |from, to, tap| {
        for co in 0..s.co {
            for ci in 0..s.ci {
                let w = w[(co * s.ci + ci) * taps + tap];
                out[to * s.co + co] +=
                    operand(x[from * s.ci + ci], precision) * operand(w, precision);
            }
        }
    });
    out
}

pub(crate) fn conv2d_backward_input(
    dy: &[f32],
    w: &[f32],
    s: &ConvShape,
    precision: Precision,
) -> Vec<f64> {
    let taps = s.kh * s.kw;
    let mut dx = vec![0.0; s.n * s.h * s.w * s.ci];
    each_product(s, |from, to, tap| {
        for co in 0..s.co {
            for ci in 0..s.ci {
                let w = w[(co * s.ci + ci) * taps + tap];
                dx[from * s.ci + ci] +=
                    operand(dy[to * s.co + co], precision) * operand(w, precision);
            }
        }
    });
    dx
}

pub(crate) fn conv2d_backward_weight(
    x: &[f32],
    dy: &[f32],
    s: &ConvShape,
    precision: Precision,
) -> Vec<f64> {
    let taps = s.kh * s.kw;
    let mut dw = vec![0.0; s.co * s.ci * taps];
    each_product(s, |from, to, tap| {
        for co in 0..s.co {
            for ci in 0..s.ci {
                dw[(co * s.ci + ci) * taps + tap] += operand(dy[to * s.co + co], precision)
                    * operand(x[from * s.ci + ci], precision);
            }
        }
    });
    dw
}

/// What [`attention`] gives: output, and log of the sums.
pub(crate) struct Attended {
    pub(crate) out: Vec<f64>,
    pub(crate) log_sums: Vec<f64>,
    /// Shares `[batch, heads, queries, keys]`.
    pub(crate) shares: Vec<f64>,
}

/// Place of row `i` of a head in `[batch, len, heads * head_dim]`.
pub(crate) fn place(s: &AttentionShape, len: usize, (b, h): (usize, usize), i: usize) -> usize {
    ((b * len + i) * s.heads + h) * s.head_dim
}

/// Every (batch, head).
pub(crate) fn heads(s: &AttentionShape) -> Vec<(usize, usize)> {
    (0..s.batch)
        .flat_map(|b| (0..s.heads).map(move |h| (b, h)))
        .collect()
}

pub(crate) fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: &AttentionShape,
    precision: Precision,
) -> Attended {
    let mut result = Attended {
        out: vec![0.0; q.len()],
        log_sums: Vec::new(),
        shares: Vec::new(),
    };
    let d = s.head_dim;
    for head in heads(s) {
        for i in 0..s.queries {
            let at = place(s, s.queries, head, i);
            let seen = if s.causal { s.keys.min(i + 1) } else { s.keys };
            let scores: Vec<f64> = (0..seen)
                .map(|j| {
                    let key = place(s, s.keys, head, j);
                    let sum: f64 = (0..d)
                        .map(|e| operand(q[at + e], precision) * operand(k[key + e], precision))
                        .sum();
                    sum / (d as f64).sqrt()
                })
                .collect();
            let sum: f64 = scores.iter().map(|score| score.exp()).sum();
            result.log_sums.push(sum.ln());
            for j in 0..s.keys {
                let share = scores.get(j).map_or(0.0, |score| score.exp() / sum);
                result.shares.push(share);
                for e in 0..d {
                    result.out[at + e] +=
                        share * operand(v[place(s, s.keys, head, j) + e], precision);
                }
            }
        }
    }
    result
}

/// `dq`, `dk`, `dv` by the chain rule over all scores.
pub(crate) fn attention_backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    s: &AttentionShape,
) -> [Vec<f64>; 3] {
    let record = attention(q, k, v, s, Precision::F32);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
    let d = s.head_dim;
    for (head_index, head) in heads(s).into_iter().enumerate() {
        for i in 0..s.queries {
            let at = place(s, s.queries, head, i);
            let shares = &record.shares[(head_index * s.queries + i) * s.keys..][..s.keys];
            let slope = |j: usize| -> f64 {
                let key = place(s, s.keys, head, j);
                (0..d)
                    .map(|e| f64::from(dout[at + e]) * f64::from(v[key + e]))
                    .sum()
            };
            let mean: f64 = (0..s.keys).map(|j| shares[j] * slope(j)).sum();
            for (j, share) in shares.iter().enumerate() {
                let key = place(s, s.keys, head, j);
                let ds = share * (slope(j) - mean) / (d as f64).sqrt();
                for e in 0..d {
                    dv[key + e] += share * f64::from(dout[at + e]);
                    dq[at + e] += ds * f64::from(k[key + e]);
                    dk[key + e] += ds * f64::from(q[at + e]);
                }
            }
        }
    }
    [dq, dk, dv]
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Share of the normal distribution below `x`, by a series of the error function whose terms have one sign.
pub(crate) fn below(x: f64) -> f64 {
    let z = x / 2f64.sqrt();
    if z.abs() > 6.0 {
        return if z < 0.0 { 0.0 } else { 1.0 };
    }
    let (mut sum, mut term, mut n) = (0.0, z, 0.0);
    while f64::abs(term) > 1e-18 {
        sum += term;
        n += 1.0;
        term *= 2.0 * z * z / (2.0 * n + 1.0);
    }
    0.5 + sum * (-z * z).exp() / std::f64::consts::PI.sqrt()
}

pub(crate) fn activation(x: f64, kind: Activation) -> f64 {
    match kind {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * below(x),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
    }
}

pub(crate) fn group_norm(x: &[f64], gamma: &[f32], beta: &[f32], s: &GroupNormShape) -> Vec<f64> {
    let width = s.channels / s.groups;
    let mut out = vec![0.0; x.len()];
    for n in 0..s.n {
        for group in 0..s.groups {
            let members: Vec<usize> = (0..s.positions)
                .flat_map(|p| {
                    (0..width).map(move |c| (n * s.positions + p) * s.channels + group * width + c)
                })
                .collect();
            let count = members.len() as f64;
            let mean = members.iter().map(|&i| x[i]).sum::<f64>() / count;
            let variance = members
                .iter()
                .map(|&i| (x[i] - mean) * (x[i] - mean))
                .sum::<f64>()
                / count;
            for i in members {
                let c = i % s.channels;
                let normal = (x[i] - mean) / (variance + f64::from(s.eps)).sqrt();
                let y = normal * f64::from(gamma[c]) + f64::from(beta[c]);
                out[i] = if s.silu { y * sigmoid(y) } else { y };
            }
        }
    }
    out
}

/// Those of this kind of processor; each includes those before it.
#[cfg(target_arch = "x86_64")]
const INSTRUCTION_SETS: &[&str] = &["portable", "avx2", "avx512", "avx512bf16", "amx"];
#[cfg(target_arch = "aarch64")]
const INSTRUCTION_SETS: &[&str] = &["portable", "neon", "neonbf16"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const INSTRUCTION_SETS: &[&str] = &["portable"];

/// Runs this test program again with each lesser instruction set; the children skip this step.
#[expect(
    clippy::print_stderr,
    reason = "says what is tested here, and what not"
)]
pub(crate) fn repeat_with_lesser_instruction_sets() {
    let best = latent_kernels::instruction_set();
    eprintln!("the instruction set in use is `{best}`");
    if std::env::var_os("LATENT_ISA").is_some() {
        return;
    }
    assert_eq!(latent_kernels::check_instruction_set(), Ok(()));
    let (highest, lesser) = INSTRUCTION_SETS
        .split_last()
        .expect("at least the portable one");
    if best != *highest {
        eprintln!(
            "`{highest}` is not tested: this machine, or its system, has nothing above `{best}`"
        );
    }
    let here = std::env::current_exe().expect("the test's own path");
    for level in lesser {
        let output = std::process::Command::new(&here)
            .env("LATENT_ISA", level)
            .output()
            .expect("a child");
        assert!(
            output.status.success(),
            "with LATENT_ISA={level}:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
