//! Compares drawings with the published colours: renderers differ by a little, wrong pictures by a lot.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::artist::Artist;
use super::config::SCENES;
use super::packages::Sources;
use super::pixels::Sprite;
use super::recipe::{self, Recipe};
use super::tables::{CHECKS, Drawing, STYLES, hex, tables};
use super::{Progress, Watcher, tell};
use crate::DataError;

/// Side of a source drawing when its colours are measured, in pixels.
const MEASURED: usize = 64;

/// The part of all rows that must be within the closer limit.
const MOST: f64 = 0.99;

/// How far drawings are from what was published; a channel has 255 levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// How many were compared.
    pub rows: usize,
    /// Largest difference of a channel.
    pub worst: f64,
    /// Where it is.
    pub worst_key: String,
    /// What the largest difference may be.
    pub limit: f64,
    /// The part of all rows whose largest difference is within `closer_limit`, 0 to 1.
    pub close: f64,
    /// What the largest difference of 99 % of all rows may be.
    pub closer_limit: f64,
}

impl Deviation {
    fn new(rows: Vec<(String, f64)>, limit: f64, closer_limit: f64) -> Self {
        let close = rows
            .iter()
            .filter(|(_, difference)| *difference <= closer_limit)
            .count();
        let count = rows.len();
        let worst = rows.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (worst_key, worst) = worst.unwrap_or_default();
        Self {
            rows: count,
            worst,
            worst_key,
            limit,
            close: close as f64 / count.max(1) as f64,
            closer_limit,
        }
    }

    /// Whether both limits are kept.
    pub fn passes(&self) -> bool {
        self.rows > 0 && self.worst <= self.limit && self.close >= MOST
    }
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// Every source drawing: mean colours of its quadrants on white.
    pub drawings: Deviation,
    /// 300 finished pictures: mean colours of a 4x4 grid.
    pub pictures: Deviation,
}

impl Verification {
    /// Whether the pictures are those of the published set.
    pub fn passes(&self) -> bool {
        self.drawings.passes() && self.pictures.passes()
    }
}

/// Draws every source and 300 finished pictures, and compares their colours with the published ones. About a minute.
///
/// # Errors
/// [`DataError`] if a package cannot be had, a drawing cannot be drawn, or `watcher` says stop. Differences are no
/// error: ask [`Verification::passes`].
pub fn verify(packages: &Path, watcher: Watcher<'_>) -> Result<Verification, DataError> {
    let styles: Vec<&str> = STYLES.iter().map(|style| style.key).collect();
    let artist = Artist::new(Sources::open(packages, &styles, watcher)?)?;
    let drawings: Vec<&Drawing> = tables().drawings.iter().collect();
    compare(&artist, &drawings, &checks(), watcher)
}

/// The finished pictures whose colours are known.
fn checks() -> Vec<Check> {
    let recipes = recipe::all(SCENES);
    let by_key = recipes
        .into_iter()
        .map(|recipe| (recipe.key.clone(), recipe));
    let mut by_key: std::collections::HashMap<String, Recipe> = by_key.collect();
    let row = |line: &str| {
        let (key, grid) = line.split_once('\t')?;
        let recipe = by_key.remove(key)?;
        let grid = hex(grid);
        Some(Check { recipe, grid })
    };
    CHECKS.lines().skip(1).filter_map(row).collect()
}

struct Check {
    recipe: Recipe,
    /// Mean red, green, blue of 4x4 squares.
    grid: Vec<u8>,
}

fn compare(
    artist: &Artist,
    drawings: &[&'static Drawing],
    checks: &[Check],
    watcher: Watcher<'_>,
) -> Result<Verification, DataError> {
    let (done, total) = (AtomicUsize::new(0), drawings.len() + checks.len());
    let step = || {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        tell(watcher, Progress::Drawing { done, total })
    };
    let drawing = |row: &&'static Drawing| {
        let sprite = artist.sprite_at(row, MEASURED)?;
        let expected = row.quadrants.as_flattened();
        let difference = largest_difference(&quadrants(&sprite), expected);
        step()?;
        Ok((format!("{} {}", row.concept, row.style.key), difference))
    };
    let rows: Result<Vec<_>, DataError> = drawings.par_iter().map(drawing).collect();
    let drawings = Deviation::new(rows?, 16.0, 6.0);
    let picture = |check: &Check| {
        let grid = artist.draw(&check.recipe)?.grid(4);
        let difference = largest_difference(grid.as_flattened(), &check.grid);
        step()?;
        Ok((check.recipe.key.clone(), difference))
    };
    let rows: Result<Vec<_>, DataError> = checks.par_iter().map(picture).collect();
    Ok(Verification {
        drawings,
        pictures: Deviation::new(rows?, 24.0, 8.0),
    })
}

/// Rounded as the published numbers are.
fn largest_difference(found: &[f64], expected: &[u8]) -> f64 {
    let pairs = found.iter().zip(expected);
    let differences = pairs.map(|(a, b)| (a.round() - f64::from(*b)).abs());
    differences.fold(0.0, f64::max)
}

/// Mean colours of the four quadrants on white.
fn quadrants(sprite: &Sprite) -> Vec<f64> {
    let half = sprite.side / 2;
    let mut sums = vec![0.0; 12];
    for (place, pixel) in sprite.rgba.chunks_exact(4).enumerate() {
        let quadrant = place / sprite.side / half * 2 + place % sprite.side / half;
        let alpha = f64::from(pixel[3]) / 255.0;
        for channel in 0..3 {
            let on_white = f64::from(pixel[channel]) * alpha + 255.0 * (1.0 - alpha);
            sums[quadrant * 3 + channel] += on_white / (half * half) as f64;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icons::fixtures;
    use std::ops::ControlFlow;

    #[test]
    fn drawings_of_every_style_and_way_have_the_published_colours() {
        let artist = Artist::new(fixtures::sources()).unwrap();
        let mut checks = checks();
        checks.retain(|check| fixtures::KEYS.contains(&check.recipe.key.as_str()));
        assert_eq!(checks.len(), fixtures::KEYS.len());
        let used = |row: &&'static Drawing| {
            let of = |check: &Check| {
                let same = |concept: &str| concept == row.concept;
                check.recipe.style() == row.style.key
                    && check
                        .recipe
                        .objects
                        .iter()
                        .any(|object| same(object.concept.id))
            };
            checks.iter().any(of)
        };
        let drawings: Vec<_> = tables().drawings.iter().filter(used).collect();
        let go_on = |_: Progress<'_>| ControlFlow::Continue(());
        let found = compare(&artist, &drawings, &checks, &go_on).unwrap();
        assert!(found.drawings.rows >= 14 && found.passes(), "{found:?}");
    }

    #[test]
    fn another_picture_than_the_published_one_is_noticed() {
        let artist = Artist::new(fixtures::sources()).unwrap();
        let mut checks = checks();
        checks.retain(|check| fixtures::KEYS.contains(&check.recipe.key.as_str()));
        let first = checks[0].grid.clone();
        let last = checks.len() - 1;
        checks[0].grid = std::mem::replace(&mut checks[last].grid, first);
        let go_on = |_: Progress<'_>| ControlFlow::Continue(());
        let found = compare(&artist, &[], &checks, &go_on).unwrap();
        assert!(!found.pictures.passes(), "{found:?}");
    }

    #[test]
    fn every_published_picture_is_one_of_the_set() {
        let checks = checks();
        assert_eq!(checks.len(), 300);
        assert!(checks.iter().all(|check| check.grid.len() == 48));
    }

    #[test]
    fn one_far_row_or_many_near_ones_fail() {
        let rows = |far: usize, difference: f64| {
            let row = |i: usize| (i.to_string(), if i < far { difference } else { 1.0 });
            Deviation::new((0..1000).map(row).collect(), 16.0, 6.0)
        };
        assert!(rows(10, 16.0).passes());
        assert!(!rows(1, 17.0).passes());
        assert!(!rows(11, 7.0).passes());
        assert!(!Deviation::new(Vec::new(), 16.0, 6.0).passes());
    }
}
