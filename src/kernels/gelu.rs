//! GELU: `y = x Φ(x)` with the normal distribution's Φ, or the usual approximation of it by a hyperbolic tangent
//! (arXiv 1606.08415).

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::simd::{exp, vectorized};
use super::values;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x Φ(x)`.
    Exact,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    Tanh,
}

impl Gelu {
    /// The function that `transformers` calls `name`.
    ///
    /// # Errors
    /// That it is not supported, and what is.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "gelu" | "gelu_python" => Ok(Self::Exact),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Ok(Self::Tanh),
            other => Err(format!(
                "`{other}` is not supported; supported: gelu, gelu_new, gelu_fast, gelu_accurate, gelu_pytorch_tanh"
            )),
        }
    }
}

/// GELU of every element.
pub fn gelu<const D: usize>(x: Tensor<D>, kind: Gelu) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GeluKernel>::rows_gelu(x.into_dispatch(), kind))
}

/// The kernel; see [`gelu`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan")),
    Autodiff
)]
pub trait GeluKernel: Backend {
    /// GELU of every element.
    fn rows_gelu(x: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        portable::<Self>(x, kind)
    }

    /// The gradient with respect to x, given that of the output.
    fn rows_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        portable_backward::<Self>(x, grad, kind)
    }
}

/// `√(2/π)` and the cubic term of the approximation.
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// What x is multiplied by: Φ(x), or its approximation `sigmoid(2 z)`, which is `(1 + tanh(z)) / 2`.
fn share<B: Backend>(x: FloatTensor<B>, kind: Gelu) -> FloatTensor<B> {
    let scaled = |x, factor: f32| B::float_mul_scalar(x, factor.into());
    match kind {
        Gelu::Exact => {
            let erf = B::float_erf(scaled(x, std::f32::consts::FRAC_1_SQRT_2));
            scaled(B::float_add_scalar(erf, 1f32.into()), 0.5)
        }
        Gelu::Tanh => {
            let square = B::float_mul(x.clone(), x.clone());
            let inner = B::float_add_scalar(scaled(square, CUBIC), 1f32.into());
            B::sigmoid(scaled(B::float_mul(x, inner), 2.0 * ROOT))
        }
    }
}

pub(super) fn portable<B: Backend>(x: FloatTensor<B>, kind: Gelu) -> FloatTensor<B> {
    B::float_mul(x.clone(), share::<B>(x, kind))
}

/// `share + x share'`, with `Φ' = e^(-x²/2) / √(2π)` and `sigmoid' = sigmoid (1 - sigmoid)`.
pub(super) fn portable_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>, kind: Gelu) -> FloatTensor<B> {
    let scaled = |x, factor: f32| B::float_mul_scalar(x, factor.into());
    let share = share::<B>(x.clone(), kind);
    let square = B::float_mul(x.clone(), x.clone());
    let slope = match kind {
        Gelu::Exact => scaled(B::float_exp(scaled(square, -0.5)), 0.5 * ROOT),
        Gelu::Tanh => {
            let rest = B::float_add_scalar(B::float_neg(share.clone()), 1f32.into());
            let inner = B::float_add_scalar(scaled(square, 3.0 * CUBIC), 1f32.into());
            scaled(B::float_mul(B::float_mul(share.clone(), rest), inner), 2.0 * ROOT)
        }
    };
    B::float_mul(grad, B::float_add(share, B::float_mul(x, slope)))
}

#[cfg(feature = "tch")]
impl GeluKernel for burn::backend::LibTorch {}
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl GeluKernel for burn::backend::Cube {}

/// Elements that one task takes.
const CHUNK: usize = 16 * 1024;

impl GeluKernel for Flex {
    fn rows_gelu(x: FlexTensor, kind: Gelu) -> FlexTensor {
        match kind {
            Gelu::Exact => map(&x, &x, |x, _| x * normal(x)[0]),
            Gelu::Tanh => map(&x, &x, |x, _| x * logistic(x)[0]),
        }
    }

    fn rows_gelu_backward(x: FlexTensor, grad: FlexTensor, kind: Gelu) -> FlexTensor {
        let slope = |[share, slope]: [f32; 2], x: f32, grad: f32| grad * (share + x * slope);
        match kind {
            Gelu::Exact => map(&x, &grad, |x, grad| slope(normal(x), x, grad)),
            Gelu::Tanh => map(&x, &grad, |x, grad| slope(logistic(x), x, grad)),
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
    super::tensor(out, [a.shape().num_elements()]).reshape(a.shape())
}

/// Φ(x) and its slope. The tail `Φ(-|x|) e^(x²/2)` is a polynomial in `t = 1 / (1 + 0.3 |x|)`, fitted by least squares
/// with Lawson's weights to a relative error of 4e-9 on `|x| <= 18`; behind that the tail is 0 in f32.
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

/// The approximation of Φ(x) and its slope.
#[inline(always)]
fn logistic(x: f32) -> [f32; 2] {
    let share = 1.0 / (1.0 + exp(-2.0 * ROOT * x * (1.0 + CUBIC * x * x)));
    [share, share * (1.0 - share) * 2.0 * ROOT * (1.0 + 3.0 * CUBIC * x * x)]
}

impl<B: GeluKernel, C: CheckpointStrategy> GeluKernel for Autodiff<B, C> {
    fn rows_gelu(x: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Node;
        impl<B: GeluKernel> Backward<B, 1> for Node {
            type State = (FloatTensor<B>, Gelu);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, kind) = ops.state;
                let [parent] = ops.parents;
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, B::rows_gelu_backward(x, grad, kind));
                }
            }
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        let out = B::rows_gelu(x.clone(), kind);
        match Node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, kind), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
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
