//! Loops compiled for the vectors of this processor, selected at run time.

/// Runs `body` compiled for the widest vectors of this processor. Loops inside must be inlined into it.
#[inline(always)]
pub(in crate::kernels) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// e^x within 2 units in the last place for x in [-87, 88], clamped outside (Cephes' expf polynomial).
#[inline(always)]
pub(in crate::kernels) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: after adding it, the last bits of a small number are its nearest integer. A conversion with `as` would not be
    /// vectorized.
    const SHIFT: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    power * (p * r * r + r + 1.0)
}

/// The largest value, ignoring NaN.
#[inline(always)]
pub(in crate::kernels) fn max(values: &[f32]) -> f32 {
    fold(values, f32::NEG_INFINITY, |largest, value| if value > largest { value } else { largest })
}

/// The dot product of two slices of equal length.
#[inline(always)]
pub(in crate::kernels) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a_chunks, a_rest) = a.as_chunks::<16>();
    let (b_chunks, b_rest) = b.as_chunks::<16>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The sum of all values.
#[inline(always)]
pub(in crate::kernels) fn total(values: &[f32]) -> f32 {
    fold(values, 0.0, |sum, value| sum + value)
}

/// Replaces every value `x` by e^(x - shift) and returns their sum.
#[inline(always)]
pub(in crate::kernels) fn exp_shifted(values: &mut [f32], shift: f32) -> f32 {
    for value in values.iter_mut() {
        *value = exp(*value - shift);
    }
    total(values)
}

/// Folds sixteen lanes at once. The loop over a constant range lets the compiler keep them in registers.
#[inline(always)]
fn fold(values: &[f32], start: f32, merge: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            lanes[lane] = merge(lanes[lane], chunk[lane]);
        }
    }
    rest.iter().chain(&lanes).fold(start, |total, value| merge(total, *value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exp_is_exp(x in -87f32..88.0) {
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            prop_assert!((got / want - 1.0).abs() < 2.4e-7, "{x}: {got} {want}");
        }

        #[test]
        fn folds_see_every_value(values in prop::collection::vec(-50f32..50.0, 0..70)) {
            let largest = values.iter().copied().max_by(f32::total_cmp).unwrap_or(f32::NEG_INFINITY);
            prop_assert_eq!(vectorized(|| max(&values)), largest);
            let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
            prop_assert!((f64::from(vectorized(|| dot(&values, &values))) - squares).abs() <= 1e-5 * (1.0 + squares));
            let mut shifted = values.clone();
            let sum: f64 = values.iter().map(|v| f64::from(v - largest).exp()).sum();
            let got = vectorized(|| exp_shifted(&mut shifted, largest));
            prop_assert!((f64::from(got) - sum).abs() < 1e-5 * (1.0 + sum));
        }
    }
}
