//! Finding samplers and schedules by the names that people know them by.

use crate::schedules::{SCHEDULES, Schedule};
use crate::{SAMPLERS, Sampler, SamplingError};

/// Names an error offers at most.
const OFFERED: usize = 5;

/// The row of a name: ours, A1111's, ComfyUI's, a diffusers class's or an alias; upper and lower case and the marks
/// between words do not count.
///
/// ```
/// assert_eq!(latent_sampling::find("DPM++ 2M Karras")?.name, "dpmpp_2m_karras");
/// # Ok::<(), latent_sampling::SamplingError>(())
/// ```
///
/// # Errors
/// If no row has the name; the sentence gives those nearest to it.
pub fn find(name: &str) -> Result<&'static Sampler, SamplingError> {
    row_of(&simplified(name)).ok_or_else(|| SamplingError::UnknownSampler {
        found: name.to_owned(),
        near: near(
            name,
            SAMPLERS.iter().map(|row| (row.name, row.names().collect())),
        ),
    })
}

/// The schedule of a name: ours, A1111's, ComfyUI's or an alias, as [`find`] reads them.
///
/// # Errors
/// If no row has the name; the sentence gives those nearest to it.
pub fn find_schedule(name: &str) -> Result<&'static Schedule, SamplingError> {
    let wanted = simplified(name);
    SCHEDULES
        .iter()
        .find(|row| row.names().any(|known| simplified(known) == wanted))
        .ok_or_else(|| SamplingError::UnknownSchedule {
            found: name.to_owned(),
            near: near(
                name,
                SCHEDULES
                    .iter()
                    .map(|row| (row.name, row.names().collect())),
            ),
        })
}

/// A sampler's name, or one with a schedule's name behind it as older A1111 joins them: "DPM++ 2S a Karras".
///
/// # Errors
/// As [`find`].
pub fn find_joined(
    name: &str,
) -> Result<(&'static Sampler, Option<&'static Schedule>), SamplingError> {
    let wanted = simplified(name);
    let wanted = &wanted;
    if let Some(row) = row_of(wanted) {
        return Ok((row, None));
    }
    let joined = SCHEDULES.iter().flat_map(|schedule| {
        schedule.names().filter_map(move |known| {
            let known = simplified(known);
            let row = row_of(wanted.strip_suffix(known.as_str())?)?;
            Some((known.len(), row, schedule))
        })
    });
    match joined.max_by_key(|(length, ..)| *length) {
        Some((_, row, schedule)) => Ok((row, Some(schedule))),
        None => find(name).map(|row| (row, None)),
    }
}

fn row_of(wanted: &str) -> Option<&'static Sampler> {
    let named = |row: &&Sampler| row.names().any(|known| simplified(known) == wanted);
    let of_class = |row: &&Sampler| simplified(row.class.name()) == wanted;
    let mut rows = SAMPLERS.iter();
    rows.find(named).or_else(|| SAMPLERS.iter().find(of_class))
}

fn simplified(name: &str) -> String {
    let letters = name.to_lowercase().replace('+', "p");
    letters
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .collect()
}

/// The rows whose names differ from `wanted` in the fewest letters, nearest first.
fn near<'a>(wanted: &str, rows: impl Iterator<Item = (&'static str, Vec<&'a str>)>) -> String {
    let wanted = simplified(wanted);
    let mut distances: Vec<(usize, &str)> = rows
        .map(|(name, names)| {
            let letters = names
                .iter()
                .map(|known| edits(&wanted, &simplified(known)))
                .min();
            (letters.unwrap_or(usize::MAX), name)
        })
        .collect();
    distances.sort_by_key(|(distance, _)| *distance);
    let nearest = distances.iter().take(OFFERED);
    let quoted: Vec<String> = nearest.map(|(_, name)| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Letters to insert, remove or replace to make `b` of `a`. Source: Levenshtein 1966, by Wagner & Fischer 1974.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_as_in_the_textbook() {
        assert_eq!(
            (
                edits("kitten", "sitting"),
                edits("", "abc"),
                edits("a", "a")
            ),
            (3, 3, 0)
        );
    }

    #[test]
    fn a_joined_name_is_split_into_sampler_and_schedule() {
        let (row, schedule) = find_joined("DPM++ 2S a Karras").unwrap();
        assert_eq!(
            (row.name, schedule.map(|s| s.name)),
            ("dpmpp_2s_a", Some("karras"))
        );
        let (row, schedule) = find_joined("Euler SGM Uniform").unwrap();
        assert_eq!(
            (row.name, schedule.map(|s| s.name)),
            ("euler", Some("sgm_uniform"))
        );
        assert!(find_joined("Euler Krras").is_err());
    }

    #[test]
    fn an_unknown_name_brings_the_nearest() {
        let text = find("dpmpp_2n").unwrap_err().to_string();
        assert!(text.contains("`dpmpp_2m`"), "{text}");
        let text = find_schedule("kerras").unwrap_err().to_string();
        assert!(text.contains("`karras`"), "{text}");
    }
}
