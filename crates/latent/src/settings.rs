//! The settings that a picture carries as text, written as the tools people use write them.

use std::fmt::Write as _;

use latent_sampling::{GeneratorKind, find, find_schedule};

use crate::modes::{Hires, Upscaler, Variation};

/// The settings one picture was made with, every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show.
    pub negative_prompt: String,
    /// The sampler's steps.
    pub steps: usize,
    /// The sampler's name.
    pub sampler: String,
    /// The schedule's name, where one was asked for that the sampler's name does not say.
    pub schedule: Option<String>,
    /// Where the noise came from.
    pub generator: GeneratorKind,
    /// Strength of guidance.
    pub guidance: f32,
    /// This picture's seed.
    pub seed: u64,
    /// Width in pixels, with `hires` that of the first pass.
    pub width: usize,
    /// Height in pixels, likewise.
    pub height: usize,
    /// Layers of the text encoder left out (diffusers counts from 0, A1111 from 1).
    pub clip_skip: usize,
    /// Share of fresh noise, where it was set.
    pub eta: Option<f64>,
    /// Strength of guidance rescaling; 0 is off.
    pub guidance_rescale: f32,
    /// Further settings, each as its key and value, in the order they are written.
    pub further: Vec<(&'static str, String)>,
    /// Name of the model.
    pub model: String,
    /// What was laid over the model: LoRAs with their strengths, embeddings, other parts.
    pub adapters: Vec<String>,
    /// Share of the steps that were done from a picture, where there was one.
    pub strength: Option<f64>,
    /// Pixels over which the mask faded, where there was a mask.
    pub mask_blur: Option<usize>,
    /// This picture's other noise.
    pub variation: Option<Variation>,
    /// The second pass, its steps filled in.
    pub hires: Option<Hires>,
}

impl Settings {
    /// The text of the PNG key `parameters`, as A1111 writes and reads it.
    #[must_use]
    pub fn parameters(&self) -> String {
        let row = find(&self.sampler).ok();
        let sampler = row.and_then(|row| row.a1111).unwrap_or(&self.sampler);
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            let _ = write!(text, "\nNegative prompt: {}", self.negative_prompt);
        }
        let _ = write!(
            text,
            "\nSteps: {}, Sampler: {sampler}{}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}",
            self.steps,
            self.schedule_type(),
            self.guidance,
            self.seed,
            self.width,
            self.height,
            quoted(&self.model)
        );
        if let Some(Variation { seed, strength }) = self.variation {
            let _ = write!(
                text,
                ", Variation seed: {seed}, Variation seed strength: {strength}"
            );
        }
        if let Some(strength) = self.hires.map(|hires| hires.strength).or(self.strength) {
            let _ = write!(text, ", Denoising strength: {strength}");
        }
        if self.clip_skip > 0 {
            let _ = write!(text, ", Clip skip: {}", self.clip_skip + 1);
        }
        if let Some(eta) = self.eta {
            let _ = write!(text, ", Eta: {eta}");
        }
        if self.guidance_rescale > 0.0 {
            let _ = write!(text, ", CFG Rescale: {}", self.guidance_rescale);
        }
        self.write_beside(&mut text);
        let _ = write!(text, ", Version: latent {}", env!("CARGO_PKG_VERSION"));
        text
    }

    /// What goes beside a plain picture's settings.
    fn write_beside(&self, text: &mut String) {
        if !self.adapters.is_empty() {
            let _ = write!(text, ", Adapters: {}", quoted(&self.adapters.join(", ")));
        }
        if let Some(hires) = self.hires {
            let upscaler = match hires.upscaler {
                Upscaler::Latent => "Latent",
                Upscaler::Lanczos => "Lanczos",
            };
            let _ = write!(
                text,
                ", Hires upscale: {}, Hires steps: {}, Hires upscaler: {upscaler}",
                hires.scale,
                hires.steps.unwrap_or(self.steps)
            );
        }
        if let Some(blur) = self.mask_blur {
            let _ = write!(text, ", Mask blur: {blur}");
        }
        match self.generator {
            GeneratorKind::Torch => {}
            GeneratorKind::Philox => text.push_str(", RNG: NV"),
            GeneratorKind::ComfyUi => text.push_str(", RNG: ComfyUI"),
        }
        for (key, value) in &self.further {
            let _ = write!(text, ", {key}: {}", quoted(value));
        }
    }

    /// The schedule as A1111 1.9 and later write it beside the sampler.
    fn schedule_type(&self) -> String {
        let Some(name) = &self.schedule else {
            return String::new();
        };
        let row = find_schedule(name).ok();
        let label = row.and_then(|row| row.a1111).unwrap_or(name);
        format!(", Schedule type: {label}")
    }
}

/// A1111 puts values that hold a comma, a colon or a line end into JSON quotes.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            prompt: "a red apple".into(),
            negative_prompt: "blurry".into(),
            steps: 20,
            sampler: "dpmpp_2m_karras".into(),
            schedule: None,
            generator: GeneratorKind::Torch,
            guidance: 7.5,
            seed: 42,
            width: 128,
            height: 64,
            clip_skip: 0,
            eta: None,
            guidance_rescale: 0.0,
            further: Vec::new(),
            model: "latent".into(),
            adapters: Vec::new(),
            strength: None,
            mask_blur: None,
            variation: None,
            hires: None,
        }
    }

    #[test]
    fn other_ways_of_generating_are_told_as_a1111_tells_them() {
        let inpainted = Settings {
            strength: Some(0.75),
            mask_blur: Some(4),
            ..settings()
        };
        let text = inpainted.parameters();
        assert!(
            text.contains("Model: latent, Denoising strength: 0.75, Mask blur: 4, Version"),
            "{text}"
        );
        let variation = Some(Variation {
            seed: 3,
            strength: 0.25,
        });
        let hires = Some(Hires {
            steps: Some(10),
            ..Hires::new(2.0)
        });
        let text = Settings {
            variation,
            hires,
            ..settings()
        }
        .parameters();
        assert!(
            text.contains(
                "Variation seed: 3, Variation seed strength: 0.25, Denoising strength: 0.7, Hires upscale: 2, \
                 Hires steps: 10, Hires upscaler: Latent"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_text_reads_as_a1111_writes_it() {
        let text = settings().parameters();
        let expected = "a red apple\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, \
                        Seed: 42, Size: 128x64, Model: latent, Version: latent ";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn what_was_laid_over_the_model_is_named() {
        let text = Settings {
            adapters: vec!["lora snow:0.8".into(), "embedding <fox>".into()],
            ..settings()
        }
        .parameters();
        assert!(
            text.contains("Adapters: \"lora snow:0.8, embedding <fox>\""),
            "{text}"
        );
    }

    #[test]
    fn a_schedule_and_a_gpus_noise_are_written_as_a1111_has_them() {
        let text = Settings {
            sampler: "dpmpp_2s_a".into(),
            schedule: Some("sgm_uniform".into()),
            generator: GeneratorKind::Philox,
            ..settings()
        }
        .parameters();
        assert!(
            text.contains("Sampler: DPM++ 2S a, Schedule type: SGM Uniform, CFG"),
            "{text}"
        );
        assert!(text.contains(", RNG: NV, Version"), "{text}");
    }

    #[test]
    fn clip_skip_counts_from_one_and_a_comma_is_quoted() {
        let text = Settings {
            clip_skip: 1,
            model: "a, b".into(),
            ..settings()
        }
        .parameters();
        assert!(
            text.contains("Clip skip: 2") && text.contains("Model: \"a, b\""),
            "{text}"
        );
    }
}
