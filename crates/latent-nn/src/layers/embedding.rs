//! A table of vectors.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Int, Tensor, module};

use crate::Init;

/// Looks vectors up by id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[count, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table of `count` vectors of `width`.
    ///
    /// Entries start normal with deviation 0.02, as CLIP's do.
    /// Source: Radford et al. 2021 (arXiv:2103.00020), their released code's `initialize_parameters`.
    pub fn new([count, width]: [usize; 2], init: &mut Init) -> Self {
        Self {
            weight: init.normal([count, width], 0.02),
        }
    }

    /// `ids [n, l]` to `[n, l, width]`.
    ///
    /// # Panics
    /// If an id is not below the table's size.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        // The table may still have the type of its file; only the rows that are looked up are widened.
        module::embedding(self.weight.val(), ids).cast(FloatDType::F32)
    }

    /// The first `count` vectors `[count, width]`, such as those of positions.
    ///
    /// # Panics
    /// If the table is shorter.
    pub fn first(&self, count: usize) -> Tensor<2> {
        let width = self.weight.dims()[1];
        self.weight
            .val()
            .slice([0..count, 0..width])
            .cast(FloatDType::F32)
    }
}
