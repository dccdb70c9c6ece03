//! Rounding and turning with 512-bit registers.

use std::arch::x86_64::*;

use super::LANES;

/// Mask of the first `count` lanes, 16 at most.
fn first(count: usize) -> u16 {
    ((1u32 << count.min(LANES)) - 1) as u16
}

/// 32 values to 16 units; a missing last value is 0.
///
/// # Safety
/// The CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn neighbours(values: &[f32], units: &mut [u32]) {
    let len = values.len();
    assert!(units.len() >= len.div_ceil(2), "too few units");
    let whole = len / (2 * LANES) * (2 * LANES);
    // SAFETY: whole vectors lie in the slices, whose lengths were checked; masks leave out what lies behind their ends.
    unsafe {
        let (from, to) = (values.as_ptr(), units.as_mut_ptr());
        for start in (0..whole).step_by(2 * LANES) {
            let low = _mm512_loadu_ps(from.add(start));
            let high = _mm512_loadu_ps(from.add(start + LANES));
            _mm512_storeu_si512(to.add(start / 2).cast(), both(low, high));
        }
        if whole < len {
            let rest = len - whole;
            let low = _mm512_maskz_loadu_ps(first(rest), from.add(whole));
            let high = first(rest.saturating_sub(LANES));
            let high = _mm512_maskz_loadu_ps(high, from.wrapping_add(whole + LANES));
            let to = to.add(whole / 2).cast();
            _mm512_mask_storeu_epi32(to, first(rest.div_ceil(2)), both(low, high));
        }
    }
}

/// 32 values, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn both(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 512 bits without an invalid value.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Two rows to one row of units.
///
/// # Safety
/// The CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pairs(low: &[f32], high: &[f32], units: &mut [u32]) {
    let len = low.len();
    assert!(
        len == high.len() && units.len() >= len,
        "rows of different lengths"
    );
    let whole = len / LANES * LANES;
    // SAFETY: whole vectors lie in the slices, whose lengths were checked; masks leave out what lies behind their ends.
    unsafe {
        let (low, high, to) = (low.as_ptr(), high.as_ptr(), units.as_mut_ptr());
        for start in (0..whole).step_by(LANES) {
            let low = _mm512_loadu_ps(low.add(start));
            let high = _mm512_loadu_ps(high.add(start));
            _mm512_storeu_si512(to.add(start).cast(), woven(low, high));
        }
        if whole < len {
            let mask = first(len - whole);
            let low = _mm512_maskz_loadu_ps(mask, low.add(whole));
            let high = _mm512_maskz_loadu_ps(mask, high.add(whole));
            _mm512_mask_storeu_epi32(to.add(whole).cast(), mask, woven(low, high));
        }
    }
}

/// 16 values and the 16 that follow them on the summed axis, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn woven(low: __m512, high: __m512) -> __m512i {
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    _mm512_permutexvar_epi16(order, both(low, high))
}

/// `out[step * width + j] = rows[j * k + step]` for 16 rows and 16 steps.
///
/// # Safety
/// The CPU has these features.
#[target_feature(enable = "avx512f")]
pub(in crate::product) unsafe fn turn(rows: &[u32], k: usize, width: usize, out: &mut [u32]) {
    let last = LANES - 1;
    assert!(
        rows.len() >= last * k + LANES && out.len() >= last * width + LANES,
        "a block too small"
    );
    // SAFETY: lengths were just checked.
    let mut x: [__m512i; LANES] =
        std::array::from_fn(|j| unsafe { _mm512_loadu_si512(rows.as_ptr().add(j * k).cast()) });
    // Within 128-bit quarters: 2 by 2 units, then 4 by 4.
    let mut y = x;
    for i in 0..LANES / 2 {
        y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    for i in 0..LANES / 4 {
        let [a, b, c, d] = [y[4 * i], y[4 * i + 1], y[4 * i + 2], y[4 * i + 3]];
        x[4 * i] = _mm512_unpacklo_epi64(a, c);
        x[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        x[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        x[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Now quarter q of x[4 g + c] holds step 4 q + c of rows 4 g to 4 g + 3; gather the quarters.
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(x[c], x[4 + c]);
        let high = _mm512_shuffle_i32x4::<0x88>(x[8 + c], x[12 + c]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(x[c], x[4 + c]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(x[8 + c], x[12 + c]);
        y[c] = _mm512_shuffle_i32x4::<0x88>(low, high);
        y[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, high);
        y[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        y[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    for (step, y) in y.into_iter().enumerate() {
        // SAFETY: lengths were checked above.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(step * width).cast(), y) }
    }
}
