//! A model as a sampler sees it: latents and a timestep in, the guided answer out.

use std::error::Error;

use latent::models::{Context, ModelFolder, UNetCondition};
use latent::sampling::{Latents, SchedulerConfig, guidance};
use latent::{Pipeline, builtin_folder};
use latent_nn::to_host;

/// Opens the model in `folder`, or the one inside the program, and what it says of the noise it was trained on.
///
/// # Errors
/// The folder is missing or broken, or this build carries no model.
pub fn open(folder: Option<&str>) -> Result<(Pipeline, SchedulerConfig), Box<dyn Error>> {
    let (pipeline, files) = match folder {
        Some(path) => (
            Pipeline::from_pretrained(path)?,
            ModelFolder::open(path.as_ref())?,
        ),
        None => (Pipeline::builtin()?, builtin_folder()?),
    };
    let config = SchedulerConfig::from_json(&files.scheduler_config()?)?;
    Ok((pipeline, config))
}

/// A U-Net that is told words, with classifier-free guidance.
#[derive(Debug)]
pub struct Guided<'a> {
    pipeline: &'a Pipeline,
    /// What the words mean to each attention layer; it is the same at every step.
    context: Context,
    strength: f64,
}

impl<'a> Guided<'a> {
    /// Reads `words` with the pipeline's tokenizer and text encoder; the model's own guidance strength.
    ///
    /// # Errors
    /// The model has no text encoder.
    pub fn new(pipeline: &'a Pipeline, words: &str) -> Result<Self, Box<dyn Error>> {
        if pipeline.second_text().is_some() {
            return Err(
                "this example reads words with one text encoder; take Stable Diffusion 1 or 2"
                    .into(),
            );
        }
        let parts = (pipeline.tokenizer(), pipeline.text_encoder());
        let (Some(tokenizer), Some(text_encoder)) = parts else {
            return Err("this model is told no words; take one with a text encoder".into());
        };
        // [2, l] token ids, no words in the first row, then [2, l, c] states.
        let ids = [tokenizer.encode("").ids, tokenizer.encode(words).ids].concat();
        let ids = pipeline.compute().ids(&ids, [2, tokenizer.length()]);
        let states = text_encoder.forward(ids).last;
        Ok(Self {
            pipeline,
            context: pipeline.unet().prepare(UNetCondition::Text(states), 2),
            strength: f64::from(pipeline.defaults().guidance),
        })
    }

    /// How many times as far as the words alone would lead.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// What the U-Net answers for `latents [1, c, h, w]` at a timestep, moved away from its answer without words.
    ///
    /// # Panics
    /// If the latents have other channels than the model's.
    pub fn predict(&self, latents: &Latents, timestep: f64) -> Latents {
        let (_, c, h, w) = latents.dim();
        let twice = latents.iter().chain(latents).copied().collect();
        let sample = self.pipeline.compute().tensor(twice, [2, c, h, w]);
        let unet = self.pipeline.unet();
        let answers = unet.forward_prepared(sample, &[timestep as f32; 2], &self.context);
        let (mut without, _) = to_host(answers);
        let with = without.split_off(c * h * w);
        let [with, without] = [with, without].map(|values| {
            Latents::from_shape_vec([1, c, h, w], values).expect("an answer a latent")
        });
        guidance::guide(&with, &without, self.strength)
    }
}
