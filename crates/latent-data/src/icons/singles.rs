//! Pictures of one thing: on white, on a plain colour, in another colour.

use std::collections::HashSet;

use super::hash::hash_below;
use super::recipe::{Background, Kind, Object, Recipe, captions};
use super::split;
use super::tables::{COLORS, Color, Concept, Drawing, color_named, tables};
use super::words::{bare_names, contains_any, names_a_color, with_article};

/// Plain backgrounds; white is never named.
pub(super) const PLAIN: [&str; 10] = [
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray", "black",
];

/// Light ones, on which ink can be seen.
const PLAIN_FOR_INK: [&str; 5] = ["yellow", "pink", "gray", "orange", "green"];

/// The recipes of every drawing.
pub(super) fn recipes() -> Vec<Recipe> {
    let names: HashSet<&str> = tables().concepts.iter().map(|row| row.name_en).collect();
    let mut recipes = Vec::new();
    for drawing in &tables().drawings {
        let single = Single {
            drawing,
            concept: tables().concept(drawing.concept),
        };
        recipes.push(single.white());
        recipes.push(single.plain());
        recipes.extend(single.recolored(&names));
    }
    recipes
}

/// Groups of things that people make and animals, without people, signs and skies.
fn is_thing_group(concept: &Concept) -> bool {
    matches!(
        concept.group,
        "animals-nature" | "food-drink" | "activities" | "objects"
    )
}

/// Whether a concept is a thing one can put somewhere.
pub(super) fn is_thing(concept: &Concept) -> bool {
    let placed = |beginning| concept.subgroup.starts_with(beginning);
    is_thing_group(concept)
        || (concept.group == "travel-places" && (placed("transport") || placed("place-building")))
}

/// Colours that a drawing's dominant colour can be turned into; empty if it cannot.
pub(super) fn targets(concept: &Concept, drawing: &Drawing) -> Vec<&'static Color> {
    let Some(hue) = drawing.hue.filter(|_| is_recolorable(concept)) else {
        return Vec::new();
    };
    let far = |target: f64| hue_distance(target, hue) >= 30.0;
    // Of something dark, orange, yellow and pink would come out brown or purple.
    let dark = drawing.value < 0.82;
    let shows = |color: &Color| !dark || matches!(color.key, "red" | "green" | "blue" | "purple");
    let colors = COLORS.iter().filter(|color| color.target.is_some_and(far));
    colors
        .filter(|color| shows(color) && Some(color.key) != drawing.color)
        .collect()
}

fn is_recolorable(concept: &Concept) -> bool {
    let known_color = ["rainbow", "fire", "sun", "moon", "earth", "book", "heart"];
    let hotel = concept.group == "travel-places" && concept.subgroup.starts_with("hotel");
    (is_thing(concept) || hotel)
        && bare_names(concept).is_some()
        && !contains_any(concept.name_en, &known_color)
}

/// Degrees between two hues, the shorter way round.
pub(super) fn hue_distance(a: f64, b: f64) -> f64 {
    let distance = (a - b).abs() % 360.0;
    if distance > 180.0 {
        360.0 - distance
    } else {
        distance
    }
}

struct Single {
    drawing: &'static Drawing,
    concept: &'static Concept,
}

impl Single {
    fn recipe(&self, kind: Kind, ending: &str, color: Option<&'static Color>) -> Recipe {
        let style = self.drawing.style;
        let object = Object {
            concept: self.concept,
            color,
            x: 16,
            y: 16,
            size: 224,
        };
        let held_color = color.is_some_and(|color| split::color(self.concept, color));
        Recipe {
            key: format!("{}.{}.{ending}", self.concept.id, style.key),
            kind,
            held_out: split::combination(self.concept, style.key) || held_color,
            en: Vec::new(),
            ko: Vec::new(),
            style,
            objects: vec![object],
            background: Background::Plain(color_named("white")),
        }
    }

    fn white(&self) -> Recipe {
        let (concept, style) = (self.concept, self.drawing.style);
        let (name_en, name_ko) = (concept.name_en, concept.name_ko);
        let (en_style, ko_style) = (
            format!("{} style", style.en),
            format!("{} 스타일", style.ko),
        );
        let mut en = vec![
            format!("{}, {en_style}", with_article(name_en)),
            format!("{name_en}, {en_style}"),
        ];
        let alias = |alias: &&str| format!("{}, {en_style}", with_article(alias));
        en.extend(concept.aliases_en.iter().map(alias));
        en.push(format!(
            "{} picture of {}",
            with_article(&en_style),
            with_article(name_en)
        ));
        if let [first, second, ..] = concept.keywords_en[..] {
            en.push(format!("{name_en}, {first}, {second}, {en_style}"));
        }
        let mut ko = vec![
            format!("{name_ko}, {ko_style}"),
            format!("{ko_style}의 {name_ko}"),
        ];
        let alias = |alias: &&str| format!("{alias}, {ko_style}");
        ko.extend(concept.aliases_ko.iter().map(alias));
        if let Some(color) = self.natural_color() {
            let colored = with_article(&format!("{} {name_en}", color.key));
            en.push(format!("{colored}, {en_style}"));
            ko.push(format!("{} {name_ko}, {ko_style}", color.ko));
        }
        Recipe {
            en: captions(en),
            ko: captions(ko),
            ..self.recipe(Kind::White, "w", None)
        }
    }

    /// The colour that can be said of the thing as it is.
    fn natural_color(&self) -> Option<&'static Color> {
        let says_nothing = self.drawing.style.key == "ink"
            || !is_thing(self.concept)
            || names_a_color(self.concept.name_en);
        let color = self.drawing.color.filter(|_| !says_nothing)?;
        Some(color_named(color))
    }

    fn plain(&self) -> Recipe {
        let (concept, style) = (self.concept, self.drawing.style);
        let palette: &[&str] = if style.key == "ink" {
            &PLAIN_FOR_INK
        } else {
            &PLAIN
        };
        let differs = |color: &&&str| {
            !concept.name_en.contains(**color) && Some(**color) != self.drawing.color
        };
        let palette: Vec<&&str> = palette.iter().filter(differs).collect();
        let place = hash_below(
            &format!("plain:{}:{}", concept.id, style.key),
            palette.len(),
        );
        let color = color_named(palette[place]);
        let (name_en, name_ko, noun) = (concept.name_en, concept.name_ko, color.ko_noun);
        let on = with_article(&format!("{} background", color.key));
        Recipe {
            en: captions(vec![
                format!("{} on {on}, {} style", with_article(name_en), style.en),
                format!("{name_en}, {} background, {} style", color.key, style.en),
            ]),
            ko: captions(vec![
                format!("{noun} 배경의 {name_ko}, {} 스타일", style.ko),
                format!("{name_ko}, {noun} 배경, {} 스타일", style.ko),
            ]),
            background: Background::Plain(color),
            ..self.recipe(Kind::Plain, "p", None)
        }
    }

    fn recolored(&self, names: &HashSet<&str>) -> Vec<Recipe> {
        let (concept, style) = (self.concept, self.drawing.style);
        let Some((name_en, name_ko)) = bare_names(concept) else {
            return Vec::new();
        };
        let mut left = targets(concept, self.drawing);
        left.retain(|color| !names.contains(format!("{} {name_en}", color.key).as_str()));
        let mut recipes = Vec::new();
        for number in 0..style.recolors {
            if left.is_empty() {
                break;
            }
            let name = format!("rec:{}:{}:{number}", concept.id, style.key);
            let color = left.remove(hash_below(&name, left.len()));
            let colored = format!("{} {name_en}", color.key);
            recipes.push(Recipe {
                en: captions(vec![
                    format!("{}, {} style", with_article(&colored), style.en),
                    format!("{colored}, {} style", style.en),
                ]),
                ko: captions(vec![
                    format!("{} {name_ko}, {} 스타일", color.ko, style.ko),
                    format!("{} 스타일의 {} {name_ko}", style.ko, color.ko),
                ]),
                ..self.recipe(Kind::Recolor, &format!("c{}", color.key), Some(color))
            });
        }
        recipes
    }
}
