//! Which part of the set is built.

use sha2::{Digest, Sha256};

use super::recipe::{self, Kind, Recipe};
use super::split::{self, is_showcase};
use super::tables::{Concept, STYLES};
use crate::DataError;

/// Scenes of the set as it was published.
pub const SCENES: u32 = 20_000;

/// Sides that pictures may have, in pixels.
pub const SIZES: [usize; 3] = [64, 128, 256];

/// Parts of the set, by how much a machine can learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Everything: eleven kinds, nine styles; for a GPU.
    #[default]
    All,
    /// One thing on white, in its own or another colour, in the styles 3d, flat, cartoon and sticker, no people:
    /// what two CPU cores learn in a night.
    Core,
    /// The core's pictures of the 84 things people try first, and of the animals, plants and foods of which a style
    /// is held out, so that new combinations can be measured: what two CPU cores learn in an hour.
    First,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::All, Self::Core, Self::First];

    /// Its word in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Core => "core",
            Self::First => "first",
        }
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// [`DataError::Choice`] for another word.
    pub fn parse(name: &str) -> Result<Self, DataError> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == name);
        found.ok_or_else(|| DataError::choice("profile", name, Self::ALL.map(Self::name)))
    }

    /// The kinds of pictures it has, unless others are asked for.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::All => &Kind::ALL,
            Self::Core | Self::First => &[Kind::White, Kind::Recolor],
        }
    }

    fn has(self, recipe: &Recipe) -> bool {
        let core = || {
            CORE_STYLES.contains(&recipe.style.key)
                && recipe
                    .objects
                    .iter()
                    .all(|object| object.concept.group != "people-body")
        };
        match self {
            Self::All => true,
            Self::Core => core(),
            Self::First => {
                core()
                    && recipe
                        .objects
                        .iter()
                        .all(|object| is_showcase(object.concept) || is_measured(object.concept))
            }
        }
    }
}

/// Styles of the core.
const CORE_STYLES: [&str; 4] = ["3d", "flat", "cartoon", "sticker"];

/// Whether it is an animal, a plant or a food of which one of the core's styles is held out.
fn is_measured(concept: &Concept) -> bool {
    matches!(concept.group, "animals-nature" | "food-drink")
        && CORE_STYLES
            .iter()
            .any(|style| split::combination(concept, style))
}

/// What is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildConfig {
    /// The part of the set.
    pub profile: Profile,
    /// Kinds of pictures instead of the profile's own.
    pub kinds: Option<Vec<Kind>>,
    /// How many scenes are tried; other numbers keep the split between training and held-out.
    pub scenes: u32,
    /// Side of a picture in pixels, one of [`SIZES`].
    pub size: usize,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            profile: Profile::All,
            kinds: None,
            scenes: SCENES,
            size: 128,
        }
    }
}

impl BuildConfig {
    /// The pictures that would be drawn, in order; nothing is fetched or drawn.
    ///
    /// # Errors
    /// [`DataError::Choice`] if `size` is none of [`SIZES`], [`DataError::NothingToBuild`] if no picture is left.
    pub fn recipes(&self) -> Result<Vec<Recipe>, DataError> {
        if !SIZES.contains(&self.size) {
            let sizes = ["64", "128", "256"];
            return Err(DataError::choice("size", &self.size.to_string(), sizes));
        }
        let kinds = self.kinds();
        let mut recipes = recipe::all(self.scenes);
        recipes.retain(|recipe| kinds.contains(&recipe.kind) && self.profile.has(recipe));
        if recipes.is_empty() {
            return Err(DataError::NothingToBuild {
                profile: self.profile.name(),
                kinds: kinds
                    .iter()
                    .map(|kind| kind.name())
                    .collect::<Vec<_>>()
                    .join(","),
                scenes: self.scenes,
            });
        }
        Ok(recipes)
    }

    /// The kinds that are built.
    pub(super) fn kinds(&self) -> &[Kind] {
        self.kinds.as_deref().unwrap_or(self.profile.kinds())
    }
}

/// The styles whose drawings recipes need.
pub(super) fn drawn_styles(recipes: &[Recipe]) -> Vec<&'static str> {
    let used = |style: &&str| {
        recipes
            .iter()
            .any(|recipe| recipe.style.drawn_as() == *style)
    };
    STYLES.iter().map(|style| style.key).filter(used).collect()
}

/// How many captions there are, and the sha256 of them all: a line `split TAB key TAB language TAB caption` for each,
/// sorted by bytes.
pub fn caption_checksum<'a>(recipes: impl IntoIterator<Item = &'a Recipe>) -> (usize, String) {
    let mut lines = Vec::new();
    for recipe in recipes {
        for (language, captions) in [("en", &recipe.en), ("ko", &recipe.ko)] {
            let line = |caption| {
                format!(
                    "{}\t{}\t{language}\t{caption}\n",
                    recipe.split(),
                    recipe.key
                )
            };
            lines.extend(captions.iter().map(line));
        }
    }
    // A newline is below every letter, so it may stand in the line while sorting.
    lines.sort_unstable();
    let mut hash = Sha256::new();
    for line in &lines {
        hash.update(line);
    }
    let digits = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    (lines.len(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes(profile: Profile) -> Vec<Recipe> {
        let config = BuildConfig {
            profile,
            ..BuildConfig::default()
        };
        config.recipes().unwrap()
    }

    fn train(recipes: &[Recipe]) -> impl Iterator<Item = &Recipe> {
        recipes.iter().filter(|recipe| !recipe.held_out)
    }

    #[test]
    fn all_captions_are_the_published_ones() {
        let recipes = recipes(Profile::All);
        let (lines, sum) = caption_checksum(&recipes);
        assert_eq!(lines, 183_194);
        assert_eq!(
            sum,
            "85b0a91db1d4c83bc6488efe0e72f26b96aec658c9576b95b4dffea25216b8b8"
        );
        let (lines, sum) = caption_checksum(train(&recipes));
        assert_eq!(lines, 167_824);
        assert_eq!(
            sum,
            "64a775a1cca08293165ca60eb8bc7e0dc88ebffae3b7d6e37c017bf6f98c2a36"
        );
    }

    #[test]
    fn the_cores_captions_are_the_published_ones() {
        let recipes = recipes(Profile::Core);
        let (lines, sum) = caption_checksum(train(&recipes));
        assert_eq!((train(&recipes).count(), lines), (6_845, 41_491));
        assert_eq!(
            sum,
            "ca0bf0d1a1bc31b2c10cc3d8e9e972cbd85c1e0c880abff41f71e1daf5b277b8"
        );
    }

    #[test]
    fn every_kind_has_the_published_number_of_pictures() {
        let recipes = recipes(Profile::All);
        let published = [
            (Kind::White, 9_662, 483),
            (Kind::Plain, 9_662, 484),
            (Kind::Recolor, 3_765, 567),
            (Kind::Scenic, 4_509, 525),
            (Kind::Pair, 2_964, 569),
            (Kind::Count, 2_593, 416),
            (Kind::Shape, 1_258, 136),
            (Kind::Size, 1_337, 238),
            (Kind::Triple, 964, 390),
        ];
        for (kind, train, held) in published {
            let of_kind = || recipes.iter().filter(|recipe| recipe.kind == kind);
            let held_out = of_kind().filter(|recipe| recipe.held_out).count();
            assert_eq!(
                (of_kind().count() - held_out, held_out),
                (train, held),
                "{kind:?}"
            );
        }
        let placed = |recipe: &&Recipe| matches!(recipe.kind, Kind::Left | Kind::Above);
        assert_eq!(recipes.iter().filter(placed).count(), 3_418 + 679);
    }

    #[test]
    fn the_first_things_are_a_part_of_the_core() {
        let core = recipes(Profile::Core);
        let first = recipes(Profile::First);
        assert!(
            first
                .iter()
                .all(|recipe| core.iter().any(|other| other.key == recipe.key))
        );
        let mut concepts: Vec<&str> = first.iter().map(|r| r.objects[0].concept.id).collect();
        concepts.sort_unstable();
        concepts.dedup();
        let shown = |id: &&str| is_showcase(crate::icons::tables::tables().concept(id));
        assert_eq!(concepts.iter().copied().filter(shown).count(), 84);
        // Every other thing is there because a style of it is held out.
        for id in concepts.iter().copied().filter(|id| !shown(id)) {
            let held = |recipe: &&Recipe| {
                recipe.kind == Kind::White && recipe.held_out && recipe.objects[0].concept.id == id
            };
            assert!(first.iter().any(|recipe| held(&recipe)), "{id}");
        }
        assert!(concepts.len() > 84);
    }

    #[test]
    fn more_scenes_leave_what_was_there_as_it_was() {
        let with = |scenes| {
            let config = BuildConfig {
                scenes,
                kinds: Some(vec![Kind::Scenic]),
                ..BuildConfig::default()
            };
            config.recipes().unwrap()
        };
        let (few, many) = (with(500), with(1_000));
        assert!(many.len() > few.len());
        for (a, b) in few.iter().zip(&many) {
            assert_eq!((&a.key, &a.en, a.held_out), (&b.key, &b.en, b.held_out));
        }
    }

    #[test]
    fn a_size_that_is_not_offered_is_refused_by_name() {
        let config = BuildConfig {
            size: 100,
            ..BuildConfig::default()
        };
        let message = config.recipes().unwrap_err().to_string();
        assert_eq!(
            message,
            "`100` is no size; choose one of `64`, `128`, `256`"
        );
    }

    #[test]
    fn scenes_of_none_are_refused() {
        let config = BuildConfig {
            scenes: 0,
            kinds: Some(vec![Kind::Left]),
            ..BuildConfig::default()
        };
        let message = config.recipes().unwrap_err().to_string();
        assert!(
            message.contains("`left`") && message.contains("0 scenes"),
            "{message}"
        );
    }

    #[test]
    fn weights_and_mirrors_follow_the_set_s_rules() {
        let recipes = recipes(Profile::All);
        let find = |key: &str| recipes.iter().find(|recipe| recipe.key == key).unwrap();
        let row = |key| (find(key).weight(), find(key).may_flip());
        assert_eq!(row("1f34e.3d.w"), (1.5, true));
        assert_eq!(row("1f34e.flat.p"), (0.6, true));
        assert_eq!(row("1f600.3d.w"), (0.9, false));
        assert_eq!(row("1f600.flat.p"), (0.36, false));
        let sided = recipes.iter().filter(|recipe| {
            matches!(
                recipe.kind,
                Kind::Left | Kind::Above | Kind::Pair | Kind::Size | Kind::Triple
            )
        });
        assert!(sided.into_iter().all(|recipe| !recipe.may_flip()));
    }
}
