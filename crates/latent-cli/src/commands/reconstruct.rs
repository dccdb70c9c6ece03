//! `latent reconstruct`: pictures beside what the autoencoder makes of them.

use std::path::PathBuf;

use clap::Args;
use latent::{Picture, Pipeline};
use latent_formats::{Sheet, psnr, ssim};
use serde_json::json;

use crate::args::Model;
use crate::commands::{encode, open};
use crate::fault::Fault;
use crate::output;
use crate::terminal::Terminal;

/// Put pictures beside their reconstructions, with PSNR and SSIM.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  latent reconstruct photo.png -o sheet.png
  latent reconstruct pictures/*.png --model ./stable-diffusion-v1-5 --json")]
pub(crate) struct Reconstruct {
    /// The pictures: PNG, JPEG or WebP.
    #[arg(required = true, value_name = "PICTURES")]
    pictures: Vec<PathBuf>,
    #[command(flatten)]
    model: Model,
    /// The sheet to write: left the originals, right the reconstructions.
    #[arg(long, short, value_name = "FILE", default_value = "reconstructed.png")]
    output: PathBuf,
}

/// A picture, what came back, and how alike they are.
struct Pair {
    original: Picture,
    copy: Picture,
    psnr: f64,
    /// Absent where a side is too short for its window.
    ssim: Option<f64>,
}

impl Reconstruct {
    pub(crate) fn run(self, terminal: &Terminal) -> Result<(), Fault> {
        output::check_picture(&self.output)?;
        let pictures: Vec<Picture> = self
            .pictures
            .iter()
            .map(|path| Picture::open(path))
            .collect::<Result<_, _>>()?;
        let pipeline = open::pipeline(&self.model, terminal)?;
        let meter = terminal.meter("pictures");
        let total = pictures.len() as u64;
        let mut pairs = Vec::new();
        for (done, picture) in pictures.into_iter().enumerate() {
            pairs.push(pair(&pipeline, picture, terminal)?);
            meter.at(done as u64 + 1, total);
        }
        meter.clear();
        let labels: Vec<String> = pairs.iter().map(Pair::label).collect();
        let cells: Vec<(&str, &Picture)> = pairs
            .iter()
            .zip(&labels)
            .flat_map(|(pair, label)| [("original", &pair.original), (label.as_str(), &pair.copy)])
            .collect();
        let sheet = Sheet {
            columns: 2,
            ..Sheet::default()
        }
        .draw_labelled(&cells)?;
        output::picture(&self.output, &sheet)?;
        for (path, pair) in self.pictures.iter().zip(&pairs) {
            terminal.note(format_args!("{}: {}", path.display(), pair.scores()));
            if terminal.json {
                let line = json!({ "picture": path, "psnr": pair.psnr, "ssim": pair.ssim });
                terminal.result(&line, "")?;
            }
        }
        terminal.wrote(&self.output)
    }
}

fn pair(pipeline: &Pipeline, picture: Picture, terminal: &Terminal) -> Result<Pair, Fault> {
    let original = encode::fit(pipeline, picture, terminal)?;
    let copy = pipeline.decode(&pipeline.encode(&original)?)?.remove(0);
    let psnr = psnr(&original, &copy)?;
    // Below its window's size the similarity is not defined.
    let ssim = ssim(&original, &copy).ok();
    Ok(Pair {
        original,
        copy,
        psnr,
        ssim,
    })
}

impl Pair {
    /// For a line of talk.
    fn scores(&self) -> String {
        let ssim = self
            .ssim
            .map_or(String::new(), |ssim| format!(", SSIM {ssim:.3}"));
        format!("PSNR {:.2} dB{ssim}", self.psnr)
    }

    /// For the sheet, where a picture of 128 pixels has room for 16 letters.
    fn label(&self) -> String {
        let ssim = self
            .ssim
            .map_or(String::new(), |ssim| format!(", {ssim:.3}"));
        format!("{:.2} dB{ssim}", self.psnr)
    }
}
