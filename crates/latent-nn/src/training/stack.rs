//! Muon on a GPU: all matrices behind one another for what is done element by element, and for the products in stacks of
//! matrices that zeros make equally large. Zeros change nothing: they stay zeros, and the other values what they were.

use burn::tensor::{Device, Int, Tensor, TensorData};
use latent_kernels::Muon;

use crate::ops::column_sums;

/// Rows and columns that Muon sees in a parameter of `shape`.
fn matrix(shape: &[usize]) -> [usize; 2] {
    let count: usize = shape.iter().product();
    [shape[0], count / shape[0].max(1)]
}

/// Matrices of one size.
#[derive(Clone, Debug)]
struct Stack {
    /// Count, rows, columns; as many rows as columns at most.
    shape: [usize; 3],
    /// Where each value lies in the tensor of all matrices; zeros come from its last value.
    from: Tensor<1, Int>,
    /// `[1, rows, rows]`.
    identity: Tensor<3>,
}

/// How the matrices of a model are turned.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    stacks: Vec<Stack>,
    /// Where each value of the tensor of all matrices lies in the stacks behind one another.
    back: Tensor<1, Int>,
    /// Length of each value's step beside the learning rate.
    lengths: Tensor<1>,
}

/// The larger side of a stack for matrices whose larger side is `columns`: few sizes, so few stacks.
fn roomy(columns: usize) -> usize {
    let power = columns.next_power_of_two();
    let less = power / 4 * 3;
    if columns <= less { less } else { power }
}

impl Turns {
    /// `places`: where each matrix begins in a tensor of `total` values, the last of which is always 0, and the
    /// parameter's shape.
    pub(super) fn new(places: &[(usize, Vec<usize>)], total: usize, device: &Device) -> Self {
        let mut sizes = std::collections::BTreeMap::<[usize; 2], Vec<(usize, [usize; 2])>>::new();
        let mut lengths = vec![0.0; total];
        for (start, shape) in places {
            let [rows, columns] = matrix(shape);
            let (less, more) = (rows.min(columns), rows.max(columns));
            lengths[*start..start + rows * columns].fill(Muon::LENGTH * (more as f32).sqrt());
            let size = [less, roomy(more)];
            sizes
                .entry(size)
                .or_default()
                .push((*start, [rows, columns]));
        }
        let mut back = vec![0; total];
        let (mut stacks, mut before) = (Vec::new(), 0);
        for ([rows, columns], members) in sizes {
            let mut from = vec![total as i32 - 1; members.len() * rows * columns];
            for (member, (start, own)) in members.iter().enumerate() {
                for row in 0..own[0] {
                    for column in 0..own[1] {
                        let place = match own[0] <= own[1] {
                            true => row * columns + column,
                            false => column * columns + row,
                        };
                        let place = member * rows * columns + place;
                        let source = start + row * own[1] + column;
                        from[place] = source as i32;
                        back[source] = (before + place) as i32;
                    }
                }
            }
            before += from.len();
            let diagonal = (0..rows * rows).map(|at| f32::from(u8::from(at % (rows + 1) == 0)));
            stacks.push(Stack {
                shape: [members.len(), rows, columns],
                from: ids(from, device),
                identity: Tensor::from_data(
                    TensorData::new(diagonal.collect::<Vec<f32>>(), [1, rows, rows]),
                    device,
                ),
            });
        }
        Self {
            stacks,
            back: ids(back, device),
            lengths: Tensor::from_data(TensorData::new(lengths, [total]), device),
        }
    }

    /// The directions of all matrices from what [`Muon::direction`] turns, each times its step's length beside the
    /// learning rate. The twin of the CPU's for many matrices.
    pub(super) fn directions(&self, ahead: Tensor<1>) -> Tensor<1> {
        let turned = self.stacks.iter().map(|stack| {
            let x = ahead.clone().select(0, stack.from.clone());
            let count: usize = stack.shape.iter().product();
            orthogonalised(x.reshape(stack.shape), &stack.identity).reshape([count])
        });
        let all = Tensor::cat(turned.collect(), 0);
        all.select(0, self.back.clone()) * self.lengths.clone()
    }
}

fn ids(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Sum of the squares of each matrix of `x [n, r, c]`: `[n, 1, 1]`.
fn squares(x: Tensor<3>) -> Tensor<3> {
    let [n, r, c] = x.dims();
    let rows = (x.clone() * x).reshape([n * r, c]);
    let columns = column_sums(rows, n).reshape([n * c, 1]);
    column_sums(columns, n).reshape([n, 1, 1])
}

/// `x [n, r, c]`, `r <= c`, with singular values between 0.7 and 1.2 and its singular vectors kept.
fn orthogonalised(x: Tensor<3>, identity: &Tensor<3>) -> Tensor<3> {
    let [a, b, c] = Muon::POLYNOMIAL;
    let length = squares(x.clone()).sqrt() + 1e-7;
    let mut x = x / length;
    let (first, second) = (identity.clone() * a, identity.clone() * b);
    for _ in 0..Muon::ROUNDS {
        let gram = x.clone().matmul(x.clone().swap_dims(1, 2));
        let factor = gram.clone() * c + second.clone();
        let factor = gram.matmul(factor) + first.clone();
        x = factor.matmul(x);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compute, Precision, to_host};

    fn drawn(len: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 7919 + i * i * 31 + seed * 577) % 1009) as f32 / 504.5 - 1.0;
        (0..len).map(number).collect()
    }

    /// The GPU's way run on the CPU, held against the CPU's kernel.
    #[test]
    fn matrices_in_stacks_turn_as_each_turns_alone() {
        let device = Compute::cpu(Precision::F32).device;
        let muon = Muon {
            lr: 0.05,
            momentum: 0.95,
            weight_decay: 0.1,
            precision: latent_kernels::Precision::F32,
        };
        let shapes = [
            vec![6, 40],
            vec![40, 6],
            vec![9, 9],
            vec![6, 3, 3, 3],
            vec![6, 37],
        ];
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (seed, shape) in shapes.iter().enumerate() {
            // A gap before each, as alignment makes it.
            values.resize(values.len() + 5, 0.0);
            places.push((values.len(), shape.clone()));
            values.extend(drawn(shape.iter().product(), seed));
        }
        values.push(0.0);
        let turns = Turns::new(&places, values.len(), &device);
        let all = Tensor::from_data(TensorData::new(values.clone(), [values.len()]), &device);
        let found = to_host(turns.directions(all)).0;
        for (start, shape) in &places {
            let count: usize = shape.iter().product();
            let range = *start..start + count;
            // A momentum of 0 makes the direction that of the gradient alone.
            let once = Muon {
                momentum: 0.0,
                ..muon
            };
            let mut memory = vec![0.0; count];
            let expected = once.direction(&values[range.clone()], &mut memory, 1.0, shape[0]);
            let length = 0.2 * (shape[0].max(count / shape[0]) as f32).sqrt();
            for (expected, found) in expected.iter().zip(&found[range]) {
                assert!(
                    (expected * length - found).abs() < 1e-4,
                    "{expected} {found}"
                );
            }
        }
    }

    #[test]
    fn squares_are_summed_by_matrix() {
        let device = Compute::cpu(Precision::F32).device;
        let values = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let x = Tensor::from_data(TensorData::new(values, [2, 2, 2]), &device);
        assert_eq!(to_host(squares(x)).0, [30.0, 174.0]);
    }
}
