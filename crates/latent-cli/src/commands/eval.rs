//! `latent eval`: how good a model is.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use latent_train::eval::{
    GenerationOptions, GenerationReport, GroupScore, Hits, Judge, ReconstructionOptions,
    ReconstructionReport, WordHits, evaluate_generation, evaluate_reconstruction,
};
use serde::Serialize;

use crate::args::{Compute, Model};
use crate::commands::open;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// Measure a model on a data set.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent eval reconstruction --data data/all/heldout
  latent eval reconstruction --model runs/autoencoder/model --data data/all/heldout --judge runs/judge/model
  latent eval generation --judge runs/judge/model --data data/all/heldout --training data/core/train

A judge is what `latent train text-encoder` exports, trained apart from the model it measures. Things are named right
if the picture is nearer to its caption than to 99 others that name another thing in its place; words are told right if it
is nearer to its caption than to the same with another word of the list (a list goes by its first word; the judge's config
has them as `opposites`). Read each score beside that of the data's own pictures, and words also beside that of the picture of
another caption, which is chance. Fréchet distances shrink with the number of pictures: compare equal numbers only.")]
pub(crate) struct Eval {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Reconstruction(Reconstruction),
    Generation(Generation),
}

/// What the autoencoder loses: PSNR, SSIM, and with a judge the Fréchet distance.
#[derive(Debug, Args)]
struct Reconstruction {
    /// A model folder, a `vae` folder, or `builtin`.
    #[arg(long, short, value_name = "DIR", default_value = BUILTIN, env = "LATENT_MODEL")]
    model: PathBuf,
    /// The pictures: a folder or tar shards, better held-out ones.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A judge, for the Fréchet distance.
    #[arg(long, value_name = "DIR")]
    judge: Option<PathBuf>,
    /// Side of the square that pictures are brought to.
    #[arg(long, value_name = "PIXELS", default_value_t = 128)]
    size: usize,
    /// At most this many pictures, evenly picked.
    #[arg(long, value_name = "N", default_value_t = 500)]
    limit: usize,
    #[command(flatten)]
    compute: Compute,
}

/// What a model draws from captions: things named right, words told right, distances, text alignment, memorisation.
#[derive(Debug, Args)]
struct Generation {
    #[command(flatten)]
    model: Model,
    /// The judge.
    #[arg(long, value_name = "DIR")]
    judge: PathBuf,
    /// Captions and their pictures.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The pictures that the model learned from.
    #[arg(long, value_name = "DIR")]
    training: PathBuf,
    /// Captions to draw, evenly picked.
    #[arg(long, value_name = "N", default_value_t = 300)]
    count: usize,
    /// Training pictures to look through for the nearest, evenly picked.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    training_limit: usize,
    /// Seed of the first picture; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw in few steps without guidance, as `latent generate --fast`.
    #[arg(long)]
    fast: bool,
    /// Steps of the sampler [default: the model's].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// How strictly the words are followed [default: the model's].
    #[arg(long, value_name = "X")]
    guidance: Option<f32>,
    /// The sampler [default: the model's].
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
}

/// The word for the model in the program, where a folder is expected.
const BUILTIN: &str = "builtin";

impl Eval {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        match self.what {
            What::Reconstruction(command) => command.run(terminal),
            What::Generation(command) => command.run(terminal),
        }
    }
}

impl Reconstruction {
    fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let (compute, device) = open::compute(&self.compute)?;
        terminal.note(format_args!("device: {device}"));
        let judge = self
            .judge
            .as_deref()
            .map(|folder| Judge::open(folder, &compute))
            .transpose()?;
        let options = ReconstructionOptions {
            size: self.size,
            limit: self.limit,
        };
        let measure = |folder: &Path| {
            let meter = terminal.meter("pictures");
            let mut progress = |done: usize, total: usize| meter.at(done as u64, total as u64);
            evaluate_reconstruction(
                folder,
                &self.data,
                options,
                judge.as_ref(),
                &compute,
                &mut progress,
            )
        };
        let report = if self.model == Path::new(BUILTIN) {
            let folder = exported()?;
            measure(&folder.path().join("model"))?
        } else {
            measure(&self.model)?
        };
        terminal.result(&report, reconstruction_table(&report))
    }
}

/// The built-in model as a folder, for as long as it is needed.
fn exported() -> Result<tempfile::TempDir, Fault> {
    let folder = tempfile::tempdir().map_err(|error| {
        Fault::output(format!("cannot make a temporary folder: {error}")).hint("set `TMPDIR`")
    })?;
    latent::export_builtin(folder.path().join("model"))?;
    Ok(folder)
}

fn reconstruction_table(report: &ReconstructionReport) -> String {
    let mut lines = vec![format!(
        "{:12} {:>8} {:>8} {:>8} {:>8}",
        "style", "pictures", "PSNR", "SSIM", "worst"
    )];
    let all = ("all".to_owned(), report.all);
    let styles = report
        .styles
        .iter()
        .map(|(style, score)| (style.clone(), *score));
    for (
        style,
        GroupScore {
            count,
            psnr,
            ssim,
            worst_psnr,
        },
    ) in styles.chain([all])
    {
        lines.push(format!(
            "{style:12} {count:>8} {psnr:>8.2} {ssim:>8.4} {worst_psnr:>8.2}"
        ));
    }
    if let Some(distance) = report.frechet_distance {
        lines.push(format!("Fréchet distance {distance:.4}"));
    }
    lines.join("\n")
}

/// A generation report with what it was measured on, for `--json`.
#[derive(Serialize)]
struct Measured<'a> {
    model: &'a str,
    seed: u64,
    #[serde(flatten)]
    report: &'a GenerationReport,
}

impl Generation {
    fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let pipeline = open::pipeline_with(&self.model, terminal, |builder| {
            Ok(open::perhaps_fast(builder, Some(self.fast)))
        })?;
        let (compute, _) = open::compute(&self.model.compute)?;
        let judge = Judge::open(&self.judge, &compute)?;
        let options = GenerationOptions {
            count: self.count,
            training_limit: self.training_limit,
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance,
            sampler: self.sampler,
        };
        let report = {
            let meter = terminal.meter("pictures");
            let mut progress = |done: usize, total: usize| meter.at(done as u64, total as u64);
            evaluate_generation(
                &pipeline,
                &judge,
                &self.data,
                &self.training,
                &options,
                &mut progress,
            )?
        };
        if report.worded.is_none() {
            terminal.note("words are not scored: the judge was exported without `opposites`");
        }
        let measured = Measured {
            model: pipeline.model_name(),
            seed: self.seed,
            report: &report,
        };
        terminal.result(&measured, generation_table(&report))
    }
}

/// A share with its counts.
fn hits(hits: &Hits) -> String {
    let of = format!("({} of {})", hits.right, hits.of);
    format!("{:>5.1} % {of:14}", 100.0 * hits.share())
}

/// Things by name: all, by kind, by language.
fn named_lines(report: &GenerationReport) -> Vec<String> {
    let beside = |word: &str, of: &Hits, data: Option<&Hits>| {
        let data = data.map(|data| format!("  data {}", hits(data)));
        format!("{word:25} {}{}", hits(of), data.unwrap_or_default())
    };
    let all = beside("named right", &report.named, Some(&report.named_of_data));
    let kinds = report
        .named_by_kind
        .iter()
        .map(|(kind, of)| (kind, of, report.named_by_kind_of_data.get(kind)));
    let languages = report.named_by_language.iter();
    let parts = kinds.chain(languages.map(|(language, of)| (language, of, None)));
    let parts = parts.map(|(word, of, data)| beside(&format!("  {word}"), of, data));
    [all].into_iter().chain(parts).collect()
}

/// Words that captions turn on, list by list; nothing if the judge has none.
fn worded_lines(report: &GenerationReport) -> Vec<String> {
    let Some(worded) = &report.worded else {
        return Vec::new();
    };
    let line = |(list, of): (&String, &WordHits)| {
        let WordHits {
            drawn,
            of_data,
            of_others,
        } = of;
        format!(
            "  {list:23} {}  data {}  another's {}",
            hits(drawn),
            hits(of_data),
            hits(of_others)
        )
    };
    let heading = "word told right, by list".to_owned();
    [heading]
        .into_iter()
        .chain(worded.iter().map(line))
        .collect()
}

fn generation_table(report: &GenerationReport) -> String {
    let mut lines = vec![format!("pictures                  {}", report.pictures)];
    lines.extend(named_lines(report));
    lines.extend(worded_lines(report));
    lines.push("nearest training picture".into());
    lines.push(format!(
        "  right concept           {}",
        hits(&report.concepts)
    ));
    for (word, of) in report.by_kind.iter().chain(&report.by_language) {
        lines.push(format!("    {word:21} {}", hits(of)));
    }
    lines.extend([
        format!(
            "  the data's own pictures {}",
            hits(&report.concepts_of_data)
        ),
        format!(
            "  distance                {:.4} (data {:.4})",
            report.nearest_training, report.nearest_training_of_data
        ),
        format!(
            "  near copies             {:.1} %",
            100.0 * report.near_copies
        ),
        format!(
            "text alignment            {:.4} (data {:.4})",
            report.alignment, report.alignment_of_data
        ),
        format!("Fréchet distance          {:.4}", report.frechet_distance),
        format!("kernel distance           {:.5}", report.kernel_distance),
    ]);
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}
