//! The flags of `latent generate` that say how it is guided, and with how much work.

use clap::Args;
use latent::sampling::guidance::{Apg, ApgSpace, Interval, Method, Pag, Thresholding};
use latent::{FeatureCache, Request};

use crate::fault::Fault;

/// Beside `--guidance`, which is the strength.
#[derive(Debug, Args)]
#[command(next_help_heading = "Guidance")]
pub(crate) struct GuidanceFlags {
    /// How the words are followed: cfg, cfg++ (strength 0 to 1, with ddim, euler or euler_a) or apg (no glaring colours at high
    /// strength) [default: cfg].
    #[arg(long, value_name = "NAME")]
    guidance_method: Option<String>,
    /// Guide in this part of the run only, and ask half as much elsewhere: shares of the steps as 0.2:0.8, or noise levels as
    /// sigma:5.4:0.28.
    #[arg(long, value_name = "FROM:TO", allow_hyphen_values = true)]
    guidance_interval: Option<String>,
    /// Move away from what the model draws without self-attention, by so much (3 as a rule); half as much work again.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pag: Option<f64>,
    /// By how much --pag falls with each of 1000 timesteps [default: 0].
    #[arg(
        long,
        value_name = "X",
        requires = "pag",
        allow_negative_numbers = true
    )]
    pag_adaptive: Option<f64>,
    /// Layers that --pag perturbs, by the beginnings of their names: mid, down.2, up.1.attentions.0 [default: mid].
    #[arg(long, value_name = "NAMES", requires = "pag", value_delimiter = ',')]
    pag_layers: Vec<String>,
    /// Share of the way along the words that apg keeps [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    apg_eta: Option<f64>,
    /// Longest way that apg goes; 0 for any [default: 15].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    apg_threshold: Option<f64>,
    /// What earlier steps count for with apg [default: -0.5].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    apg_momentum: Option<f64>,
    /// What apg is about: denoised latents, or the model's output, as diffusers has it [default: denoised].
    #[arg(long, value_name = "NAME")]
    apg_space: Option<String>,
    /// Give strong guidance the spread of this strength (dynamic thresholding, "CFG fix").
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    mimic: Option<f64>,
    /// Share of the values that dynamic thresholding lets be; without --mimic it scales to 1, for models of pixels [default
    /// with --mimic: 1].
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    threshold_percentile: Option<f64>,
    /// What no negative words become: zeros, or read as an empty text [default: the model's].
    #[arg(long, value_name = "HOW", value_parser = ["zeros", "read"])]
    empty_negative: Option<String>,
    /// Run the whole U-Net at every N-th step and its shallow layers between: 2 or 3 cost little quality (DeepCache).
    #[arg(long, value_name = "N", help_heading = "Speed")]
    cache_interval: Option<usize>,
    /// The branch below which --cache-interval keeps what it found, 0 for the shallowest and fastest [default: 0].
    #[arg(
        long,
        value_name = "N",
        requires = "cache_interval",
        help_heading = "Speed"
    )]
    cache_branch: Option<usize>,
    /// Let self-attention take this share of the largest level's positions together, 0 to 0.75: 0.5 is usual (ToMe).
    #[arg(
        long,
        value_name = "SHARE",
        allow_negative_numbers = true,
        help_heading = "Speed"
    )]
    token_merging: Option<f64>,
}

impl GuidanceFlags {
    /// Lays these flags over `request`.
    pub(crate) fn lay_over(&self, request: &mut Request) -> Result<(), Fault> {
        if let Some(name) = &self.guidance_method {
            request.guidance_method = Method::from_name(name)?;
        }
        if let Some(text) = &self.guidance_interval {
            request.guidance_interval = Some(Interval::from_text(text)?);
        }
        if let Some(scale) = self.pag {
            let pag = request.pag.get_or_insert_with(Pag::default);
            pag.scale = scale;
            pag.adaptive_scale = self.pag_adaptive.unwrap_or(pag.adaptive_scale);
            if !self.pag_layers.is_empty() {
                pag.layers.clone_from(&self.pag_layers);
            }
        }
        self.lay_apg(request)?;
        if self.mimic.is_some() || self.threshold_percentile.is_some() {
            let held = request
                .thresholding
                .get_or_insert_with(Thresholding::default);
            held.mimic = self.mimic.or(held.mimic);
            held.percentile = self.threshold_percentile.unwrap_or(held.percentile);
        }
        if let Some(how) = &self.empty_negative {
            request.force_zeros_for_empty_prompt = Some(how == "zeros");
        }
        if let Some(interval) = self.cache_interval {
            let branch = request.cache.map_or(0, |cache| cache.branch);
            request.cache = Some(FeatureCache {
                interval,
                branch: self.cache_branch.unwrap_or(branch),
            });
        }
        request.token_merging = self.token_merging.or(request.token_merging);
        Ok(())
    }

    fn lay_apg(&self, request: &mut Request) -> Result<(), Fault> {
        let numbers = [self.apg_eta, self.apg_threshold, self.apg_momentum];
        if numbers.iter().all(Option::is_none) && self.apg_space.is_none() {
            return Ok(());
        }
        let apg = request.apg.get_or_insert_with(Apg::default);
        for (flag, number) in
            numbers
                .into_iter()
                .zip([&mut apg.eta, &mut apg.norm_threshold, &mut apg.momentum])
        {
            *number = flag.unwrap_or(*number);
        }
        if let Some(name) = &self.apg_space {
            apg.space = ApgSpace::from_name(name)?;
        }
        Ok(())
    }
}
