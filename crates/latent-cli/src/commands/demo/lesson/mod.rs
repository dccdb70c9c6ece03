//! The lesson: a file for each group of chapters, told in both languages.

mod latents;
mod noise;
mod steering;
mod words;

use super::page::Chapter;
use super::studio::{Drawn, Studio};
use crate::fault::Fault;

/// Chapters of the lesson, for the bar.
const CHAPTERS: usize = 8;

/// The gallery's pictures, which later chapters look into.
struct Gallery {
    drawn: Vec<Drawn>,
    /// The prompt and the seed of the first.
    subject: String,
    seed: u64,
    /// A prompt whose pictures differ more from one another.
    living: String,
}

/// Draws one chapter.
type Lesson = fn(&mut Studio<'_>, &Gallery) -> Result<Chapter, Fault>;

/// Draws everything that the pages show.
///
/// # Errors
/// When the pipeline cannot draw, or Ctrl-C was pressed.
pub(super) fn chapters(studio: &mut Studio<'_>) -> Result<Vec<Chapter>, Fault> {
    studio.begin(CHAPTERS);
    let (first, gallery) = words::from_words(studio)?;
    let mut chapters = vec![first];
    let chapter: [Lesson; CHAPTERS - 1] = [
        latents::a_picture_becomes_a_latent,
        latents::the_scaling_factor,
        noise::step_by_step,
        steering::guidance,
        steering::negative_prompt,
        noise::seeds,
        noise::between,
    ];
    studio.done();
    for draw in chapter {
        chapters.push(draw(studio, &gallery)?);
        studio.done();
    }
    Ok(chapters)
}

/// `786432` as `786,432`.
fn grouped(number: usize) -> String {
    crate::terminal::thousands(number)
}
