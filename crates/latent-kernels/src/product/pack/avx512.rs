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
    for start in (0..len).step_by(2 * LANES) {
        let rest = len - start;
        // SAFETY: masks leave out what lies behind the slices' ends, whose lengths were checked.
        unsafe {
            let values = values.as_ptr().add(start);
            let low = _mm512_maskz_loadu_ps(first(rest), values);
            let high = first(rest.saturating_sub(LANES));
            let high = _mm512_maskz_loadu_ps(high, values.wrapping_add(LANES));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            let units = units.as_mut_ptr().add(start / 2).cast();
            if rest >= 2 * LANES {
                _mm512_storeu_si512(units, both);
            } else {
                _mm512_mask_storeu_epi32(units.cast(), first(rest.div_ceil(2)), both);
            }
        }
    }
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
    for start in (0..len).step_by(LANES) {
        let mask = first(len - start);
        // SAFETY: the mask leaves out what lies behind the slices' ends, whose lengths were checked.
        unsafe {
            let widen =
                |x: __m256bh| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(x));
            let low = _mm512_maskz_loadu_ps(mask, low.as_ptr().add(start));
            let high = _mm512_maskz_loadu_ps(mask, high.as_ptr().add(start));
            let (low, high) = (
                widen(_mm512_cvtneps_pbh(low)),
                widen(_mm512_cvtneps_pbh(high)),
            );
            let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            let units = units.as_mut_ptr().add(start);
            if mask == u16::MAX {
                _mm512_storeu_si512(units.cast(), both);
            } else {
                _mm512_mask_storeu_epi32(units.cast(), mask, both);
            }
        }
    }
}

/// `out[step * width + j] = rows[j * k + step]` for 16 rows and 16 steps.
///
/// # Safety
/// The CPU has these features.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn(rows: &[u32], k: usize, width: usize, out: &mut [u32]) {
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
