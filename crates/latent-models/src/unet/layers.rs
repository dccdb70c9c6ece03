//! The layers of a U-Net by name and place, and calls that change or leave out some of them.

use burn::tensor::Tensor;
use latent_nn::ops::{self, Part, evaluation};

use super::blocks::{DownBlock, Kept, MidBlock, Told, UpBlock};
use super::model::{Context, Leading, UNet2dCondition};
use super::transformer::{Seen, Transformer2d};
use crate::error::{ModelError, Result};

/// What people call the places of levels, and what files call them.
const PLACES: &[(&str, &str)] = &[
    ("down", "down_blocks"),
    ("mid", "mid_block"),
    ("up", "up_blocks"),
];

/// What a U-Net's deep layers found, for steps that run only the shallow ones: `[n, h, w, c]` on its way up.
///
/// Source: Ma et al. 2023 (arXiv:2312.00858), DeepCache.
#[derive(Clone, Debug)]
pub struct DeepFeatures {
    found: Tensor<4>,
    branch: usize,
}

impl UNet2dCondition {
    /// The layers with self-attention by their names in files, on the way down, in the middle, on the way up.
    pub fn self_attentions(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut name = |place: &str, attentions: &[Transformer2d]| {
            for (index, attention) in attentions.iter().enumerate() {
                let layers = 0..attention.depth();
                names.extend(layers.map(|layer| {
                    format!("{place}.attentions.{index}.transformer_blocks.{layer}.attn1")
                }));
            }
        };
        for (index, block) in self.down_blocks.iter().enumerate() {
            name(&format!("down_blocks.{index}"), block.attentions());
        }
        if let Some(block) = &self.mid_block {
            name("mid_block", block.attentions());
        }
        for (index, block) in self.up_blocks.iter().enumerate() {
            name(&format!("up_blocks.{index}"), block.attentions());
        }
        names
    }

    /// Which layers of [`self_attentions`](Self::self_attentions) begin with one of these names: `mid`, `down.2`,
    /// `up_blocks.1.attentions.0`.
    ///
    /// # Errors
    /// [`ModelError::Layers`] for a name that none begins with.
    pub fn select_self_attentions(&self, wanted: &[String]) -> Result<Vec<bool>> {
        let names = self.self_attentions();
        let mut selected = vec![false; names.len()];
        for wanted in wanted {
            let mut parts = wanted.trim().split('.');
            let first = parts.next().unwrap_or_default();
            let place = PLACES.iter().find(|(short, _)| *short == first);
            let first = place.map_or(first, |(_, long)| *long);
            let parts: Vec<&str> = [first].into_iter().chain(parts).collect();
            let mut found = false;
            for (name, selected) in names.iter().zip(&mut selected) {
                let begins = name.split('.').take(parts.len()).eq(parts.iter().copied());
                *selected |= begins;
                found |= begins;
            }
            if !found {
                return Err(ModelError::Layers {
                    wanted: wanted.clone(),
                    known: known(&names),
                });
            }
        }
        Ok(selected)
    }

    /// `context` with the positions of the last `rows` of the batch looking at nothing but themselves in the self-attention of
    /// the selected layers, one answer a layer of [`self_attentions`](Self::self_attentions).
    ///
    /// Source: Ahn et al. 2024 (arXiv:2403.17377), section 4.2.
    #[must_use]
    pub fn perturbed(&self, mut context: Context, selected: &[bool], rows: usize) -> Context {
        for (told, selected) in context.text.iter_mut().zip(selected) {
            told.perturbed = if *selected { rows } else { 0 };
        }
        context
    }

    /// Results on the way down that the way up takes again, the first convolution's among them: as many branches can be run
    /// without what lies deeper.
    pub fn branches(&self) -> usize {
        self.up_blocks.iter().map(UpBlock::layers).sum()
    }

    /// [`UNet2dCondition::forward_steered`], and what is deeper than `branch`, counted from 0 for the shallowest.
    ///
    /// # Panics
    /// If the shapes do not fit together, or `branch` is not below [`branches`](Self::branches).
    pub fn forward_keeping(
        &self,
        (sample, timesteps): (Tensor<4>, &[f32]),
        context: &Context,
        leading: Leading<'_>,
        branch: usize,
    ) -> (Tensor<4>, DeepFeatures) {
        let mut kept = Kept::at(branch + 1);
        let parts = (context, leading, &mut kept);
        let output = evaluation(Part::UNet, || {
            let waves = self.waves_of(timesteps, &sample);
            self.run((sample, waves), parts, &mut |_, _| ())
        });
        let found = kept.found.expect("`branch` is below `branches`");
        (output, DeepFeatures { found, branch })
    }

    /// The output with what another call found deeper than its branch; only the shallow layers are run.
    ///
    /// # Panics
    /// If the shapes do not fit together, or `deep` is of another U-Net or batch.
    pub fn forward_shallow(
        &self,
        (sample, timesteps): (Tensor<4>, &[f32]),
        context: &Context,
        leading: Leading<'_>,
        deep: &DeepFeatures,
    ) -> Tensor<4> {
        evaluation(Part::UNet, || {
            self.shallow((sample, timesteps), context, leading, deep)
        })
    }

    fn shallow(
        &self,
        (sample, timesteps): (Tensor<4>, &[f32]),
        context: &Context,
        leading: Leading<'_>,
        deep: &DeepFeatures,
    ) -> Tensor<4> {
        let mut told = Told {
            time: ops::silu(self.embed_time(self.waves_of(timesteps, &sample), context)),
            text: Seen::new(&context.text, leading),
        };
        let depth = deep.branch + 1;
        let mut x = self.conv_in.forward(ops::to_nhwc(sample));
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            if skips.len() == depth {
                break;
            }
            x = block.forward(x, &mut told, (&mut skips, depth));
        }
        for (skip, residual) in skips
            .iter_mut()
            .zip(leading.residuals.iter().flat_map(|r| &r.down))
        {
            *skip = ops::add(skip.clone(), residual.clone());
        }
        // The layers of the way up before the one that takes the deepest skip are left out.
        let mut left_out = self.branches() - depth;
        let mut way: Vec<(&UpBlock, usize)> = Vec::new();
        for block in &self.up_blocks {
            let first = left_out.min(block.layers());
            left_out -= first;
            if first < block.layers() {
                way.push((block, first));
            }
        }
        let layers = |(block, first): &(&UpBlock, usize)| -> usize {
            let attentions = block.attentions().iter().skip(*first);
            attentions.map(Transformer2d::depth).sum()
        };
        let ahead: usize = way.iter().map(layers).sum();
        told.text = Seen::new(&context.text[context.text.len() - ahead..], leading);
        x = deep.found.clone();
        for (block, first) in way {
            x = block.forward(x, &mut told, &mut skips, (first, &mut Kept::nothing()));
        }
        ops::to_nchw(self.conv_out.forward(self.conv_norm_out.forward_silu(x)))
    }

    /// All layers that look at text, in the order of a call.
    pub(super) fn attentions(&self) -> impl Iterator<Item = &Transformer2d> {
        let down = self.down_blocks.iter().flat_map(DownBlock::attentions);
        let mid = self.mid_block.iter().flat_map(MidBlock::attentions);
        let up = self.up_blocks.iter().flat_map(UpBlock::attentions);
        down.chain(mid).chain(up)
    }
}

/// The levels of layers in few words.
fn known(names: &[String]) -> String {
    let mut levels: Vec<&str> = Vec::new();
    for name in names {
        let level = name.split(".attentions").next().unwrap_or(name);
        if levels.last() != Some(&level) {
            levels.push(level);
        }
    }
    match levels.is_empty() {
        true => "none".to_owned(),
        false => levels.join(", "),
    }
}
