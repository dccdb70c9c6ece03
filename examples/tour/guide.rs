//! Who leads the tour: the arguments, the language, and how numbers are shown.

use std::env;
use std::path::PathBuf;

use latent::Picture;
use latent_examples::{Form, Shape, draw};
use latent_formats::Filter;

use crate::Result;

/// Where the tour's pictures go.
pub(crate) const FOLDER: &str = "tour-pictures";
/// Side of the lesson's picture, in pixels.
pub(crate) const SIDE: usize = 512;
/// Columns of the terminal that are written on.
const WIDTH: usize = 96;
const USAGE: &str = "use it as `tour [PICTURE] [--model DIR] [--korean]`";

/// What was asked for on the command line.
pub(crate) struct Guide {
    korean: bool,
    picture: Option<PathBuf>,
    /// A model's folder; `None` for the model inside the program.
    pub(crate) model: Option<String>,
}

impl Guide {
    /// Reads the command line.
    pub(crate) fn from_arguments() -> Result<Self> {
        let mut guide = Self {
            korean: false,
            picture: None,
            model: None,
        };
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--korean" => guide.korean = true,
                "--model" => guide.model = Some(arguments.next().ok_or(USAGE)?),
                flag if flag.starts_with("--") => return Err(USAGE.into()),
                path => guide.picture = Some(path.into()),
            }
        }
        Ok(guide)
    }

    /// The picture to start from, 512x512: the one that was named, or some shapes.
    pub(crate) fn picture(&self) -> Result<Picture> {
        if let Some(path) = &self.picture {
            return Ok(Picture::open(path)?.cover(SIDE, SIDE, Filter::Area)?);
        }
        let shape = |form, colour, centre, radius| Shape {
            form,
            colour,
            centre,
            radius,
        };
        let shapes = [
            shape(Form::Square, [9, 100, 210], [0.36, 0.62], 0.22),
            shape(Form::Circle, [214, 48, 49], [0.56, 0.42], 0.26),
            shape(Form::Circle, [250, 190, 40], [0.7, 0.72], 0.12),
        ];
        Ok(draw(&shapes, SIDE)?)
    }

    /// One of the two.
    pub(crate) fn pick<'a>(&self, english: &'a str, korean: &'a str) -> &'a str {
        if self.korean { korean } else { english }
    }

    /// Begins a chapter.
    pub(crate) fn chapter(&self, english: &str, korean: &str) {
        let title = self.pick(english, korean);
        println!("\n{title}\n{}\n", "=".repeat(columns(title)));
    }

    /// Tells a paragraph.
    pub(crate) fn say(&self, english: &str, korean: &str) {
        println!("{}\n", wrapped(self.pick(english, korean)));
    }
}

/// Columns that a text takes in a terminal, where Hangul is two wide.
fn columns(text: &str) -> usize {
    let wide = |letter: char| matches!(letter, '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7a3}');
    text.chars()
        .map(|letter| if wide(letter) { 2 } else { 1 })
        .sum()
}

/// The text in lines of at most [`WIDTH`] columns.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = columns(word);
        if column > 0 && column + 1 + width > WIDTH {
            lines.push('\n');
            column = 0;
        } else if column > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += width;
    }
    lines
}

/// A whole number with commas: `786,432`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A tensor's shape and how many numbers that is, as one row of a table.
pub(crate) fn print_shape(shape: [usize; 4], what: &str) {
    println!(
        "    {:<20} {:>9}   {what}",
        format!("{shape:?}"),
        grouped(shape.iter().product())
    );
}

/// Standard deviation: how far the values lie from their mean.
pub(crate) fn spread(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = values
        .iter()
        .map(|&value| (f64::from(value) - mean).powi(2));
    (squares.sum::<f64>() / count).sqrt()
}
