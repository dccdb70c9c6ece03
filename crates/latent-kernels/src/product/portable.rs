//! Tiles in plain Rust: what the other instruction sets must equal, and the fallback.

use super::{Kernel, LANES, Tile};

pub(crate) const F32: Kernel = Kernel {
    tile: tile::<false>,
    rows: [4; 4],
};
pub(crate) const BF16: Kernel = Kernel {
    tile: tile::<true>,
    rows: [4; 4],
};

/// One row and one vector at a time.
///
/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile<const BF16: bool>(t: &Tile<'_>) {
    for row in t.rows {
        for vector in 0..t.vectors {
            let first = vector * LANES;
            let columns = if vector + 1 == t.vectors {
                t.last
            } else {
                LANES
            };
            let mut sums = [0.0; LANES];
            // SAFETY: the caller's promise covers the row's existing columns, and the padded bias.
            unsafe {
                if !t.bias.is_null() {
                    sums.copy_from_slice(std::slice::from_raw_parts(
                        t.bias.add(row.bias + first),
                        LANES,
                    ));
                }
                let c = t.c.add(row.c + first);
                if t.add {
                    for (j, sum) in sums[..columns].iter_mut().enumerate() {
                        *sum += *c.add(j);
                    }
                }
                sum_runs::<BF16>(t, row.a, first, &mut sums);
                for (j, sum) in sums[..columns].iter().enumerate() {
                    let residual = if t.residual.is_null() {
                        0.0
                    } else {
                        *t.residual.add(row.c + first + j)
                    };
                    *c.add(j) = sum + residual;
                }
            }
        }
    }
}

/// Adds the products of one row and 16 columns.
///
/// # Safety
/// As [`Kernel::tile`].
#[inline(always)]
unsafe fn sum_runs<const BF16: bool>(
    t: &Tile<'_>,
    row: usize,
    first: usize,
    sums: &mut [f32; LANES],
) {
    for run in t.runs {
        for k in 0..t.length {
            // SAFETY: the caller's promise.
            let (a, b) = unsafe {
                let b = t.b.add(run.b + k * t.b_step + first).cast::<[u32; LANES]>();
                (*t.a.add(row + run.a + k * t.a_step), &*b)
            };
            for (sum, &b) in sums.iter_mut().zip(b) {
                if BF16 {
                    *sum += f32::from_bits(a << 16) * f32::from_bits(b << 16);
                    *sum += f32::from_bits(a & 0xffff_0000) * f32::from_bits(b & 0xffff_0000);
                } else {
                    *sum += f32::from_bits(a) * f32::from_bits(b);
                }
            }
        }
    }
}
