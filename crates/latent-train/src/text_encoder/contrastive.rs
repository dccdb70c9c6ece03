//! The contrastive loss: each picture finds its caption among the batch's, each caption its picture.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// Added to the score of a pair that is no wrong answer; `exp` of it is 0 in f32.
const NEVER: f32 = -1e4;

/// A mask `[n * n]` added to the scores: 0, and [`NEVER`] where caption `column` is as right for picture `row` as its
/// own, being the same words or of the same example.
pub(super) fn mask(examples: &[usize], captions: &[&[u32]]) -> Vec<f32> {
    let count = examples.len();
    let mut mask = vec![0.0; count * count];
    for row in 0..count {
        for column in 0..count {
            let alike = examples[row] == examples[column] || captions[row] == captions[column];
            if row != column && alike {
                mask[row * count + column] = NEVER;
            }
        }
    }
    mask
}

/// `mask [n * n]` with a column more for each twin: [`NEVER`] where there is no twin, or it is what the picture's own
/// caption says. Without twins the mask stays as it is.
pub(super) fn twin_mask(
    mask: Vec<f32>,
    captions: &[&[u32]],
    twins: &[Option<Vec<u32>>],
) -> Vec<f32> {
    let count = captions.len();
    let mut wide = Vec::with_capacity(count * (count + twins.len()));
    for (row, own) in mask.chunks_exact(count).zip(captions) {
        wide.extend(row);
        wide.extend(twins.iter().map(|twin| match twin {
            Some(twin) if twin != own => 0.0,
            _ => NEVER,
        }));
    }
    wide
}

/// Mean of both cross-entropies.
///
/// `scores [n, captions]`: picture by caption, mask included; the diagonal is right. Captions past the `n`th are twins,
/// wrong for every picture; they have no picture to find.
/// Source: Radford et al. 2021 (arXiv:2103.00020), figure 3.
pub(super) fn loss(scores: Tensor<2>) -> Tensor<1> {
    let [count, captions] = scores.dims();
    let right = Tensor::<2>::eye(count, &scores.device());
    let pairs = |x: Tensor<2>| match captions == count {
        true => x,
        false => x.narrow(1, 0, count),
    };
    let of_pictures = pairs(log_softmax(scores.clone(), 1)) * right.clone();
    let of_captions = log_softmax(pairs(scores), 0) * right;
    (of_captions.sum() + of_pictures.sum()) * (-0.5 / count as f32)
}

/// Share of rows whose largest value is on the diagonal; `scores` in rows of `captions`.
pub(super) fn accuracy(scores: &[f32], captions: usize) -> f64 {
    let count = scores.len() / captions;
    let right = scores
        .chunks_exact(captions)
        .enumerate()
        .filter(|(index, row)| {
            row.iter()
                .enumerate()
                .all(|(other, score)| other == *index || *score < row[*index])
        })
        .count();
    right as f64 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use latent_nn::{Compute, Precision, to_host};

    #[test]
    fn equal_captions_are_no_wrong_answers() {
        let (cat, dog): (&[u32], &[u32]) = (&[1, 2], &[1, 3]);
        let found = mask(&[7, 8, 9], &[cat, dog, cat]);
        assert_eq!(found, [0.0, 0.0, NEVER, 0.0, 0.0, 0.0, NEVER, 0.0, 0.0]);
    }

    #[test]
    fn two_captions_of_one_picture_do_not_compete() {
        let (cat, tomcat): (&[u32], &[u32]) = (&[1, 2], &[1, 3]);
        assert_eq!(mask(&[7, 7], &[cat, tomcat]), [0.0, NEVER, NEVER, 0.0]);
    }

    #[test]
    fn a_twin_is_a_wrong_answer_unless_it_is_what_a_picture_shows() {
        let (red, blue): (&[u32], &[u32]) = (&[1, 2], &[1, 3]);
        let twins = [Some(vec![1, 3]), None];
        let found = twin_mask(vec![0.0; 4], &[red, blue], &twins);
        assert_eq!(found, [0.0, 0.0, 0.0, NEVER, 0.0, 0.0, NEVER, NEVER]);
    }

    #[test]
    fn twins_compete_for_pictures_and_not_for_captions() {
        let compute = Compute::cpu(Precision::F32);
        // One picture and its caption at score 0, a twin at 0: the picture is right by half, the caption surely.
        let found = to_host(loss(compute.tensor(vec![0.0, 0.0], [1, 2]))).0[0];
        assert!((found - 0.5 * 2f32.ln()).abs() < 1e-6, "{found}");
    }

    #[test]
    fn scores_that_say_nothing_lose_the_logarithm_of_the_batch() {
        let compute = Compute::cpu(Precision::F32);
        let scores = compute.tensor(vec![3.0; 64], [8, 8]);
        let found = to_host(loss(scores)).0[0];
        assert!((found - 8f32.ln()).abs() < 1e-6, "{found}");
    }

    #[test]
    fn accuracy_counts_the_rows_that_are_right() {
        assert_eq!(accuracy(&[2.0, 1.0, 3.0, 1.0], 2), 0.5);
    }
}
