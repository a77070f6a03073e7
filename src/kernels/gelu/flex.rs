//! GELU on flex, and the polynomial for its normal distribution.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::{CUBIC, Gelu, GeluKernel, ROOT};
use crate::kernels::flex::memory::{tensor, values};
use crate::kernels::flex::simd::{exp, vectorized};

/// Elements per task.
const CHUNK: usize = 16 * 1024;

impl GeluKernel for Flex {
    fn rows_gelu(x: FlexTensor, kind: Gelu) -> FlexTensor {
        match kind {
            Gelu::Exact => map(&x, &x, |x, _| x * normal(x)[0]),
            Gelu::Tanh => map(&x, &x, |x, _| x * logistic(x)[0]),
        }
    }

    fn rows_gelu_backward(x: FlexTensor, grad: FlexTensor, kind: Gelu) -> FlexTensor {
        let chain = |[factor, derivative]: [f32; 2], x: f32, grad: f32| grad * (factor + x * derivative);
        match kind {
            Gelu::Exact => map(&x, &grad, |x, grad| chain(normal(x), x, grad)),
            Gelu::Tanh => map(&x, &grad, |x, grad| chain(logistic(x), x, grad)),
        }
    }
}

/// `f` of every pair of elements.
fn map(a: &FlexTensor, b: &FlexTensor, f: impl Fn(f32, f32) -> f32 + Sync) -> FlexTensor {
    let (a, b) = (a.to_contiguous(), b.to_contiguous());
    let mut out = vec![0f32; values(&a).len()];
    let inputs = values(&a).par_chunks(CHUNK).zip(values(&b).par_chunks(CHUNK));
    out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (a, b))| {
        vectorized(
            #[inline(always)]
            || {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = f(*a, *b);
                }
            },
        );
    });
    tensor(out, [a.shape().num_elements()]).reshape(a.shape())
}

/// Φ(x) and its derivative. The tail `Φ(-|x|) e^(x²/2)` is a polynomial in `t = 1 / (1 + 0.3 |x|)`, fitted by least squares
/// with Lawson's weights to a relative error of 4e-9 on `|x| <= 18`; beyond that the tail is 0 in f32.
#[inline(always)]
fn normal(x: f32) -> [f32; 2] {
    const TAIL: [f32; 10] = [
        0.119_686_43,
        0.119_577_6,
        0.110_180_41,
        0.078_679_45,
        0.095_221_59,
        -0.077_499_33,
        0.189_252_23,
        -0.226_151_1,
        0.111_489_28,
        -0.020_436_564,
    ];
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.3 * x.abs());
    let tail = bell * t * TAIL.iter().rev().fold(0.0, |sum, coefficient| sum * t + coefficient);
    [if x < 0.0 { tail } else { 1.0 - tail }, 0.5 * ROOT * bell]
}

/// The approximation of Φ(x) and its derivative.
#[inline(always)]
fn logistic(x: f32) -> [f32; 2] {
    let factor = 1.0 / (1.0 + exp(-2.0 * ROOT * x * (1.0 + CUBIC * x * x)));
    [factor, factor * (1.0 - factor) * 2.0 * ROOT * (1.0 + 3.0 * CUBIC * x * x)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Φ(x) by Simpson's rule.
    fn integral(x: f64) -> f64 {
        let (steps, bell) = (2000, |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt());
        let width = x / f64::from(steps);
        let inner = (1..steps).map(|i| f64::from(2 + 2 * (i % 2)) * bell(f64::from(i) * width));
        0.5 + width / 3.0 * (bell(0.0) + inner.sum::<f64>() + bell(x))
    }

    proptest! {
        // exp is within 2.4e-7 of its value, the tail at most one half, and a handful of products round it.
        #[test]
        fn normal_is_the_distribution(x in -12f32..12.0) {
            let want = integral(f64::from(x));
            prop_assert!((f64::from(normal(x)[0]) - want).abs() < 2.5e-7, "{x}: {} {want}", normal(x)[0]);
        }

        #[test]
        fn logistic_is_the_tanh(x in -12f32..12.0) {
            let z = f64::from(x);
            let want = 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z)).tanh());
            prop_assert!((f64::from(logistic(x)[0]) - want).abs() < 3e-7, "{x}: {} {want}", logistic(x)[0]);
        }
    }
}
