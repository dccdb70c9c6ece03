//! The model's networks and the factors beside their layers.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use latent::Pipeline;
use latent_formats::Weights;
use latent_models::{
    ClipTextModel, LayerKind, LoraFiles, LoraLayer, TextTime, UNet2dCondition, UNetCondition,
};
use latent_nn::layers::LowRank;
use latent_nn::training::frozen;
use latent_nn::{Compute, Init};

use super::loader::Told;
use super::texts::{Reading, States, Words, pooled_width, text_length};
use crate::config::{self, LoraConfig};
use crate::error::Result;

/// Folders of the text encoders, in the order of [`Pipeline::texts`].
const TEXT_PARTS: [&str; 2] = ["text_encoder", "text_encoder_2"];

/// Everything that trains: factors of the U-Net and of each text encoder, in the order of their layers.
#[derive(Module, Debug)]
pub(super) struct Factors {
    pub(super) unet: Vec<LowRank>,
    pub(super) text_encoder: Vec<LowRank>,
    pub(super) text_encoder_2: Vec<LowRank>,
}

/// The layers that have factors.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    pub(super) unet: Vec<LoraLayer>,
    /// Of each text encoder.
    pub(super) texts: [Vec<LoraLayer>; 2],
}

impl Layers {
    /// Those the config chooses.
    pub(super) fn of(pipeline: &Pipeline, config: &LoraConfig) -> Self {
        let chosen = |layers: Vec<LoraLayer>| -> Vec<LoraLayer> {
            let has = |layer: &LoraLayer| config.lora.has(layer.kind);
            layers.into_iter().filter(has).collect()
        };
        let mut layers = Self {
            unet: chosen(pipeline.unet().lora_layers()),
            ..Self::default()
        };
        if config.text_encoder.is_some() {
            let texts = pipeline.texts().into_iter().zip(TEXT_PARTS);
            for (place, ((encoder, _), part)) in texts.enumerate() {
                layers.texts[place] = chosen(encoder.lora_layers(part));
            }
        }
        layers
    }

    /// With the factors of each, in their order.
    pub(super) fn with<'a>(&'a self, factors: &'a Factors) -> Vec<(&'a LoraLayer, &'a LowRank)> {
        let unet = self.unet.iter().zip(&factors.unet);
        let first = self.texts[0].iter().zip(&factors.text_encoder);
        let second = self.texts[1].iter().zip(&factors.text_encoder_2);
        unet.chain(first).chain(second).collect()
    }

    /// Layers of a kind.
    pub(super) fn count(&self, kind: LayerKind) -> usize {
        let texts = self.texts.iter().flatten();
        let all = self.unet.iter().chain(texts);
        all.filter(|layer| layer.kind == kind).count()
    }
}

impl Factors {
    /// New ones, which change nothing yet.
    pub(super) fn new(layers: &Layers, config: &config::Factors, init: &mut Init) -> Self {
        let mut of = |layers: &[LoraLayer]| {
            let factors = layers.iter();
            let factors =
                factors.map(|layer| LowRank::new(&layer.shape, config.rank, config.alpha(), init));
            factors.collect()
        };
        Self {
            unet: of(&layers.unet),
            text_encoder: of(&layers.texts[0]),
            text_encoder_2: of(&layers.texts[1]),
        }
    }

    /// Those of a file of either dialect.
    pub(super) fn read(
        mut self,
        layers: &Layers,
        files: &LoraFiles,
        weights: &Weights,
    ) -> Result<Self> {
        let all = [
            (&mut self.unet, &layers.unet),
            (&mut self.text_encoder, &layers.texts[0]),
            (&mut self.text_encoder_2, &layers.texts[1]),
        ];
        for (factors, layers) in all {
            for (factors, layer) in factors.iter_mut().zip(layers) {
                let (rank, scale) = (factors.down.dims()[0], factors.scale());
                let [down, up] = files.read(weights, layer, rank, scale)?;
                put(&mut factors.down, down);
                put(&mut factors.up, up);
            }
        }
        Ok(self)
    }
}

/// Gives a parameter other values.
fn put(param: &mut Param<Tensor<2>>, values: Vec<f32>) {
    let tensor = param.val();
    let compute = Compute {
        device: tensor.device(),
        precision: latent_nn::Precision::F32,
    };
    let new = compute.tensor(values, tensor.dims());
    let new = if tensor.is_require_grad() {
        new.require_grad()
    } else {
        new
    };
    *param = Param::initialized(param.id, new);
}

/// The networks that factors stand beside.
pub(super) struct Networks {
    pub(super) unet: UNet2dCondition,
    /// On the same device, where they train.
    trained_texts: Option<Vec<ClipTextModel>>,
    pub(super) layers: Layers,
    pub(super) reading: Reading,
    pub(super) compute: Compute,
    /// Tokens of a text, width of its states, and of the pooled text.
    sizes: [usize; 3],
}

impl Networks {
    /// Those of a pipeline, on its device with gradients.
    pub(super) fn new(pipeline: &Pipeline, config: &LoraConfig) -> Self {
        let texts = pipeline.texts();
        let (encoders, tokenizers): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
        let trained = || encoders.iter().map(|&own| frozen(own.clone())).collect();
        Self {
            unet: frozen(pipeline.unet().clone()),
            trained_texts: config.text_encoder.is_some().then(trained),
            layers: Layers::of(pipeline, config),
            reading: reading(pipeline, config),
            compute: pipeline.compute().autodiff(),
            sizes: [
                tokenizers.first().map_or(0, |own| text_length(own)),
                encoders.iter().map(|own| own.config().hidden_size).sum(),
                pooled_width(&encoders),
            ],
        }
    }

    /// What the U-Net with `factors` makes of noised latents.
    pub(super) fn predict(&self, factors: &Factors, told: &Told, frozen: &Pipeline) -> Tensor<4> {
        let states = self.states(factors, told, frozen);
        let condition = if self.reading.is_xl {
            UNetCondition::TextTime(TextTime {
                text: states.text,
                pooled: states.pooled,
                numbers: told.numbers.clone(),
            })
        } else {
            UNetCondition::Text(states.text)
        };
        let unet = self.unet.clone();
        let unet = unet.with_factors(&self.layers.unet, &factors.unet);
        let noisy = self.compute.tensor(told.noisy.clone(), told.shape);
        let timesteps: Vec<f32> = told.timesteps.iter().map(|&step| step as f32).collect();
        unet.forward(noisy, &timesteps, condition)
    }

    fn states(&self, factors: &Factors, told: &Told, frozen: &Pipeline) -> States {
        let count = told.shape[0];
        let [length, width, pooled_width] = self.sizes;
        match (&told.words, &self.trained_texts) {
            (Words::States { text, pooled }, _) => States {
                text: self.compute.tensor(text.clone(), [count, length, width]),
                pooled: self.compute.tensor(pooled.clone(), [count, pooled_width]),
            },
            (Words::Ids(ids), Some(encoders)) => {
                let encoders = self.adapted_texts(encoders, factors);
                let encoders: Vec<&ClipTextModel> = encoders.iter().collect();
                self.reading.states(&encoders, ids, (count, &self.compute))
            }
            (Words::Ids(ids), None) => {
                let texts = frozen.texts();
                let encoders: Vec<&ClipTextModel> = texts.iter().map(|(own, _)| *own).collect();
                let plain = frozen.compute();
                let states = self.reading.states(&encoders, ids, (count, plain));
                States {
                    text: states.text.autodiff(),
                    pooled: states.pooled.autodiff(),
                }
            }
        }
    }

    /// Text encoders with their factors.
    fn adapted_texts(&self, encoders: &[ClipTextModel], factors: &Factors) -> Vec<ClipTextModel> {
        let factors = [&factors.text_encoder, &factors.text_encoder_2];
        let parts = encoders.iter().zip(&self.layers.texts).zip(factors);
        parts
            .map(|((encoder, layers), factors)| encoder.clone().with_factors(layers, factors))
            .collect()
    }

    /// The pipeline with these factors, for drawing.
    pub(super) fn drawing(&self, pipeline: &Pipeline, factors: &Factors) -> Pipeline {
        let unet = pipeline.unet().clone();
        let unet = unet.with_factors(&self.layers.unet, &factors.unet);
        let mut texts = [None, None];
        if self.trained_texts.is_some() {
            let own = pipeline.texts().into_iter().map(|(own, _)| own.clone());
            let own: Vec<ClipTextModel> = own.collect();
            for (place, encoder) in self.adapted_texts(&own, factors).into_iter().enumerate() {
                texts[place] = Some(encoder);
            }
        }
        pipeline.with_networks(unet, texts)
    }
}

/// How the pipeline's text encoders are read.
pub(super) fn reading(pipeline: &Pipeline, config: &LoraConfig) -> Reading {
    Reading {
        is_xl: pipeline.unet().config().addition_embed_type.is_some(),
        skip: config.clip_skip,
    }
}
