//! `--max-memory`: the first way to draw that fits, and says what it does without.

use clap::Args;
use latent::{Economy, Pipeline, Plan, Precision, Request};

use crate::args::PrecisionFlag;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// The flag of `generate` and `plan`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MemoryFlags {
    /// Memory that drawing may take, as 2GiB or 900MB: what does not fit is drawn with networks released after use, by
    /// bands, with weights in bf16 or in 8 bits, in this order as far as needed; on a CPU. Counted is what is in use: the
    /// program's code, results, packed weights. The system shows more, by pages of the weights' file, of which one tensor at
    /// a time is read, and by freed memory that it has not taken back: 15 MiB with the built-in model, 26 with Stable
    /// Diffusion 1.5 in bf16, 220 in 8 bits.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) max_memory: Option<usize>,
}

/// A way to draw.
pub(crate) struct Way {
    /// What it adds to the one before.
    pub(crate) name: &'static str,
    pub(crate) economy: Economy,
    pub(crate) precision: Precision,
}

/// Ways from the quickest to the least in memory. A precision that the user asked for stays.
pub(crate) fn ways(asked: PrecisionFlag, precision: Precision) -> Vec<Way> {
    let ladder = Economy::ladder();
    let mut ways: Vec<Way> = ladder
        .into_iter()
        .map(|(name, economy)| Way {
            name,
            economy,
            precision,
        })
        .collect();
    let economy = ladder[ladder.len() - 1].1;
    let smaller = [
        (Precision::Bf16, "weights in bf16"),
        (Precision::Int8, "the U-Net's weights in 8 bits"),
    ];
    for (precision, name) in smaller {
        let known = ways.last().is_some_and(|way| way.precision == precision);
        if asked == PrecisionFlag::Auto && !known {
            ways.push(Way {
                name,
                economy,
                precision,
            });
        }
    }
    ways
}

/// The pipeline in the first way whose plan for `request` stays within `most` bytes; `open` opens it in a precision.
///
/// # Errors
/// When no way fits, with what would.
pub(crate) fn within(
    most: usize,
    request: &Request,
    (asked, mut pipeline): (PrecisionFlag, Pipeline),
    open: impl Fn(Precision) -> Result<Pipeline, Fault>,
    terminal: &Terminal,
) -> Result<Pipeline, Fault> {
    let mut done = Vec::new();
    // What plans leave behind is not what drawing takes.
    let program = latent::program_bytes();
    let mut least = usize::MAX;
    for (index, way) in ways(asked, pipeline.precision()).iter().enumerate() {
        if way.precision != pipeline.precision() {
            drop(pipeline);
            pipeline = open(way.precision)?;
        }
        pipeline = pipeline.with_economy(way.economy);
        let peak = pipeline.plan_over(program, request)?.peak;
        if index > 0 && peak < least {
            done.push(way.name);
        }
        least = least.min(peak);
        if peak <= most {
            let without = match done[..] {
                [] => String::new(),
                _ => format!(": {}", done.join(", ")),
            };
            terminal.note(format_args!(
                "memory: {} of {}{without}",
                size(peak),
                size(most)
            ));
            return Ok(pipeline);
        }
    }
    Err(too_little(most, least, request, (program, &pipeline)))
}

/// Why nothing fits, and the largest picture that would.
fn too_little(
    most: usize,
    least: usize,
    request: &Request,
    (program, pipeline): (usize, &Pipeline),
) -> Fault {
    let fault = Fault::usage(format!(
        "this picture takes {} with all that saves memory, and --max-memory allows {}",
        size(least),
        size(most)
    ));
    let [height, width] = pipeline.size();
    let (width, height) = (
        request.width.unwrap_or(width),
        request.height.unwrap_or(height),
    );
    let smaller = (1..8).rev().find_map(|eighths| {
        let fits = |side: usize| (side * eighths / 8).next_multiple_of(64);
        let sides = (fits(width), fits(height));
        let smaller = Request {
            width: Some(sides.0),
            height: Some(sides.1),
            ..request.clone()
        };
        let fewer = sides.0 * sides.1 < width * height;
        let plan = fewer.then(|| pipeline.plan_over(program, &smaller));
        let fits = plan.is_some_and(|plan| plan.is_ok_and(|plan| plan.peak <= most));
        fits.then_some(sides)
    });
    fault.hint(match smaller {
        Some((width, height)) => format!(
            "allow {}, or draw {width}x{height} with --width {width} --height {height}",
            size(least)
        ),
        None => format!("allow {}, or take a smaller model", size(least)),
    })
}

/// Bytes in words.
pub(crate) fn size(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1000.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

/// The peaks of a plan's stages as JSON.
pub(crate) fn peaks(plan: &Plan) -> Vec<serde_json::Value> {
    let stage = |stage: &latent::Stage| serde_json::json!({ "part": stage.part.name(), "evaluations": stage.evaluations, "peak_bytes": stage.peak });
    plan.stages.iter().map(stage).collect()
}

/// A size as people write it: 2GiB, 2G, 2.5GB, 900M, or a number of bytes.
fn bytes(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let split = lower.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = lower.split_at(split.unwrap_or(lower.len()));
    let unit = match unit {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1024.0 * 1024.0,
        "mb" => 1e6,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "gb" => 1e9,
        _ => {
            return Err(format!(
                "`{unit}` is no unit of memory; GiB, MiB, GB and MB are"
            ));
        }
    };
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| "a size is a number with a unit, as 2GiB or 900MB".to_owned())?;
    if number.is_finite() && number > 0.0 && number * unit < 1e18 {
        Ok((number * unit) as usize)
    } else {
        Err("a size is more than nothing and less than an exabyte".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, value) in [
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("1.5 GiB", 3 << 29),
            ("900MB", 900_000_000),
            ("512M", 512 << 20),
            ("4096", 4096),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "-1G", "two", "1 furlong", "nan", "0", "1e40"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_precision_that_was_asked_for_stays_and_weights_shrink_last() {
        let precisions = |asked, from| -> Vec<Precision> {
            ways(asked, from).iter().map(|way| way.precision).collect()
        };
        let (f32, bf16, int8) = (Precision::F32, Precision::Bf16, Precision::Int8);
        assert_eq!(precisions(PrecisionFlag::F32, f32), [f32; 4]);
        let mut all = vec![f32; 4];
        all.extend([bf16, int8]);
        assert_eq!(precisions(PrecisionFlag::Auto, f32), all);
        assert_eq!(precisions(PrecisionFlag::Auto, bf16).last(), Some(&int8));
    }
}
