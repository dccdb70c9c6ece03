//! `latent generate --profile`: where the time went.

use latent::Precision;
use latent_kernels::measure_ceiling;
use latent_nn::ops::{OpCost, PartRecord};
use serde_json::json;

use crate::fault::Fault;
use crate::terminal::Terminal;

/// One line: a part, or a kind of operation in it.
struct Line {
    part: &'static str,
    what: String,
    calls: usize,
    seconds: f64,
    flops: f64,
    bytes: f64,
    /// Of the fastest product of this machine in the same precision.
    share: Option<f64>,
}

/// Says seconds, speed and share of the machine's limit of each kind of operation in each part; on stderr, or with
/// `--json` one object a line on stdout.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn report(parts: &[PartRecord], terminal: &Terminal) -> Result<(), Fault> {
    let mut ceilings: Vec<(Precision, f64)> = Vec::new();
    let costs = parts.iter().flat_map(|part| &part.costs);
    for cost in costs.filter(|cost| cost.flops > 0.0) {
        if !ceilings.iter().any(|(known, _)| *known == cost.precision) {
            // The best of several: what else runs on the machine takes its share.
            let best = (0..3).map(|_| measure_ceiling(cost.precision));
            ceilings.push((cost.precision, 1e9 * best.fold(0.0, f64::max)));
        }
    }
    let ceiling = |precision: Precision| {
        let found = ceilings.iter().find(|(known, _)| *known == precision);
        found.map(|(_, ceiling)| *ceiling)
    };
    if !terminal.json {
        for (precision, ceiling) in &ceilings {
            terminal.note(format_args!(
                "a product of 2048 x 2048 x 2048 in {}: {:.0} GFLOP/s, the ceiling",
                precision.name(),
                ceiling / 1e9
            ));
        }
        terminal.note(format_args!(
            "{:13} {:24} {:>7} {:>10} {:>6} {:>14} {:>8}",
            "part", "operation", "calls", "seconds", "time", "speed", "ceiling"
        ));
    }
    let whole: f64 = parts.iter().map(seconds_of).sum();
    for part in parts {
        for line in lines(part, &ceiling) {
            say(&line, whole, terminal)?;
        }
    }
    Ok(())
}

/// Seconds of a part; of what belongs to none, those of its operations.
fn seconds_of(part: &PartRecord) -> f64 {
    let operations: f64 = part.costs.iter().map(|cost| cost.seconds).sum();
    part.seconds.max(operations)
}

fn lines(part: &PartRecord, ceiling: &impl Fn(Precision) -> Option<f64>) -> Vec<Line> {
    let name = part.part.name();
    let mut costs: Vec<&OpCost> = part.costs.iter().collect();
    costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let share = |cost: &OpCost| {
        let ceiling = ceiling(cost.precision)?;
        (cost.flops > 0.0).then(|| cost.flops / cost.seconds.max(1e-12) / ceiling)
    };
    let all = seconds_of(part);
    let mut lines = vec![Line {
        part: name,
        what: "all".to_owned(),
        calls: part.evaluations,
        seconds: all,
        flops: costs.iter().map(|cost| cost.flops).sum(),
        bytes: 0.0,
        share: None,
    }];
    lines.extend(costs.iter().map(|cost| Line {
        part: name,
        what: if cost.flops > 0.0 {
            format!("{} {}", cost.kind.name(), cost.precision.name())
        } else {
            cost.kind.name().to_owned()
        },
        calls: cost.calls,
        seconds: cost.seconds,
        flops: cost.flops,
        bytes: cost.bytes,
        share: share(cost),
    }));
    let operations: f64 = costs.iter().map(|cost| cost.seconds).sum();
    lines.push(Line {
        part: name,
        what: "between operations".to_owned(),
        calls: 0,
        seconds: all - operations,
        flops: 0.0,
        bytes: 0.0,
        share: None,
    });
    lines
}

fn say(line: &Line, whole: f64, terminal: &Terminal) -> Result<(), Fault> {
    let per_second = |amount: f64| amount / line.seconds.max(1e-12) / 1e9;
    if terminal.json {
        let value = json!({
            "profile": line.part, "operation": line.what, "calls": line.calls, "seconds": line.seconds,
            "flops": line.flops, "gflop_per_second": per_second(line.flops), "bytes": line.bytes,
            "share_of_ceiling": line.share,
        });
        return terminal.data(value);
    }
    let speed = if line.flops > 0.0 {
        format!("{:.0} GFLOP/s", per_second(line.flops))
    } else if line.bytes > 0.0 {
        format!("{:.1} GB/s", per_second(line.bytes))
    } else {
        String::new()
    };
    let share = line
        .share
        .map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
    let calls = match line.calls {
        0 => String::new(),
        calls => calls.to_string(),
    };
    terminal.note(format_args!(
        "{:13} {:24} {calls:>7} {:>10.3} {:>4.0} % {speed:>14} {share:>8}",
        line.part,
        line.what,
        line.seconds,
        100.0 * line.seconds / whole.max(1e-12)
    ));
    Ok(())
}
