//! `latent data`: the training set of the built-in model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use latent::Vocabulary;
use latent_data::icons::{
    self, BuildConfig, Deviation, Kind as Picture, Profile, Progress, Recipe,
};
use latent_data::{Captions, DataSet};
use serde_json::json;

use crate::fault::{Fault, Kind};
use crate::terminal::{Meter, Terminal, thousands};
use crate::{output, stop};

/// Draw, check or count the training set of the built-in model.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent data build                             what the built-in model learned: data/all
  latent data build --profile core --size 64    smaller pictures
  latent data verify                            are these the published pictures?
  latent data captions                          are these the published captions? Needs no package
  latent data words data/all/train -o latent-words.json
                                                the list of words that a model's folder holds beside its weights

Packages are fetched once, with `npm pack`, and checked by their checksums; after that no network is needed.
A build that was stopped goes on where it was.")]
pub(crate) struct Data {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Draw the pictures into tar shards, with their captions.
    Build(Build),
    /// Draw every source and 300 pictures, and compare their colours with the published ones.
    Verify(Verify),
    /// Count the captions and compare their checksums with the published ones.
    Captions,
    /// Write the words of a data set's captions, by which `latent generate` knows what a model does not know.
    Words(Words),
}

/// A part of the built-in model's set.
#[derive(Debug, Args)]
struct Part {
    /// Part of the set: all of it, core (6,845 pictures), first (the 84 things people try first, and some to measure by).
    #[arg(long, value_name = "PROFILE", default_value = "all")]
    profile: String,
    /// Kinds of pictures in place of the profile's own, as in white,recolor,pair.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    kinds: Vec<String>,
    /// Scenes that are tried; the published set has 20,000.
    #[arg(long, value_name = "N", default_value_t = icons::SCENES)]
    scenes: u32,
}

#[derive(Debug, Args)]
struct Build {
    #[command(flatten)]
    part: Part,
    /// Side of a picture in pixels: 64, 128 or 256.
    #[arg(long, value_name = "PIXELS", default_value_t = 128)]
    size: usize,
    #[command(flatten)]
    packages: Packages,
    /// The folder to write [default: data/PROFILE].
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Words {
    /// A data set as training reads it; without it, the training captions of the built-in model's set.
    #[arg(value_name = "DATA", conflicts_with_all = ["profile", "kinds", "scenes"])]
    data: Option<PathBuf>,
    #[command(flatten)]
    part: Part,
    /// The file to write.
    #[arg(long, short, value_name = "FILE", default_value = latent::VOCABULARY_FILE)]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    packages: Packages,
}

/// Where the packages of drawings are.
#[derive(Debug, Args)]
struct Packages {
    /// Folder of the packages; those that are missing are fetched into it.
    #[arg(long, value_name = "DIR", default_value = "data/packages")]
    packages: PathBuf,
}

impl Data {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        match self.what {
            What::Build(build) => build.run(terminal),
            What::Verify(verify) => verify.run(terminal),
            What::Captions => captions(terminal),
            What::Words(words) => words.run(terminal),
        }
    }
}

impl Build {
    fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let config = self.part.config(self.size)?;
        let out = self
            .out
            .unwrap_or_else(|| Path::new("data").join(config.profile.name()));
        let summary = {
            let watcher = Watcher::new(terminal);
            icons::build(&config, &self.packages.packages, &out, &|progress| {
                watcher.hear(progress)
            })?
        };
        terminal.note(format_args!(
            "{} pictures for training, {} held out, in {} shards; {} drawn now",
            thousands(summary.train),
            thousands(summary.held_out),
            summary.shards,
            thousands(summary.drawn)
        ));
        let line = json!({
            "path": out, "train": summary.train, "heldout": summary.held_out,
            "shards": summary.shards, "drawn": summary.drawn,
        });
        terminal.result(&line, out.display())
    }
}

impl Part {
    fn config(&self, size: usize) -> Result<BuildConfig, Fault> {
        let kinds: Vec<Picture> = self
            .kinds
            .iter()
            .map(|kind| Picture::parse(kind))
            .collect::<Result<_, _>>()?;
        Ok(BuildConfig {
            profile: Profile::parse(&self.profile)?,
            kinds: (!kinds.is_empty()).then_some(kinds),
            scenes: self.scenes,
            size,
        })
    }
}

impl Words {
    fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        output::check_writable(&self.output)?;
        let vocabulary = match &self.data {
            Some(path) => latent_train::vocabulary(&DataSet::open(path, Captions::Required)?),
            None => of_recipes(&self.part.config(BuildConfig::default().size)?.recipes()?),
        };
        output::whole(|| Ok(vocabulary.write(&self.output)?))?;
        terminal.note(format_args!(
            "{} words, {} things",
            thousands(vocabulary.words().count()),
            thousands(vocabulary.things().count())
        ));
        terminal.wrote(&self.output)
    }
}

/// The words of the pictures that are drawn for training; of those held out nothing is known.
fn of_recipes(recipes: &[Recipe]) -> Vocabulary {
    let train = recipes.iter().filter(|recipe| !recipe.held_out);
    Vocabulary::of_captions(
        train.map(|recipe| recipe.en.iter().chain(&recipe.ko).map(String::as_str)),
    )
}

impl Verify {
    fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let found = {
            let watcher = Watcher::new(terminal);
            icons::verify(&self.packages.packages, &|progress| watcher.hear(progress))?
        };
        for (what, deviation) in [("drawings", &found.drawings), ("pictures", &found.pictures)] {
            compared(what, deviation, terminal)?;
        }
        if found.passes() {
            return Ok(());
        }
        Err(
            Fault::new(Kind::Work, "these are not the published pictures")
                .hint("report it with the lines above"),
        )
    }
}

fn compared(what: &str, found: &Deviation, terminal: &Terminal) -> Result<(), Fault> {
    let line = json!({
        "what": what, "compared": found.rows, "worst": found.worst, "worst_at": found.worst_key,
        "limit": found.limit, "close": found.close, "closer_limit": found.closer_limit, "passes": found.passes(),
    });
    let verdict = if found.passes() {
        "as published"
    } else {
        "NOT as published"
    };
    let text = format!(
        "{what}: {verdict}; of {} the furthest is {} levels away (`{}`, at most {}), {:.2} % are within {}",
        found.rows,
        found.worst,
        found.worst_key,
        found.limit,
        100.0 * found.close,
        found.closer_limit
    );
    terminal.result(&line, text)
}

/// Tells what the builder does; asks it to stop after Ctrl-C.
struct Watcher {
    meter: Meter,
}

impl Watcher {
    fn new(terminal: &Terminal) -> Self {
        Self {
            meter: terminal.meter("pictures"),
        }
    }

    fn hear(&self, progress: Progress<'_>) -> ControlFlow<()> {
        match progress {
            Progress::Fetching { package, bytes } => {
                let megabytes = bytes as f64 / 1e6;
                self.meter
                    .note(format_args!("fetching {package} ({megabytes:.1} MB)"));
            }
            Progress::Reading { package } => self.meter.note(format_args!("reading {package}")),
            Progress::Drawing { done, total } => self.meter.at(done as u64, total as u64),
        }
        if stop::asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// A published list of captions: how many there are, and the checksum of their sorted lines.
struct Published {
    what: &'static str,
    profile: Profile,
    /// Only those of training.
    training: bool,
    count: usize,
    sha256: &'static str,
}

/// What was published of the set as a whole.
const PUBLISHED: [Published; 3] = [
    Published {
        what: "all",
        profile: Profile::All,
        training: false,
        count: 183_194,
        sha256: "85b0a91db1d4c83bc6488efe0e72f26b96aec658c9576b95b4dffea25216b8b8",
    },
    Published {
        what: "all, training",
        profile: Profile::All,
        training: true,
        count: 167_824,
        sha256: "64a775a1cca08293165ca60eb8bc7e0dc88ebffae3b7d6e37c017bf6f98c2a36",
    },
    Published {
        what: "core, training",
        profile: Profile::Core,
        training: true,
        count: 41_491,
        sha256: "ca0bf0d1a1bc31b2c10cc3d8e9e972cbd85c1e0c880abff41f71e1daf5b277b8",
    },
];

fn captions(terminal: &Terminal) -> Result<(), Fault> {
    let mut equal = true;
    for row in &PUBLISHED {
        let recipes = BuildConfig {
            profile: row.profile,
            ..BuildConfig::default()
        }
        .recipes()?;
        let wanted = |recipe: &&Recipe| !row.training || !recipe.held_out;
        let (count, sha256) = icons::caption_checksum(recipes.iter().filter(wanted));
        let same = (count, sha256.as_str()) == (row.count, row.sha256);
        equal &= same;
        let verdict = if same {
            "as published"
        } else {
            "NOT as published"
        };
        let line =
            json!({ "what": row.what, "captions": count, "sha256": sha256, "as_published": same });
        terminal.result(
            &line,
            format_args!(
                "{sha256}  {} captions ({}), {verdict}",
                thousands(count),
                row.what
            ),
        )?;
    }
    if equal {
        return Ok(());
    }
    Err(
        Fault::new(Kind::Bug, "these are not the published captions")
            .hint("report it with the lines above"),
    )
}
