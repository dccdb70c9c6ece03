//! The optimiser's step, one pass over weight, gradient and memory.

use rayon::prelude::*;

use crate::isa::for_every_level;
use crate::pointwise::CHUNK;

/// AdamW's numbers at one step.
///
/// Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2; decay and corrections as in torch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Memory of the gradients' mean.
    pub beta1: f32,
    /// Memory of the gradients' mean square.
    pub beta2: f32,
    /// Added to the root of the mean square.
    pub eps: f32,
    /// Share of the weight, times the learning rate, taken off.
    pub weight_decay: f32,
    /// Steps taken, this one included; from 1.
    pub step: u64,
}

/// What a step multiplies by, worked out once.
#[derive(Clone, Copy)]
struct Factors {
    kept: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    grad_scale: f32,
    ema_share: f32,
}

for_every_level! {
    fn update(f: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let of = g.iter().zip(m).zip(v);
        for (p, ((g, m), v)) in p.iter_mut().zip(of) {
            let g = g * f.grad_scale;
            *m = f.beta1 * *m + (1.0 - f.beta1) * g;
            *v = f.beta2 * *v + (1.0 - f.beta2) * g * g;
            *p = *p * f.kept - f.rate * *m / (v.sqrt() * f.root + f.eps);
        }
    }
}

for_every_level! {
    /// Moves the average `ema` towards `p` by this share of the way.
    pub(crate) fn average(share: f32, p: &[f32], ema: &mut [f32]) {
        for (ema, p) in ema.iter_mut().zip(p) {
            *ema += share * (p - *ema);
        }
    }
}

impl AdamW {
    /// Moves the weights `p` against their gradients `g * grad_scale`, with the memories `m` and `v`.
    ///
    /// `ema` is the weights' running average and the share of it that stays.
    ///
    /// # Panics
    /// If the lengths differ.
    #[expect(
        clippy::too_many_arguments,
        reason = "one pass over all that a step reads and writes"
    )]
    pub fn step(
        &self,
        p: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
        ema: Option<(&mut [f32], f32)>,
        grad_scale: f32,
    ) {
        let len = p.len();
        assert!(
            g.len() == len && m.len() == len && v.len() == len,
            "AdamW: lengths differ"
        );
        let step = self.step as f64;
        let factors = Factors {
            kept: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            rate: (f64::from(self.lr) / (1.0 - f64::from(self.beta1).powf(step))) as f32,
            root: (1.0 / (1.0 - f64::from(self.beta2).powf(step)).sqrt()) as f32,
            eps: self.eps,
            grad_scale,
            ema_share: ema.as_ref().map_or(0.0, |(_, kept)| 1.0 - kept),
        };
        let slices = p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        let slices = slices.zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
        match ema {
            None => slices.for_each(|((p, g), (m, v))| update(factors, p, g, m, v)),
            Some((ema, _)) => {
                assert_eq!(ema.len(), len, "AdamW: the average's length differs");
                slices
                    .zip(ema.par_chunks_mut(CHUNK))
                    .for_each(|(((p, g), (m, v)), ema)| {
                        update(factors, p, g, m, v);
                        average(factors.ema_share, p, ema);
                    });
            }
        }
    }
}
