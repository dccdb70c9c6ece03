//! Tiles of 16 rows by 64 bytes in eight registers, multiplied at once: bf16 only.
//!
//! The instructions are written as assembly, as Rust has none stable for them. A tile is loaded several times faster
//! when none of its rows crosses a line of the cache. Panels never do; the left operand is read in place where its
//! rows lie that way, at one distance from each other, and is copied tile by tile where they do not.
//!
//! A product of tiles rounds every sum as it goes along `k`, whatever the other rows of the tile are, so rows that
//! fill a tile up need not even be zero.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;

use super::pack::avx512::turn;
use super::{DEPTH, LANES, PANEL, Pass, RUNS, Row, Run, Tile};
use crate::shared::Units;

/// Units of a tile.
const TILE: usize = LANES * LANES;
/// Bytes of a unit.
const UNIT: usize = 4;
/// Most units of the left operand that are copied before they are multiplied, so that they stay in the cache.
const COPIED: usize = 64 * 1024;
/// Most steps of a pass: whole tiles of the summed axis, and a shorter one a run.
const STEPS: usize = DEPTH / LANES + RUNS;

/// Whether this machine has the instructions, and the system lets this process use them.
pub(crate) fn works() -> bool {
    /// Bits of CPUID leaf 7's EDX: tiles, and their products of bf16.
    const FEATURES: u32 = 1 << 24 | 1 << 22;
    __cpuid_count(7, 0).edx & FEATURES == FEATURES && permitted()
}

/// Asks for the registers, whose 8 KiB the system saves for those who asked.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: this call reads and writes no memory of ours.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") TILE_DATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads: rows, and bytes of a row, of each register.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    /// Registers 0 to 3 for sums, 4 and 6 for whole tiles of either operand, 5 and 7 for those of `rest` units.
    fn of(rest: usize) -> Self {
        let (whole, rest) = (LANES as u8, rest as u8);
        let width = |units: u8| u16::from(units) * UNIT as u16;
        let mut new = Self {
            palette: 1,
            start: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for register in [0, 1, 2, 3, 4, 6] {
            (new.row_bytes[register], new.rows[register]) = (width(whole), whole);
        }
        if rest > 0 {
            (new.row_bytes[5], new.rows[5]) = (width(rest), whole);
            (new.row_bytes[7], new.rows[7]) = (width(whole), rest);
        }
        new
    }
}

/// Where a step of up to 16 units begins in either operand, in bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Step {
    a: usize,
    b: usize,
}

/// All steps of a pass for one panel: whole tiles of all runs, then what is left of each.
struct Steps {
    steps: [Step; STEPS],
    whole: usize,
    rest: usize,
    /// Bytes from one row of a tile to the next in either operand.
    a_row: usize,
    b_row: usize,
}

/// The left operand as tiles: where each 16 rows begin, and the bytes from one row to the next.
struct Left<'a> {
    tiles: *const u32,
    /// The rows themselves where they are read in place, else none.
    rows: Option<&'a [Row]>,
    /// Units from one tile of 16 rows to the next where they were copied.
    tile: usize,
    row_bytes: usize,
}

thread_local! {
    static COPY: Cell<Units> = const { Cell::new(Units::EMPTY) };
}

/// Multiplies a whole pass.
///
/// # Safety
/// As [`Pass::run`], and [`works`] said so.
pub(super) unsafe fn run(pass: &Pass<'_>) {
    let product = pass.product;
    let in_place = pass.row_distance();
    let rows_at_once = match in_place {
        Some(_) => product.rows.len().max(1),
        None => (COPIED / (pass.steps() * LANES).max(1)).next_multiple_of(2 * LANES),
    };
    let (mut steps, mut copy) = (Steps::NONE, COPY.take());
    let configuration = Configuration::of(pass.length % LANES);
    // SAFETY: the caller's promise; the configuration is one of palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) }
    for rows in product.rows.chunks(rows_at_once) {
        let left = match in_place {
            Some(distance) => Left {
                tiles: product.a.as_ptr(),
                rows: Some(rows),
                tile: 0,
                row_bytes: distance * UNIT,
            },
            // SAFETY: the caller's promise.
            None => unsafe { pass.copied(rows, &mut copy) },
        };
        for first in product.columns.clone().step_by(PANEL) {
            let mut runs = [Run::default(); RUNS];
            let tile = pass.tile(first, rows, pass.runs(first, &mut runs));
            steps.fill(&tile, &left);
            // SAFETY: the caller's promise.
            unsafe { panel(&tile, &left, &steps) }
        }
    }
    // SAFETY: the caller's promise; this gives the registers back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
    COPY.set(copy);
}

impl Pass<'_> {
    /// Tiles of the summed axis.
    fn steps(&self) -> usize {
        self.parts.len() * self.length.div_ceil(LANES)
    }

    /// Units from one row of the left operand to the next, if tiles can be loaded where they lie.
    fn row_distance(&self) -> Option<usize> {
        let (a, rows) = (self.product.a, self.product.rows);
        let on_line = |units: usize| units.is_multiple_of(LANES);
        let distance = match rows {
            [one, two, ..] => two.a.checked_sub(one.a)?,
            _ => return None,
        };
        let regular = |rows: &[Row]| {
            let places = rows.iter().enumerate();
            let expected = |i| rows[0].a + i * distance;
            on_line(rows[0].a) && places.into_iter().all(|(i, row)| row.a == expected(i))
        };
        let furthest = self.parts.iter().map(|part| part.a).max()? + self.length;
        let last = rows.chunks(LANES).last()?[0].a + (LANES - 1) * distance;
        let fits = self.product.a_step == 1
            && on_line(distance)
            && a.as_ptr().cast::<u8>().align_offset(LANES * UNIT) == 0
            && self.parts.iter().all(|part| on_line(part.a))
            && last + furthest <= a.len()
            && rows.chunks(LANES).all(regular);
        fits.then_some(distance)
    }

    /// Copies the left operand of `rows` tile by tile: `[rows / 16][steps][16][16]` units.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn copied(&self, rows: &[Row], copy: &mut Units) -> Left<'static> {
        let steps = self.steps();
        copy.grow(rows.len().div_ceil(LANES) * steps * TILE);
        for (rows, tiles) in rows
            .chunks(LANES)
            .zip(copy.chunks_exact_mut((steps * TILE).max(1)))
        {
            if self.product.a_step == 1 {
                // SAFETY: the caller's promise.
                unsafe { self.copy_rows(rows, tiles.as_mut_ptr()) }
            } else {
                self.copy_columns(rows, tiles);
            }
        }
        Left {
            tiles: copy.as_ptr(),
            rows: None,
            tile: steps * TILE,
            row_bytes: LANES * UNIT,
        }
    }

    /// Calls `visit(step, first unit, units)` in the order of [`Steps`], with offsets into the left operand.
    fn each_step(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let (whole, rest, a_step) = (
            self.length / LANES,
            self.length % LANES,
            self.product.a_step,
        );
        for (i, part) in self.parts.iter().enumerate() {
            for j in 0..whole {
                visit(i * whole + j, part.a + j * LANES * a_step, LANES);
            }
            if rest > 0 {
                visit(
                    self.parts.len() * whole + i,
                    part.a + whole * LANES * a_step,
                    rest,
                );
            }
        }
    }

    /// Tiles of 16 rows at most, whose units are neighbours.
    ///
    /// # Safety
    /// As [`run`]; `tiles` has room for [`steps`](Self::steps) tiles.
    #[target_feature(enable = "avx512f")]
    unsafe fn copy_rows(&self, rows: &[Row], tiles: *mut u32) {
        let (whole, rest) = (self.length / LANES, self.length % LANES);
        let mask = (1 << rest) - 1;
        for (i, row) in rows.iter().enumerate() {
            for (j, part) in self.parts.iter().enumerate() {
                // SAFETY: the caller's promise; the mask leaves out what lies behind the part.
                unsafe {
                    let from = self.product.a.as_ptr().add(row.a + part.a);
                    let to = tiles.add(i * LANES);
                    for k in 0..whole {
                        let units = _mm512_loadu_si512(from.add(k * LANES).cast());
                        _mm512_store_si512(to.add((j * whole + k) * TILE).cast(), units);
                    }
                    if rest > 0 {
                        let units = _mm512_maskz_loadu_epi32(mask, from.add(whole * LANES).cast());
                        let step = self.parts.len() * whole + j;
                        _mm512_store_si512(to.add(step * TILE).cast(), units);
                    }
                }
            }
        }
    }

    /// Tiles of 16 rows at most, where the neighbours of a unit are those of the next rows.
    fn copy_columns(&self, rows: &[Row], tiles: &mut [u32]) {
        let (a, a_step, count) = (self.product.a, self.product.a_step, rows.len());
        let neighbours = rows.windows(2).all(|rows| rows[1].a == rows[0].a + 1);
        self.each_step(|step, first, units| {
            let tile = &mut tiles[step * TILE..][..TILE];
            if neighbours && units == LANES && count == LANES {
                return square(&a[rows[0].a + first..], a_step, tile);
            }
            let mut lines = [0; TILE];
            for (k, line) in lines.chunks_exact_mut(LANES).take(units).enumerate() {
                for (unit, row) in line.iter_mut().zip(rows) {
                    *unit = a[row.a + first + k * a_step];
                }
            }
            square(&lines, LANES, tile);
        });
    }
}

/// `tile[i * 16 + k] = lines[k * step + i]`.
fn square(lines: &[u32], step: usize, tile: &mut [u32]) {
    // SAFETY: a machine with these tiles has AVX-512.
    unsafe { turn(lines, step, LANES, tile) }
}

impl Steps {
    const NONE: Self = Self {
        steps: [Step { a: 0, b: 0 }; STEPS],
        whole: 0,
        rest: 0,
        a_row: 0,
        b_row: 0,
    };

    /// The steps of a panel.
    fn fill(&mut self, tile: &Tile<'_>, left: &Left<'_>) {
        let (whole, rest) = (tile.length / LANES, tile.length % LANES);
        self.whole = tile.runs.len() * whole;
        self.rest = tile.runs.len() * usize::from(rest > 0);
        (self.a_row, self.b_row) = (left.row_bytes, tile.b_step * UNIT);
        for (i, run) in tile.runs.iter().enumerate() {
            let mut put = |at: usize, unit: usize| {
                let copied = left.rows.is_none();
                let a = if copied { at * TILE } else { run.a + unit };
                let b = run.b + unit * tile.b_step;
                self.steps[at] = Step {
                    a: a * UNIT,
                    b: b * UNIT,
                };
            };
            for j in 0..whole {
                put(i * whole + j, j * LANES);
            }
            if rest > 0 {
                put(tile.runs.len() * whole + i, whole * LANES);
            }
        }
    }
}

impl Left<'_> {
    /// Tile `i` of 16 rows.
    fn tile(&self, i: usize) -> *const u32 {
        match self.rows {
            Some(rows) => self.tiles.wrapping_add(rows[i * LANES].a),
            None => self.tiles.wrapping_add(i * self.tile),
        }
    }
}

/// Sums of two tiles down by two across.
#[repr(align(64))]
struct Sums([f32; 4 * TILE]);

/// Multiplies the tile's rows with one panel, 32 rows by 32 columns at a time.
///
/// # Safety
/// As [`run`], with registers configured for the tile's length.
unsafe fn panel(tile: &Tile<'_>, left: &Left<'_>, steps: &Steps) {
    let mut sums = Sums([0.0; 4 * TILE]);
    for (i, rows) in tile.rows.chunks(2 * LANES).enumerate() {
        let upper = left.tile(2 * i);
        // The last 16 rows, where nothing follows them, are multiplied twice.
        let lower = if rows.len() > LANES {
            left.tile(2 * i + 1)
        } else {
            upper
        };
        let left = [upper, lower].map(|tile| tile as usize);
        for vector in (0..tile.vectors).step_by(2) {
            let b = tile.b.wrapping_add(vector * LANES);
            // SAFETY: the caller's promise; sums have room for four tiles.
            unsafe {
                if tile.vectors - vector > 1 {
                    multiply_by_two(steps, left, b, &mut sums);
                } else {
                    multiply_by_one(steps, left, b, &mut sums);
                }
                finish(tile, rows, vector, &sums);
            }
        }
    }
}

/// A function that sums the products of two tiles down with one or two across over all steps.
macro_rules! multiply {
    ($name:ident, [$($zero:literal)*], $step:ident, [$($store:literal)*]) => {
        /// # Safety
        /// As [`panel`].
        unsafe fn $name(steps: &Steps, [upper, lower]: [usize; 2], b: *const u32, sums: &mut Sums) {
            // SAFETY: the caller's promise; no other register is touched.
            unsafe {
                asm!(
                    $($zero,)*
                    "test {whole}, {whole}",
                    "jz 3f",
                    "2:",
                    $step!("tmm4", "tmm6"),
                    "dec {whole}",
                    "jnz 2b",
                    "3:",
                    "test {rest}, {rest}",
                    "jz 5f",
                    "4:",
                    $step!("tmm5", "tmm7"),
                    "dec {rest}",
                    "jnz 4b",
                    "5:",
                    "mov {x:e}, 64",
                    $($store,)*
                    step = inout(reg) steps.steps.as_ptr() => _,
                    whole = inout(reg) steps.whole => _,
                    rest = inout(reg) steps.rest => _,
                    a = in(reg) upper,
                    down = in(reg) lower.wrapping_sub(upper),
                    a_row = in(reg) steps.a_row,
                    b = in(reg) b,
                    b_row = in(reg) steps.b_row,
                    sums = in(reg) sums.0.as_mut_ptr(),
                    x = out(reg) _,
                    y = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

/// One step of four products; sums are `[down][across]`.
macro_rules! step_by_two {
    ($a:literal, $b:literal) => {
        concat!(
            "mov {x}, [{step}]\n mov {y}, [{step} + 8]\n add {step}, 16\n add {x}, {a}\n add {y}, {b}\n",
            "tileloadd ", $b, ", [{y} + {b_row}]\n",
            "tileloadd ", $a, ", [{x} + {a_row}]\n tdpbf16ps tmm0, ", $a, ", ", $b, "\n add {x}, {down}\n",
            "tileloadd ", $a, ", [{x} + {a_row}]\n tdpbf16ps tmm2, ", $a, ", ", $b, "\n sub {x}, {down}\n",
            "tileloadd ", $b, ", [{y} + {b_row} + 64]\n tdpbf16ps tmm3, ", $a, ", ", $b, "\n",
            "tileloadd ", $a, ", [{x} + {a_row}]\n tdpbf16ps tmm1, ", $a, ", ", $b,
        )
    };
}

/// One step of two products, one below the other.
macro_rules! step_by_one {
    ($a:literal, $b:literal) => {
        concat!(
            "mov {x}, [{step}]\n mov {y}, [{step} + 8]\n add {step}, 16\n add {x}, {a}\n add {y}, {b}\n",
            "tileloadd ", $b, ", [{y} + {b_row}]\n",
            "tileloadd ", $a, ", [{x} + {a_row}]\n tdpbf16ps tmm0, ", $a, ", ", $b, "\n add {x}, {down}\n",
            "tileloadd ", $a, ", [{x} + {a_row}]\n tdpbf16ps tmm2, ", $a, ", ", $b,
        )
    };
}

multiply!(
    multiply_by_two,
    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
    step_by_two,
    [
        "tilestored [{sums} + {x}], tmm0"
        "tilestored [{sums} + {x} + 1024], tmm1"
        "tilestored [{sums} + {x} + 2048], tmm2"
        "tilestored [{sums} + {x} + 3072], tmm3"
    ]
);
multiply!(
    multiply_by_one,
    ["tilezero tmm0" "tilezero tmm2"],
    step_by_one,
    [
        "tilestored [{sums} + {x}], tmm0"
        "tilestored [{sums} + {x} + 2048], tmm2"
    ]
);

/// Adds what else there is to the sums of up to 32 rows and two vectors from `vector` on, and writes them.
///
/// # Safety
/// As [`panel`].
#[target_feature(enable = "avx512f")]
unsafe fn finish(tile: &Tile<'_>, rows: &[Row], vector: usize, sums: &Sums) {
    for (i, row) in rows.iter().enumerate() {
        for v in vector..tile.vectors.min(vector + 2) {
            let whole = v + 1 < tile.vectors || tile.last == LANES;
            let mask = if whole {
                u16::MAX
            } else {
                u16::MAX >> (LANES - tile.last)
            };
            let place = row.c + v * LANES;
            let at = (i / LANES * 2 + v - vector) * TILE + i % LANES * LANES;
            // SAFETY: the caller's promise; the mask leaves out columns that are not there.
            unsafe {
                let mut sum = _mm512_load_ps(sums.0[at..].as_ptr());
                if tile.add {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, tile.c.add(place)), sum);
                }
                if !tile.bias.is_null() {
                    sum = _mm512_add_ps(_mm512_loadu_ps(tile.bias.add(row.bias + v * LANES)), sum);
                }
                if !tile.residual.is_null() {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, tile.residual.add(place)));
                }
                if whole {
                    _mm512_storeu_ps(tile.c.add(place), sum);
                } else {
                    _mm512_mask_storeu_ps(tile.c.add(place), mask, sum);
                }
            }
        }
    }
}
