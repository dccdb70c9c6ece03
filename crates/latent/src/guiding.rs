//! Guidance during a run: which calls have it, what they ask of the network, and what is made of what they find.

use latent_sampling::guidance::{
    self, Apg, ApgSpace, Interval, Meaning, Measure, Method, Pag, Thresholding,
};
use latent_sampling::{Latents as Array, SchedulerConfig};
use serde::{Deserialize, Serialize};

use crate::briefing::{Found, Wish};
use crate::pipeline::Pipeline;
use crate::prompts::are_summed;
use crate::{Error, Request};

/// The strength of CFG++ where none is asked for; the paper's for what 7.5 is without it.
const PLUS_PLUS: f32 = 0.6;
/// The greatest strength of CFG++; the paper has 0 to 1, ComfyUI's users go up to twice of it.
const MOST_PLUS_PLUS: f32 = 2.0;

/// The greatest share of merged tokens.
const MOST_MERGED: f64 = 0.75;

/// Deep features of the U-Net that are kept for the calls after it, which run the shallow layers only.
///
/// Source: Ma et al. 2023 (arXiv:2312.00858), DeepCache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureCache {
    /// Every so many calls run the whole network: 1 all of them, 2 every other one.
    pub interval: usize,
    /// The branch below which features are kept, 0 for the shallowest; the paper's 0 is the fastest.
    #[serde(default)]
    pub branch: usize,
}

impl FeatureCache {
    /// The whole network every `interval` calls, and the shallowest branch between.
    #[must_use]
    pub fn every(interval: usize) -> Self {
        Self {
            interval,
            branch: 0,
        }
    }
}

impl Request {
    /// Sets how the wanted and the unwanted words are put together.
    #[must_use]
    pub fn guidance_method(mut self, method: Method) -> Self {
        self.guidance_method = method;
        self
    }

    /// Moves away from what the network finds with perturbed self-attention in its middle.
    #[must_use]
    pub fn pag(mut self, scale: f64) -> Self {
        self.pag = Some(Pag {
            scale,
            ..Pag::default()
        });
        self
    }

    /// Guides from one share of the run to another only.
    #[must_use]
    pub fn guidance_interval(mut self, from: f64, to: f64) -> Self {
        let by = Measure::Share;
        self.guidance_interval = Some(Interval { from, to, by });
        self
    }

    /// Runs the whole U-Net every so many calls only.
    #[must_use]
    pub fn cache_interval(mut self, interval: usize) -> Self {
        self.cache = Some(FeatureCache::every(interval));
        self
    }

    /// Has self-attention of the largest level take this share of its positions together.
    #[must_use]
    pub fn token_merging(mut self, share: f64) -> Self {
        self.token_merging = Some(share);
        self
    }

    /// The strength that `stated` is where nothing else is said.
    pub(crate) fn strength_of_guidance(&self, default: f32) -> f32 {
        let default = match self.guidance_method {
            Method::CfgPlusPlus => PLUS_PLUS,
            Method::Cfg | Method::Apg => default,
        };
        self.guidance.unwrap_or(default)
    }

    pub(crate) fn validate_guidance(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Request(what));
        if let (Method::CfgPlusPlus, Some(strength)) = (self.guidance_method, self.guidance)
            && strength > MOST_PLUS_PLUS
        {
            return refuse(format!(
                "`guidance` is {strength}, and with `guidance_method: cfg++` it goes from 0 to {MOST_PLUS_PLUS}; \
                 {PLUS_PLUS} does what about 7.5 does without it"
            ));
        }
        if self.apg.is_some() && self.guidance_method != Method::Apg {
            return refuse(
                "`apg` says how adaptive projected guidance works, and `guidance_method` is another; set it to `apg`"
                    .into(),
            );
        }
        let apg = self.apg.unwrap_or_default();
        let pag = self.pag.clone().unwrap_or_default();
        for (name, value, [least, most]) in [
            ("apg.eta", apg.eta, [-10.0, 10.0]),
            ("apg.norm_threshold", apg.norm_threshold, [0.0, 1e6]),
            ("apg.momentum", apg.momentum, [-0.99, 0.99]),
            ("pag.scale", pag.scale, [0.0, 100.0]),
            ("pag.adaptive_scale", pag.adaptive_scale, [0.0, 100.0]),
        ] {
            if !(least..=most).contains(&value) {
                return refuse(format!(
                    "`{name}` is {value}; it goes from {least} to {most}"
                ));
            }
        }
        if pag.layers.is_empty() {
            return refuse("`pag.layers` is empty; name a layer, `mid` as a rule".into());
        }
        if let Some(interval) = &self.guidance_interval {
            interval.check()?;
        }
        if let Some(thresholding) = &self.thresholding {
            thresholding.check()?;
        }
        if let Some(share) = self.token_merging
            && !(0.0..=MOST_MERGED).contains(&share)
        {
            return refuse(format!(
                "`token_merging` is {share}; it goes from 0 to {MOST_MERGED}, for of each square of four positions one stays"
            ));
        }
        match self.cache.map(|cache| cache.interval) {
            Some(interval) if !(1..=1000).contains(&interval) => refuse(format!(
                "`cache.interval` is {interval}; it goes from 1, the whole network at every call, to 1000"
            )),
            _ => Ok(()),
        }
    }

    /// Names of what is set beside the strength of guidance.
    fn guided_beside(&self) -> Vec<&'static str> {
        [
            ("guidance_method", self.guidance_method != Method::Cfg),
            ("pag", self.pag.is_some()),
            ("guidance_interval", self.guidance_interval.is_some()),
            ("thresholding", self.thresholding.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
    }

    /// How it is guided, as its picture names it. Source of thresholding's keys: the extension sd-dynamic-thresholding.
    pub(crate) fn guidance_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        if self.guidance_method != Method::Cfg {
            settings.push(("Guidance method", self.guidance_method.name().to_owned()));
        }
        if let Some(apg) = &self.apg {
            settings.push(("APG eta", apg.eta.to_string()));
            settings.push(("APG threshold", apg.norm_threshold.to_string()));
            settings.push(("APG momentum", apg.momentum.to_string()));
            settings.push(("APG space", apg.space.name().to_owned()));
        }
        if let Some(pag) = &self.pag {
            settings.push(("PAG scale", pag.scale.to_string()));
            if pag.adaptive_scale > 0.0 {
                settings.push(("PAG adaptive scale", pag.adaptive_scale.to_string()));
            }
            settings.push(("PAG layers", pag.layers.join(",")));
        }
        if let Some(interval) = &self.guidance_interval {
            settings.push(("Guidance interval", interval.to_string()));
        }
        if let Some(thresholding) = &self.thresholding {
            settings.push(("Dynamic thresholding enabled", "True".to_owned()));
            let mimic = thresholding.mimic;
            settings.extend(mimic.map(|mimic| ("Mimic scale", mimic.to_string())));
            let percent = percent_of(thresholding.percentile);
            settings.push(("Threshold percentile", percent.to_string()));
        }
        if let Some(cache) = &self.cache {
            settings.push(("Cache interval", cache.interval.to_string()));
            if cache.branch > 0 {
                settings.push(("Cache branch", cache.branch.to_string()));
            }
        }
        let merging = self.token_merging;
        settings.extend(merging.map(|share| ("Token merging ratio", share.to_string())));
        settings
    }
}

/// A share as the extension writes it, without what binary fractions add at its end.
fn percent_of(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

/// Refuses what cannot be done with a model, and says what has no effect; `strength` is that of guidance, if there is any.
pub(crate) fn check(
    pipeline: &Pipeline,
    request: &Request,
    (strength, shares): (Option<f64>, &[f64]),
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::Request(what));
    let unet = &pipeline.unet;
    if let Some(cache) = &request.cache
        && cache.branch >= unet.branches()
    {
        return refuse(format!(
            "`cache.branch` is {}; this model has branches 0 to {}",
            cache.branch,
            unet.branches() - 1
        ));
    }
    let set = request.guided_beside();
    let Some(first) = set.first() else {
        return Ok(());
    };
    if unet.config().time_cond_proj_dim.is_some() {
        return refuse(format!(
            "`{first}` changes how a model is guided, and this one has guidance built in; leave it out"
        ));
    }
    if let Some(pag) = &request.pag {
        unet.select_self_attentions(&pag.layers)
            .map_err(|error| Error::Request(format!("`pag.layers`: {error}")))?;
    }
    if request.guidance_method == Method::CfgPlusPlus && strength.is_none() {
        return refuse(
            "`guidance_method: cfg++` compares with what is unwanted, and this model is told nothing; leave it out".into(),
        );
    }
    if request.guidance_interval.is_some() && are_summed(shares.iter().copied()) {
        return refuse(
            "prompts that `AND` joins are added to what is unwanted, which `guidance_interval` leaves out; \
             take one of the two"
                .into(),
        );
    }
    if strength.is_some() {
        return Ok(());
    }
    let without_pag = |name: &&&str| match **name {
        "pag" => false,
        "guidance_interval" => request.pag.is_none(),
        "thresholding" => request.thresholding.is_some_and(|one| one.mimic.is_some()),
        _ => true,
    };
    for name in set.iter().filter(without_pag) {
        warnings.push(format!(
            "`{name}` has no effect while guidance is 1 or less"
        ));
    }
    Ok(())
}

/// How the calls of a request are guided.
#[derive(Clone, Debug)]
pub(crate) struct Guiding {
    method: Method,
    apg: Apg,
    pub(crate) pag: Option<Pag>,
    interval: Option<Interval>,
    thresholding: Option<Thresholding>,
    rescale: f64,
    pub(crate) cache: Option<FeatureCache>,
    pub(crate) token_merging: Option<f64>,
    /// What outputs mean, where something needs it.
    meaning: Option<Meaning>,
}

impl Guiding {
    pub(crate) fn new(request: &Request, config: &SchedulerConfig) -> Result<Self, Error> {
        let apg = request.apg.unwrap_or_default();
        let of_clean = request.guidance_method == Method::Apg && apg.space == ApgSpace::Denoised;
        let by_level = request
            .guidance_interval
            .is_some_and(|interval| interval.by == Measure::Sigma);
        let needs_meaning = of_clean || by_level || request.thresholding.is_some();
        Ok(Self {
            method: request.guidance_method,
            apg,
            pag: request.pag.clone().filter(|pag| pag.scale > 0.0),
            interval: request.guidance_interval,
            thresholding: request.thresholding,
            rescale: f64::from(request.guidance_rescale),
            cache: request.cache.filter(|cache| cache.interval > 1),
            token_merging: request.token_merging.filter(|share| *share > 0.0),
            meaning: needs_meaning.then(|| Meaning::of(config)).transpose()?,
        })
    }

    /// The guide of a walk, `before` calls of a run of `calls` being done.
    pub(crate) fn walk(&self, before: usize, calls: usize) -> Guide<'_> {
        Guide {
            guiding: self,
            call: before,
            calls,
            average: None,
            unguided: None,
        }
    }
}

/// What guidance knows during one walk over a batch.
pub(crate) struct Guide<'a> {
    guiding: &'a Guiding,
    /// The next call of the run, from 0.
    call: usize,
    calls: usize,
    /// What APG's momentum counts of the steps before.
    average: Option<Array>,
    /// The output whose noise CFG++ puts back after the last call.
    unguided: Option<Array>,
}

/// A call of the network, and how it is guided.
pub(crate) struct Asked {
    timestep: f64,
    guided: bool,
    perturbing: f64,
}

impl Asked {
    pub(crate) fn wish(&self) -> Wish {
        Wish {
            unwanted: self.guided,
            perturbed: self.perturbing > 0.0,
        }
    }
}

impl Guide<'_> {
    /// How the next call is guided.
    pub(crate) fn ask(&mut self, timestep: f64) -> Asked {
        let place = [self.call, self.calls];
        self.call += 1;
        let guiding = self.guiding;
        let sigma = guiding.meaning.as_ref().map(|m| m.sigma(timestep));
        let guided = guiding
            .interval
            .is_none_or(|interval| interval.holds(place, sigma.unwrap_or(0.0)));
        let pag = guiding.pag.as_ref().filter(|_| guided);
        Asked {
            timestep,
            guided,
            perturbing: pag.map_or(0.0, |pag| pag.strength_at(timestep)),
        }
    }

    /// One output of what the network found for `noisy`, the network's input without further channels.
    pub(crate) fn combine(
        &mut self,
        asked: &Asked,
        noisy: &Array,
        (found, shares, strength): (Found, &[f64], Option<f64>),
    ) -> Array {
        self.unguided = None;
        let Found {
            unwanted,
            wanted: each,
            perturbed,
        } = found;
        let wanted = match &unwanted {
            Some(unwanted) if are_summed(shares.iter().copied()) => {
                let each: Vec<(f64, Array)> =
                    shares.iter().copied().zip(each.iter().cloned()).collect();
                guidance::compose(&each, unwanted)
            }
            _ => each[0].clone(),
        };
        let pair = unwanted.as_ref().zip(strength);
        let mut output = match pair {
            Some((unwanted, strength)) => {
                self.guide(asked.timestep, noisy, ([&wanted, unwanted], strength))
            }
            None => wanted.clone(),
        };
        if !perturbed.is_empty() {
            let each = shares.iter().zip(each).zip(perturbed);
            let pairs: Vec<(f64, Array, Array)> = each
                .map(|((share, output), perturbed)| (*share, output, perturbed))
                .collect();
            output = guidance::perturb(&output, &pairs, asked.perturbing);
        }
        if let (Some(_), true) = (pair, self.guiding.rescale > 0.0) {
            output = guidance::rescale(output, &wanted, self.guiding.rescale);
        }
        let output = self.held(asked.timestep, noisy, (output, &wanted, unwanted.as_ref()));
        if self.guiding.method == Method::CfgPlusPlus {
            self.unguided = unwanted;
        }
        output
    }

    fn guide(
        &mut self,
        timestep: f64,
        noisy: &Array,
        ([wanted, unwanted], strength): ([&Array; 2], f64),
    ) -> Array {
        let guiding = self.guiding;
        if guiding.method != Method::Apg {
            return guidance::guide(wanted, unwanted, strength);
        }
        let average = &mut self.average;
        match (guiding.apg.space, &guiding.meaning) {
            (ApgSpace::Denoised, Some(meaning)) => {
                let clean = |output| meaning.clean(timestep, noisy, output);
                let (wanted, unwanted) = (clean(wanted), clean(unwanted));
                let guided = guiding.apg.guide(average, [&wanted, &unwanted], strength);
                meaning.output(timestep, noisy, &guided)
            }
            _ => guiding.apg.guide(average, [wanted, unwanted], strength),
        }
    }

    /// The output with its clean latents held within a range, where that is asked for.
    fn held(
        &self,
        timestep: f64,
        noisy: &Array,
        (output, wanted, unwanted): (Array, &Array, Option<&Array>),
    ) -> Array {
        let (Some(thresholding), Some(meaning)) =
            (self.guiding.thresholding, &self.guiding.meaning)
        else {
            return output;
        };
        let clean = |output| meaning.clean(timestep, noisy, output);
        let held = match (thresholding.mimic, unwanted) {
            (None, _) => guidance::threshold::clamp(clean(&output), thresholding.percentile),
            (Some(mimic), Some(unwanted)) => {
                let weaker = guidance::guide(wanted, unwanted, mimic);
                let percentile = thresholding.percentile;
                guidance::threshold::mimic(clean(&output), &clean(&weaker), percentile)
            }
            (Some(_), None) => return output,
        };
        meaning.output(timestep, noisy, &held)
    }

    /// The output whose noise is put back after the last call, where it is another than was returned.
    pub(crate) fn take_unguided(&mut self) -> Option<Array> {
        self.unguided.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_mean_nothing_are_refused_by_name() {
        let base = || Request::new("x");
        let apg = |apg| Request {
            guidance_method: Method::Apg,
            apg: Some(apg),
            ..base()
        };
        let cases = [
            (base().pag(-1.0), "pag.scale"),
            (base().guidance_interval(0.8, 0.2), "guidance_interval"),
            (base().cache_interval(0), "cache.interval"),
            (base().token_merging(0.8), "token_merging"),
            (
                base().guidance_method(Method::CfgPlusPlus).guidance(7.5),
                "cfg++",
            ),
            (
                apg(Apg {
                    momentum: -1.5,
                    ..Apg::default()
                }),
                "apg.momentum",
            ),
            (
                Request {
                    apg: Some(Apg::default()),
                    ..base()
                },
                "guidance_method",
            ),
            (
                Request {
                    thresholding: Some(Thresholding {
                        percentile: 2.0,
                        mimic: None,
                    }),
                    ..base()
                },
                "thresholding.percentile",
            ),
            (
                Request {
                    pag: Some(Pag {
                        layers: Vec::new(),
                        ..Pag::default()
                    }),
                    ..base()
                },
                "pag.layers",
            ),
        ];
        for (request, name) in cases {
            let error = request.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let fine = apg(Apg::default()).pag(3.0).guidance_interval(0.1, 0.9);
        fine.validate().unwrap();
    }

    #[test]
    fn a_guided_request_survives_json() {
        let request = Request {
            apg: Some(Apg::default()),
            thresholding: Some(Thresholding {
                percentile: 0.995,
                mimic: Some(7.0),
            }),
            ..Request::new("x")
                .guidance_method(Method::Apg)
                .pag(3.0)
                .guidance_interval(0.2, 0.8)
                .cache_interval(3)
                .token_merging(0.5)
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(Request::from_json(&text).unwrap(), request);
        let short = r#"{"guidance_method": "cfg++", "pag": {"scale": 2}, "cache": {"interval": 2},
            "guidance_interval": {"from": 5.4, "to": 0.3, "by": "sigma"}, "apg": {"eta": 0.5}}"#;
        let read = Request::from_json(short).unwrap();
        assert_eq!(read.pag.unwrap().layers, ["mid"]);
        assert_eq!(read.apg.unwrap().norm_threshold, 15.0);
    }
}
