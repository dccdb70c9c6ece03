//! What a pipeline does without to need less memory. Pictures keep their bits.

use latent_nn::Bands;
use latent_nn::ops::{forget_packed, release_buffers};

use crate::pipeline::Pipeline;

/// Ways to need less memory, each of which costs a little time and no quality.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Economy {
    /// Each network's packed weights are released once it has done its part; it packs them again for the next
    /// pictures.
    pub rest: bool,
    /// Pictures are drawn one after the other, however small they are.
    pub one_at_a_time: bool,
    /// The autoencoder has a band of lines in memory, and the rest of the picture in a temporary file.
    pub bands: Option<Bands>,
}

impl Economy {
    /// Nothing spared, then one more way at a time in the order of their cost, each with what it adds in words.
    #[must_use]
    pub fn ladder() -> [(&'static str, Self); 4] {
        let rest = Self {
            rest: true,
            ..Self::default()
        };
        let one_at_a_time = Self {
            one_at_a_time: true,
            ..rest
        };
        let bands = Self {
            bands: Some(Bands::default()),
            ..one_at_a_time
        };
        [
            ("as it is", Self::default()),
            ("each network released after use", rest),
            ("one picture at a time", one_at_a_time),
            ("pictures encoded and decoded by bands", bands),
        ]
    }
}

impl Pipeline {
    /// The same pipeline, in less memory.
    #[must_use]
    pub fn with_economy(mut self, economy: Economy) -> Self {
        self.refiner = self
            .refiner
            .map(|refiner| Box::new(refiner.with_economy(economy)));
        self.economy = economy;
        self
    }

    /// What it does without.
    #[must_use]
    pub fn economy(&self) -> Economy {
        self.economy
    }

    /// Releases what finds the noise, which is done.
    pub(crate) fn rest_networks(&self) {
        if !self.economy.rest {
            return;
        }
        forget_packed(&self.unet);
        for (control, _) in &self.extras.controls {
            forget_packed(control);
        }
        if let Some(refiner) = &self.refiner {
            refiner.rest_networks();
        }
        release_buffers();
    }

    /// Releases what encodes and decodes, which is done for now.
    pub(crate) fn rest_autoencoder(&self) {
        if self.economy.rest {
            self.autoencoder.forget_packed();
            release_buffers();
        }
    }
}
