//! Pictures of several things, or of one somewhere: scene `i` depends on `i` alone.

use super::hash::{Rng, hash};
use super::recipe::{Background, Kind, Object, Recipe, Shape};
use super::singles::{PLAIN, is_thing, targets};
use super::split;
use super::tables::{
    COLORS, Color, Concept, PLACE_VARIANTS, PLACES, Place, STYLES, Style, color_named, tables,
};
use super::words::{and_ko, contains_any, is_mass, names_a_color, plural, with_article};

/// Subgroups of things that are hard to tell apart, or no things.
const VAGUE: &[&str] = &["event", "sound", "av", "money", "mail", "place-map"];

/// Parts of names that read badly in a sentence, or mean a part of a thing.
const AWKWARD: &[&str] = &[
    "face", "sign", "symbol", "arrow", "speaker", "flag", "paw", "and ", "with", "without",
    "medal", "banknote", "clef",
];

/// Places of two to five things: x, y, size.
const COUNTED: [&[[usize; 3]]; 4] = [
    &[[8, 72, 116], [132, 72, 116]],
    &[[78, 12, 100], [20, 140, 100], [136, 140, 100]],
    &[
        [12, 12, 108],
        [136, 12, 108],
        [12, 136, 108],
        [136, 136, 108],
    ],
    &[
        [8, 8, 88],
        [160, 8, 88],
        [84, 84, 88],
        [8, 160, 88],
        [160, 160, 88],
    ],
];
const NUMBERS_EN: [&str; 4] = ["two", "three", "four", "five"];
const NUMBERS_KO: [&str; 4] = ["두", "세", "네", "다섯"];

/// Concepts that scenes of a style are made of.
struct Pool {
    style: &'static Style,
    concepts: Vec<&'static Concept>,
}

/// The recipes of scenes `0..scenes`; numbers that draw the same thing twice are skipped.
pub(super) fn recipes(scenes: u32) -> Vec<Recipe> {
    let pool = |style: &'static Style| Pool {
        style,
        concepts: tables()
            .concepts
            .iter()
            .filter(|concept| concept.styles.contains(&style.key) && is_simple(concept))
            .collect(),
    };
    let styles = STYLES.iter().filter(|style| style.in_scenes);
    let pools: Vec<Pool> = styles.map(pool).collect();
    (0..scenes)
        .filter_map(|number| Stage::new(number, &pools).recipe())
        .collect()
}

/// Whether a concept is a thing with a short name, known in most styles.
fn is_simple(concept: &Concept) -> bool {
    let name = concept.name_en;
    is_thing(concept)
        && name.split(' ').count() <= 2
        && !name.ends_with('s')
        && !contains_any(name, AWKWARD)
        && !is_mass(name)
        && concept.styles.len() >= 5
        && !names_a_color(name)
        && concept.name_ko.chars().count() <= 8
        && !VAGUE.contains(&concept.subgroup)
}

/// A thing in a scene, with the names it has there.
struct Actor {
    concept: &'static Concept,
    color: Option<&'static Color>,
    en: String,
    ko: String,
    held_out: bool,
}

impl Actor {
    fn at(&self, [x, y, size]: [usize; 3]) -> Object {
        Object {
            concept: self.concept,
            color: self.color,
            x,
            y,
            size,
        }
    }

    fn with_article(&self) -> String {
        with_article(&self.en)
    }
}

/// What a scene shows and says; the style's words are added to its captions.
struct Scene {
    kind: Kind,
    objects: Vec<Object>,
    background: Background,
    en: Vec<String>,
    ko: Vec<String>,
    held_out: bool,
}

impl Scene {
    fn on_white(
        kind: Kind,
        objects: Vec<Object>,
        en: &[String],
        ko: String,
        held_out: bool,
    ) -> Self {
        Self {
            kind,
            objects,
            background: Background::Plain(color_named("white")),
            en: en.to_vec(),
            ko: vec![ko],
            held_out,
        }
    }
}

/// A scene in the making. The order of draws is part of the set.
struct Stage<'a> {
    number: u32,
    rng: Rng,
    pool: &'a Pool,
}

impl<'a> Stage<'a> {
    fn new(number: u32, pools: &'a [Pool]) -> Self {
        let mut rng = Rng::new(hash(&format!("scene:{number}")));
        let pool = rng.of(pools);
        Self { number, rng, pool }
    }

    fn recipe(mut self) -> Option<Recipe> {
        let scene = self.scene()?;
        let style = self.pool.style;
        let finished = |texts: Vec<String>, style: &str| {
            let texts = texts.into_iter().map(|text| format!("{text}, {style}"));
            super::recipe::captions(texts.collect())
        };
        Some(Recipe {
            key: format!("scene.{}", self.number),
            kind: scene.kind,
            held_out: scene.held_out,
            en: finished(scene.en, &format!("{} style", style.en)),
            ko: finished(scene.ko, &format!("{} 스타일", style.ko)),
            style,
            objects: scene.objects,
            background: scene.background,
        })
    }

    fn scene(&mut self) -> Option<Scene> {
        let a = self.pick();
        let kind = self.rng.below(100);
        match kind {
            0..25 => return Some(self.scenic(&a)),
            25..40 => return Some(self.count(&a)),
            40..47 => return Some(self.shape(&a)),
            _ => {}
        }
        let b = self.pick_other(&a)?;
        let held_out = a.held_out || b.held_out || split::pair(a.concept, b.concept);
        let mut scene = match kind {
            47..54 => return self.triple(&a, &b, held_out),
            54..62 => self.size(&a, &b),
            62..80 => self.pair(&a, &b, kind >= 72),
            80..90 => left(&a, &b),
            _ => above(&a, &b),
        };
        scene.held_out = held_out;
        Some(scene)
    }

    fn pick(&mut self) -> Actor {
        let style = self.pool.style;
        let concept = *self.rng.of(&self.pool.concepts);
        let (mut en, mut ko) = (concept.name_en.to_string(), concept.name_ko.to_string());
        let mut color = None;
        if self.rng.below(4) == 0 {
            let targets = targets(concept, tables().drawing(concept, style));
            if !targets.is_empty() {
                let chosen = *self.rng.of(&targets);
                en = format!("{} {en}", chosen.key);
                ko = format!("{} {ko}", chosen.ko);
                color = Some(chosen);
            }
        }
        let held_color = color.is_some_and(|color| split::color(concept, color));
        Actor {
            concept,
            color,
            en,
            ko,
            held_out: split::combination(concept, style.key) || held_color,
        }
    }

    /// Another thing than `a`; ten attempts.
    fn pick_other(&mut self, a: &Actor) -> Option<Actor> {
        let mut attempts = (0..10).map(|_| self.pick());
        attempts.find(|b| b.concept.id != a.concept.id)
    }

    fn scenic(&mut self, a: &Actor) -> Scene {
        let place = self.rng.of(&PLACES);
        let variant = self.rng.below(PLACE_VARIANTS);
        let x = 24 + 16 * self.rng.below(5);
        let y = if place.ground { 88 } else { 56 };
        Scene {
            kind: Kind::Scenic,
            objects: vec![a.at([x, y, 144])],
            background: Background::Place(place, variant),
            en: vec![format!("{} {}", a.with_article(), place.en)],
            ko: vec![format!("{} {}", place.ko, a.ko)],
            held_out: a.held_out || split::place(a.concept, place),
        }
    }

    fn count(&mut self, a: &Actor) -> Scene {
        let row = self.rng.below(4);
        let concept = a.concept;
        let animal = concept.group == "animals-nature" && concept.subgroup.starts_with("animal");
        let counter = if animal { "마리" } else { "개" };
        Scene::on_white(
            Kind::Count,
            COUNTED[row].iter().map(|place| a.at(*place)).collect(),
            &[format!("{} {}", NUMBERS_EN[row], plural(&a.en))],
            format!("{} {} {counter}", a.ko, NUMBERS_KO[row]),
            a.held_out || split::count(concept, row + 2),
        )
    }

    fn shape(&mut self, a: &Actor) -> Scene {
        let color = self.rng.of(&COLORS[..7]);
        let shape = *self.rng.of(&Shape::ALL);
        let around = with_article(&format!("{} {}", color.key, shape.en()));
        Scene {
            kind: Kind::Shape,
            objects: vec![a.at([52, 52, 152])],
            background: Background::Shape(shape, color),
            en: vec![format!("{} inside {around}", a.with_article())],
            ko: vec![format!("{} {} 안의 {}", color.ko, shape.ko(), a.ko)],
            held_out: a.held_out || split::shape(a.concept, color, shape.en()),
        }
    }

    fn triple(&mut self, a: &Actor, b: &Actor, held_out: bool) -> Option<Scene> {
        let c = self.pick();
        if c.concept.id == a.concept.id || c.concept.id == b.concept.id {
            return None;
        }
        let held_pair = split::pair(a.concept, c.concept) || split::pair(b.concept, c.concept);
        let (en_a, en_b, en_c) = (a.with_article(), b.with_article(), c.with_article());
        Some(Scene::on_white(
            Kind::Triple,
            vec![a.at([4, 88, 80]), b.at([88, 88, 80]), c.at([172, 88, 80])],
            &[format!("{en_a}, {en_b} and {en_c} in a row")],
            format!("한 줄로 놓인 {}, {}, {}", a.ko, b.ko, c.ko),
            held_out || c.held_out || held_pair,
        ))
    }

    fn size(&mut self, a: &Actor, b: &Actor) -> Scene {
        let mirrored = self.rng.below(2) == 1;
        let (big, small) = if mirrored { (84, 8) } else { (4, 184) };
        Scene::on_white(
            Kind::Size,
            vec![a.at([big, 56, 168]), b.at([small, 152, 64])],
            &[format!("a big {} and a small {}", a.en, b.en)],
            format!("큰 {}{} 작은 {}", a.ko, and_ko(&a.ko), b.ko),
            false,
        )
    }

    fn pair(&mut self, a: &Actor, b: &Actor, in_place: bool) -> Scene {
        let grounds: Vec<&'static Place> = PLACES.iter().filter(|place| place.ground).collect();
        let place = in_place.then(|| *self.rng.of(&grounds));
        let variant = self.rng.below(PLACE_VARIANTS);
        let mirrored = self.rng.below(2) == 1;
        let background = match place {
            Some(place) => Background::Place(place, variant),
            // White, or a plain colour other than black.
            None => Background::Plain(match self.rng.below(10) {
                0 => color_named("white"),
                row => color_named(PLAIN[row - 1]),
            }),
        };
        let y = if in_place { 112 } else { 72 };
        let (x_a, x_b) = if mirrored { (132, 8) } else { (8, 132) };
        let (en, ko) = match background {
            Background::Place(place, _) => (format!(" {}", place.en), format!("{} ", place.ko)),
            Background::Plain(color) if color.key != "white" => (
                format!(" on {}", with_article(&format!("{} background", color.key))),
                format!("{} 배경, ", color.ko_noun),
            ),
            _ => (String::new(), String::new()),
        };
        let (en_a, en_b) = (a.with_article(), b.with_article());
        Scene {
            kind: Kind::Pair,
            objects: vec![a.at([x_a, y, 116]), b.at([x_b, y, 116])],
            background,
            en: vec![
                format!("{en_a} next to {en_b}{en}"),
                format!("{en_a} and {en_b}{en}"),
            ],
            ko: vec![
                format!("{ko}{} 옆의 {}", b.ko, a.ko),
                format!("{ko}{}{} {}", a.ko, and_ko(&a.ko), b.ko),
            ],
            held_out: false,
        }
    }
}

fn left(a: &Actor, b: &Actor) -> Scene {
    let (en_a, en_b) = (a.with_article(), b.with_article());
    Scene::on_white(
        Kind::Left,
        vec![a.at([8, 72, 116]), b.at([132, 72, 116])],
        &[
            format!("{en_a} to the left of {en_b}"),
            format!("{en_b} to the right of {en_a}"),
        ],
        format!("왼쪽에 {}, 오른쪽에 {}", a.ko, b.ko),
        false,
    )
}

fn above(a: &Actor, b: &Actor) -> Scene {
    let (en_a, en_b) = (a.with_article(), b.with_article());
    Scene::on_white(
        Kind::Above,
        vec![a.at([70, 8, 116]), b.at([70, 132, 116])],
        &[
            format!("{en_a} above {en_b}"),
            format!("{en_b} below {en_a}"),
        ],
        format!("위에 {}, 아래에 {}", a.ko, b.ko),
        false,
    )
}
