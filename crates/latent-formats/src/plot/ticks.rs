//! Round numbers along an axis.

/// The range of an axis and the places that are labelled.
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    pub(super) ticks: Vec<Tick>,
}

/// A labelled place.
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: String,
}

/// Ticks aimed at; a few more or fewer come of round steps.
const AIM: f64 = 6.0;

impl Axis {
    /// An axis over the finite values, the smallest and largest at its ends.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values).unwrap_or((0.0, 1.0));
        // Where all are equal, something around them still can be drawn.
        let (low, high) = if high - low > low.abs().max(high.abs()) * 1e-12 {
            (low, high)
        } else {
            let room = low.abs().max(1.0) * 0.5;
            (low - room, low + room)
        };
        let step = round_step((high - low) / AIM);
        let first = (low / step).ceil();
        let count = ((high / step).floor() - first).clamp(0.0, 20.0) as usize;
        let ticks = (0..=count).map(|index| {
            let value = (first + index as f64) * step;
            let label = label(value, step, low.abs().max(high.abs()));
            Tick { value, label }
        });
        Self {
            low,
            high,
            log: false,
            ticks: ticks.collect(),
        }
    }

    /// An axis over the finite values above 0; ticks at 1, 2, 5 times powers of ten, fewer over many of them.
    pub(super) fn log(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values.filter(|value| *value > 0.0)).unwrap_or((0.1, 1.0));
        let (low, high) = (low.log10(), high.log10());
        let (low, high) = if high - low > 0.1 {
            (low, high)
        } else {
            (low - 0.1, high + 0.1)
        };
        let decades = high - low;
        let digits: &[f64] = if decades < 3.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let every = (decades / 8.0).ceil().max(1.0) as i32;
        let ticks = (low.floor() as i32..=high.ceil() as i32)
            .filter(|power| power.rem_euclid(every) == 0)
            .flat_map(|power| digits.iter().map(move |digit| (digit, power)))
            .map(|(digit, power)| Tick {
                value: digit * 10f64.powi(power),
                label: label_of_power(*digit, power),
            })
            .filter(|tick| (low - 1e-9..=high + 1e-9).contains(&tick.value.log10()));
        Self {
            low,
            high,
            log: true,
            ticks: ticks.collect(),
        }
    }

    /// How far along the axis a value lies, 0 to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }
}

/// The smallest and largest finite value, kept where their difference is still a number.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .map(|value| value.clamp(-1e300, 1e300))
        .fold(None, |range, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        })
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digits = [1.0, 2.0, 5.0, 10.0];
    let digit = digits
        .iter()
        .find(|digit| *digit * power >= step * 0.999_999);
    digit.unwrap_or(&10.0) * power
}

/// As many digits behind the point as the step needs; with a letter for thousands and millions if the `largest` value
/// of the axis has them.
fn label(value: f64, step: f64, largest: f64) -> String {
    let (divisor, letter) = match largest {
        1e4..1e6 => (1e3, "k"),
        1e6..1e9 => (1e6, "M"),
        _ => (1.0, ""),
    };
    if value.abs() < step / 2.0 {
        return "0".to_string();
    }
    if !(1e-4..1e9).contains(&largest) {
        return format!("{value:.1e}");
    }
    let digits = (-(step / divisor).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{:.digits$}{letter}", value / divisor)
}

fn label_of_power(digit: f64, power: i32) -> String {
    match power {
        0..=4 => format!("{:.0}", digit * 10f64.powi(power)),
        -4..0 => format!(
            "{:.*}",
            power.unsigned_abs() as usize,
            digit * 10f64.powi(power)
        ),
        _ => format!("{digit:.0}e{power}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(&Axis::linear([0.0, 1.0].into_iter())),
            ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(&Axis::linear([0.0, 240000.0].into_iter())),
            ["0", "50k", "100k", "150k", "200k"]
        );
        assert_eq!(
            labels(&Axis::linear([3.0, 14.0].into_iter())),
            ["4", "6", "8", "10", "12", "14"]
        );
    }

    #[test]
    fn a_log_axis_has_powers_of_ten_or_their_parts() {
        assert_eq!(
            labels(&Axis::log([0.01, 0.5].into_iter())),
            ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"]
        );
        assert_eq!(
            labels(&Axis::log([1e-6, 1.0].into_iter())),
            ["1e-6", "1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]
        );
    }

    #[test]
    fn ends_of_the_range_are_the_ends_of_the_axis() {
        for axis in [
            Axis::linear([2.0, 32.0].into_iter()),
            Axis::log([2.0, 32.0].into_iter()),
        ] {
            assert!(axis.share(2.0).abs() < 1e-12 && (axis.share(32.0) - 1.0).abs() < 1e-12);
        }
        assert!((Axis::log([2.0, 32.0].into_iter()).share(8.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_single_value_still_makes_an_axis() {
        for value in [0.0, -3.0, 1e9, f64::MAX] {
            let axis = Axis::linear([value].into_iter());
            assert!(axis.high > axis.low && axis.ticks.len() < 30, "{value}");
        }
    }
}
