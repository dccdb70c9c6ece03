//! What Stable Diffusion XL is told of a picture's sizes.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Source: diffusers' `StableDiffusionXLImg2ImgPipeline.__call__`.
const AESTHETIC_SCORE: f32 = 6.0;
const NEGATIVE_AESTHETIC_SCORE: f32 = 2.5;
/// Pixels or positions beyond which a number is a slip.
const MOST: usize = 1 << 16;

/// Sizes that Stable Diffusion XL is told beside the words, in pixels: `[width, height]`, and `[x, y]` for a crop.
///
/// What is `None` has diffusers' default: the picture's own size, a crop at `[0, 0]`. Other models are not told.
///
/// Source: Podell et al. 2023 (arXiv:2307.01952), section 2.2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MicroConditioning {
    /// Size of the picture it should look as if it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_size: Option<[usize; 2]>,
    /// Where that picture should look cut: left and top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<[usize; 2]>,
    /// Size it should look scaled to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<[usize; 2]>,
    /// The same for what guidance moves away from; goes together with `negative_target_size`. Without them the base moves
    /// away from the sizes it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_original_size: Option<[usize; 2]>,
    /// Where that picture should look cut; [0, 0] if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_crop: Option<[usize; 2]>,
    /// See [`MicroConditioning::negative_original_size`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_target_size: Option<[usize; 2]>,
    /// How much people should like the picture, for the refiner; 6 if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f32>,
    /// How much they like what guidance moves away from; 2.5 if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f32>,
}

impl MicroConditioning {
    /// Whether nothing is stated.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let sizes = [
            ("original_size", self.original_size),
            ("crop", self.crop),
            ("target_size", self.target_size),
            ("negative_original_size", self.negative_original_size),
            ("negative_crop", self.negative_crop),
            ("negative_target_size", self.negative_target_size),
        ];
        for (name, [a, b]) in sizes.into_iter().filter_map(|(name, v)| Some((name, v?))) {
            if a > MOST || b > MOST {
                return Err(Error::Request(format!(
                    "`{name}` is {a}x{b}; numbers up to {MOST} are pixels of a picture"
                )));
            }
        }
        if self.negative_original_size.is_some() != self.negative_target_size.is_some() {
            return Err(Error::Request(
                "`negative_original_size` and `negative_target_size` go together; one of them is missing".into(),
            ));
        }
        let scores = [
            ("aesthetic_score", self.aesthetic_score),
            ("negative_aesthetic_score", self.negative_aesthetic_score),
        ];
        match scores
            .into_iter()
            .find(|(_, score)| score.is_some_and(|score| !score.is_finite()))
        {
            Some((name, _)) => Err(Error::Request(format!("`{name}` is no number"))),
            None => Ok(()),
        }
    }

    /// The numbers for the wanted half and for what guidance moves away from, of a picture of `size`, height first.
    ///
    /// Source: diffusers' `StableDiffusionXLPipeline.__call__`; with a score its `StableDiffusionXLImg2ImgPipeline`'s.
    pub(crate) fn numbers(&self, size: [usize; 2], scored: bool) -> [Vec<f32>; 2] {
        let original = self.original_size.unwrap_or(size);
        let crop = self.crop.unwrap_or_default();
        let target = self.target_size.unwrap_or(size);
        let negative_crop = self.negative_crop.unwrap_or_default();
        if scored {
            let negative = self.negative_original_size.unwrap_or(original);
            let score = self.aesthetic_score.unwrap_or(AESTHETIC_SCORE);
            let negative_score = self
                .negative_aesthetic_score
                .unwrap_or(NEGATIVE_AESTHETIC_SCORE);
            let mut both = [
                height_first(&[original, crop]),
                height_first(&[negative, negative_crop]),
            ];
            both[0].push(score);
            both[1].push(negative_score);
            return both;
        }
        let wanted = height_first(&[original, crop, target]);
        let unwanted = match (self.negative_original_size, self.negative_target_size) {
            (Some(original), Some(target)) => height_first(&[original, negative_crop, target]),
            _ => wanted.clone(),
        };
        [wanted, unwanted]
    }
}

fn height_first(pairs: &[[usize; 2]]) -> Vec<f32> {
    pairs
        .iter()
        .flat_map(|[x, y]| [*y as f32, *x as f32])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_pictures_own_size_unless_stated_height_first() {
        let open = MicroConditioning::default();
        let own = vec![64.0, 32.0, 0.0, 0.0, 64.0, 32.0];
        assert_eq!(open.numbers([32, 64], false), [own.clone(), own]);
        let scored = [
            vec![64.0, 32.0, 0.0, 0.0, 6.0],
            vec![64.0, 32.0, 0.0, 0.0, 2.5],
        ];
        assert_eq!(open.numbers([32, 64], true), scored);
        let stated = MicroConditioning {
            crop: Some([5, 7]),
            ..open
        };
        let own = vec![64.0, 32.0, 7.0, 5.0, 64.0, 32.0];
        assert_eq!(stated.numbers([32, 64], false), [own.clone(), own]);
    }

    #[test]
    fn numbers_that_are_no_pixels_are_refused_by_name() {
        let wrong = MicroConditioning {
            target_size: Some([1 << 20, 8]),
            ..MicroConditioning::default()
        };
        let error = wrong.validate().unwrap_err().to_string();
        assert!(error.contains("target_size"), "{error}");
        let half = MicroConditioning {
            negative_target_size: Some([64, 64]),
            ..MicroConditioning::default()
        };
        let error = half.validate().unwrap_err().to_string();
        assert!(error.contains("go together"), "{error}");
    }
}
