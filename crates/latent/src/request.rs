//! What one picture, or one batch of pictures, needs.

use latent_models::Weights;
use latent_sampling::Compat;
use latent_sampling::guidance::{Apg, Interval, Method, Pag, Thresholding};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::modes::{Hires, PictureSource, Variation};
use crate::{Error, FeatureCache, MicroConditioning};

/// Pictures a request may ask for at once; beyond it a typing slip would run for days.
const MOST_PICTURES: usize = 4096;
/// Pixels per side a request may ask for.
pub(crate) const LONGEST_SIDE: usize = 8192;

/// What one picture, or one batch of pictures, needs: the one struct that flags, JSON and TOML fill.
///
/// What is `None` is taken from the model: its size, its steps, its guidance, its sampler.
///
/// ```
/// let request = latent::Request::new("a red apple, 3d style").seed(7).steps(20);
/// assert_eq!(request.seeds(), [7]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show; takes effect while `guidance` is above 1.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub negative_prompt: String,
    /// What the second text encoder of Stable Diffusion XL reads in place of `prompt`; the same if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt_2: String,
    /// The same for `negative_prompt`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub negative_prompt_2: String,
    /// Whether an empty negative prompt becomes zeros, and not the states of an empty text; `None` for what the model
    /// says: zeros by most of Stable Diffusion XL, an empty text by others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_zeros_for_empty_prompt: Option<bool>,
    /// Sizes that Stable Diffusion XL is told beside the words.
    #[serde(skip_serializing_if = "MicroConditioning::is_default")]
    pub micro_conditioning: MicroConditioning,
    /// Share of the timesteps that another model has done, above 0 and below 1; for [`crate::Pipeline::refine`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denoising_start: Option<f64>,
    /// Share of the timesteps after which the run ends, above 0 and below 1: a refiner does the rest, from 0.8 if `None`.
    /// Goes with neither `mask` nor `hires`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denoising_end: Option<f64>,
    /// Width in pixels; the model draws up to the next multiple of its down-sampling (8 as a rule), and the rest is
    /// cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Height in pixels, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// Steps of the sampler, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Strength of classifier-free guidance; 1 or less turns it off and halves the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Pulls the guided prediction's spread back to the unguided one's, 0 (off) to 1.
    ///
    /// Source: Lin et al. 2023 (arXiv:2305.08891), Section 3.4.
    #[serde(skip_serializing_if = "is_zero")]
    pub guidance_rescale: f32,
    /// How what is wanted and what is unwanted are put together. With `cfg++` the strength goes from 0 to 1, and is 0.6 if
    /// `guidance` is `None`.
    #[serde(skip_serializing_if = "is_default")]
    pub guidance_method: Method,
    /// The numbers of `guidance_method: apg`; those of its paper if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apg: Option<Apg>,
    /// Perturbed-attention guidance, beside the other or alone; costs a further call of the network for what is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pag: Option<Pag>,
    /// The part of the run that is guided, by `guidance` and `pag`; all of it if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<Interval>,
    /// Holds strongly guided latents within a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thresholding: Option<Thresholding>,
    /// Runs the whole U-Net at some calls only, its shallow layers at the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<FeatureCache>,
    /// Share of the positions of the U-Net's largest level that self-attention takes together, up to 0.75: faster, coarser.
    ///
    /// Source: Bolya & Hoffman 2023 (arXiv:2303.17604).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_merging: Option<f64>,
    /// One seed a picture; none is the same as `[0]`.
    pub seeds: Vec<u64>,
    /// Pictures from one seed: picture `k` takes seed + `k`, or with a `variation` that one's seed + `k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// A name of [`crate::sampling::SAMPLERS`], or another program's, alone or with its schedule: "DPM++ 2M Karras".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// A name of [`crate::sampling::SCHEDULES`], or another program's; absent for the sampler's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Whose habits are followed where programs differ: how prompts are read, and what is left open here.
    #[serde(skip_serializing_if = "is_default")]
    pub compat: Compat,
    /// What the weights of the prompts' words do; that of `compat` if `None`. Weights are read where either asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Where noise comes from: `torch` (as diffusers on the CPU), `philox` (as A1111 on NVIDIA GPUs) or `comfyui`; that of
    /// `compat` if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
    /// Share of fresh noise in each step, for samplers that read it (`ddim`): 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// A diffusers scheduler configuration in place of the model folder's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_config: Option<Value>,
    /// Layers of the text encoder to leave out at its end; 1 takes the penultimate one.
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub clip_skip: Option<usize>,
    /// Starts from this picture; without a width and height at its size, else scaled to cover them, its middle cut out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PictureSource>,
    /// Share of the steps that are done from `init`, above 0 (nothing new) to 1 (all new): 0.8, with a mask 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Paints only where this picture, of `init`'s size, is white.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<PictureSource>,
    /// Pixels by which the mask is widened first, so that thin lines survive in latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_grow: Option<usize>,
    /// Pixels around the mask that are painted too and fade into the picture: 0, with `outpaint` 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_blur: Option<usize>,
    /// Whether pixels outside the mask are put back as they were, which they are where this is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_unmasked: Option<bool>,
    /// Pixels to paint around `init`: left, top, right, bottom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outpaint: Option<[usize; 4]>,
    /// Another seed's noise mixed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation: Option<Variation>,
    /// A second pass at a larger size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hires: Option<Hires>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's `skip_serializing_if` passes a reference"
)]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_none_or_zero(value: &Option<usize>) -> bool {
    value.unwrap_or(0) == 0
}

impl Request {
    /// A request for one picture of `prompt` with seed 0 and the model's own settings.
    #[must_use]
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            ..Self::default()
        }
    }

    /// Whether the model is free how to draw: nothing is said but words, seeds, a number of pictures and a size.
    pub fn is_open(&self) -> bool {
        let open = Self {
            prompt: self.prompt.clone(),
            seeds: self.seeds.clone(),
            count: self.count,
            width: self.width,
            height: self.height,
            ..Self::default()
        };
        *self == open
    }

    /// Sets what the picture should not show.
    #[must_use]
    pub fn negative_prompt(mut self, text: impl Into<String>) -> Self {
        self.negative_prompt = text.into();
        self
    }

    /// One picture from this seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.with_seeds([seed])
    }

    /// One picture for each of these seeds.
    #[must_use]
    pub fn with_seeds(mut self, seeds: impl IntoIterator<Item = u64>) -> Self {
        self.seeds = seeds.into_iter().collect();
        self
    }

    /// This many pictures, from consecutive seeds.
    #[must_use]
    pub fn count(mut self, pictures: usize) -> Self {
        self.count = Some(pictures);
        self
    }

    /// Sets the sampler's steps.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = Some(steps);
        self
    }

    /// Sets the strength of guidance.
    #[must_use]
    pub fn guidance(mut self, strength: f32) -> Self {
        self.guidance = Some(strength);
        self
    }

    /// Sets the size in pixels.
    #[must_use]
    pub fn size(mut self, width: usize, height: usize) -> Self {
        (self.width, self.height) = (Some(width), Some(height));
        self
    }

    /// Sets the sampler by name.
    #[must_use]
    pub fn sampler(mut self, name: impl Into<String>) -> Self {
        self.sampler = Some(name.into());
        self
    }

    /// Sets the schedule of noise levels by name.
    #[must_use]
    pub fn schedule(mut self, name: impl Into<String>) -> Self {
        self.schedule = Some(name.into());
        self
    }

    /// Sets the generator of the noise by name.
    #[must_use]
    pub fn generator(mut self, name: impl Into<String>) -> Self {
        self.generator = Some(name.into());
        self
    }

    /// The seed of each picture, in order.
    #[must_use]
    pub fn seeds(&self) -> Vec<u64> {
        let first = self.seeds.first().copied().unwrap_or(0);
        match self.count {
            Some(count)
                if self.seeds.len() <= 1 && (self.variation.is_some() || self.shares_seed()) =>
            {
                vec![first; count]
            }
            Some(count) if self.seeds.len() <= 1 => {
                (0..count as u64).map(|k| first.wrapping_add(k)).collect()
            }
            _ if self.seeds.is_empty() => vec![first],
            _ => self.seeds.clone(),
        }
    }

    /// Reads a request from JSON.
    ///
    /// # Errors
    /// [`Error::Request`] with the line for an unknown key or a value of the wrong kind.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|e| Error::Request(e.to_string()))
    }

    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::Request`] for the first field that is out of its range.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Request(what));
        match self.count {
            Some(0) => return refuse("`count` is 0; ask for at least one picture".into()),
            Some(n) if self.seeds.len() > 1 && n != self.seeds.len() => {
                return refuse(format!(
                    "`count` is {n} but {} seeds are given; give one seed, or as many as pictures",
                    self.seeds.len()
                ));
            }
            _ => {}
        }
        let pictures = self.count.unwrap_or(0).max(self.seeds.len());
        if pictures > MOST_PICTURES {
            return refuse(format!(
                "{pictures} pictures are asked for; at most {MOST_PICTURES} at once"
            ));
        }
        if let Some(steps) = self.steps.filter(|s| !(1..=1000).contains(s)) {
            return refuse(format!("`steps` is {steps}; it goes from 1 to 1000"));
        }
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if let Some(side) = side.filter(|s| !(1..=LONGEST_SIDE).contains(s)) {
                return refuse(format!(
                    "`{name}` is {side}; it goes from 1 to {LONGEST_SIDE}"
                ));
            }
        }
        self.validate_prompts()?;
        self.validate_modes()?;
        self.validate_strengths()
    }

    fn validate_strengths(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Request(what));
        self.micro_conditioning.validate()?;
        self.validate_guidance()?;
        for (name, share) in [
            ("denoising_start", self.denoising_start),
            ("denoising_end", self.denoising_end),
        ] {
            if let Some(share) = share.filter(|share| !(*share > 0.0 && *share < 1.0)) {
                return refuse(format!(
                    "`{name}` is {share}; it goes from above 0 to below 1"
                ));
            }
        }
        if let Some(g) = self.guidance.filter(|g| !(0.0..=100.0).contains(g)) {
            return refuse(format!(
                "`guidance` is {g}; it goes from 0 to 100, and 1 turns it off"
            ));
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return refuse(format!(
                "`guidance_rescale` is {}; it goes from 0 (off) to 1",
                self.guidance_rescale
            ));
        }
        if let Some(eta) = self.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            return refuse(format!(
                "`eta` is {eta}; it goes from 0 (no fresh noise) to 1"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_k_of_a_count_takes_seed_plus_k() {
        assert_eq!(Request::new("x").seed(7).count(3).seeds(), [7, 8, 9]);
        assert_eq!(
            Request::new("x").seed(u64::MAX).count(2).seeds(),
            [u64::MAX, 0]
        );
        assert_eq!(Request::new("x").with_seeds([5, 1]).seeds(), [5, 1]);
        assert_eq!(Request::new("x").seeds(), [0]);
        let varied = Request::new("x").seed(7).variation(1, 0.5).count(2);
        assert_eq!(varied.seeds(), [7, 7]);
    }

    #[test]
    fn a_misspelt_key_is_refused_and_named() {
        let error = Request::from_json("{\"prompt\": \"x\",\n \"step\": 3}")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`step`") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn a_request_survives_json() {
        let request = Request::new("a fox")
            .seed(3)
            .size(64, 96)
            .guidance(4.5)
            .sampler("ddim");
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(Request::from_json(&text).unwrap(), request);
    }

    #[test]
    fn every_value_out_of_range_is_refused_by_name() {
        let base = || Request::new("x");
        let cases = [
            (base().steps(0), "steps"),
            (base().steps(1001), "steps"),
            (base().size(8193, 64), "width"),
            (base().size(64, 0), "height"),
            (base().guidance(-1.0), "guidance"),
            (base().guidance(f32::NAN), "guidance"),
            (base().count(0), "count"),
            (base().with_seeds([1, 2]).count(3), "count"),
            (base().count(1_000_000), "pictures"),
            (
                Request {
                    eta: Some(1.5),
                    ..base()
                },
                "eta",
            ),
            (
                Request {
                    guidance_rescale: 2.0,
                    ..base()
                },
                "guidance_rescale",
            ),
        ];
        for (request, name) in cases {
            let error = request.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        base().steps(1).size(1, 8192).count(8).validate().unwrap();
    }

    #[test]
    fn words_seeds_a_number_and_a_size_leave_open_how_to_draw_and_nothing_else_does() {
        let open = || Request::new("a fox").seed(3).count(2).size(64, 96);
        assert!(open().is_open());
        for closed in [
            open().steps(4),
            open().guidance(1.0),
            open().negative_prompt("fog"),
            open().sampler("euler"),
        ] {
            assert!(!closed.is_open(), "{closed:?}");
        }
    }
}
