//! A1111's text: the prompt, `Negative prompt: …`, and a line of `Key: value` pairs. Latent writes it too.
//!
//! Source: Forge's `modules/infotext_utils.py`, which reads it, and `modules/processing.py`, which writes it.

use latent_models::Weights;
use latent_sampling::guidance::{ApgSpace, Interval, Method};
use latent_sampling::{Compat, SCHEDULES, Sampler, find_joined, find_schedule};

use super::{NamedLora, NamedModel, Recipe, Tool, bare_name};
use crate::adapters::FEW_STEPS;
use crate::{FeatureCache, Hires, MicroConditioning, Upscaler, Variation};

/// The last line is one of settings if it has so many pairs.
const PAIRS: usize = 3;
/// What the second line begins with.
const NEGATIVE: &str = "Negative prompt:";

/// Keys that say nothing more about the picture, or what others say already.
const NEEDLESS: &[&str] = &[
    "Version",
    "VAE hash",
    "Lora hashes",
    "Hashes",
    "Hires Module 1",
    "User",
    "Lora_Model_hash",
];

/// Keys whose value says that nothing was done; other values are settings that are not known here.
const USUAL: &[(&str, &str)] = &[
    ("Emphasis", "Original"),
    ("ENSD", "0"),
    ("Tiling", "False"),
    ("Conditional mask weight", "1.0"),
    ("Sigma churn", "0.0"),
    ("Dynamic thresholding enabled", "False"),
    ("Mimic mode", "Constant"),
    ("CFG mode", "Constant"),
    ("Separate Feature Channels", "True"),
    ("Scaling Startpoint", "MEAN"),
    ("Variability Measure", "AD"),
    ("Interpolate Phi", "1"),
    ("Interpolate Phi", "1.0"),
];

/// The schedules that A1111's `Automatic` means. Source: Forge's `modules/sd_samplers_kdiffusion.py`, `samplers_k_diffusion`.
const AUTOMATIC: &[(&str, &str)] = &[
    ("dpmpp_2m", "karras"),
    ("dpmpp_sde", "karras"),
    ("dpmpp_2m_sde", "exponential"),
    ("dpmpp_2m_sde_bt", "exponential"),
    ("dpmpp_2m_sde_heun", "exponential"),
    ("dpmpp_2s_a", "karras"),
    ("dpmpp_3m_sde", "exponential"),
    ("dpm2", "karras"),
    ("dpm2_a", "karras"),
    ("restart", "karras"),
];
/// What every other sampler of k-diffusion walks on there: even timesteps, both ends included.
const PLAIN: &str = "normal";
/// Samplers of A1111 that are not k-diffusion's, and have their own timesteps.
const OWN_TIMESTEPS: &[&str] = &["ddim", "pndm", "unipc", "lcm"];

/// A1111's sampler that is a method of guidance too, the one of ours, and by what its strength is divided there. Source: its
/// `sd_samplers_timesteps_impl.py`, `ddim_cfgpp`.
const PLUS_PLUS: (&str, &str, f32) = ("DDIM CFG++", "ddim", 12.5);

/// Whether a text has a line of settings.
pub(super) fn is_text(text: &str) -> bool {
    let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
    pairs(last).len() >= PAIRS
}

/// The recipe of a text.
pub(super) fn read(text: &str) -> Recipe {
    let (words, last) = match text.trim_end().rsplit_once('\n') {
        Some((words, last)) => (words, last),
        None => ("", text.trim_end()),
    };
    let pairs = pairs(last);
    let value = |key: &str| {
        pairs
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    };
    let ours = value("Version").is_some_and(|version| version.starts_with("latent "));
    let mut recipe = Recipe::new(if ours { Tool::Latent } else { Tool::A1111 });
    let (prompt, negative) = prompts(words);
    (recipe.request.prompt, recipe.request.negative_prompt) = (prompt, negative);
    let mut reader = Reader {
        recipe,
        hires: None,
        strength: None,
        variation: (None, None),
        schedule: None,
    };
    for (key, value) in &pairs {
        reader.take(key, value);
    }
    reader.finish()
}

/// Prompt and negative prompt.
fn prompts(words: &str) -> (String, String) {
    let (mut prompt, mut negative) = (Vec::new(), None::<Vec<&str>>);
    for line in words.split('\n').map(|line| line.trim_end_matches('\r')) {
        match (&mut negative, line.strip_prefix(NEGATIVE)) {
            (Some(lines), _) => lines.push(line),
            (None, Some(first)) => negative = Some(vec![first.strip_prefix(' ').unwrap_or(first)]),
            (None, None) => prompt.push(line),
        }
    }
    (prompt.join("\n"), negative.unwrap_or_default().join("\n"))
}

/// The pairs of a line. A value is a text in JSON's quotes, other JSON in brackets, or what comes before the next comma.
fn pairs(line: &str) -> Vec<(String, String)> {
    let (mut rest, mut pairs) = (line, Vec::new());
    while !rest.is_empty() {
        rest = rest.trim_start_matches([' ', ',']);
        let Some((key, value)) = key_of(rest) else {
            rest = rest.split_once(',').map_or("", |(_, rest)| rest);
            continue;
        };
        let value = value.trim_start();
        let (value, behind) = match value.chars().next() {
            Some('"' | '{' | '[') => json_of(value).unwrap_or_else(|| plain_of(value)),
            _ => plain_of(value),
        };
        pairs.push((key.to_owned(), value));
        rest = behind;
    }
    pairs
}

/// A key before its colon, and what follows.
fn key_of(text: &str) -> Option<(&str, &str)> {
    let (key, rest) = text.split_once(':')?;
    let inside = |letter: char| letter.is_alphanumeric() || "_ -/".contains(letter);
    let fits = key.len() > 1 && key.chars().all(inside);
    (fits && key.starts_with(|first: char| first.is_alphanumeric() || first == '_'))
        .then_some((key.trim_end(), rest))
}

fn plain_of(text: &str) -> (String, &str) {
    let (value, rest) = text.split_once(',').unwrap_or((text, ""));
    (value.trim().to_owned(), rest)
}

/// A JSON value at the beginning, a text without its quotes, and what follows.
fn json_of(text: &str) -> Option<(String, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let value = values.next()?.ok()?;
    let rest = text.get(values.byte_offset()..)?;
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with(',') {
        return None;
    }
    let value = match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Some((value, rest))
}

/// Puts pairs into a recipe; some mean something together only.
struct Reader {
    recipe: Recipe,
    hires: Option<Hires>,
    /// Of the second pass if there is one, else of the start from a picture.
    strength: Option<f64>,
    variation: (Option<u64>, Option<f64>),
    schedule: Option<String>,
}

impl Reader {
    fn ours(&self) -> bool {
        self.recipe.tool == Tool::Latent
    }

    /// A number, or a note that there is none.
    fn number<T: std::str::FromStr>(&mut self, key: &str, value: &str) -> Option<T> {
        let number = value.trim().parse().ok();
        if number.is_none() {
            self.recipe
                .note(format!("`{key}: {value}` is no number that is understood"));
        }
        number
    }

    /// Two numbers, as `512x768`.
    fn pair(&mut self, key: &str, value: &str) -> Option<[usize; 2]> {
        let (first, second) = value.split_once('x').unwrap_or((value, ""));
        Some([self.number(key, first)?, self.number(key, second)?])
    }

    fn take(&mut self, key: &str, value: &str) {
        match key {
            "Steps" => self.recipe.request.steps = self.number(key, value),
            "Sampler" => self.recipe.request.sampler = Some(value.to_owned()),
            "Schedule type" => self.schedule = Some(value.to_owned()),
            "CFG scale" => self.recipe.request.guidance = self.number(key, value),
            "Seed" => {
                let seed: Option<u64> = self.number(key, value);
                self.recipe.request.seeds.extend(seed);
            }
            "Size" => {
                let size = self.pair(key, value);
                let request = &mut self.recipe.request;
                (request.width, request.height) = (size.map(|s| s[0]), size.map(|s| s[1]));
            }
            "Model" => self.model().name = value.to_owned(),
            "Model hash" => self.model().hash = Some(value.to_lowercase()),
            "Clip skip" => {
                let skip: Option<usize> = self.number(key, value);
                // Counted from 1 there.
                self.recipe.request.clip_skip = skip.and_then(|skip| skip.checked_sub(1));
            }
            "Eta" | "Eta DDIM" => self.recipe.request.eta = self.number(key, value),
            "Variation seed" => self.variation.0 = self.number(key, value),
            "Variation seed strength" => self.variation.1 = self.number(key, value),
            "Denoising strength" => self.strength = self.number(key, value),
            "Precision" => self.recipe.precision = Some(value.to_owned()),
            "RNG" => match value {
                "CPU" => self.recipe.request.generator = Some("torch".to_owned()),
                "GPU" | "NV" => self.recipe.request.generator = Some("philox".to_owned()),
                _ => self.unknown(key, value),
            },
            _ => self.take_rare(key, value),
        }
    }

    fn model(&mut self) -> &mut NamedModel {
        self.recipe.model.get_or_insert_default()
    }

    fn take_rare(&mut self, key: &str, value: &str) {
        match key {
            _ if key.starts_with("Hires ") => self.take_hires(key, value),
            "Mask blur" => {
                self.recipe.request.mask_blur = self.number(key, value);
                self.recipe.wants("the mask that it was painted in", "mask");
            }
            // It goes up to 0.9 there, and merges no more than at 0.75.
            "Token merging ratio" => {
                let share = self.number::<f64>(key, value);
                let share = share.filter(|share| *share > 0.0);
                self.recipe.request.token_merging = share.map(|share| share.min(0.75));
            }
            "Mask grow" => self.recipe.request.mask_grow = self.number(key, value),
            "Keep unmasked" => self.recipe.request.keep_unmasked = Some(value != "false"),
            "Outpaint" => self.outpaint(value),
            "Compat" | "Weights" if self.ours() => self.habit(key, value),
            "CFG Rescale" => {
                self.recipe.request.guidance_rescale = self.number(key, value).unwrap_or(0.0)
            }
            _ if self.take_guidance(key, value) => {}
            "Prompt 2" => self.recipe.request.prompt_2 = value.to_owned(),
            "Negative prompt 2" => self.recipe.request.negative_prompt_2 = value.to_owned(),
            "Empty negative prompt" => {
                self.recipe.request.force_zeros_for_empty_prompt = Some(value == "zeros");
            }
            "Original size" | "Crop" | "Target size" | "Aesthetic score" => {
                self.told_sizes(key, value)
            }
            "Refiner" => self
                .recipe
                .wants(format!("the refiner `{value}`"), "refiner"),
            "Refiner switch at" => self.recipe.request.denoising_end = self.number(key, value),
            "VAE" => self
                .recipe
                .wants(format!("the autoencoder `{value}`"), "vae"),
            "TI hashes" => {
                let names = value.split(',').filter_map(|pair| pair.split(':').next());
                for name in names.map(str::trim) {
                    self.recipe
                        .wants(format!("the embedding `{name}`"), "embedding");
                }
            }
            "Scheduler config" => self
                .recipe
                .wants("a scheduler configuration of its own", "scheduler-config"),
            "Adapters" if self.ours() => self.adapters(value),
            _ if NEEDLESS.contains(&key) || USUAL.contains(&(key, value)) => {}
            _ => self.unknown(key, value),
        }
    }

    /// How it was guided, whether the key is one of those that say it: thresholding as its extension writes it, what only Latent
    /// writes in its own pictures.
    fn take_guidance(&mut self, key: &str, value: &str) -> bool {
        self.take_thresholding(key, value) || self.ours() && self.take_own_guidance(key, value)
    }

    fn take_thresholding(&mut self, key: &str, value: &str) -> bool {
        let number = match (key, value) {
            ("Dynamic thresholding enabled", "True") => None,
            ("Mimic scale" | "Threshold percentile", _) => self.number::<f64>(key, value),
            _ => return false,
        };
        let held = self.recipe.request.thresholding.get_or_insert_default();
        match (key, number) {
            ("Mimic scale", mimic) => held.mimic = mimic,
            ("Threshold percentile", Some(percent)) => held.percentile = percent / 100.0,
            _ => {}
        }
        true
    }

    fn take_own_guidance(&mut self, key: &str, value: &str) -> bool {
        match key {
            "Guidance method" => match Method::from_name(value) {
                Ok(method) => self.recipe.request.guidance_method = method,
                Err(_) => self.unknown(key, value),
            },
            "Guidance interval" => match Interval::from_text(value) {
                Ok(interval) => self.recipe.request.guidance_interval = Some(interval),
                Err(_) => self.unknown(key, value),
            },
            "APG space" => match ApgSpace::from_name(value) {
                Ok(space) => self.recipe.request.apg.get_or_insert_default().space = space,
                Err(_) => self.unknown(key, value),
            },
            "PAG layers" => {
                let layers = value.split(',').map(|name| name.trim().to_owned());
                self.recipe.request.pag.get_or_insert_default().layers = layers.collect();
            }
            "Cache interval" | "Cache branch" => {
                if let Some(number) = self.number::<usize>(key, value) {
                    let cache = &mut self.recipe.request.cache;
                    let cache = cache.get_or_insert(FeatureCache::every(1));
                    *match key {
                        "Cache interval" => &mut cache.interval,
                        _ => &mut cache.branch,
                    } = number;
                }
            }
            "APG eta" | "APG threshold" | "APG momentum" | "PAG scale" | "PAG adaptive scale" => {
                if let Some(number) = self.number(key, value) {
                    self.take_number_of_guidance(key, number);
                }
            }
            _ => return false,
        }
        true
    }

    fn take_number_of_guidance(&mut self, key: &str, number: f64) {
        let request = &mut self.recipe.request;
        *match key {
            "APG eta" => &mut request.apg.get_or_insert_default().eta,
            "APG threshold" => &mut request.apg.get_or_insert_default().norm_threshold,
            "APG momentum" => &mut request.apg.get_or_insert_default().momentum,
            "PAG scale" => &mut request.pag.get_or_insert_default().scale,
            _ => &mut request.pag.get_or_insert_default().adaptive_scale,
        } = number;
    }

    fn take_hires(&mut self, key: &str, value: &str) {
        match key {
            "Hires upscale" => {
                if let Some(scale) = self.number(key, value) {
                    self.hires_or_new().scale = scale;
                }
            }
            "Hires steps" => {
                let steps = self.number(key, value).filter(|steps| *steps > 0);
                self.hires_or_new().steps = steps;
            }
            "Hires upscaler" => match value {
                "Latent" => self.hires_or_new().upscaler = Upscaler::Latent,
                "Lanczos" => self.hires_or_new().upscaler = Upscaler::Lanczos,
                other => {
                    self.hires_or_new().upscaler = Upscaler::Lanczos;
                    self.recipe.note(format!(
                        "the upscaler `{other}`, in whose place Lanczos' filter is taken"
                    ));
                }
            },
            _ if NEEDLESS.contains(&key) || USUAL.contains(&(key, value)) => {}
            _ => self.unknown(key, value),
        }
    }

    /// Whose habits a picture of our own followed.
    fn habit(&mut self, key: &str, value: &str) {
        let request = &mut self.recipe.request;
        let compat = Compat::ALL.iter().find(|(name, _)| *name == value);
        let weights = Weights::ALL.iter().find(|(name, _)| *name == value);
        match (key, compat, weights) {
            ("Compat", Some((_, compat)), _) => request.compat = *compat,
            ("Weights", _, Some((_, weights))) => request.weights = Some(*weights),
            _ => self.unknown(key, value),
        }
    }

    fn unknown(&mut self, key: &str, value: &str) {
        self.recipe.note(format!("the setting `{key}: {value}`"));
    }

    fn hires_or_new(&mut self) -> &mut Hires {
        self.hires.get_or_insert_with(|| Hires::new(2.0))
    }

    fn outpaint(&mut self, value: &str) {
        let sides: Result<Vec<usize>, _> =
            value.split(',').map(|side| side.trim().parse()).collect();
        match sides.ok().and_then(|sides| sides.try_into().ok()) {
            Some(sides) => self.recipe.request.outpaint = Some(sides),
            None => self.unknown("Outpaint", value),
        }
    }

    fn told_sizes(&mut self, key: &str, value: &str) {
        if key == "Aesthetic score" {
            let score = self.number(key, value);
            self.sizes().aesthetic_score = score;
            return;
        }
        let pair = self.pair(key, value);
        let sizes = self.sizes();
        match key {
            "Original size" => sizes.original_size = pair,
            "Crop" => sizes.crop = pair,
            _ => sizes.target_size = pair,
        }
    }

    fn sizes(&mut self) -> &mut MicroConditioning {
        &mut self.recipe.request.micro_conditioning
    }

    /// What Latent says was laid over the model: `lora snow:0.8, embedding <fox>, vae other`.
    fn adapters(&mut self, value: &str) {
        for adapter in value.split(", ") {
            let (kind, rest) = adapter.split_once(' ').unwrap_or((adapter, ""));
            match kind {
                "lora" => match lora_of(rest) {
                    Some(lora) => self.recipe.loras.push(lora),
                    None => self.unknown("Adapters", adapter),
                },
                _ if adapter == FEW_STEPS => self.recipe.few_steps = true,
                "embedding" => self
                    .recipe
                    .wants(format!("the embedding `{rest}`"), "embedding"),
                "vae" => self
                    .recipe
                    .wants(format!("the autoencoder `{rest}`"), "vae"),
                "unet" => self.recipe.wants(format!("the U-Net `{rest}`"), "unet"),
                "text_encoder" => self
                    .recipe
                    .wants(format!("the text encoder `{rest}`"), "text-encoder"),
                "text_encoder_2" => self.recipe.wants(
                    format!("the second text encoder `{rest}`"),
                    "text-encoder-2",
                ),
                "taesd" => self
                    .recipe
                    .wants(format!("the tiny autoencoder `{rest}`"), "taesd"),
                "control" => self.recipe.wants(
                    format!("the ControlNet `{rest}` and its picture"),
                    "control",
                ),
                "ip-adapter" => self.recipe.wants(
                    format!("the IP-Adapter `{rest}` and its picture"),
                    "ip-adapter",
                ),
                "moving" => self
                    .recipe
                    .wants("the moving average in the checkpoint", "ema"),
                _ => self.unknown("Adapters", adapter),
            }
        }
    }

    fn finish(mut self) -> Recipe {
        if let (Some(seed), Some(strength)) = self.variation {
            self.recipe.request.variation = Some(Variation { seed, strength });
        }
        match (&mut self.hires, self.strength) {
            (Some(hires), Some(strength)) => hires.strength = strength,
            (None, Some(strength)) => {
                self.recipe.request.strength = Some(strength);
                self.recipe.wants("the picture that it starts from", "init");
            }
            (_, None) => {}
        }
        self.recipe.request.hires = self.hires;
        self.inner_size();
        self.sampler();
        if !self.ours() {
            let request = &mut self.recipe.request;
            // The noise of an NVIDIA GPU, unless it says another.
            request.generator.get_or_insert_with(|| "philox".to_owned());
            self.recipe.take_prompted_loras();
        }
        self.recipe
    }

    /// A size is written with what was painted around, and asked for without.
    fn inner_size(&mut self) {
        let request = &mut self.recipe.request;
        if let Some([left, top, right, bottom]) = request.outpaint {
            request.width = request
                .width
                .and_then(|width| width.checked_sub(left.saturating_add(right)));
            request.height = request
                .height
                .and_then(|height| height.checked_sub(top.saturating_add(bottom)));
        }
    }

    /// Sampler and schedule by the names of ours, a schedule filled in where A1111 means one by saying none.
    fn sampler(&mut self) {
        let Some(name) = self.recipe.request.sampler.take() else {
            return;
        };
        if name == PLUS_PLUS.0 {
            let request = &mut self.recipe.request;
            request.sampler = Some(PLUS_PLUS.1.to_owned());
            request.guidance_method = Method::CfgPlusPlus;
            request.guidance = request.guidance.map(|strength| strength / PLUS_PLUS.2);
            return;
        }
        let Ok((row, joined)) = find_joined(&name) else {
            return self.recipe.wants(
                format!("the sampler `{name}`, which is not known"),
                "sampler",
            );
        };
        self.recipe.request.sampler = Some(name);
        let stated = self.schedule.take();
        let schedule = match stated.as_deref().map(|name| (name, find_schedule(name))) {
            Some((name, Err(_))) => {
                return self.recipe.wants(
                    format!("the schedule `{name}`, which is not known"),
                    "schedule",
                );
            }
            Some((_, Ok(schedule))) if schedule.name == "automatic" => automatic(row),
            Some((_, Ok(schedule))) => Some(schedule.name),
            // Releases that wrote no schedule joined its name to the sampler's; without one they had the plain one.
            None if joined.is_none() && !self.ours() => plain(row),
            None => None,
        };
        self.recipe.request.schedule = schedule.map(str::to_owned);
    }
}

/// The schedule that A1111 gives a sampler by itself.
fn automatic(sampler: &Sampler) -> Option<&'static str> {
    let stated = AUTOMATIC.iter().find(|(name, _)| *name == sampler.name);
    stated.map_or_else(|| plain(sampler), |(_, schedule)| Some(*schedule))
}

/// What A1111's samplers walk on where no schedule is chosen; none for those that have their own timesteps or say their
/// schedule by their name.
fn plain(sampler: &Sampler) -> Option<&'static str> {
    let row = SCHEDULES.iter().find(|row| row.name == PLAIN)?;
    let own = OWN_TIMESTEPS.contains(&sampler.name) || sampler.name.ends_with("_karras");
    (row.fits(sampler) && !own).then_some(PLAIN)
}

/// `snow:0.8`, or with a strength of its own for the text encoder `snow:0.8:0.5`.
fn lora_of(text: &str) -> Option<NamedLora> {
    let (mut rest, mut numbers) = (text, Vec::new());
    while numbers.len() < 2
        && let Some((before, number)) = rest.rsplit_once(':')
        && let Ok(number) = number.parse::<f32>()
    {
        numbers.insert(0, number);
        rest = before;
    }
    Some(NamedLora {
        name: bare_name(rest),
        unet: *numbers.first()?,
        text: *numbers.last()?,
    })
}

#[cfg(test)]
mod tests;
