//! What is drawn in a picture, and its captions.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Value, json};

use super::tables::{Color, Concept, Place, Style};
use super::{DataError, singles};

/// Kinds of pictures, by what they teach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One thing on white.
    White,
    /// One thing on a plain colour that captions name.
    Plain,
    /// One thing in another colour.
    Recolor,
    /// One thing in a drawn place.
    Scenic,
    /// Two things side by side.
    Pair,
    /// One thing to the left of another.
    Left,
    /// One thing above another.
    Above,
    /// Two to five of a thing.
    Count,
    /// A thing inside a coloured circle or square.
    Shape,
    /// A big thing and a small one.
    Size,
    /// Three things in a row.
    Triple,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::White,
        Self::Plain,
        Self::Recolor,
        Self::Scenic,
        Self::Pair,
        Self::Left,
        Self::Above,
        Self::Count,
        Self::Shape,
        Self::Size,
        Self::Triple,
    ];

    /// Its word in metadata and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Plain => "plain",
            Self::Recolor => "recolor",
            Self::Scenic => "scenic",
            Self::Pair => "pair",
            Self::Left => "left",
            Self::Above => "above",
            Self::Count => "count",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Triple => "triple",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// [`DataError::Choice`] for another word.
    pub fn parse(name: &str) -> Result<Self, DataError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| DataError::choice("kind of picture", name, Self::ALL.map(Self::name)))
    }

    /// Whether the picture is one thing and no more, so that pixel art is drawn with big cells.
    pub(super) fn is_single(self) -> bool {
        matches!(self, Self::White | Self::Plain | Self::Recolor)
    }

    /// Whether a mirrored picture keeps what its captions say.
    fn may_flip(self) -> bool {
        self.is_single() || matches!(self, Self::Scenic | Self::Count | Self::Shape)
    }
}

/// A drawing on the picture; numbers are in pixels of the 256 px picture.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) concept: &'static Concept,
    pub(super) color: Option<&'static Color>,
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) size: usize,
}

/// A coloured shape behind a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
}

impl Shape {
    pub(super) const ALL: [Self; 2] = [Self::Circle, Self::Square];

    pub(super) fn en(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
        }
    }

    pub(super) fn ko(self) -> &'static str {
        match self {
            Self::Circle => "원",
            Self::Square => "사각형",
        }
    }
}

/// What lies behind the drawings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Background {
    Plain(&'static Color),
    Shape(Shape, &'static Color),
    Place(&'static Place, usize),
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(color) => f.write_str(color.key),
            Self::Shape(shape, color) => write!(f, "{}-{}", shape.en(), color.key),
            Self::Place(place, variant) => write!(f, "{}{variant}", place.key),
        }
    }
}

/// A picture of the set: what is drawn, its captions, and whether it is held out from training.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its name, unique in the set.
    pub key: String,
    /// What it teaches.
    pub kind: Kind,
    /// Whether it is kept from training, so that what the model never saw can be measured.
    pub held_out: bool,
    /// English captions, lower case.
    pub en: Vec<String>,
    /// Korean captions.
    pub ko: Vec<String>,
    pub(super) style: &'static Style,
    pub(super) objects: Vec<Object>,
    pub(super) background: Background,
}

impl Recipe {
    /// `train` or `heldout`.
    pub fn split(&self) -> &'static str {
        if self.held_out { "heldout" } else { "train" }
    }

    /// Its style's word in metadata.
    pub fn style(&self) -> &'static str {
        self.style.key
    }

    /// How often training should draw it, compared with the others: people and smileys are many and look alike.
    pub fn weight(&self) -> f64 {
        let group = match self.objects[0].concept.group {
            "people-body" => 0.35,
            "smileys-emotion" => 0.6,
            _ => 1.0,
        };
        let kind = if self.kind == Kind::Plain { 0.6 } else { 1.0 };
        let style = if self.style.key == "3d" { 1.5 } else { 1.0 };
        // Decimals as a person would write them.
        f64::round(group * kind * style * 1e4) / 1e4
    }

    /// Whether training may mirror it: no side is named, and the thing has none (letters, clocks and hands have).
    pub fn may_flip(&self) -> bool {
        let sideless = |concept: &Concept| {
            matches!(concept.group, "animals-nature" | "food-drink")
                || concept.subgroup.starts_with("transport-")
                || concept.subgroup == "clothing"
        };
        self.kind.may_flip() && self.objects.iter().all(|object| sideless(object.concept))
    }

    /// What training and evaluation read beside the picture.
    pub(super) fn metadata(&self) -> Value {
        let object = |object: &Object| {
            json!({
                "id": object.concept.id,
                "color": object.color.map(|color| color.key),
                "x": object.x,
                "y": object.y,
                "size": object.size,
            })
        };
        let concept = self.objects[0].concept;
        json!({
            "key": self.key,
            "kind": self.kind.name(),
            "style": self.style.key,
            "split": self.split(),
            "en": self.en,
            "ko": self.ko,
            "background": self.background.to_string(),
            "objects": self.objects.iter().map(object).collect::<Vec<_>>(),
            "group": concept.group,
            "subgroup": concept.subgroup,
            "weight": self.weight(),
            "flip": self.may_flip(),
        })
    }
}

/// Every picture of the set with that many scenes, in the set's order.
pub(super) fn all(scenes: u32) -> Vec<Recipe> {
    let mut recipes = singles::recipes();
    recipes.extend(super::scenes::recipes(scenes));
    drop_seen(&mut recipes);
    recipes
}

/// Drops held-out pictures whose first caption is also one of training.
fn drop_seen(recipes: &mut Vec<Recipe>) {
    let train = recipes.iter().filter(|recipe| !recipe.held_out);
    let captions = train.flat_map(|recipe| recipe.en.iter().chain(&recipe.ko));
    let seen: HashSet<String> = captions.cloned().collect();
    recipes.retain(|recipe| {
        !recipe.held_out || !(seen.contains(&recipe.en[0]) || seen.contains(&recipe.ko[0]))
    });
}

/// Captions in their order, each once, with the words for the style behind them.
pub(super) fn captions(texts: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts
        .into_iter()
        .filter(|text| seen.insert(text.clone()))
        .collect()
}
