//! The residual block that U-Nets and autoencoders share.

use std::io;

use burn::module::Module;
use burn::tensor::Tensor;
use latent_nn::layers::{Conv2d, Epilogue, GroupNorm, Linear};
use latent_nn::{Canvas, Init, Scale};

use crate::adapters::layers::layers;

/// Two convolutions around a shift by the timestep, plus the input.
///
/// Source: Rombach et al. 2022 (arXiv:2112.10752); fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub(crate) struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    /// `None` in autoencoders, which know no time.
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1x1 convolution where the channel count changes, else `None`.
    conv_shortcut: Option<Conv2d>,
}

/// The norms of a residual block, and the width of the timestep's embedding where there is one.
#[derive(Clone, Copy)]
pub(crate) struct ResBlockOptions {
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    pub(crate) time_width: Option<usize>,
}

layers!(ResBlock {
    conv1,
    time_emb_proj,
    conv2,
    conv_shortcut
});

impl ResBlock {
    /// `channels` in and out.
    pub(crate) fn new([ci, co]: [usize; 2], options: ResBlockOptions, init: &mut Init) -> Self {
        let ResBlockOptions {
            groups,
            eps,
            time_width,
        } = options;
        Self {
            norm1: GroupNorm::new(groups, ci, eps, init),
            conv1: Conv2d::new([ci, co], 3, init),
            time_emb_proj: time_width.map(|width| Linear::new([width, co], init)),
            norm2: GroupNorm::new(groups, co, eps, init),
            conv2: Conv2d::new([co, co], 3, init),
            conv_shortcut: (ci != co).then(|| Conv2d::new([ci, co], 1, init)),
        }
    }

    /// `x [n, h, w, ci]` and `time [n, t]`, the embedding after SiLU, to `[n, h, w, co]`.
    pub(crate) fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let shift = self.time_emb_proj.as_ref().zip(time);
        let epilogue = Epilogue {
            per_channel: shift.map(|(projection, time)| projection.forward(time.clone())),
            residual: None,
        };
        let h = self.norm1.forward_silu(x.clone());
        let h = self.conv1.forward_with(h, epilogue);
        let h = self.norm2.forward_silu(h);
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        self.conv2.forward_residual(h, shortcut)
    }

    /// [`ResBlock::forward`] of an autoencoder's block, a band of lines at a time.
    pub(crate) fn forward_bands(&self, x: &Canvas) -> io::Result<Canvas> {
        let h = x.through(Scale::Same(1), |lines, _| {
            Ok(self.conv1.forward(x.normed(&self.norm1, lines, true)))
        })?;
        h.through(Scale::Same(1), |lines, which| {
            let shortcut = x.lines(which)?;
            let shortcut = match &self.conv_shortcut {
                Some(conv) => conv.forward(shortcut),
                None => shortcut,
            };
            let lines = h.normed(&self.norm2, lines, true);
            Ok(self.conv2.forward_residual(lines, shortcut))
        })
    }
}
