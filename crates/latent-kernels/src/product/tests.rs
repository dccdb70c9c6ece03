//! Every instruction set against the portable one, over sizes that meet every tail.

use super::pack::to_bf16;
use super::*;
use crate::isa::{LEVELS, detected};
use crate::shared::Units;

/// Rows, columns, units of a part, parts.
const SIZES: &[[usize; 4]] = &[
    [1, 1, 1, 1],
    [5, 17, 3, 2],
    [7, 20, 0, 0],
    [16, 16, 16, 1],
    [17, 33, 20, 3],
    [31, 48, 5, 70],
    [32, 64, 32, 2],
    [33, 80, 15, 5],
    [48, 100, 40, 1],
    [70, 130, 24, 3],
    [3, 50, 1600, 1],
    [40, 16, 1000, 2],
];

/// How the left operand lies in memory.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// Rows and parts begin at lines of the cache.
    Lines,
    /// They begin anywhere.
    Anywhere,
    /// Rows are neighbours, steps of the summed axis are apart.
    Turned,
}

const LAYOUTS: [Layout; 3] = [Layout::Lines, Layout::Anywhere, Layout::Turned];

/// A product with everything it can have.
struct Case {
    precision: Precision,
    a: Units,
    b: Units,
    rows: Vec<Row>,
    parts: Vec<Part>,
    length: usize,
    a_step: usize,
    n: usize,
    bias: Vec<f32>,
    residual: Vec<f32>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

/// Values in -1..1 that look random.
fn values(len: usize, seed: u32) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len)
}

fn units(len: usize, seed: u32, precision: Precision) -> Units {
    let mut units = Units::zeros(len);
    let pairs = values(len, seed).zip(values(len, seed + 1));
    for (unit, (low, high)) in units.iter_mut().zip(pairs) {
        *unit = match precision {
            Precision::F32 => low.to_bits(),
            Precision::Bf16 => to_bf16(low) | to_bf16(high) << 16,
            Precision::Int8 => low.to_bits().rotate_left(9) ^ high.to_bits().rotate_left(20),
        };
    }
    units
}

impl Case {
    fn new([rows, n, length, parts]: [usize; 4], layout: Layout, precision: Precision) -> Self {
        let line = length.next_multiple_of(LANES);
        let (row, part, a_step) = match layout {
            Layout::Lines => (parts * line, line, 1),
            Layout::Anywhere => (parts * (length + 1) + 3, length + 1, 1),
            Layout::Turned => (1, length * (rows + 2), rows + 2),
        };
        let padded = n.next_multiple_of(LANES);
        let end = rows * row + parts * part + length * a_step + 16 * row;
        Self {
            precision,
            a: units(end, 1, precision),
            b: units(Panels::group(n, parts * length), 2, precision),
            // Outputs lie backwards and apart.
            rows: (0..rows)
                .map(|i| Row {
                    a: i * row,
                    c: (rows - 1 - i) * (n + 1),
                    bias: i % 2 * padded,
                    scale: (i + 1) as f32 / 4096.0,
                })
                .collect(),
            parts: (0..parts)
                .map(|i| Part {
                    a: i * part,
                    group: 0,
                    k: (parts - 1 - i) * length,
                })
                .collect(),
            length,
            a_step,
            n,
            bias: values(2 * padded, 3).collect(),
            residual: values(rows * (n + 1), 4).collect(),
            scales: values(padded, 6).collect(),
            offsets: (0..padded).map(|j| j as i32 * 1001 - 7).collect(),
        }
    }

    /// The output after the product of some rows; `plain` leaves out all that is added.
    fn run(&self, level: Level, rows: &[Row], plain: bool) -> Vec<f32> {
        let mut c: Vec<f32> = values(self.residual.len(), 5).collect();
        let product = Product {
            precision: self.precision,
            a: &self.a,
            rows,
            parts: &self.parts,
            length: self.length,
            a_step: self.a_step,
            b: Panels {
                data: &self.b,
                n: self.n,
                k: self.parts.len() * self.length,
                scales: (self.precision == Precision::Int8).then_some(Scales {
                    scales: &self.scales,
                    offsets: &self.offsets,
                }),
            },
            columns: 0..self.n,
            bias: (!plain).then_some(&self.bias),
            add: !plain && self.precision != Precision::Int8,
        };
        let residual = if plain {
            std::ptr::null()
        } else {
            self.residual.as_ptr()
        };
        // SAFETY: `c` and the residual hold all rows, and this machine has the level.
        unsafe { product.run_at(level, c.as_mut_ptr(), residual) }
        c
    }
}

/// Calls `test(case, level, what it is)` for every case and every level of this machine.
fn each_case(test: impl Fn(&Case, Level, &str)) {
    for (name, level) in LEVELS.iter().filter(|row| row.1 <= detected()) {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            for (size, layout) in SIZES
                .iter()
                .flat_map(|size| LAYOUTS.map(|layout| (size, layout)))
            {
                let case = Case::new(*size, layout, precision);
                test(
                    &case,
                    *level,
                    &format!("{name} {precision:?} {size:?} {layout:?}"),
                );
            }
        }
    }
}

#[test]
fn every_instruction_set_equals_the_portable_one() {
    each_case(|case, level, what| {
        for plain in [true, false] {
            let expected = case.run(Level::Portable, &case.rows, plain);
            let got = case.run(level, &case.rows, plain);
            let scale = expected.iter().fold(1.0f32, |a, b| a.max(b.abs()));
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                // Rounding of f32 sums over some thousand terms of size one.
                let near = (got - expected).abs() <= 2e-5 * scale;
                assert!(
                    near,
                    "{what}, plain {plain}: value {i} is {got}, not {expected}"
                );
            }
        }
    });
}

#[test]
fn a_row_has_the_same_bits_whatever_rows_are_beside_it() {
    each_case(|case, level, what| {
        let all = case.run(level, &case.rows, false);
        for (i, row) in case.rows.iter().enumerate().step_by(3) {
            let alone = case.run(level, std::slice::from_ref(row), false);
            let place = row.c..row.c + case.n;
            assert!(
                all[place.clone()] == alone[place],
                "{what}: row {i} alone differs"
            );
            let some = case.run(level, &case.rows[i..], false);
            let place = row.c..row.c + case.n;
            assert!(
                all[place.clone()] == some[place],
                "{what}: rows from {i} on differ"
            );
        }
    });
}

#[test]
fn what_is_not_a_number_stays_in_its_row_and_its_column() {
    let nan = f32::NAN.to_bits();
    each_case(|case, level, what| {
        // Bytes are all numbers; a row or column of them that holds none has a scale that is none.
        let bytes = case.precision == Precision::Int8;
        if bytes || case.parts.is_empty() || case.rows.len() < 2 || case.n < 2 {
            return;
        }
        let mut case = Case {
            a: case.a.clone(),
            b: case.b.clone(),
            rows: case.rows.clone(),
            parts: case.parts.clone(),
            bias: case.bias.clone(),
            residual: case.residual.clone(),
            scales: Vec::new(),
            offsets: Vec::new(),
            ..*case
        };
        let row = case.rows[case.rows.len() - 1];
        case.a[row.a + case.parts[0].a] = nan;
        case.b[0] = nan;
        let out = case.run(level, &case.rows, true);
        for (i, row) in case.rows.iter().enumerate() {
            for (j, value) in out[row.c..][..case.n].iter().enumerate() {
                let expected = i + 1 == case.rows.len() || j == 0;
                assert_eq!(
                    value.is_nan(),
                    expected,
                    "{what}: row {i}, column {j} is {value}"
                );
            }
        }
    });
}
