//! How fast the averaged weights follow the trained ones.

/// Decay that grows with the number of updates, so that the average forgets the untrained start.
///
/// Source: diffusers' `EMAModel` with `use_ema_warmup`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AverageWarmup {
    /// The decay never exceeds this.
    pub max: f64,
    /// Updates after which the warm-up counts as one unit.
    pub inv_gamma: f64,
    /// Exponent of the growth: `2 / 3` suits a million updates, `3 / 4` a hundred thousand.
    pub power: f64,
}

impl AverageWarmup {
    /// Decay of update `update`, counted from 1: `1 - (1 + (update - 1) / inv_gamma)^-power`, at most `max`.
    pub fn decay(&self, update: u64) -> f64 {
        let before = update.saturating_sub(1) as f64;
        let grown = 1.0 - (1.0 + before / self.inv_gamma).powf(-self.power);
        grown.clamp(0.0, self.max)
    }
}
