//! Whether a picture tells a caption from those that differ from it in one word.

use super::Judge;
use super::judge::cosine;

/// A caption as the judge reads it, with its wrong variants.
pub(super) struct Wording {
    pub(super) caption: Vec<f32>,
    variants: Vec<(String, Vec<Vec<f32>>)>,
}

impl Wording {
    /// Reads a caption and the variants that the judge's lists of words give.
    pub(super) fn read(judge: &Judge, caption: &str) -> Self {
        let variants = judge.opposites().variants(caption);
        let wrong = variants.iter().flat_map(|variant| &variant.texts);
        let texts: Vec<&str> = [caption]
            .into_iter()
            .chain(wrong.map(String::as_str))
            .collect();
        let mut vectors = judge.read(&texts).into_iter();
        Self {
            caption: vectors.next().unwrap_or_default(),
            variants: variants
                .iter()
                .map(|variant| {
                    let own = vectors.by_ref().take(variant.texts.len());
                    (variant.list.to_owned(), own.collect())
                })
                .collect(),
        }
    }

    /// For each word of the caption that is in a list: the list's name, and whether `picture` is nearer to the caption than
    /// to every variant of that word.
    pub(super) fn right(&self, picture: &[f32]) -> impl Iterator<Item = (&str, bool)> {
        let own = cosine(picture, &self.caption);
        self.variants.iter().map(move |(list, wrong)| {
            let right = wrong.iter().all(|wrong| own > cosine(picture, wrong));
            (list.as_str(), right)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_true_caption_must_score_better_than_every_variant_of_a_word() {
        let wording = Wording {
            caption: vec![1.0, 0.0],
            variants: vec![
                ("red".into(), vec![vec![0.6, 0.8], vec![0.8, 0.6]]),
                ("left".into(), vec![vec![0.0, 1.0]]),
                ("two".into(), vec![vec![1.0, 0.0]]),
            ],
        };
        let right =
            |picture: &[f32]| -> Vec<bool> { wording.right(picture).map(|(_, hit)| hit).collect() };
        // The variant of a number is the caption's equal: nothing tells them apart.
        assert_eq!(right(&[1.0, 0.0]), [true, true, false]);
        // Nearer to one of the colours, and still nearer to the caption's side.
        assert_eq!(right(&[0.9, 0.436]), [false, true, false]);
        assert_eq!(right(&[0.0, 1.0]), [false, false, false]);
        let lists: Vec<&str> = wording.right(&[1.0, 0.0]).map(|(list, _)| list).collect();
        assert_eq!(lists, ["red", "left", "two"]);
    }
}
