//! A request as flags of `latent generate`.

use latent::sampling::guidance::Method;
use latent::{Request, Upscaler};

/// Flags that mean nothing without one of others.
const NEED: &[(&str, &[&str])] = &[
    ("outpaint", &["init"]),
    ("strength", &["init"]),
    ("mask-blur", &["mask", "outpaint"]),
    ("mask-grow", &["mask"]),
    ("keep-unmasked", &["mask", "outpaint"]),
    ("refine-at", &["refiner"]),
    ("pag-adaptive", &["pag"]),
    ("pag-layers", &["pag"]),
    ("cache-branch", &["cache-interval"]),
];
/// Flags without a value.
const SWITCHES: &[&str] = &["fast"];
/// One letter for a long name.
const SHORT: &[(&str, &str)] = &[("-m", "model"), ("-o", "output")];

/// Names and values, in the order they are printed.
pub(super) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// Everything that a request states, but the prompt and pictures.
    pub(super) fn of(request: &Request) -> Self {
        let mut flags = Self(Vec::new());
        flags.words(request);
        let seeds: Vec<String> = request.seeds.iter().map(u64::to_string).collect();
        flags.state("seed", (!seeds.is_empty()).then(|| seeds.join(",")));
        flags.state("count", request.count);
        flags.state("steps", request.steps);
        flags.state("guidance", request.guidance);
        let rescale = request.guidance_rescale;
        flags.state("guidance-rescale", (rescale != 0.0).then_some(rescale));
        flags.guidance(request);
        flags.state("sampler", request.sampler.as_ref());
        flags.state("schedule", request.schedule.as_ref());
        flags.state("generator", request.generator.as_ref());
        let compat =
            Some(request.compat).filter(|compat| *compat != latent::sampling::Compat::default());
        flags.state("compat", compat.map(latent::sampling::Compat::name));
        flags.state(
            "weights",
            request.weights.map(latent::models::Weights::name),
        );
        flags.state("eta", request.eta);
        flags.state("width", request.width);
        flags.state("height", request.height);
        flags.state("clip-skip", request.clip_skip.filter(|skip| *skip > 0));
        flags.modes(request);
        flags
    }

    fn words(&mut self, request: &Request) {
        let negative = &request.negative_prompt;
        let reads_nothing = request.force_zeros_for_empty_prompt == Some(false);
        let states = !negative.is_empty() || reads_nothing;
        self.state("negative", states.then_some(negative));
        let stated = |words: &String| (!words.is_empty()).then(|| words.clone());
        self.state("prompt-2", stated(&request.prompt_2));
        self.state("negative-2", stated(&request.negative_prompt_2));
        let sizes = &request.micro_conditioning;
        let pair =
            |pair: Option<[usize; 2]>, mark: &str| pair.map(|[a, b]| format!("{a}{mark}{b}"));
        self.state("original-size", pair(sizes.original_size, "x"));
        self.state("crop", pair(sizes.crop, ","));
        self.state("target-size", pair(sizes.target_size, "x"));
        self.state("aesthetic-score", sizes.aesthetic_score);
    }

    fn guidance(&mut self, request: &Request) {
        let method = request.guidance_method;
        let other = (method != Method::default()).then(|| method.name());
        self.state("guidance-method", other);
        self.state("guidance-interval", request.guidance_interval);
        if let Some(pag) = &request.pag {
            self.state("pag", Some(pag.scale));
            let adaptive = pag.adaptive_scale;
            self.state("pag-adaptive", (adaptive != 0.0).then_some(adaptive));
            self.state("pag-layers", Some(pag.layers.join(",")));
        }
        if let Some(apg) = &request.apg {
            self.state("apg-eta", Some(apg.eta));
            self.state("apg-threshold", Some(apg.norm_threshold));
            self.state("apg-momentum", Some(apg.momentum));
            self.state("apg-space", Some(apg.space.name()));
        }
        if let Some(held) = &request.thresholding {
            self.state("mimic", held.mimic);
            self.state("threshold-percentile", Some(held.percentile));
        }
        if let Some(cache) = &request.cache {
            self.state("cache-interval", Some(cache.interval));
            self.state("cache-branch", (cache.branch > 0).then_some(cache.branch));
        }
        self.state("token-merging", request.token_merging);
        let empty = request.negative_prompt.is_empty();
        let zeros = request.force_zeros_for_empty_prompt == Some(true) && empty;
        self.state("empty-negative", zeros.then_some("zeros"));
    }

    fn modes(&mut self, request: &Request) {
        self.state("strength", request.strength);
        self.state("mask-grow", request.mask_grow);
        self.state("mask-blur", request.mask_blur);
        self.state("keep-unmasked", request.keep_unmasked);
        let sides = request
            .outpaint
            .map(|sides| sides.map(|side| side.to_string()));
        self.state("outpaint", sides.map(|sides| sides.join(",")));
        if let Some(variation) = request.variation {
            self.set("variation-seed", variation.seed.to_string());
            self.set("variation-strength", variation.strength.to_string());
        }
        if let Some(hires) = request.hires {
            self.set("hires-scale", hires.scale.to_string());
            self.state("hires-steps", hires.steps);
            self.set("hires-strength", hires.strength.to_string());
            let upscaler = match hires.upscaler {
                Upscaler::Latent => "latent",
                Upscaler::Lanczos => "lanczos",
            };
            self.set("hires-upscaler", upscaler.to_owned());
        }
        self.state("refine-at", request.denoising_end);
    }

    fn state(&mut self, name: &'static str, value: Option<impl ToString>) {
        self.0.extend(value.map(|value| (name, value.to_string())));
    }

    pub(super) fn set(&mut self, name: &'static str, value: String) {
        self.0.retain(|(known, _)| *known != name);
        self.add(name, value);
    }

    /// One more of a flag that may be repeated.
    pub(super) fn add(&mut self, name: &'static str, value: String) {
        self.0.push((name, value));
    }

    /// A flag without a value.
    pub(super) fn switch(&mut self, name: &'static str) {
        debug_assert!(SWITCHES.contains(&name), "it has a value");
        self.set(name, String::new());
    }

    /// Leaves out what stronger flags say, and what means nothing without a flag that nobody gives.
    pub(super) fn give_way_to(&mut self, stronger: &[String]) {
        let given: Vec<String> = names(stronger).collect();
        self.0
            .retain(|(name, _)| !given.iter().any(|known| known == name));
        for (name, needed) in NEED {
            let is_given = |flag: &&str| {
                given.iter().any(|known| known == flag)
                    || self.0.iter().any(|(known, _)| known == flag)
            };
            if !needed.iter().any(is_given) {
                self.0.retain(|(known, _)| known != name);
            }
        }
    }

    /// The words of the command behind `latent`.
    pub(super) fn command(&self, prompt: &str, stronger: &[String]) -> Vec<String> {
        let mut command = vec!["generate".to_owned()];
        let is_flag = prompt.starts_with('-');
        if !is_flag {
            command.push(prompt.to_owned());
        }
        for (name, value) in &self.0 {
            if SWITCHES.contains(name) {
                command.push(format!("--{name}"));
            } else if value.starts_with('-') || value.is_empty() {
                command.push(format!("--{name}={value}"));
            } else {
                command.extend([format!("--{name}"), value.clone()]);
            }
        }
        command.extend(stronger.iter().cloned());
        if is_flag {
            command.extend(["--".to_owned(), prompt.to_owned()]);
        }
        command
    }
}

/// The names of flags among words.
pub(super) fn names(words: &[String]) -> impl Iterator<Item = String> {
    words.iter().filter_map(|word| name_of(word))
}

fn name_of(word: &str) -> Option<String> {
    if let Some(name) = word.strip_prefix("--") {
        let name = name.split('=').next().unwrap_or(name);
        return (!name.is_empty()).then(|| name.to_owned());
    }
    let short = SHORT.iter().find(|(short, _)| word.starts_with(short));
    short.map(|(_, name)| (*name).to_owned())
}

/// The value of a flag among words.
pub(super) fn value(words: &[String], name: &str) -> Option<String> {
    let place = words
        .iter()
        .position(|word| name_of(word).as_deref() == Some(name))?;
    match words[place].split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => words.get(place + 1).cloned(),
    }
}

/// A word as a POSIX shell reads it back.
pub(super) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;
    use latent::sampling::guidance::{Apg, ApgSpace, Interval, Pag, Thresholding};
    use latent::{FeatureCache, Hires, MicroConditioning, Variation};

    fn parsed(command: &[String]) -> Request {
        let words = ["latent"]
            .into_iter()
            .chain(command.iter().map(String::as_str));
        let cli = Cli::try_parse_from(words).unwrap();
        let terminal = crate::terminal::Terminal::new(&cli.global);
        match cli.command {
            Command::Generate(generate) => generate.request(&terminal).unwrap(),
            other => panic!("not a generate command: {other:?}"),
        }
    }

    #[test]
    fn the_command_asks_for_the_request_that_it_was_made_of() {
        let request = Request {
            prompt: "a fox, it's \"red\"".into(),
            negative_prompt: "-fog".into(),
            prompt_2: "vixen".into(),
            negative_prompt_2: "rain".into(),
            micro_conditioning: MicroConditioning {
                original_size: Some([5, 6]),
                crop: Some([1, 2]),
                target_size: Some([3, 4]),
                aesthetic_score: Some(6.5),
                ..MicroConditioning::default()
            },
            width: Some(64),
            height: Some(96),
            steps: Some(9),
            guidance: Some(3.3),
            guidance_rescale: 0.7,
            seeds: vec![u64::MAX],
            sampler: Some("DPM++ 2M".into()),
            schedule: Some("karras".into()),
            generator: Some("philox".into()),
            eta: Some(0.1),
            clip_skip: Some(1),
            variation: Some(Variation {
                seed: 3,
                strength: 0.1,
            }),
            hires: Some(Hires {
                steps: Some(4),
                strength: 0.6,
                upscaler: Upscaler::Lanczos,
                ..Hires::new(1.5)
            }),
            ..Request::default()
        };
        let command = Flags::of(&request).command(&request.prompt, &[]);
        assert_eq!(parsed(&command), request);
        let dashed = Request {
            prompt: "--seed".into(),
            force_zeros_for_empty_prompt: Some(false),
            ..Request::default()
        };
        let command = Flags::of(&dashed).command(&dashed.prompt, &[]);
        assert_eq!(parsed(&command), dashed);
    }

    #[test]
    fn the_command_asks_for_the_guidance_of_the_request() {
        let guided = Request {
            guidance_method: Method::Apg,
            apg: Some(Apg {
                eta: 0.25,
                norm_threshold: 7.5,
                momentum: -0.75,
                space: ApgSpace::Output,
            }),
            pag: Some(Pag {
                scale: 2.5,
                adaptive_scale: 0.001,
                layers: vec!["mid".into(), "up.1".into()],
            }),
            guidance_interval: Some(Interval::from_text("sigma:5.4:0.28").unwrap()),
            thresholding: Some(Thresholding {
                percentile: 0.995,
                mimic: Some(6.5),
            }),
            cache: Some(FeatureCache {
                interval: 3,
                branch: 1,
            }),
            ..Request::new("x")
        };
        let command = Flags::of(&guided).command(&guided.prompt, &[]);
        assert_eq!(parsed(&command), guided);
        let zeros = Request {
            force_zeros_for_empty_prompt: Some(true),
            ..Request::new("x")
        };
        let command = Flags::of(&zeros).command(&zeros.prompt, &[]);
        assert_eq!(parsed(&command), zeros);
    }

    #[test]
    fn stronger_flags_win_and_what_needs_another_flag_goes_without_it() {
        let request = Request {
            seeds: vec![1],
            steps: Some(9),
            strength: Some(0.5),
            mask_blur: Some(4),
            ..Request::new("x")
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let command = |stronger: &str| {
            let stronger = words(stronger);
            let mut flags = Flags::of(&request);
            flags.give_way_to(&stronger);
            flags.command(&request.prompt, &stronger).join(" ")
        };
        assert_eq!(command("--steps=3"), "generate x --seed 1 --steps=3");
        assert_eq!(
            command("--init a.png"),
            "generate x --seed 1 --steps 9 --strength 0.5 --init a.png"
        );
        assert_eq!(
            value(&words("-m a --seed=2"), "model").as_deref(),
            Some("a")
        );
        assert_eq!(value(&words("-m a --seed=2"), "seed").as_deref(), Some("2"));
    }

    #[test]
    fn words_are_quoted_as_a_shell_needs_it() {
        assert_eq!(quoted("a/b-1.png"), "a/b-1.png");
        assert_eq!(quoted("it's $5"), r"'it'\''s $5'");
        assert_eq!(
            (quoted("").as_str(), quoted("빨강").as_str()),
            ("''", "'빨강'")
        );
    }
}
