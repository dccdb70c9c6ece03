//! Token merging: self-attention over fewer positions, where several look alike.
//!
//! Source: Bolya & Hoffman 2023 (arXiv:2303.17604), with the matching of their program `tomesd`.

use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use latent_nn::{Compute, Precision, to_host};

/// Positions of the largest level that self-attention takes together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenMerging {
    /// The share of them that others stand for, 0 to 0.75: of each square of four one stays.
    pub share: f64,
    /// What the choice of the one that stays follows from, as the number of the call; `None` keeps the first of each square.
    pub turn: Option<u64>,
}

/// Which positions of one tensor are taken together, and where each is found afterwards.
pub(super) struct Merge {
    /// Rows `n * l` of those that stay, pictures one after the other.
    kept: Tensor<1, Int>,
    /// Rows of those that are taken into others, and whom they join among the kept.
    joining: [Tensor<1, Int>; 2],
    /// One part of so many, `[n * kept, 1]`.
    shares: Tensor<2>,
    /// Row among the kept for each position.
    places: Tensor<1, Int>,
    /// Kept positions of a picture.
    count: usize,
}

/// What a [`Merge`] is made from, on the host.
#[derive(Default)]
struct Rows {
    kept: Vec<usize>,
    joining: Vec<usize>,
    joined: Vec<usize>,
    shares: Vec<f32>,
    places: Vec<usize>,
}

impl Rows {
    /// Adds a picture, whose positions begin at row `row` and are kept from row `place` on: of its sources the `merged` that
    /// are most alike to a target are taken into it.
    fn add(
        &mut self,
        split: &Split,
        (alike, whom): (&[f32], &[f32]),
        merged: usize,
        [row, place]: [usize; 2],
    ) {
        let (sources, targets) = (&split.sources, &split.targets);
        let mut order: Vec<usize> = (0..sources.len()).collect();
        // The most alike first; of equals the earlier.
        order.sort_by(|&a, &b| alike[b].total_cmp(&alike[a]).then(a.cmp(&b)));
        let (taken, left) = order.split_at(merged);
        let stay = left.iter().map(|&source| sources[source]);
        let mut places = vec![0; sources.len() + targets.len()];
        for (k, position) in stay.chain(targets.iter().copied()).enumerate() {
            self.kept.push(row + position);
            places[position] = place + k;
        }
        let mut parts = vec![1.0_f32; left.len() + targets.len()];
        for &source in taken {
            let target = left.len() + whom[source] as usize;
            self.joining.push(row + sources[source]);
            self.joined.push(place + target);
            places[sources[source]] = place + target;
            parts[target] += 1.0;
        }
        self.places.extend(places);
        self.shares.extend(parts.iter().map(|parts| 1.0 / parts));
    }
}

/// Those of a picture's positions that may be taken into others, and those that may not.
struct Split {
    sources: Vec<usize>,
    targets: Vec<usize>,
}

impl Split {
    /// One target in each square of two by two of `[h, w]`; what fills no square is a source.
    fn new([h, w]: [usize; 2], merging: TokenMerging, layer: usize) -> Self {
        let mut is_target = vec![false; h * w];
        for (square, (row, column)) in (0..h / 2)
            .flat_map(|row| (0..w / 2).map(move |column| (row, column)))
            .enumerate()
        {
            let corner = merging.turn.map_or(0, |turn| {
                scrambled(scrambled(turn ^ ((layer as u64) << 32)) ^ square as u64) % 4
            }) as usize;
            is_target[(2 * row + corner / 2) * w + 2 * column + corner % 2] = true;
        }
        let (targets, sources) = (0..h * w).partition(|&position| is_target[position]);
        Self { sources, targets }
    }
}

impl Merge {
    /// Of what self-attention layer `layer` sees, `x [n, h * w, c]`; `None` where there is nothing to merge.
    pub(super) fn of(
        x: &Tensor<3>,
        [h, w]: [usize; 2],
        merging: TokenMerging,
        layer: usize,
    ) -> Option<Self> {
        let split = Split::new([h, w], merging, layer);
        let merged = ((h * w) as f64 * merging.share) as usize;
        let merged = merged.min(split.sources.len());
        if merged == 0 || split.targets.is_empty() {
            return None;
        }
        Some(Self::joined(x, &split, merged))
    }

    fn joined(x: &Tensor<3>, split: &Split, merged: usize) -> Self {
        let [n, length, _] = x.dims();
        let compute = Compute {
            device: x.device(),
            precision: Precision::F32,
        };
        let (alike, whom) = nearest(x, split, &compute);
        let sources = split.sources.len();
        let (count, mut rows) = (length - merged, Rows::default());
        for picture in 0..n {
            let own = picture * sources..(picture + 1) * sources;
            let starts = [picture * length, picture * count];
            rows.add(split, (&alike[own.clone()], &whom[own]), merged, starts);
        }
        let ids = |rows: Vec<usize>| {
            let rows: Vec<u32> = rows.into_iter().map(|row| row as u32).collect();
            compute.ids(&rows, [rows.len()])
        };
        Self {
            kept: ids(rows.kept),
            joining: [rows.joining, rows.joined].map(ids),
            shares: compute.tensor(rows.shares, [n * count, 1]),
            places: ids(rows.places),
            count,
        }
    }

    /// `x [n, l, c]` with means in the place of what is taken together, `[n, kept, c]`.
    pub(super) fn merge(&self, x: Tensor<3>) -> Tensor<3> {
        let [n, length, c] = x.dims();
        let rows = x.reshape([n * length, c]);
        let kept = rows.clone().select(0, self.kept.clone());
        let [joining, joined] = self.joining.clone();
        let kept = kept.select_assign(0, joined, rows.select(0, joining), IndexingUpdateOp::Add);
        (kept * self.shares.clone()).reshape([n, self.count, c])
    }

    /// `x [n, kept, c]` with every position back in its place, those taken together with the same values, `[n, l, c]`.
    pub(super) fn unmerge(&self, x: Tensor<3>) -> Tensor<3> {
        let [n, count, c] = x.dims();
        let length = self.places.dims()[0] / n;
        let rows = x.reshape([n * count, c]);
        rows.select(0, self.places.clone()).reshape([n, length, c])
    }
}

/// Of each source, picture after picture: how alike the target is that is most so, and its number.
fn nearest(x: &Tensor<3>, split: &Split, compute: &Compute) -> (Vec<f32>, Vec<f32>) {
    let lengths = (x.clone() * x.clone()).sum_dim(2).sqrt();
    let directions = x.clone() / lengths;
    let chosen = |positions: &[usize]| {
        let positions: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        let ids = compute.ids(&positions, [positions.len()]);
        directions.clone().select(1, ids)
    };
    let (sources, targets) = (chosen(&split.sources), chosen(&split.targets));
    let scores = sources.matmul(targets.swap_dims(1, 2));
    let (alike, whom) = scores.max_dim_with_indices(2);
    // Numbers of positions are exact in f32.
    (to_host(alike).0, to_host(whom.float()).0)
}

/// The finaliser of splitmix64. Source: Steele, Lea and Flood 2014 (OOPSLA), with Stafford's constants.
fn scrambled(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
