//! Coloured circles and squares on white: training pictures that need no files.

use latent_formats::{Filter, FormatError, Picture};

/// Points across each pixel at which a picture is looked up, so that edges are smooth.
const FINENESS: usize = 4;
const WHITE: [u8; 3] = [255; 3];

/// Names and colours to draw with.
pub const COLOURS: &[(&str, [u8; 3])] = &[
    ("red", [214, 48, 49]),
    ("green", [0, 148, 92]),
    ("blue", [9, 100, 210]),
    ("yellow", [250, 190, 40]),
];

/// Names and forms to draw with.
pub const FORMS: &[(&str, Form)] = &[("circle", Form::Circle), ("square", Form::Square)];

/// What a shape looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Round.
    Circle,
    /// Four equal sides along the picture's.
    Square,
}

/// One shape of a picture; lengths are shares of the picture's side.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Round or square.
    pub form: Form,
    /// Red, green, blue.
    pub colour: [u8; 3],
    /// Its middle: from the left, from the top.
    pub centre: [f32; 2],
    /// From its middle to its edge.
    pub radius: f32,
}

impl Shape {
    fn covers(&self, x: f32, y: f32) -> bool {
        let [dx, dy] = [x - self.centre[0], y - self.centre[1]];
        match self.form {
            Form::Circle => dx.hypot(dy) < self.radius,
            Form::Square => dx.abs().max(dy.abs()) < self.radius,
        }
    }
}

/// A picture of `side` x `side` pixels: the shapes on white, later ones over earlier ones.
///
/// # Errors
/// [`FormatError::PictureSize`] if `side` is 0 or the picture would be too large.
pub fn draw(shapes: &[Shape], side: usize) -> Result<Picture, FormatError> {
    let fine = FINENESS * side;
    let share = |position: usize| (position as f32 + 0.5) / fine as f32;
    let rgb = (0..fine * fine).flat_map(|place| {
        let (x, y) = (share(place % fine), share(place / fine));
        let top = shapes.iter().rev().find(|shape| shape.covers(x, y));
        top.map_or(WHITE, |shape| shape.colour)
    });
    Picture::new(fine, fine, rgb.collect())?.resize(side, side, Filter::Area)
}
