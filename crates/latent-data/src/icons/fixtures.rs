//! A few sources of each package, and the published pictures that need no others.

use std::sync::LazyLock;

use super::config::SCENES;
use super::packages::Sources;
use super::recipe::{self, Recipe};

/// Published pictures: every way of drawing, in every kind of package.
pub(super) const KEYS: [&str; 14] = [
    "1f3f3.pixel.w",
    "scene.12908",
    "scene.2540",
    "1f34f.flat.cpink",
    "scene.13832",
    "scene.17354",
    "26a1.comic.p",
    "1f52a.pastel.w",
    "1f528.ink.w",
    "scene.3438",
    "1f45e.3d.cgreen",
    "scene.876",
    "scene.16357",
    "26f5.cartoon.cpink",
];

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/fixtures/icons/", $name))
    };
}

/// What the recipes of [`KEYS`] need.
pub(super) fn sources() -> Sources {
    let mut sources = Sources::default();
    let sets: [(&str, &[u8]); 7] = [
        ("flat", fixture!("flat.json")),
        ("cartoon", fixture!("cartoon.json")),
        ("retro", fixture!("retro.json")),
        ("sticker", fixture!("sticker.json")),
        ("pastel", fixture!("pastel.json")),
        ("comic", fixture!("comic.json")),
        ("ink", fixture!("ink.json")),
    ];
    for (style, json) in sets {
        sources
            .icons
            .insert(style, serde_json::from_slice(json).unwrap());
    }
    let renders: [(&str, &[u8]); 2] = [
        ("assets/1f45e.webp", fixture!("1f45e.webp")),
        ("assets/1f4d3.webp", fixture!("1f4d3.webp")),
    ];
    for (file, bytes) in renders {
        sources.renders.insert(file.to_string(), bytes.to_vec());
    }
    sources
}

/// The recipes of [`KEYS`], in the set's order.
pub(super) fn recipes() -> Vec<Recipe> {
    static RECIPES: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
        let mut recipes = recipe::all(SCENES);
        recipes.retain(|recipe| KEYS.contains(&recipe.key.as_str()));
        assert_eq!(recipes.len(), KEYS.len());
        recipes
    });
    RECIPES.clone()
}
