//! What the set is made of: concepts and drawings (from the tables beside the crate), styles, colours, places.

use std::collections::HashMap;
use std::sync::LazyLock;

const CONCEPTS: &str = include_str!("../../tables/concepts.tsv");
const DRAWINGS: &str = include_str!("../../tables/singles.tsv");

/// The places as SVG, drawn for this project: name and variant to text.
pub(super) const PLACE_DRAWINGS: &str = include_str!("../../tables/backgrounds.json");
/// Finished pictures as 4x4 grids of mean colours.
pub(super) const CHECKS: &str = include_str!("../../tables/checks.tsv");

/// A way in which things are drawn.
#[derive(Debug)]
pub(super) struct Style {
    pub(super) key: &'static str,
    pub(super) en: &'static str,
    pub(super) ko: &'static str,
    /// The style whose drawings are taken, if they are not its own.
    pub(super) derived_from: Option<&'static str>,
    pub(super) in_scenes: bool,
    /// How many recolours are made of a drawing.
    pub(super) recolors: usize,
}

const fn style(
    key: &'static str,
    en: &'static str,
    ko: &'static str,
    in_scenes: bool,
    recolors: usize,
) -> Style {
    Style {
        key,
        en,
        ko,
        derived_from: None,
        in_scenes,
        recolors,
    }
}

/// Every style, in the order of the tables.
pub(super) static STYLES: [Style; 9] = [
    style("3d", "3d", "3D", true, 2),
    style("flat", "flat", "플랫", true, 2),
    style("cartoon", "cartoon", "만화", true, 2),
    style("retro", "retro", "레트로", true, 1),
    style("sticker", "sticker", "스티커", true, 2),
    style("pastel", "pastel", "파스텔", false, 1),
    style("comic", "comic", "코믹", false, 1),
    style("ink", "black and white", "흑백", false, 0),
    Style {
        derived_from: Some("flat"),
        ..style("pixel", "pixel art", "픽셀 아트", true, 1)
    },
];

impl Style {
    /// The style whose drawings are taken.
    pub(super) fn drawn_as(&self) -> &'static str {
        self.derived_from.unwrap_or(self.key)
    }

    pub(super) fn index(&self) -> usize {
        index_of_style(self.key)
    }

    pub(super) fn is_pixel(&self) -> bool {
        self.key == "pixel"
    }
}

fn index_of_style(key: &str) -> usize {
    let place = STYLES.iter().position(|style| style.key == key);
    place.expect("the tables name only styles that are listed")
}

/// A colour that captions name.
#[derive(Debug)]
pub(super) struct Color {
    pub(super) key: &'static str,
    pub(super) ko: &'static str,
    pub(super) ko_noun: &'static str,
    pub(super) rgb: [u8; 3],
    /// The hue that recoloured things get, in degrees.
    pub(super) target: Option<f64>,
}

const fn color(
    key: &'static str,
    ko: &'static str,
    ko_noun: &'static str,
    rgb: [u8; 3],
    target: Option<f64>,
) -> Color {
    Color {
        key,
        ko,
        ko_noun,
        rgb,
        target,
    }
}

/// Every colour: first the seven hues, then those that are no target, white last.
pub(super) static COLORS: [Color; 11] = [
    color("red", "빨간", "빨간색", [229, 83, 75], Some(2.0)),
    color("orange", "주황색", "주황색", [245, 160, 74], Some(28.0)),
    color("yellow", "노란", "노란색", [249, 220, 92], Some(50.0)),
    color("green", "초록색", "초록색", [124, 197, 118], Some(125.0)),
    color("blue", "파란", "파란색", [91, 155, 230], Some(218.0)),
    color("purple", "보라색", "보라색", [168, 132, 224], Some(275.0)),
    color("pink", "분홍색", "분홍색", [247, 168, 196], Some(330.0)),
    color("brown", "갈색", "갈색", [169, 129, 91], None),
    color("gray", "회색", "회색", [184, 188, 194], None),
    color("black", "검은", "검은색", [22, 24, 28], None),
    color("white", "흰", "흰색", [255, 255, 255], None),
];

/// The row of a colour.
pub(super) fn color_named(key: &str) -> &'static Color {
    let row = COLORS.iter().find(|color| color.key == key);
    row.expect("the tables name only colours that are listed")
}

/// A drawn background.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: &'static str,
    pub(super) en: &'static str,
    pub(super) ko: &'static str,
    /// Whether things stand on something there.
    pub(super) ground: bool,
}

const fn place(key: &'static str, en: &'static str, ko: &'static str, ground: bool) -> Place {
    Place {
        key,
        en,
        ko,
        ground,
    }
}

/// Every place.
pub(super) static PLACES: [Place; 12] = [
    place("meadow", "in a meadow", "초원에 있는", true),
    place("beach", "on a beach", "해변에 있는", true),
    place("night", "under a night sky", "밤하늘 아래의", true),
    place("snow", "in the snow", "눈밭에 있는", true),
    place("desert", "in a desert", "사막에 있는", true),
    place("sea", "under the sea", "바닷속의", false),
    place("sunset", "at sunset", "노을 속의", true),
    place("space", "in space", "우주에 있는", false),
    place("forest", "in a forest", "숲속에 있는", true),
    place("city", "in a city", "도시에 있는", true),
    place("table", "on a wooden table", "나무 탁자 위의", true),
    place("sky", "in a blue sky", "파란 하늘의", false),
];

/// Drawings of each place.
pub(super) const PLACE_VARIANTS: usize = 3;

/// A thing with a name.
#[derive(Debug)]
pub(super) struct Concept {
    pub(super) id: &'static str,
    pub(super) name_en: &'static str,
    pub(super) name_ko: &'static str,
    pub(super) aliases_en: Vec<&'static str>,
    pub(super) aliases_ko: Vec<&'static str>,
    pub(super) keywords_en: Vec<&'static str>,
    pub(super) group: &'static str,
    pub(super) subgroup: &'static str,
    pub(super) styles: Vec<&'static str>,
}

/// A source picture: a concept in a style.
#[derive(Debug)]
pub(super) struct Drawing {
    pub(super) concept: &'static str,
    pub(super) style: &'static Style,
    /// The icon's name in its package, or its file.
    pub(super) source: &'static str,
    /// Mean colours on white: top left, top right, bottom left, bottom right.
    pub(super) quadrants: [[u8; 3]; 4],
    /// The dominant colour.
    pub(super) color: Option<&'static str>,
    /// The dominant hue in degrees.
    pub(super) hue: Option<f64>,
    /// Mean brightness of the dominant colour, 0 to 1.
    pub(super) value: f64,
}

/// Both tables, indexed.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) concepts: Vec<Concept>,
    pub(super) drawings: Vec<Drawing>,
    concept_of: HashMap<&'static str, usize>,
    drawing_of: HashMap<(&'static str, usize), usize>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::parse);

/// The tables that are built in.
pub(super) fn tables() -> &'static Tables {
    &TABLES
}

impl Tables {
    fn parse() -> Self {
        let concepts: Vec<Concept> = rows(CONCEPTS).map(concept).collect();
        let drawings: Vec<Drawing> = rows(DRAWINGS).map(drawing).collect();
        let concept_of = concepts.iter().enumerate().map(|(i, row)| (row.id, i));
        let drawing_of = drawings.iter().enumerate();
        let drawing_of = drawing_of.map(|(i, row)| ((row.concept, row.style.index()), i));
        Self {
            concept_of: concept_of.collect(),
            drawing_of: drawing_of.collect(),
            concepts,
            drawings,
        }
    }

    pub(super) fn concept(&self, id: &str) -> &Concept {
        &self.concepts[self.concept_of[id]]
    }

    /// The drawing of a concept in a style that its row lists.
    pub(super) fn drawing(&self, concept: &Concept, style: &Style) -> &Drawing {
        &self.drawings[self.drawing_of[&(concept.id, style.index())]]
    }
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().skip(1).map(|line| line.split('\t').collect())
}

fn list(field: &'static str) -> Vec<&'static str> {
    field.split('|').filter(|item| !item.is_empty()).collect()
}

fn concept(row: Vec<&'static str>) -> Concept {
    Concept {
        id: row[0],
        name_en: row[1],
        name_ko: row[2],
        aliases_en: list(row[3]),
        aliases_ko: list(row[4]),
        keywords_en: list(row[5]),
        group: row[7],
        subgroup: row[8],
        styles: list(row[9]),
    }
}

fn drawing(row: Vec<&'static str>) -> Drawing {
    let present = |field: &'static str| (field != "-").then_some(field);
    let mut quadrants = [[0; 3]; 4];
    quadrants.as_flattened_mut().copy_from_slice(&hex(row[3]));
    Drawing {
        concept: row[0],
        style: &STYLES[index_of_style(row[1])],
        source: row[2],
        quadrants,
        color: present(row[5]),
        hue: present(row[6]).map(number),
        value: number(row[7]),
    }
}

fn number(field: &str) -> f64 {
    field.parse().expect("the built-in tables hold numbers")
}

/// Bytes written as two hexadecimal digits each.
pub(super) fn hex(digits: &str) -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(pair, 16).expect("the built-in tables hold bytes");
    let pairs = (0..digits.len() / 2).map(|i| &digits[2 * i..2 * i + 2]);
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_tables_are_the_published_ones() {
        for (table, expected) in [
            (
                CONCEPTS,
                "7e6a674b4b123750912736edc422ed7586e07d5e0e6e3847cc5f029bd5937749",
            ),
            (
                DRAWINGS,
                "5ddef7974ac85fe1e61caa3a8d51fd1f0540ede38461f134bddbc114aabfa4e0",
            ),
            (
                PLACE_DRAWINGS,
                "f005a9c249e30b3c1c2eafd753a7361205217ba0431c94a37270dabb83e5f90a",
            ),
        ] {
            assert_eq!(Sha256::digest(table).as_slice(), hex(expected));
        }
    }

    #[test]
    fn every_style_that_a_concept_lists_has_its_drawing() {
        let listed = tables().concepts.iter().map(|row| row.styles.len()).sum();
        assert_eq!(
            (tables().concepts.len(), tables().drawings.len()),
            (1383, listed)
        );
        for concept in &tables().concepts {
            for key in &concept.styles {
                let drawing = tables().drawing(concept, &STYLES[index_of_style(key)]);
                assert_eq!((drawing.concept, drawing.style.key), (concept.id, *key));
            }
        }
    }
}
