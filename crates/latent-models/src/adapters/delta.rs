//! What a layer's factors add to its weight.

use std::collections::BTreeMap;

use latent_nn::ops::{self, LinearOptions};
use latent_nn::{Compute, Precision, to_host};

/// Keeps a norm away from zero.
const EPS: f32 = 1e-12;

/// A tensor in memory.
#[derive(Clone, Debug)]
struct Array {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The factors of one layer, by what they are.
#[derive(Debug, Default)]
pub(super) struct Factors {
    arrays: BTreeMap<&'static str, Array>,
    default_alpha: Option<f32>,
}

/// A change of a weight before its strength: values in the weight's order, and the rank by which alpha is divided.
struct Delta {
    values: Vec<f32>,
    rank: Option<usize>,
}

impl Factors {
    pub(super) fn insert(&mut self, what: &'static str, shape: Vec<usize>, values: Vec<f32>) {
        self.arrays.insert(what, Array { shape, values });
    }

    /// The alpha of a layer that has none of its own.
    pub(super) fn default_alpha(&mut self, alpha: f32) {
        self.default_alpha = Some(alpha);
    }

    /// Adds the change to a weight (or bias) of `shape`; whether there was one.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn add_to(
        &self,
        weight: &mut [f32],
        shape: &[usize],
        strength: f32,
        is_bias: bool,
    ) -> Result<bool, String> {
        if is_bias {
            let Some(diff) = self.arrays.get("diff_b") else {
                return Ok(false);
            };
            add(weight, &diff.values, strength)?;
            return Ok(true);
        }
        let Some(mut delta) = self.delta(shape)? else {
            return Ok(false);
        };
        // An alpha of 0 stands for the rank, as in kohya's scripts.
        let alpha = self
            .arrays
            .get("alpha")
            .and_then(|alpha| alpha.values.first());
        let alpha = alpha.copied().or(self.default_alpha).filter(|&a| a != 0.0);
        if let (Some(alpha), Some(rank)) = (alpha, delta.rank) {
            let scale = alpha / rank as f32;
            delta.values.iter_mut().for_each(|value| *value *= scale);
        }
        match self.arrays.get("magnitude") {
            Some(magnitude) => decompose(weight, &delta.values, (shape, magnitude), strength)?,
            None => add(weight, &delta.values, strength)?,
        }
        Ok(true)
    }

    fn get(&self, what: &'static str) -> Result<&Array, String> {
        self.arrays
            .get(what)
            .ok_or_else(|| format!("the factor `{what}` is missing"))
    }

    /// The change of a weight of `shape [out, in, ..]`; `None` if there are no factors of a weight.
    fn delta(&self, shape: &[usize]) -> Result<Option<Delta>, String> {
        let has = |start: &str| self.arrays.keys().any(|what| what.starts_with(start));
        let delta = if has("down") || has("up") {
            self.low_rank()?
        } else if has("hada") {
            self.hadamard()?
        } else if has("lokr") {
            self.kronecker()?
        } else if let Some(diff) = self.arrays.get("diff") {
            Delta {
                values: diff.values.clone(),
                rank: None,
            }
        } else {
            return Ok(None);
        };
        if delta.values.len() != shape.iter().product::<usize>() {
            return Err(format!("its factors make {} values", delta.values.len()));
        }
        Ok(Some(delta))
    }

    /// `up [out, r] · down [r, in ..]`; with a core `mid [r, r, kh, kw]` between (LoCon's decomposition of Tucker).
    fn low_rank(&self) -> Result<Delta, String> {
        let (up, down) = (self.get("up")?, self.get("down")?);
        let rank = down.rows()?;
        let down = match self.arrays.get("mid") {
            Some(mid) => through_core(mid, &down.transposed()?)?,
            None => down.clone(),
        };
        let values = product(up, &down)?.values;
        Ok(Delta {
            values,
            rank: Some(rank),
        })
    }

    /// `(w1_a · w1_b) * (w2_a · w2_b)`, value by value.
    fn hadamard(&self) -> Result<Delta, String> {
        let half = |a: &'static str, b: &'static str, core: &str| -> Result<Array, String> {
            let (a, b) = (self.get(a)?, self.get(b)?);
            match self.arrays.get(core) {
                Some(core) => product(&a.transposed()?, &through_core(core, &b.transposed()?)?),
                None => product(a, b),
            }
        };
        let mut first = half("hada_w1_a", "hada_w1_b", "hada_t1")?;
        let second = half("hada_w2_a", "hada_w2_b", "hada_t2")?;
        if first.values.len() != second.values.len() {
            return Err("its two products differ in size".to_owned());
        }
        for (value, factor) in first.values.iter_mut().zip(second.values) {
            *value *= factor;
        }
        Ok(Delta {
            values: first.values,
            rank: Some(self.get("hada_w1_b")?.rows()?),
        })
    }

    /// The Kronecker product of `w1` and `w2`, each whole or a product itself; alpha counts only if one is.
    fn kronecker(&self) -> Result<Delta, String> {
        let mut rank = None;
        let mut whole =
            |whole: &str, a: &'static str, b: &'static str, core: &str| -> Result<Array, String> {
                if let Some(array) = self.arrays.get(whole) {
                    return Ok(array.clone());
                }
                let (a, b): (&Array, &Array) = (self.get(a)?, self.get(b)?);
                rank = Some(b.rows()?);
                match self.arrays.get(core) {
                    Some(core) => {
                        let inside = through_core(core, &b.transposed()?)?;
                        let mut made = product(&a.transposed()?, &inside)?;
                        made.shape = [vec![made.shape[0]], inside.shape[1..].to_vec()].concat();
                        Ok(made)
                    }
                    None => {
                        let mut made = product(a, b)?;
                        made.shape = [vec![a.rows()?], b.shape[1..].to_vec()].concat();
                        Ok(made)
                    }
                }
            };
        let first = whole("lokr_w1", "lokr_w1_a", "lokr_w1_b", "")?;
        let second = whole("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")?;
        Ok(Delta {
            values: kronecker_product(&first, &second)?,
            rank,
        })
    }
}

impl Array {
    fn rows(&self) -> Result<usize, String> {
        match self.shape.first() {
            Some(&rows) if rows > 0 && !self.values.is_empty() => Ok(rows),
            _ => Err("a factor has no values".to_owned()),
        }
    }

    /// Rows become columns; all axes but the first count as one.
    fn transposed(&self) -> Result<Self, String> {
        let rows = self.rows()?;
        let columns = self.values.len() / rows;
        let values = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
        Ok(Self {
            values: values.map(|(r, c)| self.values[r * columns + c]).collect(),
            shape: vec![columns, rows],
        })
    }
}

/// `a [m, k] · b [k, n]` in f32 by the CPU's kernels; all axes but the first count as one.
fn product(a: &Array, b: &Array) -> Result<Array, String> {
    let (m, k) = (a.rows()?, b.rows()?);
    if a.values.len() != m * k {
        return Err(format!(
            "its factors of shapes {:?} and {:?} have no product",
            a.shape, b.shape
        ));
    }
    let compute = Compute::cpu(Precision::F32);
    let n = b.values.len() / k;
    let left = compute.tensor(a.values.clone(), [m, k]);
    let right = compute.tensor(b.transposed()?.values, [n, k]);
    let options = LinearOptions::new(Precision::F32);
    let (values, _) = to_host(ops::linear(left, right, None, None, options));
    Ok(Array {
        values,
        shape: vec![m, n],
    })
}

/// `core [i, j, kh, kw]` and `columns [c, j]` to `[i, c, kh, kw]`, the sum over `j`.
fn through_core(core: &Array, columns: &Array) -> Result<Array, String> {
    let (c, j) = (columns.rows()?, columns.shape[1]);
    let [i, found, kh, kw] = core.shape[..] else {
        return Err(format!(
            "its core has shape {:?}, not four axes",
            core.shape
        ));
    };
    if found != j || core.values.len() != i * j * kh * kw {
        return Err(format!(
            "its core of shape {:?} and its factor of rank {j} have no product",
            core.shape
        ));
    }
    let window = kh * kw;
    let mut values = vec![0.0; i * c * window];
    for (row, out) in values.chunks_exact_mut(c * window).enumerate() {
        for (column, out) in out.chunks_exact_mut(window).enumerate() {
            for rank in 0..j {
                let factor = columns.values[column * j + rank];
                let from = &core.values[(row * j + rank) * window..][..window];
                for (out, value) in out.iter_mut().zip(from) {
                    *out += factor * value;
                }
            }
        }
    }
    Ok(Array {
        values,
        shape: vec![i, c, kh, kw],
    })
}

/// `[a, b]` and `[c, d, ..]` to `[a * c, b * d, ..]`.
fn kronecker_product(first: &Array, second: &Array) -> Result<Vec<f32>, String> {
    let (a, c) = (first.rows()?, second.rows()?);
    let b = first.values.len() / a;
    let d = *second.shape.get(1).unwrap_or(&1);
    let window = second.values.len() / c / d.max(1);
    let mut values = Vec::with_capacity(first.values.len() * second.values.len());
    for row in 0..a * c {
        for column in 0..b * d {
            let factor = first.values[row / c * b + column / d];
            let from = ((row % c) * d + column % d) * window;
            values.extend(second.values[from..][..window].iter().map(|x| factor * x));
        }
    }
    Ok(values)
}

fn add(weight: &mut [f32], delta: &[f32], strength: f32) -> Result<(), String> {
    if weight.len() != delta.len() {
        return Err(format!("it has {} values", delta.len()));
    }
    for (value, change) in weight.iter_mut().zip(delta) {
        *value += strength * change;
    }
    Ok(())
}

/// DoRA: the changed weight with the norm that `magnitude` gives each row (or column of `[out, in ..]`), and as much
/// of the way there as `strength` says.
fn decompose(
    weight: &mut [f32],
    delta: &[f32],
    (shape, magnitude): (&[usize], &Array),
    strength: f32,
) -> Result<(), String> {
    let rows = shape.first().copied().unwrap_or(1);
    let columns = shape.get(1).copied().unwrap_or(1);
    let window = weight.len() / rows.max(1) / columns.max(1);
    let by_row = magnitude.shape.first() == Some(&rows);
    let groups = if by_row { rows } else { columns };
    if magnitude.values.len() != groups {
        return Err(format!("its magnitudes have shape {:?}", magnitude.shape));
    }
    let group = |at: usize| {
        if by_row {
            at / (columns * window)
        } else {
            at / window % columns
        }
    };
    let mut squares = vec![0.0_f64; groups];
    for (at, (value, change)) in weight.iter().zip(delta).enumerate() {
        squares[group(at)] += f64::from(value + change).powi(2);
    }
    let factors: Vec<f32> = squares
        .iter()
        .zip(&magnitude.values)
        .map(|(square, magnitude)| magnitude / (square.sqrt() as f32).max(EPS))
        .collect();
    for (at, (value, change)) in weight.iter_mut().zip(delta).enumerate() {
        let whole = (*value + change) * factors[group(at)];
        *value += strength * (whole - *value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(all: &[(&'static str, &[usize], &[f32])]) -> Factors {
        let mut factors = Factors::default();
        for (what, shape, values) in all {
            factors.insert(what, shape.to_vec(), values.to_vec());
        }
        factors
    }

    fn changed(factors: &Factors, shape: &[usize], strength: f32) -> Vec<f32> {
        let mut weight = vec![1.0; shape.iter().product()];
        assert!(factors.add_to(&mut weight, shape, strength, false).unwrap());
        weight
    }

    #[test]
    fn a_core_between_the_factors_is_the_sum_over_both_ranks() {
        // One by one, so that the sum over ranks is a plain matrix product: up · mid · down.
        let all = factors(&[
            ("up", &[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]),
            ("mid", &[2, 2, 1, 1], &[0.0, 1.0, 1.0, 0.0]),
            ("down", &[2, 1, 1, 1], &[5.0, 7.0]),
        ]);
        // mid · down = [7, 5]; up of that = [17, 41].
        assert_eq!(changed(&all, &[2, 1, 1, 1], 1.0), [18.0, 42.0]);
    }

    #[test]
    fn a_core_of_3x3_goes_to_every_place_of_the_kernel() {
        let core: Vec<f32> = (0..9).map(|at| at as f32).collect();
        let all = factors(&[
            ("hada_w1_a", &[1, 2], &[1.0, 2.0]),
            ("hada_w1_b", &[1, 1], &[3.0]),
            ("hada_t1", &[1, 1, 3, 3], &core),
            ("hada_w2_a", &[1, 2], &[1.0, 1.0]),
            ("hada_w2_b", &[1, 1], &[1.0]),
            ("hada_t2", &[1, 1, 3, 3], &[1.0; 9]),
        ]);
        let found = changed(&all, &[2, 1, 3, 3], 1.0);
        let expected: Vec<f32> = (0..18)
            .map(|at| 1.0 + (at % 9) as f32 * 3.0 * (1 + at / 9) as f32)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn kronecker_s_product_of_a_kernel_repeats_it_and_whole_factors_ignore_alpha() {
        let all = factors(&[
            ("lokr_w1", &[1, 2], &[1.0, 10.0]),
            ("lokr_w2", &[1, 1, 1, 2], &[2.0, 3.0]),
            ("alpha", &[], &[50.0]),
        ]);
        assert_eq!(changed(&all, &[1, 2, 1, 2], 1.0), [3.0, 4.0, 21.0, 31.0]);
    }

    #[test]
    fn an_alpha_counts_as_its_share_of_the_rank_and_without_one_as_whole() {
        let mut all = factors(&[("up", &[1, 2], &[1.0, 1.0]), ("down", &[2, 1], &[1.0, 1.0])]);
        assert_eq!(changed(&all, &[1, 1], 1.0), [3.0]);
        all.default_alpha(1.0);
        assert_eq!(changed(&all, &[1, 1], 1.0), [2.0]);
        all.insert("alpha", Vec::new(), vec![4.0]);
        assert_eq!(changed(&all, &[1, 1], 0.5), [3.0]);
    }

    #[test]
    fn magnitudes_by_column_give_every_column_its_norm() {
        // Columns [3, 4], [1, 1] and [1, 1].
        let wide = factors(&[
            ("up", &[2, 1], &[2.0, 3.0]),
            ("down", &[1, 3], &[1.0, 0.0, 0.0]),
            ("magnitude", &[1, 3], &[10.0, 2.0, 2.0]),
        ]);
        let root = 2.0 / 2.0_f32.sqrt();
        let found = changed(&wide, &[2, 3], 1.0);
        let expected = [6.0, root, root, 8.0, root, root];
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
    }

    #[test]
    fn factors_without_a_product_are_refused() {
        let all = factors(&[("up", &[2, 3], &[0.0; 6]), ("down", &[2, 2], &[0.0; 4])]);
        let mut weight = vec![0.0; 4];
        assert!(all.add_to(&mut weight, &[2, 2], 1.0, false).is_err());
        let half = factors(&[("up", &[2, 3], &[0.0; 6])]);
        let reason = half.add_to(&mut weight, &[2, 2], 1.0, false).unwrap_err();
        assert!(reason.contains("`down` is missing"), "{reason}");
    }
}
