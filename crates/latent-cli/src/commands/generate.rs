//! `latent generate`: words, and pictures, to pictures.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use latent::models::Strength;
use latent::sampling::{GeneratorKind, find_joined, find_schedule};
use latent::{Generated, PictureFormat, Pipeline, Precision, Progress, Request};
use latent_nn::ops::profile;
use serde_json::json;

use crate::args::{Model, PrecisionFlag};
use crate::commands::adapters::{self, Adapters};
use crate::commands::compat::{self, CompatFlags};
use crate::commands::guidance::GuidanceFlags;
use crate::commands::memory::{self, MemoryFlags};
use crate::commands::sdxl::SdxlFlags;
use crate::commands::{modes, open, profile};
use crate::fault::{Fault, Kind};
use crate::terminal::Terminal;
use crate::{hints, names, output, stop, surprise};

/// A preview is drawn at most this often, so that decoding it does not slow the picture down much.
const PREVIEW_EVERY: Duration = Duration::from_millis(700);
/// Longest side of a preview, in pixels.
const PREVIEW_SIDE: usize = 256;

const EXAMPLES: &str = "Examples:
  latent generate \"a red apple, 3d style\"
  latent generate \"a fox\" --seed 1,2,3 -o fox.png          three pictures: fox-1.png, fox-2.png, fox-3.png
  latent generate \"a fox\" --seed 7 --count 8 --preview      seeds 7 to 14, with a preview beside them
  latent generate \"a fox\" --sampler dpmpp_2m_karras --steps 20 --guidance 5 --negative \"blurry\"
  latent generate \"a fox\" --pag 3 --guidance-interval 0.1:0.8   sharper things; faster, guided in the middle only
  latent generate \"a fox\" --guidance 12 --guidance-method apg    strong guidance without glaring colours
  latent generate \"a fox\" --sampler ddim --guidance-method cfg++ --guidance 0.6
  latent generate \"a fox\" --cache-interval 3                   about twice as fast, nearly the same picture
  latent generate \"a fox\" --model ./sd15 --lora snow.safetensors:0.8 --embedding style.pt:mystyle
  latent generate \"a fox\" --model ./sd15 --control ./canny:photo.png:0.9 --control-preprocess canny
  latent generate \"a fox\" --model ./sd15 --ip-adapter ip-adapter_sd15.safetensors:0.6 --ip-image painting.png
  latent generate \"a red hat\" --init fox.png --mask hat.png   repaints what is white in hat.png
  latent generate \"a fox\" --init sketch.png --strength 0.6    draws over a sketch
  latent generate \"a forest\" --init fox.png --outpaint 64,0,64,0
  latent generate \"a fox\" --seed 7 --variation-seed 1 --variation-strength 0.2 --count 4
  latent generate \"a fox\" --hires-scale 2 --hires-strength 0.6
  latent generate \"a fox\" --sampler \"Euler a\" --schedule \"SGM Uniform\" --generator philox
  latent generate \"a (red:1.3) fox in [rain:snow:0.5]\" --sampler \"DPM++ 2M\" --compat a1111
  latent generate \"a fox\" --model sd_xl_base_1.0.safetensors --refiner sd_xl_refiner_1.0.safetensors
  latent generate \"a fox\" --model ./sd15 --max-memory 2GiB    does without what it must; see `latent plan`
  latent generate                                           a surprise from the built-in model's words

The same prompt, seed and settings give the same bytes on every run, with any number of threads,
alone or in a batch. A longer side than the model was trained for repeats things; see `latent inspect`.";

/// Draw pictures from words.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", compat::HELP))]
pub(crate) struct Generate {
    /// What the picture shows; without it, something surprising that the model learned, told with its seed.
    prompt: Option<String>,
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    adapters: Adapters,
    /// What the picture should not show; "" has Stable Diffusion XL read an empty text in place of zeros.
    #[arg(long, value_name = "WORDS")]
    negative: Option<String>,
    /// Seed of the picture; several (1,2,3) give several pictures [default: 0].
    #[arg(long, value_name = "SEED", value_delimiter = ',')]
    seed: Vec<u64>,
    /// Pictures from one seed: picture k takes seed + k; with `--generator comfyui` all share the seed's noise.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Draw in few steps without guidance, where the model has a LoRA for that [default: as the model likes, where words,
    /// seeds and a size are all that is said; the built-in one likes four].
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    fast: Option<bool>,
    /// Steps of the sampler, 1 to 1000 [default: the model's].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// How strictly the words are followed; 1 turns guidance off [default: the model's].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Pulls the contrast of strong guidance back, 0 to 1.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance_rescale: Option<f32>,
    /// The sampler; `latent samplers` lists them, with A1111's, ComfyUI's and diffusers' names [default: the model's].
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// How the noise levels are spaced: karras, simple, sgm_uniform … [default: the sampler's].
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// Where noise comes from: torch (diffusers on a CPU), philox (A1111 on an NVIDIA GPU) or comfyui (ComfyUI on one; --count
    /// draws a batch of one seed) [default: torch, or as --compat does].
    #[arg(long, value_name = "NAME")]
    generator: Option<String>,
    /// Share of fresh noise a step, 0 to 1, for samplers that read it.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Width in pixels [default: the model's, or that of --init].
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Height in pixels [default: the model's, or that of --init].
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Layers of the text encoder to leave out at its end.
    #[arg(long, value_name = "N")]
    clip_skip: Option<usize>,
    /// A diffusers scheduler JSON in place of the model's own.
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    compat: CompatFlags,
    #[command(flatten)]
    modes: modes::Modes,
    /// A request as JSON or TOML; flags beside it win.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Also write the final latents (tensor `latents`, f32, [n, c, h, w], before un-scaling).
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,
    /// Show the picture forming: a small file beside it that refreshes, and the picture in terminals that can.
    #[arg(long)]
    preview: bool,
    #[command(flatten)]
    pub(super) memory: MemoryFlags,
    /// Say where the time went: seconds, speed and share of the machine's limit, by network and kind of operation.
    #[arg(long)]
    profile: bool,
    /// The picture to write; several get numbers [default: named after the prompt].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    guiding: GuidanceFlags,
    #[command(flatten)]
    sdxl: SdxlFlags,
}

impl Generate {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let mut request = self.request(terminal)?;
        let prompted = self.adapters.read_prompt(&mut request)?;
        let first = self
            .output
            .clone()
            .unwrap_or_else(|| names::from_prompt(&request.prompt, request.seeds()[0]));
        let paths = names::numbered(&first, request.seeds().len());
        output::check_picture(&first)?;
        if let Some(path) = &self.save_latents {
            output::check_writable(path)?;
        }
        if self.prompt.is_none() {
            terminal.note(format_args!(
                "\"{}\" --seed {}",
                request.prompt,
                request.seeds()[0]
            ));
        }
        let fast = self.few_steps(&request);
        let opened = |precision| self.open_with(fast, (precision, &prompted), terminal);
        let mut pipeline = opened(None)?;
        if let Some(most) = self.memory.max_memory {
            let first = (self.precision(), pipeline);
            let again = |precision| opened(Some(precision));
            pipeline = memory::within(most, &request, first, again, terminal)?;
        }
        adapters::report(&pipeline, terminal);
        hints::of_words(&pipeline, &request, terminal);
        hints::of_few_steps(&pipeline, fast, terminal);
        if self.profile && !pipeline.compute().is_cpu() {
            let what = "a profile times the CPU's operations; take `--device cpu`, or leave `--profile` out";
            return Err(Fault::usage(what));
        }
        let started = Instant::now();
        let preview = self.preview.then(|| names::beside(&first, "preview"));
        let drawn = || draw(&pipeline, &request, preview.as_deref(), terminal);
        let (generated, profiled) = if self.profile {
            let (generated, parts) = profile(drawn);
            (generated, Some(parts))
        } else {
            (drawn(), None)
        };
        if let Some(path) = preview {
            // The picture itself comes now, or never; a preview that cannot be removed harms nobody.
            let _ = fs::remove_file(path);
        }
        let generated = generated?;
        for warning in &generated.warnings {
            terminal.warn(warning);
        }
        if let Some(path) = &self.save_latents {
            output::whole(|| Ok(generated.latents.save(path)?))?;
        }
        report(&generated, &paths, started.elapsed(), terminal)?;
        profiled.map_or(Ok(()), |parts| profile::report(&parts, terminal))
    }

    /// Whether to draw in few steps; `None` leaves it to the model, where nothing says how to draw.
    fn few_steps(&self, request: &Request) -> Option<bool> {
        let open = request.is_open() && self.adapters.is_empty() && self.sdxl.refiner.is_none();
        self.fast.or(if open { None } else { Some(false) })
    }

    /// The pipeline of the flags, opened again in another precision if one is given, with the refiner and what is laid over it.
    fn open_with(
        &self,
        fast: Option<bool>,
        (precision, prompted): (Option<Precision>, &[(PathBuf, Strength)]),
        terminal: &Terminal,
    ) -> Result<Pipeline, Fault> {
        let mut model = self.model.clone();
        let lay = |builder| {
            let builder = open::perhaps_fast(builder, fast);
            self.adapters.onto(builder, prompted)
        };
        let pipeline = match precision {
            Some(precision) => {
                model.compute.precision = precision.into();
                open::again(&model, terminal, lay)?
            }
            None => open::pipeline_with(&model, terminal, lay)?,
        };
        Ok(match &self.sdxl.refiner {
            Some(path) => pipeline.with_refiner(open::beside(&model, path, terminal)?)?,
            None => pipeline,
        })
    }

    /// The pipeline and the request of the flags for a plan; without words, any of them will do.
    pub(super) fn planned<'a>(
        &'a self,
        terminal: &'a Terminal,
    ) -> Result<(Request, Opening<'a>), Fault> {
        let drawn = [
            (self.output.is_some(), "--output"),
            (self.save_latents.is_some(), "--save-latents"),
            (self.preview, "--preview"),
            (self.profile, "--profile"),
        ];
        if let Some((_, flag)) = drawn.iter().find(|(given, _)| *given) {
            let what = format!("`latent plan` draws nothing, so it has no use for {flag}");
            return Err(Fault::usage(what).hint("leave it out"));
        }
        let mut request = self.request(terminal)?;
        let prompted = self.adapters.read_prompt(&mut request)?;
        let fast = self.few_steps(&request);
        let open = move |precision| self.open_with(fast, (precision, &prompted), terminal);
        Ok((request, Box::new(open)))
    }

    /// The precision that the flags ask for.
    pub(super) fn precision(&self) -> PrecisionFlag {
        self.model.compute.precision
    }

    /// The request of the file, if one is given, with every flag laid over it.
    pub(super) fn request(&self, terminal: &Terminal) -> Result<Request, Fault> {
        let mut request = match &self.request {
            Some(path) => read_request(path)?,
            None => Request::default(),
        };
        if !self.seed.is_empty() {
            request.seeds.clone_from(&self.seed);
        }
        if let Some(negative) = &self.negative {
            request.negative_prompt.clone_from(negative);
            if negative.is_empty() {
                request.force_zeros_for_empty_prompt = Some(false);
            }
        }
        self.compat.lay_over(&mut request);
        self.sdxl.lay_over(&mut request);
        self.guiding.lay_over(&mut request)?;
        if let Some(path) = &self.scheduler_config {
            let text = read_text(path)?;
            let config = serde_json::from_str(&text).map_err(|e| {
                Fault::input(format!(
                    "`{}` is not a scheduler configuration: {e}",
                    path.display()
                ))
            })?;
            request.scheduler_config = Some(config);
        }
        request.count = self.count.or(request.count);
        request.steps = self.steps.or(request.steps);
        request.guidance = self.guidance.or(request.guidance);
        request.guidance_rescale = self.guidance_rescale.unwrap_or(request.guidance_rescale);
        request.eta = self.eta.or(request.eta);
        request.width = self.width.or(request.width);
        request.height = self.height.or(request.height);
        request.clip_skip = self.clip_skip.or(request.clip_skip);
        request.sampler = self.sampler.clone().or(request.sampler);
        request.schedule = self.schedule.clone().or(request.schedule);
        request.generator = self.generator.clone().or(request.generator);
        match &self.prompt {
            Some(prompt) => request.prompt.clone_from(prompt),
            None if request.prompt.is_empty() => {
                surprise::lay_over(&mut request, &self.model, terminal)?;
            }
            None => {}
        }
        self.modes.lay_over(&mut request)?;
        request.validate()?;
        check_names(&request)?;
        Ok(request)
    }
}

/// Opens the pipeline of the flags, in another precision if one is given.
pub(super) type Opening<'a> = Box<dyn Fn(Option<Precision>) -> Result<Pipeline, Fault> + 'a>;

/// Refuses names that mean nothing before a model is opened.
fn check_names(request: &Request) -> Result<(), Fault> {
    if let Some(name) = &request.sampler {
        find_joined(name)?;
    }
    if let Some(name) = &request.schedule {
        find_schedule(name)?;
    }
    if let Some(name) = &request.generator {
        GeneratorKind::from_name(name)?;
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Fault> {
    fs::read_to_string(path)
        .map_err(|e| Fault::input(format!("cannot read `{}`: {e}", path.display())))
}

fn read_request(path: &Path) -> Result<Request, Fault> {
    let text = read_text(path)?;
    let wrong = |e: String| Fault::usage(format!("`{}`: {}", path.display(), e.trim_end()));
    if path.extension().is_some_and(|e| e == "toml") {
        toml::from_str(&text).map_err(|e| wrong(e.to_string()))
    } else {
        serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))
    }
}

/// Generates with a bar, previews and Ctrl-C.
fn draw(
    pipeline: &Pipeline,
    request: &Request,
    preview: Option<&Path>,
    terminal: &Terminal,
) -> Result<Generated, Fault> {
    let bar = terminal.bar(0, "steps");
    let mut previewer = preview.map(|path| Previewer {
        path,
        terminal,
        last: Instant::now(),
        shown: 0,
    });
    let mut failed = None;
    // From here on Ctrl-C is answered between steps, and a preview is removed.
    if stop::asked() {
        return Err(Fault::stopped());
    }
    let generated = pipeline.generate_with(request, |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        let drawn = previewer
            .as_mut()
            .map_or(Ok(()), |p| p.step(progress, &bar));
        if let Err(fault) = drawn {
            failed = Some(fault);
            return ControlFlow::Break(());
        }
        if stop::asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.finish_and_clear();
    match (failed, generated) {
        (Some(fault), _) => Err(fault),
        (None, Err(latent::Error::Stopped)) => Err(Fault::stopped()),
        (None, generated) => Ok(generated?),
    }
}

/// Refreshes the preview file, and shows the picture at the quarters.
struct Previewer<'a> {
    path: &'a Path,
    terminal: &'a Terminal,
    last: Instant,
    shown: usize,
}

impl Previewer<'_> {
    fn step(&mut self, progress: &Progress<'_>, bar: &ProgressBar) -> Result<(), Fault> {
        let first = self.shown == 0 && progress.done == 1;
        if progress.done == progress.total || (!first && self.last.elapsed() < PREVIEW_EVERY) {
            return Ok(());
        }
        let png = progress.preview(PREVIEW_SIDE)?.encode(PictureFormat::Png)?;
        output::bytes(self.path, &png)?;
        let quarter = 4 * progress.done / progress.total.max(1);
        bar.suspend(|| {
            if first {
                self.terminal
                    .note(format_args!("preview: {}", self.path.display()));
            }
            if quarter >= self.shown {
                self.terminal.show(|| png.clone());
            }
        });
        self.shown = self.shown.max(quarter + 1);
        self.last = Instant::now();
        Ok(())
    }
}

/// Writes the pictures, all or as far as they go, and names them on stdout.
fn report(
    generated: &Generated,
    paths: &[PathBuf],
    took: Duration,
    terminal: &Terminal,
) -> Result<(), Fault> {
    if generated.pictures.len() != paths.len() {
        return Err(Fault::new(
            Kind::Bug,
            "the pipeline gave another number of pictures than asked for",
        ));
    }
    for ((picture, settings), path) in generated
        .pictures
        .iter()
        .zip(&generated.settings)
        .zip(paths)
    {
        output::picture(path, picture)?;
        terminal.show(|| picture.encode(PictureFormat::Png).unwrap_or_default());
        let line = json!({
            "path": path, "seed": settings.seed, "width": picture.width(), "height": picture.height(),
            "steps": settings.steps, "guidance": settings.guidance, "sampler": settings.sampler,
            "schedule": settings.schedule, "generator": settings.generator.name(),
            "prompt": settings.prompt, "seconds": took.as_secs_f64(), "warnings": generated.warnings,
        });
        terminal.result(&line, path.display())?;
    }
    let n = paths.len();
    terminal.note(format_args!(
        "{n} picture{} in {:.1} s",
        if n == 1 { "" } else { "s" },
        took.as_secs_f64()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn request(flags: &[&str]) -> Result<Request, Fault> {
        let flags = ["latent", "generate"].iter().chain(flags);
        let cli = Cli::try_parse_from(flags).unwrap();
        let terminal = Terminal::new(&cli.global);
        match cli.command {
            Command::Generate(generate) => generate.request(&terminal),
            other => panic!("not a generate command: {other:?}"),
        }
    }

    #[test]
    fn every_flag_reaches_the_request() {
        let got = request(&[
            "a fox",
            "--negative=fog",
            "--seed=1,2",
            "--steps=9",
            "--guidance=3.5",
            "--sampler=ddim",
            "--schedule=simple",
            "--generator=philox",
            "--compat=a1111",
            "--weights=comfyui",
            "--eta=0.5",
            "--width=64",
            "--height=96",
            "--clip-skip=1",
            "--guidance-rescale=0.7",
            "--variation-seed=3",
            "--variation-strength=0.25",
            "--hires-scale=1.5",
            "--hires-steps=4",
            "--hires-strength=0.6",
            "--hires-upscaler=lanczos",
        ]);
        let want = Request {
            prompt: "a fox".into(),
            negative_prompt: "fog".into(),
            width: Some(64),
            height: Some(96),
            steps: Some(9),
            guidance: Some(3.5),
            guidance_rescale: 0.7,
            seeds: vec![1, 2],
            sampler: Some("ddim".into()),
            schedule: Some("simple".into()),
            generator: Some("philox".into()),
            compat: latent::sampling::Compat::A1111,
            weights: Some(latent::models::Weights::ComfyUi),
            eta: Some(0.5),
            clip_skip: Some(1),
            variation: Some(latent::Variation {
                seed: 3,
                strength: 0.25,
            }),
            hires: Some(latent::Hires {
                scale: 1.5,
                steps: Some(4),
                strength: 0.6,
                upscaler: latent::Upscaler::Lanczos,
            }),
            ..Request::default()
        };
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn every_flag_of_a_start_from_a_picture_reaches_the_request() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, grey: u8| {
            let path = folder.path().join(name);
            let picture = latent::Picture::filled(8, 8, [grey; 3]).unwrap();
            picture.save(&path).unwrap();
            (path.to_str().unwrap().to_owned(), picture)
        };
        let ((init, picture), (mask, white)) = (file("init.png", 9), file("mask.png", 255));
        let flags =
            "--strength 0.5 --mask-grow 2 --mask-blur 3 --keep-unmasked false --outpaint 8,0,8,0";
        let mut all = vec!["a fox", "--init", &init, "--mask", &mask];
        all.extend(flags.split(' '));
        let want = Request {
            mask_grow: Some(2),
            mask_blur: Some(3),
            keep_unmasked: Some(false),
            ..Request::new("a fox")
                .init(picture)
                .mask(white)
                .strength(0.5)
                .outpaint([8, 0, 8, 0])
        };
        assert_eq!(request(&all).unwrap(), want);
    }

    #[test]
    fn every_flag_of_stable_diffusion_xl_reaches_the_request() {
        let flags = "--prompt-2 vixen --negative-2 rain --original-size 512x768 --crop 1,2 --target-size 64x96 \
                     --aesthetic-score 7";
        let flags: Vec<&str> = ["a fox"].into_iter().chain(flags.split(' ')).collect();
        let want = Request {
            prompt: "a fox".into(),
            prompt_2: "vixen".into(),
            negative_prompt_2: "rain".into(),
            micro_conditioning: latent::MicroConditioning {
                original_size: Some([512, 768]),
                crop: Some([1, 2]),
                target_size: Some([64, 96]),
                aesthetic_score: Some(7.0),
                ..latent::MicroConditioning::default()
            },
            ..Request::default()
        };
        assert_eq!(request(&flags).unwrap(), want);
    }

    #[test]
    fn flags_win_over_the_request_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.toml");
        fs::write(&path, "prompt = \"a cat\"\nsteps = 5\nseeds = [3]\n").unwrap();
        let got = request(&["--request", path.to_str().unwrap(), "--steps", "7"]).unwrap();
        assert_eq!(
            (got.prompt.as_str(), got.steps, got.seeds()),
            ("a cat", Some(7), vec![3])
        );
    }

    #[test]
    fn an_unknown_key_in_a_request_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.toml");
        fs::write(&path, "prompt = \"a cat\"\nstep = 5\n").unwrap();
        let error = request(&["--request", path.to_str().unwrap()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("step") && error.contains("line 2"),
            "{error}"
        );
    }
}
