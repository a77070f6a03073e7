//! The bodies with AVX-512 and AVX512-BF16. They use no closures: a closure called through a function without these target features is
//! not inlined.

use std::arch::x86_64::{
    __m256bh, __m512bh, __m512i, _mm512_castpd_ps, _mm512_castps_pd, _mm512_cvtneps_pbh, _mm512_cvtpbh_ps,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::mem::transmute;

use half::bf16;

use super::{LANES, PANEL, Place, TILE, portable};
use crate::kernels::flex::matrix::Matrix;

/// Writes the sums of a tile. A macro, because a function call would move the sums from registers to memory.
macro_rules! store {
    ($sums:expr => $place:expr) => {
        let scale = _mm512_set1_ps($place.scale);
        for (row, sums) in $sums.iter().enumerate() {
            if row == $place.rows {
                break;
            }
            for (register, sums) in sums.iter().enumerate() {
                let columns = $place.columns.saturating_sub(LANES * register).min(LANES);
                let mask = ((1u32 << columns) - 1) as u16;
                // SAFETY: the place is valid for writes, and the mask excludes elements beyond the columns.
                unsafe {
                    let out = $place.out.add(row * $place.row_stride).wrapping_add(LANES * register);
                    let before = if $place.keep { _mm512_maskz_loadu_ps(mask, out) } else { _mm512_setzero_ps() };
                    let sums = _mm512_fmadd_ps(*sums, scale, before);
                    match columns {
                        LANES => _mm512_storeu_ps(out, sums),
                        _ => _mm512_mask_storeu_ps(out, mask, sums),
                    }
                }
            }
        }
    };
}

/// # Safety
/// `x` has the place's rows and `inputs` columns, `panel` has `inputs * REGISTERS * LANES` elements; the place is valid
/// for writes.
#[expect(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn products_f32<const REGISTERS: usize>(inputs: usize, x: Matrix, panel: *const f32, place: Place) {
    let mut sums = [[_mm512_setzero_ps(); REGISTERS]; TILE];
    // Missing rows repeat the last one.
    let last = place.rows - 1;
    for input in 0..inputs {
        let mut weights = [_mm512_setzero_ps(); REGISTERS];
        for register in 0..REGISTERS {
            // SAFETY: the input is inside the panel.
            weights[register] = unsafe { _mm512_loadu_ps(panel.add((input * REGISTERS + register) * LANES)) };
        }
        for row in 0..TILE {
            // SAFETY: the input is inside the row.
            let x = _mm512_set1_ps(unsafe { *x.data.add(row.min(last) * x.row_stride + input * x.col_stride) });
            for register in 0..REGISTERS {
                sums[row][register] = _mm512_fmadd_ps(x, weights[register], sums[row][register]);
            }
        }
    }
    store!(sums => place);
}

/// # Safety
/// Both squares are valid, the second one for writes.
#[expect(clippy::needless_range_loop, reason = "constant bounds keep the rows in registers")]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, width: usize) {
    let mut a = [_mm512_setzero_ps(); LANES];
    let mut b = a;
    for row in 0..LANES {
        // SAFETY: the caller's contract.
        a[row] = unsafe { _mm512_loadu_ps(from.add(row * stride)) };
    }
    // Interleaves pairs, then groups of four, eight and sixteen rows.
    for pair in 0..8 {
        b[2 * pair] = _mm512_unpacklo_ps(a[2 * pair], a[2 * pair + 1]);
        b[2 * pair + 1] = _mm512_unpackhi_ps(a[2 * pair], a[2 * pair + 1]);
    }
    for four in 0..4 {
        let (low, high) = (_mm512_castps_pd(b[4 * four]), _mm512_castps_pd(b[4 * four + 1]));
        let (next_low, next_high) = (_mm512_castps_pd(b[4 * four + 2]), _mm512_castps_pd(b[4 * four + 3]));
        a[4 * four] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, next_low));
        a[4 * four + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, next_low));
        a[4 * four + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, next_high));
        a[4 * four + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, next_high));
    }
    for half in [0, 8] {
        for column in half..half + 4 {
            b[column] = _mm512_shuffle_f32x4::<0x88>(a[column], a[column + 4]);
            b[column + 4] = _mm512_shuffle_f32x4::<0xdd>(a[column], a[column + 4]);
        }
    }
    for column in 0..8 {
        a[column] = _mm512_shuffle_f32x4::<0x88>(b[column], b[column + 8]);
        a[column + 8] = _mm512_shuffle_f32x4::<0xdd>(b[column], b[column + 8]);
    }
    for column in 0..LANES {
        // SAFETY: the caller's contract.
        unsafe { _mm512_storeu_ps(to.add(column * width), a[column]) };
    }
}

/// # Safety
/// `x` has `PARTS * TILE * pairs * 2` elements, `panel` `pairs * PANEL * 2`; the place is valid for writes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn products_bf16<const PARTS: usize>(pairs: usize, x: *const bf16, panel: *const bf16, place: Place) {
    let mut sums = [[_mm512_setzero_ps(); 3]; TILE];
    let x = x.cast::<i32>();
    for pair in 0..pairs {
        // SAFETY: the pair is inside the panel.
        let weights = unsafe {
            let panel = panel.add(pair * 2 * PANEL).cast::<i32>();
            [
                transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.cast())),
                transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.add(LANES).cast())),
                transmute::<__m512i, __m512bh>(_mm512_loadu_si512(panel.add(2 * LANES).cast())),
            ]
        };
        for part in 0..PARTS {
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the pair is inside the row of the part.
                let x = unsafe { x.add((part * TILE + row) * pairs + pair).read_unaligned() };
                // SAFETY: both are 64 bytes of plain data.
                let x = unsafe { transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x)) };
                sums[0] = _mm512_dpbf16_ps(sums[0], x, weights[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, weights[1]);
                sums[2] = _mm512_dpbf16_ps(sums[2], x, weights[2]);
            }
        }
    }
    store!(sums => place);
}

/// # Safety
/// `out` has room for all parts.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn split(x: &[f32], parts: usize, out: &mut [bf16], stride: usize) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    for (index, x) in chunks.iter().enumerate() {
        // SAFETY: 16 elements are read, and 16 written for every part; bf16 is two bytes of plain data.
        unsafe {
            let mut left = _mm512_loadu_ps(x.as_ptr());
            for part in 0..parts {
                let rounded = _mm512_cvtneps_pbh(left);
                let out = out.as_mut_ptr().add(part * stride + LANES * index);
                out.cast::<__m256bh>().write_unaligned(rounded);
                left = _mm512_sub_ps(left, _mm512_cvtpbh_ps(rounded));
            }
        }
    }
    portable::split(rest, parts, &mut out[LANES * chunks.len()..], stride);
}
