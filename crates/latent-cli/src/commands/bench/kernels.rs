//! `latent bench kernels`: speed of the CPU kernels beside what the machine can reach.

use std::time::{Duration, Instant};

use clap::Args;
use latent_kernels::{
    AttentionShape, ConvShape, Epilogue, PackedConv, PackedMatrix, Precision, attention, conv2d,
    instruction_set, linear, measure_ceiling,
};
use serde_json::json;

use crate::fault::Fault;
use crate::terminal::Terminal;

/// Speed of the CPU kernels, in GFLOP/s and as a share of the fastest product on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent bench kernels
  latent bench kernels --threads 1 --json")]
pub(crate) struct Kernels {}

/// A kernel is run this long, and the fastest run counts.
const SPAN: Duration = Duration::from_millis(300);

/// What is measured: a name, the operations of one run, and the run.
struct Case {
    name: String,
    gflop: f64,
    run: Box<dyn FnMut()>,
}

impl Kernels {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        terminal.note(format_args!("kernels: {}", instruction_set()));
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            if precision == Precision::Bf16 && Precision::best() != Precision::Bf16 {
                terminal
                    .note("bf16: this machine has no instructions for it, so it is not measured");
                continue;
            }
            // The best of several: what else runs on the machine takes its share.
            let ceiling = (0..3)
                .map(|_| measure_ceiling(precision))
                .fold(0.0, f64::max);
            let name = format!("{precision:?}").to_lowercase();
            terminal.result(
                &json!({ "kernel": "ceiling", "precision": name, "gflop_per_second": ceiling }),
                format_args!(
                    "{name:4}  {:42} {ceiling:>8.0} GFLOP/s",
                    "ceiling: a product of 2048 x 2048 x 2048"
                ),
            )?;
            for mut case in cases(precision) {
                let speed = case.gflop / fastest(&mut case.run);
                let share = speed / ceiling;
                let line = json!({
                    "kernel": case.name, "precision": name, "gflop_per_second": speed, "share_of_ceiling": share,
                });
                let text = format!(
                    "{name:4}  {:42} {speed:>8.0} GFLOP/s {:>5.0} %",
                    case.name,
                    100.0 * share
                );
                terminal.result(&line, text)?;
            }
        }
        Ok(())
    }
}

/// The layers of a U-Net of 320 to 1280 channels on 64 x 64 latents, and the built-in model's.
fn cases(precision: Precision) -> Vec<Case> {
    let mut cases = Vec::new();
    for (m, k, n) in [
        (4096, 320, 320),
        (1024, 640, 5120),
        (256, 1280, 1280),
        (64, 128, 128),
    ] {
        cases.push(matrix([m, k, n], precision));
    }
    for (side, ci, co) in [
        (64, 320, 320),
        (32, 640, 640),
        (16, 1280, 1280),
        (16, 64, 64),
    ] {
        cases.push(conv(side, [ci, co], precision));
    }
    if precision == Precision::Int8 {
        // Attention is never made of bytes.
        return cases;
    }
    for (positions, keys, heads, head_dim) in [
        (4096, 4096, 8, 40),
        (4096, 4096, 10, 64),
        (1024, 1024, 8, 80),
        (4096, 77, 8, 40),
    ] {
        let shape = AttentionShape {
            batch: 1,
            heads,
            queries: positions,
            keys,
            head_dim,
            causal: false,
        };
        cases.push(attend(shape, precision));
    }
    cases
}

fn matrix([m, k, n]: [usize; 3], precision: Precision) -> Case {
    let (x, mut out) = (values(m * k), vec![0.0; m * n]);
    let w = PackedMatrix::pack(&values(n * k), n, k, precision);
    Case {
        name: format!("linear [{m}, {k}] to {n}"),
        gflop: 2.0 * (m * k * n) as f64 / 1e9,
        run: Box::new(move || linear(&x, &w, None, None, &mut out)),
    }
}

fn conv(side: usize, [ci, co]: [usize; 2], precision: Precision) -> Case {
    let shape = ConvShape {
        n: 1,
        h: side,
        w: side,
        ci,
        co,
        kh: 3,
        kw: 3,
        stride: 1,
        padding: [1; 4],
        upsample: false,
    };
    let (x, mut out) = (values(side * side * ci), vec![0.0; side * side * co]);
    let w = PackedConv::pack(&values(co * ci * 9), &shape, precision);
    Case {
        name: format!("conv 3x3 [{side}, {side}, {ci}] to {co}"),
        gflop: 2.0 * (side * side * 9 * ci * co) as f64 / 1e9,
        run: Box::new(move || conv2d(&x, &w, &shape, &Epilogue::default(), &mut out)),
    }
}

fn attend(shape: AttentionShape, precision: Precision) -> Case {
    let AttentionShape {
        heads,
        queries,
        keys,
        head_dim,
        ..
    } = shape;
    let width = heads * head_dim;
    let (q, k, v) = (
        values(queries * width),
        values(keys * width),
        values(keys * width),
    );
    let mut out = vec![0.0; queries * width];
    Case {
        name: format!("attention {queries} x {keys}, {heads} heads of {head_dim}"),
        gflop: 4.0 * (queries * keys * width) as f64 / 1e9,
        run: Box::new(move || attention(&q, &k, &v, &shape, precision, &mut out, None)),
    }
}

/// Seconds of the fastest run.
fn fastest(run: &mut dyn FnMut()) -> f64 {
    run();
    let began = Instant::now();
    let mut best = f64::INFINITY;
    while began.elapsed() < SPAN {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Numbers between -1 and 1.
fn values(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}
