//! Draws recipes: sources become sprites, sprites and a background become a picture.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use super::packages::Sources;
use super::pixels::{CANVAS, Canvas, Sprite, area_average};
use super::recipe::{Background, Object, Recipe, Shape};
use super::tables::{Drawing, PLACE_DRAWINGS, PLACE_VARIANTS, PLACES, tables};
use crate::DataError;

/// Side of a drawing before it takes its size in the picture.
const SPRITE: usize = 224;

/// Sprites kept at a time, of 200 kB each: neighbours in the set share theirs, and drawing one again takes a
/// millisecond.
const KEPT: usize = 1024;

/// Sides of a cell of pixel art, in pixels.
const CELL_OF_ONE: usize = 8;
const CELL_OF_MANY: usize = 4;

/// Half the size of the shapes behind things, in pixels.
const CIRCLE_RADIUS: f64 = 120.0;
const SQUARE_HALF: f64 = 112.0;

static PLACES_SVG: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(PLACE_DRAWINGS).expect("the built-in places are a JSON object of strings")
});

/// Draws pictures from sources; many threads may ask at once.
pub(super) struct Artist {
    sources: Sources,
    sprites: Mutex<HashMap<(&'static str, &'static str), Arc<Sprite>>>,
    places: HashMap<String, Canvas>,
}

impl Artist {
    /// Draws the places, which many pictures share.
    pub(super) fn new(sources: Sources) -> Result<Self, DataError> {
        let mut places = HashMap::new();
        for place in &PLACES {
            for variant in 0..PLACE_VARIANTS {
                let name = Background::Place(place, variant).to_string();
                let canvas = draw_place(&name)?;
                places.insert(name, canvas);
            }
        }
        Ok(Self {
            sources,
            sprites: Mutex::default(),
            places,
        })
    }

    /// The finished picture.
    pub(super) fn draw(&self, recipe: &Recipe) -> Result<Canvas, DataError> {
        let cell = recipe
            .style
            .is_pixel()
            .then_some(match recipe.kind.is_single() {
                true => CELL_OF_ONE,
                false => CELL_OF_MANY,
            });
        let mut canvas = self.background(recipe.background, cell);
        for object in &recipe.objects {
            let mut sprite = self.object(recipe, object)?;
            if let Some(cell) = cell {
                sprite = sprite.pixelized(cell);
            }
            sprite.draw_on(&mut canvas, object.x, object.y);
        }
        Ok(canvas)
    }

    fn object(&self, recipe: &Recipe, object: &Object) -> Result<Sprite, DataError> {
        let drawing = tables().drawing(object.concept, recipe.style);
        let sprite = self.sprite(drawing)?;
        let hues = object.color.and_then(|color| color.target).zip(drawing.hue);
        let sprite = match hues {
            Some((target, source)) => sprite.recolored(source, target),
            None => Sprite::clone(&sprite),
        };
        Ok(match object.size {
            SPRITE => sprite,
            side => sprite.resized(side),
        })
    }

    fn sprite(&self, drawing: &'static Drawing) -> Result<Arc<Sprite>, DataError> {
        let key = (drawing.concept, drawing.style.drawn_as());
        let lock = || self.sprites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sprite) = lock().get(&key) {
            return Ok(Arc::clone(sprite));
        }
        let sprite = Arc::new(self.sprite_at(drawing, SPRITE)?);
        let mut kept = lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&sprite));
        Ok(sprite)
    }

    /// A source drawn with `side` pixels.
    pub(super) fn sprite_at(&self, drawing: &Drawing, side: usize) -> Result<Sprite, DataError> {
        let style = drawing.style.drawn_as();
        let fault = |reason: String| DataError::Drawing {
            drawing: format!("{style}/{}", drawing.source),
            reason,
        };
        let missing =
            || fault("it is not in its package; delete the package and fetch it again".into());
        if style == "3d" {
            let bytes = self
                .sources
                .renders
                .get(drawing.source)
                .ok_or_else(missing)?;
            return decode_render(bytes, side).map_err(fault);
        }
        let set = self.sources.icons.get(style).ok_or_else(missing)?;
        let svg = set.svg(drawing.source).ok_or_else(missing)?;
        draw_icon(&svg, side).map_err(fault)
    }

    fn background(&self, background: Background, cell: Option<usize>) -> Canvas {
        match background {
            Background::Plain(color) => Canvas::filled(color.rgb),
            Background::Shape(shape, color) => draw_shape(shape, color.rgb),
            Background::Place(..) => {
                let canvas = self.places[&background.to_string()].clone();
                match cell {
                    Some(cell) => pixelized(&canvas, cell),
                    None => canvas,
                }
            }
        }
    }
}

fn decode_render(bytes: &[u8], side: usize) -> Result<Sprite, String> {
    let decoded = image::ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::WebP);
    let decoded = decoded
        .decode()
        .map_err(|error| error.to_string())?
        .into_rgba8();
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    Ok(area_average(decoded.as_raw(), [width, height], side))
}

/// An icon scaled to the width `side`, in the middle of a square.
fn draw_icon(svg: &str, side: usize) -> Result<Sprite, String> {
    let pixmap = rasterize(svg, side)?;
    let (height, rows) = (
        pixmap.height() as usize,
        (pixmap.height() as usize).min(side),
    );
    let mut rgba = vec![0; side * side * 4];
    let top = (side - rows) / 2;
    let from = pixmap.data()[..rows.min(height) * side * 4].chunks_exact(4);
    for (pixel, out) in from.zip(rgba[top * side * 4..].chunks_exact_mut(4)) {
        out.copy_from_slice(&straight([pixel[0], pixel[1], pixel[2], pixel[3]]));
    }
    Ok(Sprite { side, rgba })
}

/// Colours no longer multiplied by their alpha, halves rounded up.
fn straight([r, g, b, alpha]: [u8; 4]) -> [u8; 4] {
    if alpha == 0 || alpha == 255 {
        return [r, g, b, alpha];
    }
    let divisor = u32::from(alpha);
    let channel = |value| ((2 * 255 * u32::from(value) + divisor) / (2 * divisor)).min(255) as u8;
    [channel(r), channel(g), channel(b), alpha]
}

/// An SVG with the width `side`, without fonts: no set has text.
fn rasterize(svg: &str, side: usize) -> Result<Pixmap, String> {
    let tree = Tree::from_str(svg, &Options::default()).map_err(|error| error.to_string())?;
    let size = tree.size();
    let scale = side as f32 / size.width();
    // A strip as high as it likes would take all memory; square sets never get there.
    let height = (size.height() * scale).ceil().clamp(1.0, 4.0 * side as f32);
    let pixmap = Pixmap::new(side as u32, height as u32);
    let mut pixmap = pixmap.ok_or_else(|| format!("its size {}x{height} is empty", side))?;
    resvg::render(
        &tree,
        Transform::from_scale(scale, scale),
        &mut pixmap.as_mut(),
    );
    Ok(pixmap)
}

fn draw_place(name: &str) -> Result<Canvas, DataError> {
    let fault = |reason: String| DataError::Drawing {
        drawing: name.to_string(),
        reason,
    };
    let svg = PLACES_SVG
        .get(name)
        .ok_or_else(|| fault("it is not among the places".into()))?;
    let sprite = draw_icon(svg, CANVAS).map_err(fault)?;
    let rgb = sprite
        .rgba
        .chunks_exact(4)
        .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    Ok(Canvas(rgb.collect()))
}

fn draw_shape(shape: Shape, rgb: [u8; 3]) -> Canvas {
    let mut canvas = Canvas::filled([255; 3]);
    for (place, pixel) in canvas.0.chunks_exact_mut(3).enumerate() {
        let from_middle = |at: usize| at as f64 + 0.5 - CANVAS as f64 / 2.0;
        let (x, y) = (from_middle(place % CANVAS), from_middle(place / CANVAS));
        let inside = match shape {
            Shape::Circle => x * x + y * y <= CIRCLE_RADIUS * CIRCLE_RADIUS,
            Shape::Square => x.abs().max(y.abs()) <= SQUARE_HALF,
        };
        if inside {
            pixel.copy_from_slice(&rgb);
        }
    }
    canvas
}

fn pixelized(canvas: &Canvas, cell: usize) -> Canvas {
    let rgba = canvas
        .0
        .chunks_exact(3)
        .flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]);
    let sprite = Sprite {
        side: CANVAS,
        rgba: rgba.collect(),
    };
    let art = sprite.pixelized(cell);
    let rgb = art
        .rgba
        .chunks_exact(4)
        .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    Canvas(rgb.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icons::fixtures;

    const SQUARE: &str = r#"<rect x="0" y="0" width="4" height="4"/>"#;

    fn svg(width: usize, height: usize, body: &str) -> String {
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{body}</svg>"#
        )
    }

    #[test]
    fn a_wide_icon_lies_in_the_middle() {
        let sprite = draw_icon(&svg(8, 4, SQUARE), 8).unwrap();
        let filled = |pixel: usize| sprite.rgba[pixel * 4 + 3] == 255;
        assert!(
            (0..64).all(|place| filled(place) == ((2..6).contains(&(place / 8)) && place % 8 < 4))
        );
    }

    #[test]
    fn a_high_icon_is_cut_at_the_bottom() {
        let sprite = draw_icon(&svg(4, 8, SQUARE), 4).unwrap();
        assert!(sprite.rgba.chunks_exact(4).all(|pixel| pixel[3] == 255));
    }

    #[test]
    fn colours_are_divided_by_their_alpha_again() {
        assert_eq!(straight([64, 1, 0, 128]), [128, 2, 0, 128]);
        assert_eq!(straight([9, 9, 9, 0]), [9, 9, 9, 0]);
    }

    #[test]
    fn broken_sources_are_errors_that_name_the_drawing() {
        let mut sources = fixtures::sources();
        let render = sources.renders.get_mut("assets/1f45e.webp").unwrap();
        render.truncate(100);
        sources.icons.remove("ink");
        let artist = Artist::new(sources).unwrap();
        let message = |key: &str| {
            let recipes = fixtures::recipes();
            let recipe = recipes.iter().find(|recipe| recipe.key == key).unwrap();
            artist.draw(recipe).unwrap_err().to_string()
        };
        assert!(message("1f45e.3d.cgreen").starts_with("drawing `3d/assets/1f45e.webp`"));
        assert!(message("1f528.ink.w").contains("it is not in its package"));
        assert!(draw_icon("<svg", 8).is_err());
    }

    #[test]
    fn the_same_recipe_is_the_same_picture_whatever_was_drawn_before() {
        let recipes = fixtures::recipes();
        let drawn = |recipes: Vec<&Recipe>| -> HashMap<String, Vec<u8>> {
            let artist = Artist::new(fixtures::sources()).unwrap();
            let draw = |recipe: &Recipe| (recipe.key.clone(), artist.draw(recipe).unwrap().0);
            recipes.into_iter().map(draw).collect()
        };
        let forwards = drawn(recipes.iter().collect());
        assert!(forwards == drawn(recipes.iter().rev().collect()));
    }

    #[test]
    fn every_place_is_drawn() {
        let artist = Artist::new(Sources::default()).unwrap();
        assert_eq!(artist.places.len(), PLACES.len() * PLACE_VARIANTS);
        for (name, canvas) in &artist.places {
            let first = &canvas.0[..3];
            assert!(
                canvas.0.chunks_exact(3).any(|pixel| pixel != first),
                "{name} is empty"
            );
        }
    }
}
