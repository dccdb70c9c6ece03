//! `latent reproduce`: a picture's settings, drawn again.

mod flags;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Parser as _};
use latent::{Picture, Recipe, Tool, bare_name};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use self::flags::{Flags, quoted};
use crate::args::{Cli, Command};
use crate::commands::adapters;
use crate::fault::Fault;
use crate::terminal::Terminal;

/// What Latent's pictures call the model inside the program.
const BUILT_IN: &str = "built-in";
/// Digits of a file's SHA-256 that A1111 writes.
const HASH: usize = 10;

/// Draw a picture again from the settings inside it.
///
/// Reads PNG, JPEG and WebP files of A1111 and Forge, ComfyUI, InvokeAI and Latent, says what it cannot match, and draws the
/// rest.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent reproduce fox.png                                  a picture of the built-in model
  latent reproduce 00042.png --model v1-5-pruned.safetensors --lora-dir ./loras -o again.png
  latent reproduce ComfyUI_00001_.png --model ./sd15 --dry-run   prints the command it would run
  latent reproduce fox.png --model ./sd15 -- --steps 40 --vae ./vae --precision f32

Flags of `latent generate` behind `--` win over those of the picture. A picture that Latent drew comes out byte by
byte, on a machine with the same instruction set; another tool's depends on how much of it can be matched.")]
pub(crate) struct Reproduce {
    /// The picture.
    file: PathBuf,
    /// The model it was drawn with: a folder, a checkpoint of one file, or `owner/name` of the hub; pictures name their
    /// model, not where it lies.
    #[arg(long, short, value_name = "PATH", env = "LATENT_MODEL")]
    model: Option<PathBuf>,
    /// The folder of the LoRAs that it names.
    #[arg(long, value_name = "DIR")]
    lora_dir: Option<PathBuf>,
    /// The picture to write [default: its name with `.again` before the ending, beside it].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the command, and draw nothing.
    #[arg(long)]
    dry_run: bool,
    /// Draw nothing if anything cannot be matched.
    #[arg(long)]
    strict: bool,
    /// Flags of `latent generate` that win over the picture's.
    #[arg(last = true, value_name = "FLAGS", allow_hyphen_values = true)]
    more: Vec<String>,
}

impl Reproduce {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        let picture = Picture::open(&self.file)?;
        let recipe = Recipe::read(&picture, &self.file)?;
        let mut flags = Flags::of(&recipe.request);
        let mut unmatched = Vec::new();
        if let Some(precision) = &recipe.precision {
            flags.set("precision", precision.clone());
        }
        if recipe.few_steps {
            flags.switch("fast");
        }
        if !flags::names(&self.more).any(|name| name == "lora") {
            self.add_loras(&recipe, &mut flags, &mut unmatched);
        }
        let missing = self.add_model(&recipe, &mut flags, &mut unmatched)?;
        flags.set("output", self.target().display().to_string());
        flags.give_way_to(&self.more);
        let given = |flag: &str| flags::names(&self.more).any(|name| name == flag);
        let open = recipe.unmatched.iter();
        let open = open.filter(|unmatched| !unmatched.flag.is_some_and(given));
        unmatched.extend(open.map(ToString::to_string));
        let command = flags.command(&recipe.request.prompt, &self.more);
        terminal.note(format_args!("settings of {}", recipe.tool.name()));
        if self.dry_run {
            if let Some(fault) = &missing {
                unmatched.insert(0, fault.to_string());
            }
            return show(&recipe, &command, &unmatched, terminal);
        }
        for what in &unmatched {
            terminal.warn(format_args!("cannot match {what}"));
        }
        if let Some(fault) = missing {
            return Err(fault);
        }
        self.check(&recipe, &unmatched, given("init"))?;
        match Cli::try_parse_from(
            ["latent"]
                .into_iter()
                .chain(command.iter().map(String::as_str)),
        ) {
            Ok(Cli {
                command: Command::Generate(generate),
                ..
            }) => generate.run(terminal),
            Ok(_) => Err(Fault::usage(
                "the flags behind `--` are not those of `latent generate`",
            )),
            Err(error) => Err(Fault::usage(first_line(&error.to_string()))),
        }
    }

    /// Refuses what would come out as quite another picture.
    fn check(&self, recipe: &Recipe, unmatched: &[String], has_init: bool) -> Result<(), Fault> {
        let file = self.file.display();
        let starts = recipe
            .unmatched
            .iter()
            .any(|unmatched| unmatched.flag == Some("init"));
        if starts && !has_init {
            let what = format!("`{file}` was drawn over another picture, which it does not hold");
            return Err(
                Fault::input(what).hint("give that picture behind `--`, as `-- --init PICTURE`")
            );
        }
        if self.strict && !unmatched.is_empty() {
            let what = format!("{} settings of `{file}` cannot be matched", unmatched.len());
            return Err(Fault::input(what).hint("give them, or leave `--strict` out"));
        }
        Ok(())
    }

    /// The LoRAs that the folder has.
    fn add_loras(&self, recipe: &Recipe, flags: &mut Flags, unmatched: &mut Vec<String>) {
        for lora in &recipe.loras {
            let found = match &self.lora_dir {
                Some(folder) => adapters::lora_file(folder, &lora.name)
                    .map_err(|fault| first_line(&fault.to_string())),
                None => Err("name the folder it lies in with `--lora-dir DIR`".to_owned()),
            };
            match found {
                Ok(path) => {
                    let text = format!("{}:{}:{}", path.display(), lora.unet, lora.text);
                    flags.add("lora", text);
                }
                Err(reason) => unmatched.push(format!("the LoRA `{}`; {reason}", lora.name)),
            }
        }
    }

    /// The model; a fault if it is named nowhere but in the picture.
    fn add_model(
        &self,
        recipe: &Recipe,
        flags: &mut Flags,
        unmatched: &mut Vec<String>,
    ) -> Result<Option<Fault>, Fault> {
        let named = recipe.model.clone().unwrap_or_default();
        let given = flags::value(&self.more, "model").map(PathBuf::from);
        let Some(model) = given.or(self.model.clone()) else {
            if recipe.tool == Tool::Latent && named.name == BUILT_IN {
                return Ok(None);
            }
            let hash = named
                .hash
                .map(|hash| format!(" (hash {hash})"))
                .unwrap_or_default();
            let file = self.file.display();
            let what = if named.name.is_empty() {
                format!("`{file}` does not say which model drew it{hash}")
            } else {
                format!(
                    "`{file}` was drawn with the model `{}`{hash}, and a picture does not say where that lies",
                    named.name
                )
            };
            return Ok(Some(Fault::input(what).hint("give it with `--model PATH`")));
        };
        // A file's sum says more than its name.
        let hash = named.hash.as_deref().and_then(|hash| hash.get(..HASH));
        let found = match hash {
            Some(_) if model.is_file() => Some(hash_of(&model)?),
            _ => None,
        };
        let place = model.display();
        let other_name =
            !named.name.is_empty() && bare(&named.name) != bare(&model.to_string_lossy());
        let differs = match (hash, found) {
            (Some(hash), Some(found)) => (hash != found)
                .then(|| format!("that the model has the hash {hash}; `{place}` has {found}")),
            _ => other_name
                .then(|| format!("that the model is `{}`; `{place}` is taken", named.name)),
        };
        unmatched.extend(differs);
        flags.set("model", model.display().to_string());
        Ok(None)
    }

    /// Where the picture goes.
    fn target(&self) -> PathBuf {
        if let Some(output) = &self.output {
            return output.clone();
        }
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let ending = self.file.extension().unwrap_or_default().to_string_lossy();
        let ending = if ending.is_empty() {
            "png".into()
        } else {
            ending
        };
        self.file.with_file_name(format!("{stem}.again.{ending}"))
    }
}

/// The command as a shell reads it, or as JSON.
fn show(
    recipe: &Recipe,
    command: &[String],
    unmatched: &[String],
    terminal: &Terminal,
) -> Result<(), Fault> {
    for what in unmatched {
        let what = what.trim_start_matches("error: ").replace("\nhint: ", "; ");
        terminal.warn(format_args!("cannot match {what}"));
    }
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let line = json!({ "tool": recipe.tool.name(), "command": command, "unmatched": unmatched });
    terminal.result(&line, format_args!("latent {}", words.join(" ")))
}

/// A model's name without folders and ending, `.` and the like looked up.
fn bare(path: &str) -> String {
    let whole = Path::new(path).canonicalize().ok();
    let whole = whole.as_ref().and_then(|whole| whole.to_str());
    bare_name(whole.unwrap_or(path))
}

/// The first digits of a file's SHA-256, as A1111 has them.
fn hash_of(path: &Path) -> Result<String, Fault> {
    let fail = |error| Fault::input(format!("cannot read `{}`: {error}", path.display()));
    let mut file = File::open(path).map_err(fail)?;
    let mut sum = Sha256::new();
    io::copy(&mut file, &mut Summed(&mut sum)).map_err(fail)?;
    let digits: String = sum
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(digits[..HASH].to_owned())
}

/// A sum that bytes are written into.
struct Summed<'a>(&'a mut Sha256);

impl io::Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
