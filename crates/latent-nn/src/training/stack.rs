//! Muon on a GPU: matrices of one shape behind one another, so that a product is one launch for all of them.

use burn::tensor::{Device, Tensor, TensorData};
use latent_kernels::Muon;

use super::optimizer::Memory;
use crate::ops::column_sums;

/// Matrices `[count, rows, columns]` with what is remembered of them.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    rows: usize,
    columns: usize,
    count: usize,
    weights: Tensor<3>,
    momentum: Tensor<3>,
    average: Option<Tensor<3>>,
}

/// Rows and columns that Muon sees in a parameter of `shape`.
pub(super) fn matrix(shape: &[usize]) -> [usize; 2] {
    let count: usize = shape.iter().product();
    [shape[0], count / shape[0].max(1)]
}

impl Stack {
    /// `members`: the values of each matrix, and what is remembered of it.
    pub(super) fn new(
        [rows, columns]: [usize; 2],
        members: &[(Vec<f32>, Option<&Memory>)],
        averages: bool,
        device: &Device,
    ) -> Self {
        let count = members.len();
        let all = |of: &dyn Fn(&(Vec<f32>, Option<&Memory>)) -> Vec<f32>| {
            let values: Vec<f32> = members.iter().flat_map(of).collect();
            Tensor::from_data(TensorData::new(values, [count, rows, columns]), device)
        };
        let momentum = |(values, memory): &(Vec<f32>, Option<&Memory>)| match memory {
            Some(memory) => memory.mean.clone(),
            None => vec![0.0; values.len()],
        };
        let average = |(values, memory): &(Vec<f32>, Option<&Memory>)| {
            let average = memory.and_then(|memory| memory.average.clone());
            average.unwrap_or_else(|| values.clone())
        };
        Self {
            rows,
            columns,
            count,
            weights: all(&|(values, _)| values.clone()),
            momentum: all(&momentum),
            average: averages.then(|| all(&average)),
        }
    }

    /// The gradients of all members, in their order, as one tensor.
    pub(super) fn gather(&self, gradients: Vec<Tensor<1>>) -> Tensor<3> {
        let shape = [1, self.rows, self.columns];
        let parts = gradients.into_iter().map(|part| part.reshape(shape));
        Tensor::cat(parts.collect(), 0)
    }

    /// See [`Muon::direction`] and [`Muon::step`], whose twin for many matrices this is.
    pub(super) fn step(
        &mut self,
        gradients: Tensor<3>,
        muon: &Muon,
        grad_scale: f32,
        average_decay: Option<f32>,
    ) {
        let gradients = gradients * grad_scale;
        self.momentum = self.momentum.clone() * muon.momentum + gradients.clone();
        let ahead = self.momentum.clone() * muon.momentum + gradients;
        let direction = if self.rows > self.columns {
            orthogonalised(ahead.swap_dims(1, 2)).swap_dims(1, 2)
        } else {
            orthogonalised(ahead)
        };
        let kept = 1.0 - f64::from(muon.lr) * f64::from(muon.weight_decay);
        let rate = muon.lr * 0.2 * (self.rows.max(self.columns) as f32).sqrt();
        self.weights = self.weights.clone() * kept - direction * rate;
        if let (Some(average), Some(decay)) = (&mut self.average, average_decay) {
            let towards = (self.weights.clone() - average.clone()) * (1.0 - decay);
            *average = average.clone() + towards;
        }
    }

    /// The weights of member `index`, flat.
    pub(super) fn member(&self, index: usize) -> Tensor<1> {
        let count = self.rows * self.columns;
        let all = self.weights.clone().reshape([self.count * count]);
        all.slice([index * count..(index + 1) * count])
    }

    /// What is remembered, each member's behind one another: momentum and average.
    pub(super) fn memory(&self) -> (Vec<f32>, Option<Vec<f32>>) {
        let host = |all: &Tensor<3>| crate::to_host(all.clone()).0;
        (host(&self.momentum), self.average.as_ref().map(host))
    }
}

/// Sum of the squares of each matrix of `x [n, r, c]`: `[n, 1, 1]`.
pub(super) fn squares(x: Tensor<3>) -> Tensor<3> {
    let [n, r, c] = x.dims();
    let rows = (x.clone() * x).reshape([n * r, c]);
    let columns = column_sums(rows, n).reshape([n * c, 1]);
    column_sums(columns, n).reshape([n, 1, 1])
}

/// `x [n, r, c]`, `r <= c`, with singular values between 0.7 and 1.2 and its singular vectors kept.
fn orthogonalised(x: Tensor<3>) -> Tensor<3> {
    let [a, b, c] = Muon::POLYNOMIAL;
    let length = squares(x.clone()).sqrt() + 1e-7;
    let mut x = x / length;
    for _ in 0..Muon::ROUNDS {
        let gram = x.clone().matmul(x.clone().swap_dims(1, 2));
        let factor = gram.clone() * b + gram.clone().matmul(gram) * c;
        x = x.clone() * a + factor.matmul(x);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compute, Precision};

    fn drawn(len: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 7919 + i * i * 31 + seed * 577) % 1009) as f32 / 504.5 - 1.0;
        (0..len).map(number).collect()
    }

    /// The GPU's way run on the CPU, held against the CPU's kernel.
    #[test]
    fn a_stack_of_matrices_takes_the_steps_that_each_takes_alone() {
        let device = Compute::cpu(Precision::F32).device;
        let muon = Muon {
            lr: 0.05,
            momentum: 0.95,
            weight_decay: 0.1,
            precision: latent_kernels::Precision::F32,
        };
        for [rows, columns] in [[6, 40], [40, 6], [9, 9]] {
            let count = rows * columns;
            let first = [drawn(count, 1), drawn(count, 2)];
            let members: Vec<_> = first.iter().map(|values| (values.clone(), None)).collect();
            let mut stack = Stack::new([rows, columns], &members, true, &device);
            let mut alone = first.map(|p| (p.clone(), vec![0.0; count], p));
            for step in 0..3 {
                let of = |member: usize| drawn(count, 10 * step + member);
                let gradients = [0, 1].map(|member| {
                    Tensor::from_data(TensorData::new(of(member), [count]), &device)
                });
                let gathered = stack.gather(gradients.into());
                stack.step(gathered, &muon, 0.5, Some(0.9));
                for (member, (p, m, average)) in alone.iter_mut().enumerate() {
                    let direction = muon.direction(&of(member), m, 0.5, rows);
                    muon.step(p, &direction, Some((average, 0.9)), rows);
                }
            }
            let (momentum, average) = stack.memory();
            for (member, (p, m, ema)) in alone.iter().enumerate() {
                let range = member * count..(member + 1) * count;
                let weights = crate::to_host(stack.member(member)).0;
                let average = average.as_ref().expect("an average");
                close(p, &weights);
                close(m, &momentum[range.clone()]);
                close(ema, &average[range]);
            }
        }
    }

    fn close(expected: &[f32], found: &[f32]) {
        for (expected, found) in expected.iter().zip(found) {
            assert!((expected - found).abs() < 1e-4, "{expected} {found}");
        }
    }

    #[test]
    fn squares_are_summed_by_matrix() {
        let device = Compute::cpu(Precision::F32).device;
        let values = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let x = Tensor::from_data(TensorData::new(values, [2, 2, 2]), &device);
        assert_eq!(crate::to_host(squares(x)).0, [30.0, 174.0]);
    }
}
