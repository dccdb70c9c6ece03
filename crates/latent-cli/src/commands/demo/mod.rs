//! `latent demo`: how latent diffusion works, drawn with a model, as pages in English and Korean.

mod gallery;
mod lesson;
mod page;
mod studio;

use std::path::PathBuf;

use clap::Args;
use latent::Pipeline;
use latent::models::Conditioning;
use latent_formats::Sheet;

use crate::args::Model;
use crate::commands::open;
use crate::fault::Fault;
use crate::output;
use crate::terminal::Terminal;
use page::{Language, Page};
use studio::Studio;

/// Write a page that shows how latent diffusion works, drawn with the model, in English and Korean.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent demo                                    writes latent-demo/index.html and latent-demo/ko.html
  latent demo -o lesson --model ./stable-diffusion-v1-5
  latent demo --sheet samples.png                only a sheet of pictures, as the README shows one

The pages need no network and nothing beside their folder. Below each picture stands the command that draws it.")]
pub(crate) struct Demo {
    #[command(flatten)]
    model: Model,
    /// The folder to make; it must not exist, or be empty.
    #[arg(long, short, value_name = "DIR", default_value = "latent-demo")]
    output: PathBuf,
    /// Draw one sheet of labelled pictures into this file, and no pages.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    sheet: Option<PathBuf>,
    /// Few pictures of few steps: to see quickly how the pages look.
    #[arg(long)]
    quick: bool,
}

impl Demo {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        match &self.sheet {
            Some(path) => output::check_picture(path)?,
            None => drop(output::check_new_folder(&self.output)?),
        }
        let pipeline = open::pipeline(&self.model, terminal)?;
        if pipeline.conditioning() != Conditioning::Text {
            let what = format!("`{}` is not told words", pipeline.model_name());
            return Err(Fault::input(what)
                .hint("the lesson is about words; take a model with a text encoder"));
        }
        let mut studio = Studio::new(&pipeline, &self.model, self.quick, terminal);
        match &self.sheet {
            Some(path) => {
                let sheet = sheet(&mut studio)?;
                output::picture(path, &sheet)?;
                terminal.wrote(path)
            }
            None => self.pages(&pipeline, studio, terminal),
        }
    }

    /// Draws everything, and writes only then, so that a run that is stopped leaves nothing.
    fn pages(
        &self,
        pipeline: &Pipeline,
        mut studio: Studio<'_>,
        terminal: &Terminal,
    ) -> Result<(), Fault> {
        let page = Page {
            chapters: lesson::chapters(&mut studio)?,
            model: pipeline.model_name().to_owned(),
        };
        output::whole(|| {
            let fault = |e| Fault::output(format!("cannot make `{}`: {e}", self.output.display()));
            std::fs::create_dir_all(&self.output).map_err(fault)
        })?;
        for (name, bytes) in studio.into_files() {
            output::bytes(&self.output.join(name), &bytes)?;
        }
        for language in Language::ALL.into_iter().rev() {
            let path = self.output.join(language.file());
            output::bytes(&path, page.html(language).as_bytes())?;
        }
        terminal.wrote(&self.output.join(Language::English.file()))
    }
}

/// The gallery in rows: what English asks for, and below it the same in Korean.
fn sheet(studio: &mut Studio<'_>) -> Result<latent::Picture, Fault> {
    let pairs = gallery::pairs(studio);
    let columns = match pairs.len() {
        few @ 0..=8 => few,
        many => many.div_ceil(2),
    };
    let mut cells = Vec::new();
    studio.begin(2 * pairs.len());
    for row in pairs.chunks(columns.max(1)) {
        for language in Language::ALL {
            for pair in row {
                let request = studio.request(pair.prompt(language), pair.seed);
                cells.push((pair.prompt(language), studio.draw(&request)?.picture));
                studio.done();
            }
        }
    }
    let cells: Vec<_> = cells
        .iter()
        .map(|(prompt, picture)| (*prompt, picture))
        .collect();
    let sheet = Sheet {
        columns,
        lines: 2,
        ..Sheet::default()
    };
    Ok(sheet.draw_labelled(&cells)?)
}
