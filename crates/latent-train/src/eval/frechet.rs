//! Distances between two sets of feature vectors.

/// The Fréchet distance of the Gaussians with the sets' means and covariances.
///
/// `|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)`. It shrinks as the sets grow, so compare only sets of equal size.
/// 0 for sets of fewer than two vectors.
///
/// Source: Heusel et al. 2017 (arXiv:1706.08500), Eq. 6.
pub fn frechet_distance(first: &[Vec<f32>], second: &[Vec<f32>]) -> f64 {
    if first.len() < 2 || second.len() < 2 {
        return 0.0;
    }
    let (mean1, cov1) = moments(first);
    let (mean2, cov2) = moments(second);
    let means: f64 = mean1.iter().zip(&mean2).map(|(a, b)| (a - b).powi(2)).sum();
    // tr (C1 C2)^½ = tr (C1^½ C2 C1^½)^½, whose argument is symmetric.
    let root = square_root(&cov1);
    let product = root.times(&cov2).times(&root);
    let cross: f64 = eigen(product)
        .0
        .iter()
        .map(|value| value.max(0.0).sqrt())
        .sum();
    (means + cov1.trace() + cov2.trace() - 2.0 * cross).max(0.0)
}

/// The kernel distance: unbiased for sets of any size, near 0 (on either side) for sets of one distribution.
///
/// Source: Binkowski et al. 2018 (arXiv:1801.01401), Eq. 4, with its cubic kernel.
pub fn kernel_distance(first: &[Vec<f32>], second: &[Vec<f32>]) -> f64 {
    let inside = |set: &[Vec<f32>]| {
        let count = set.len() as f64;
        let pairs = set.iter().enumerate().flat_map(|(i, a)| {
            set.iter()
                .enumerate()
                .filter(move |(j, _)| i != *j)
                .map(move |(_, b)| kernel(a, b))
        });
        pairs.sum::<f64>() / (count * (count - 1.0)).max(1.0)
    };
    let across: f64 = first
        .iter()
        .flat_map(|a| second.iter().map(|b| kernel(a, b)))
        .sum();
    let across = across / (first.len() * second.len()).max(1) as f64;
    inside(first) + inside(second) - 2.0 * across
}

fn kernel(a: &[f32], b: &[f32]) -> f64 {
    let product: f64 = a
        .iter()
        .zip(b)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum();
    (product / a.len() as f64 + 1.0).powi(3)
}

/// A square matrix in rows.
#[derive(Clone)]
struct Square {
    size: usize,
    values: Vec<f64>,
}

impl Square {
    fn zeros(size: usize) -> Self {
        Self {
            size,
            values: vec![0.0; size * size],
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.size + column]
    }

    fn set(&mut self, row: usize, column: usize, value: f64) {
        self.values[row * self.size + column] = value;
    }

    fn trace(&self) -> f64 {
        (0..self.size).map(|index| self.at(index, index)).sum()
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = Self::zeros(self.size);
        for row in 0..self.size {
            for inner in 0..self.size {
                let factor = self.at(row, inner);
                for column in 0..self.size {
                    product.values[row * self.size + column] += factor * other.at(inner, column);
                }
            }
        }
        product
    }
}

/// Mean and covariance (over n - 1).
fn moments(set: &[Vec<f32>]) -> (Vec<f64>, Square) {
    let size = set[0].len();
    let count = set.len() as f64;
    let mut mean = vec![0.0; size];
    for vector in set {
        for (sum, value) in mean.iter_mut().zip(vector) {
            *sum += f64::from(*value) / count;
        }
    }
    let mut covariance = Square::zeros(size);
    for vector in set {
        let centred: Vec<f64> = vector
            .iter()
            .zip(&mean)
            .map(|(value, mean)| f64::from(*value) - mean)
            .collect();
        for row in 0..size {
            for column in 0..size {
                covariance.values[row * size + column] +=
                    centred[row] * centred[column] / (count - 1.0);
            }
        }
    }
    (mean, covariance)
}

/// The symmetric root of a symmetric matrix without negative eigenvalues (small ones, from rounding, count as 0).
fn square_root(matrix: &Square) -> Square {
    let (values, vectors) = eigen(matrix.clone());
    let size = matrix.size;
    let mut root = Square::zeros(size);
    for (index, value) in values.iter().enumerate() {
        let value = value.max(0.0).sqrt();
        for row in 0..size {
            let scaled = value * vectors.at(row, index);
            for column in 0..size {
                root.values[row * size + column] += scaled * vectors.at(column, index);
            }
        }
    }
    root
}

/// Eigenvalues and, in columns, eigenvectors of a symmetric matrix, by Jacobi's rotations.
///
/// Source: Golub & Van Loan, "Matrix Computations", 4th edition, algorithm 8.5.2.
fn eigen(mut matrix: Square) -> (Vec<f64>, Square) {
    const SWEEPS: usize = 30;
    let size = matrix.size;
    let mut vectors = Square::zeros(size);
    (0..size).for_each(|index| vectors.set(index, index, 1.0));
    let whole: f64 = matrix.values.iter().map(|value| value * value).sum();
    for _ in 0..SWEEPS {
        let mut off = 0.0;
        for p in 0..size {
            for q in p + 1..size {
                off += matrix.at(p, q).powi(2);
                rotate(&mut matrix, &mut vectors, p, q);
            }
        }
        if off <= 1e-24 * whole {
            break;
        }
    }
    (
        (0..size).map(|index| matrix.at(index, index)).collect(),
        vectors,
    )
}

/// Turns the plane of axes `p` and `q` so that the matrix's entry there becomes 0.
fn rotate(matrix: &mut Square, vectors: &mut Square, p: usize, q: usize) {
    let entry = matrix.at(p, q);
    if entry == 0.0 {
        return;
    }
    let tau = (matrix.at(q, q) - matrix.at(p, p)) / (2.0 * entry);
    let tangent = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sine = tangent * cosine;
    for k in 0..matrix.size {
        let (a, b) = (matrix.at(k, p), matrix.at(k, q));
        matrix.set(k, p, cosine * a - sine * b);
        matrix.set(k, q, sine * a + cosine * b);
    }
    for k in 0..matrix.size {
        let (a, b) = (matrix.at(p, k), matrix.at(q, k));
        matrix.set(p, k, cosine * a - sine * b);
        matrix.set(q, k, sine * a + cosine * b);
        let (a, b) = (vectors.at(k, p), vectors.at(k, q));
        vectors.set(k, p, cosine * a - sine * b);
        vectors.set(k, q, sine * a + cosine * b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draws, Stream};

    fn gaussian(seed: u64, count: usize, mean: [f32; 2], deviation: [f32; 2]) -> Vec<Vec<f32>> {
        let values = Draws::new(seed, Stream::Noise, 0).normal(2 * count);
        let pairs = values.chunks_exact(2);
        pairs
            .map(|pair| {
                vec![
                    mean[0] + deviation[0] * pair[0],
                    mean[1] + deviation[1] * pair[1],
                ]
            })
            .collect()
    }

    #[test]
    fn a_set_is_at_no_distance_from_itself() {
        let set = gaussian(1, 50, [0.0, 3.0], [1.0, 2.0]);
        assert!(frechet_distance(&set, &set) < 1e-9);
    }

    #[test]
    fn gaussians_are_as_far_apart_as_the_formula_says() {
        let first = gaussian(1, 40_000, [0.0, 0.0], [1.0, 2.0]);
        let second = gaussian(2, 40_000, [3.0, 4.0], [2.0, 0.5]);
        // 3² + 4² + (1 - 2)² + (2 - 0.5)²; the means' error is 10 / sqrt(40,000), four times that allowed.
        let found = frechet_distance(&first, &second);
        assert!((found - 28.25).abs() < 0.4, "{found}");
    }

    #[test]
    fn correlation_counts_though_means_and_variances_agree() {
        let along: Vec<Vec<f32>> = [-1.0f32, 1.0].iter().map(|&x| vec![x, x]).collect();
        let across: Vec<Vec<f32>> = [-1.0f32, 1.0].iter().map(|&x| vec![x, -x]).collect();
        // Covariances [[2,2],[2,2]] and [[2,-2],[-2,2]]: their product is 0, so the distance is both traces.
        assert!((frechet_distance(&along, &across) - 8.0).abs() < 1e-6);
    }

    #[test]
    fn the_kernel_distance_of_one_distribution_is_about_zero_and_of_two_is_not() {
        let first = gaussian(1, 400, [0.0, 0.0], [1.0, 1.0]);
        let same = kernel_distance(&first, &gaussian(2, 400, [0.0, 0.0], [1.0, 1.0]));
        let other = kernel_distance(&first, &gaussian(2, 400, [1.0, 0.0], [1.0, 1.0]));
        assert!(same.abs() < 0.1 && other > 0.5, "{same} {other}");
    }
}
