//! How fast this machine computes, measured in about a second, for plans of work to come.

use std::hint::black_box;
use std::time::Instant;

use latent_kernels::{
    AttentionShape, ConvShape, Epilogue, GroupNormShape, PackedConv, PackedMatrix, Precision,
    attention, conv2d, group_norm, linear,
};

use crate::ops::{OpCost, OpKind, PartRecord};

/// Speeds of products in one precision, in floating-point operations a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speeds {
    linear: f64,
    convolution: f64,
}

/// Speeds of the kernels on this machine's CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    floating: Speeds,
    bytes: Option<Speeds>,
    attention: f64,
    /// Bytes a second of norms and activations.
    bandwidth: f64,
    /// Seconds that an operation takes however small it is.
    overhead: f64,
    /// Values of weights a second that are packed.
    packing: f64,
}

/// Attention's share of the rate of products, where only that is stated: half of its time are exponentials.
const ATTENTION_SHARE: f64 = 0.6;
/// Products of bytes a second to those of bf16, likewise.
const BYTES_SHARE: f64 = 1.8;
/// Each measurement is run this often, and the fastest counts: what else runs on the machine takes its share.
const RUNS: usize = 7;

impl Rates {
    /// Measures the kernels on all threads of the pool, at the sizes that Stable Diffusion spends its time on.
    pub fn measure(precision: Precision) -> Self {
        let floating = precision.floating();
        Self {
            floating: speeds(floating),
            bytes: (precision == Precision::Int8).then(|| speeds(Precision::Int8)),
            attention: attention_speed(floating),
            bandwidth: bandwidth(),
            overhead: overhead(floating),
            packing: packing(floating),
        }
    }

    /// Of a machine that multiplies so many floating-point operations a second; what is no product goes at the pace of
    /// a desktop.
    pub fn stated(per_second: f64) -> Self {
        let speeds = |rate: f64| Speeds {
            linear: rate,
            convolution: rate,
        };
        Self {
            floating: speeds(per_second),
            bytes: Some(speeds(BYTES_SHARE * per_second)),
            attention: ATTENTION_SHARE * per_second,
            bandwidth: 10e9,
            overhead: 20e-6,
            packing: 0.5e9,
        }
    }

    /// Floating-point operations of convolutions a second, in the precision that is not bytes.
    pub fn products(&self) -> f64 {
        self.floating.convolution
    }

    /// Seconds of operations.
    pub fn seconds(&self, cost: &OpCost) -> f64 {
        let speeds = match cost.precision {
            Precision::Int8 => self.bytes.unwrap_or(self.floating),
            Precision::F32 | Precision::Bf16 => self.floating,
        };
        let work = match cost.kind {
            OpKind::Convolution => cost.made / speeds.convolution,
            OpKind::Linear => cost.made / speeds.linear,
            OpKind::Attention => cost.made / self.attention,
            OpKind::Norm | OpKind::Pointwise | OpKind::Layout => cost.bytes / self.bandwidth,
        };
        work + cost.calls as f64 * self.overhead
    }

    /// Seconds of a part, with the packing of its weights.
    pub fn seconds_of(&self, part: &PartRecord) -> f64 {
        let operations: f64 = part.costs.iter().map(|cost| self.seconds(cost)).sum();
        operations + self.seconds_of_packing(part)
    }

    /// Seconds that the weights of a part take to be packed.
    pub fn seconds_of_packing(&self, part: &PartRecord) -> f64 {
        part.packed as f64 / self.packing
    }
}

/// Seconds of the fastest `run`, after one that nobody counts.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let seconds = (0..RUNS).map(|_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min).max(1e-9)
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}

fn speeds(precision: Precision) -> Speeds {
    let [m, k, n] = [1024, 640, 1280];
    let (x, mut out) = (numbers(m * k), vec![0.0; m * n]);
    let w = PackedMatrix::pack(&numbers(n * k), n, k, precision);
    let seconds = fastest(|| linear(&x, &w, None, None, &mut out));
    let linear = 2.0 * (m * k * n) as f64 / seconds;
    let shape = ConvShape {
        n: 1,
        h: 32,
        w: 32,
        ci: 320,
        co: 320,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: [1; 4],
        upsample: false,
    };
    let x = numbers(shape.h * shape.w * shape.ci);
    let mut out = vec![0.0; shape.h * shape.w * shape.co];
    let w = PackedConv::pack(&numbers(shape.co * shape.ci * 9), &shape, precision);
    let seconds = fastest(|| conv2d(&x, &w, &shape, &Epilogue::default(), &mut out));
    Speeds {
        linear,
        convolution: 2.0 * shape.products() as f64 / seconds,
    }
}

fn attention_speed(precision: Precision) -> f64 {
    let shape = AttentionShape {
        batch: 1,
        heads: 8,
        queries: 1024,
        keys: 1024,
        head_dim: 40,
        causal: false,
    };
    let len = shape.queries * shape.heads * shape.head_dim;
    let (x, mut out) = (numbers(len), vec![0.0; len]);
    let seconds = fastest(|| attention(&x, &x, &x, &shape, precision, &mut out, None));
    4.0 * (shape.queries * shape.keys * shape.heads * shape.head_dim) as f64 / seconds
}

/// Bytes a second of a group norm over 16 MiB, which reads twice and writes once.
fn bandwidth() -> f64 {
    let shape = GroupNormShape {
        n: 1,
        positions: 64 * 64 * 4,
        channels: 256,
        groups: 32,
        eps: 1e-5,
        silu: true,
    };
    let len = shape.positions * shape.channels;
    let (x, mut out, mut stats) = (numbers(len), vec![0.0; len], vec![0.0; 2 * shape.groups]);
    let one = vec![1.0; shape.channels];
    let seconds = fastest(|| group_norm(&x, &one, &one, &shape, &mut out, &mut stats));
    12.0 * len as f64 / seconds
}

/// Seconds of an operation that computes next to nothing.
fn overhead(precision: Precision) -> f64 {
    let (x, mut out) = (numbers(64 * 64), vec![0.0; 64 * 64]);
    let w = PackedMatrix::pack(&numbers(64 * 64), 64, 64, precision);
    fastest(|| (0..20).for_each(|_| linear(&x, &w, None, None, &mut out))) / 20.0
}

/// Values a second of a convolution's weight.
fn packing(precision: Precision) -> f64 {
    let shape = ConvShape {
        n: 1,
        h: 8,
        w: 8,
        ci: 320,
        co: 640,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: [1; 4],
        upsample: false,
    };
    let w = numbers(shape.co * shape.ci * 9);
    let seconds = fastest(|| {
        black_box(PackedConv::pack(&w, &shape, precision));
    });
    w.len() as f64 / seconds
}
