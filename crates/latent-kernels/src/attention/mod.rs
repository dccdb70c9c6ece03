//! Attention in one pass: scores exist only as a block that fits the cache.
//!
//! Source: Dao et al. 2022 (arXiv:2205.14135), Algorithms 1 and 4; the softmax of a row is rescaled whenever a block
//! of keys raises its maximum.

mod backward;
mod forward;

pub use backward::attention_backward;
pub use forward::attention;

use crate::isa::Precision;
use crate::product::LANES;
use crate::product::pack::units;

/// Units from one row of a left operand to the next, whole lines of the cache.
fn step(head_dim: usize, precision: Precision) -> usize {
    units(head_dim, precision).next_multiple_of(LANES)
}

/// Sizes of an attention. Scores are scaled by `1 / sqrt(head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Queries of a sequence.
    pub queries: usize,
    /// Keys of a sequence.
    pub keys: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether query `i` sees only the keys up to `i`.
    pub causal: bool,
}

impl AttentionShape {
    /// Values from one position to the next.
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Row `i` of head `head` of sequence `batch` in `x [batch, len, heads * head_dim]`.
    fn row<'a>(
        &self,
        x: &'a [f32],
        len: usize,
        (batch, head): (usize, usize),
        i: usize,
    ) -> &'a [f32] {
        &x[self.place(len, (batch, head), i)..][..self.head_dim]
    }

    /// Where that row begins.
    fn place(&self, len: usize, (batch, head): (usize, usize), i: usize) -> usize {
        (batch * len + i) * self.width() + head * self.head_dim
    }

    /// Keys that query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal {
            self.keys.min(i + 1)
        } else {
            self.keys
        }
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    fn check(&self, of_queries: &[usize], of_keys: &[usize], sums: &[usize]) {
        let all = |lengths: &[usize], expected: usize| lengths.iter().all(|len| *len == expected);
        assert!(
            all(of_queries, self.batch * self.queries * self.width())
                && all(of_keys, self.batch * self.keys * self.width())
                && all(sums, self.batch * self.heads * self.queries),
            "attention: a length does not fit {self:?}"
        );
    }
}
