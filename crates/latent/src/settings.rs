//! The settings that a picture carries as text, written as the tools people use write them.

use std::fmt::Write as _;

/// Names of our samplers as A1111 writes them; others keep our name.
///
/// Source: AUTOMATIC1111 stable-diffusion-webui 1.9 sampler labels (schedule joined, as before 1.9, which both read).
const A1111_SAMPLERS: &[(&str, &str)] = &[
    ("ddim", "DDIM"),
    ("ddpm", "DDPM"),
    ("dpmpp_2m", "DPM++ 2M"),
    ("dpmpp_2m_karras", "DPM++ 2M Karras"),
    ("dpmpp_2m_sde_karras", "DPM++ 2M SDE Karras"),
    ("euler", "Euler"),
    ("euler_a", "Euler a"),
    ("heun", "Heun"),
    ("lcm", "LCM"),
    ("lms", "LMS"),
    ("pndm", "PLMS"),
    ("unipc", "UniPC"),
];

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
    /// Strength of guidance.
    pub guidance: f32,
    /// This picture's seed.
    pub seed: u64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
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
}

impl Settings {
    /// The text of the PNG key `parameters`, as A1111 writes and reads it.
    #[must_use]
    pub fn parameters(&self) -> String {
        let sampler = A1111_SAMPLERS
            .iter()
            .find(|(ours, _)| *ours == self.sampler)
            .map_or(self.sampler.as_str(), |(_, label)| label);
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            let _ = write!(text, "\nNegative prompt: {}", self.negative_prompt);
        }
        let _ = write!(
            text,
            "\nSteps: {}, Sampler: {sampler}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}",
            self.steps,
            self.guidance,
            self.seed,
            self.width,
            self.height,
            quoted(&self.model)
        );
        if self.clip_skip > 0 {
            let _ = write!(text, ", Clip skip: {}", self.clip_skip + 1);
        }
        if let Some(eta) = self.eta {
            let _ = write!(text, ", Eta: {eta}");
        }
        if self.guidance_rescale > 0.0 {
            let _ = write!(text, ", CFG Rescale: {}", self.guidance_rescale);
        }
        for (key, value) in &self.further {
            let _ = write!(text, ", {key}: {}", quoted(value));
        }
        let _ = write!(text, ", Version: latent {}", env!("CARGO_PKG_VERSION"));
        text
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
            guidance: 7.5,
            seed: 42,
            width: 128,
            height: 64,
            clip_skip: 0,
            eta: None,
            guidance_rescale: 0.0,
            further: Vec::new(),
            model: "latent".into(),
        }
    }

    #[test]
    fn the_text_reads_as_a1111_writes_it() {
        let text = settings().parameters();
        let expected = "a red apple\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, \
                        Seed: 42, Size: 128x64, Model: latent, Version: latent ";
        assert!(text.starts_with(expected), "{text}");
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
