//! Kernels against LibTorch's operations: on a GPU where there is one, else by the emulator.

use std::sync::Arc;

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::{Distribution, FloatDType, Tensor as Matrix, TensorData};
use tch::{Device, Kind, Tensor};

use super::emulator::{Order, Runs, with};
use crate::close::{Tolerance, assert_close};
use crate::kernels::adamw::{AdamW, Step};
use crate::kernels::attention::recalled::{Recall, Recalled};
use crate::kernels::attention::{Segment, Spans, attention};
use crate::kernels::input::{GradientSum, Input};
use crate::kernels::layout::Layout;
use crate::kernels::libtorch::{fresh, kind};
use crate::kernels::linear::linear;
use crate::kernels::residual::residual;
use crate::kernels::rms_norm::{RmsNorm, rms_norm};
use crate::kernels::rotary::{Rotary, rotary};
use crate::kernels::rounding::Rounding;
use crate::kernels::swiglu::{SwiGlu, swiglu};
use crate::kernels::token_logps::{TokenLogps, token_logps};

const ORDERS: [Order; 2] = [Order::Ascending, Order::Descending];
const F32: FloatDType = FloatDType::F32;
const BF16: FloatDType = FloatDType::BF16;

/// What kernels and operations may differ by, relative to the largest number: by the order of sums, and in bf16 by roundings.
fn tolerance(dtype: FloatDType) -> Tolerance {
    Tolerance::Relative(if dtype == F32 { 5e-5 } else { 4e-2 })
}

fn device() -> Device {
    Device::cuda_if_available()
}

/// Random numbers of type `dtype`, with the same value of all tests that ask for it.
fn random<const D: usize>(shape: [i64; D], dtype: FloatDType) -> TchTensor {
    fresh(Tensor::randn(shape, (Kind::Float, device())).to_kind(kind(dtype)))
}

/// The same numbers in memory of their own, which a body may write to.
fn own(tensor: &TchTensor) -> TchTensor {
    fresh(tensor.tensor.copy())
}

fn host(tensor: &TchTensor) -> Vec<f32> {
    let wide = tensor.tensor.to_kind(Kind::Float).to_device(Device::Cpu).contiguous().view([-1]);
    Vec::try_from(wide).unwrap()
}

/// Checks that `body` computes by `launches` kernels what it computes by operations, whatever the order of threads.
#[track_caller]
fn agree(launches: usize, tolerance: Tolerance, body: impl Fn() -> Vec<TchTensor>) {
    let (want, _) = with(Runs::Operations, &body);
    let found = ORDERS.map(|order| with(Runs::Kernels(order), &body));
    for (tensors, launched) in &found {
        assert_eq!(*launched, launches, "launches");
        assert_eq!(tensors.len(), want.len());
        for (index, (got, want)) in tensors.iter().zip(&want).enumerate() {
            assert_eq!((got.tensor.size(), got.tensor.kind()), (want.tensor.size(), want.tensor.kind()));
            assert_close(&host(got), &host(want), tolerance, format_args!("result {index}"));
        }
    }
    let [ascending, descending] = found.map(|(tensors, _)| tensors.iter().map(host).collect::<Vec<_>>());
    assert_eq!(ascending, descending, "a result that depends on the order of threads");
}

#[test]
fn norms_are_those_of_operations() {
    let large = matches!(device(), Device::Cuda(_)).then_some((16384, 4096));
    for (rows, width) in [(37, 24), (300, 260), (5, 1536)].into_iter().chain(large) {
        for (dtype, out) in [(F32, F32), (F32, BF16), (BF16, BF16)] {
            let (x, grad, sum) =
                (random([rows, width], dtype), random([rows, width], out), random([rows, width], dtype));
            let weight = random([width], F32);
            let norm = || LibTorch::rms_norm(x.clone(), weight.clone(), 1e-5, out, GradientSum::default());
            agree(1, tolerance(out), || <[_; 2]>::from(norm()).into());
            let r = norm().1;
            for trains in [false, true] {
                let launches = 1 + usize::from(trains);
                let back = |sum: Option<&TchTensor>| {
                    let (x, weight, r, grad) = (x.clone(), weight.clone(), r.clone(), grad.clone());
                    let (of_x, of_weight) = match sum {
                        Some(sum) => LibTorch::rms_norm_backward_onto(own(sum), x, weight, r, grad, trains),
                        None => LibTorch::rms_norm_backward(x, weight, r, grad, trains),
                    };
                    [of_x].into_iter().chain(of_weight).collect()
                };
                // Sums of 16,384 products differ more by their order.
                let most = if rows > 1000 && out == F32 { Tolerance::Relative(1e-3) } else { tolerance(out) };
                agree(launches, most, || back(None));
                agree(launches, most, || back(Some(&sum)));
            }
        }
    }
}

#[test]
fn rotations_are_those_of_operations() {
    for dtype in [F32, BF16] {
        for (heads, head_dim, half) in [(3, 8, 4), (5, 12, 4), (1, 128, 64)] {
            let x = random([50, heads * head_dim], dtype);
            let [cos, sin, minus_sin] = [(); 3].map(|()| random([50, half], dtype));
            agree(1, tolerance(dtype), || {
                vec![LibTorch::rotary(own(&x), cos.clone(), sin.clone(), minus_sin.clone(), head_dim as usize)]
            });
            let before = host(&x);
            let rotate = || LibTorch::rotary(x.clone(), cos.clone(), sin.clone(), minus_sin.clone(), head_dim as usize);
            drop(with(Runs::Kernels(Order::Ascending), rotate));
            assert_eq!(host(&x), before, "a tensor that others hold stays as it is");
        }
    }
}

#[test]
fn activations_are_those_of_operations() {
    for dtype in [F32, BF16] {
        let [gate, up, grad] = [(); 3].map(|()| random([257, 12], dtype));
        agree(1, tolerance(dtype), || vec![LibTorch::swiglu(gate.clone(), up.clone())]);
        agree(1, tolerance(dtype), || {
            <[_; 2]>::from(LibTorch::swiglu_backward(gate.clone(), up.clone(), own(&grad))).into()
        });
    }
    // exp(-x) is infinite, and so is exp(x).
    let extreme = fresh(Tensor::from_slice(&[-200f32, 200.0, 0.0, -1e-30]).to_device(device()));
    agree(1, tolerance(F32), || vec![LibTorch::swiglu(extreme.clone(), extreme.clone())]);
}

#[test]
fn log_probabilities_are_those_of_operations() {
    for dtype in [F32, BF16] {
        let large = matches!(device(), Device::Cuda(_)).then_some((2048, 128_256));
        for (rows, vocabulary) in [(5i64, 1100i64), (2, 7), (1, 512), (1, 9000)].into_iter().chain(large) {
            let (hidden, head) = (random([rows, 8], dtype), random([vocabulary, 8], dtype));
            let targets = || (0..rows).map(|row| (row * 7919 % vocabulary) as i32).collect();
            let forward = || LibTorch::token_logps(hidden.clone(), head.clone(), targets());
            agree(1, tolerance(F32), || <[_; 2]>::from(forward()).into());
            let (lse, grad) = (forward().1, random([rows], F32));
            for trains in [false, true] {
                agree(1, tolerance(dtype), || {
                    let (hidden, head, lse, grad) = (hidden.clone(), head.clone(), lse.clone(), grad.clone());
                    let (of_hidden, of_head) =
                        LibTorch::token_logps_backward(hidden, head, lse, grad, targets(), trains);
                    [of_hidden].into_iter().chain(of_head).collect()
                });
            }
        }
    }
}

/// Single queries, some with a few keys and one with more than a block has parts, and after them sequences of any number of queries.
#[test]
fn attention_to_a_cache_is_that_of_operations() {
    let lists = |queries: &[usize], longest: usize| {
        let mut recalled = Recalled::default();
        for (index, queries) in queries.iter().enumerate() {
            let keys = [3, longest, 1, 17][index % 4] + queries;
            recalled.push(*queries, (0..keys as i32).map(|key| (key * 7 + index as i32) % 90));
        }
        Arc::new(recalled)
    };
    for (dtype, cases) in [(F32, &[(4, 2, 8), (6, 2, 64), (5, 1, 128)][..]), (BF16, &[(4, 4, 12), (7, 1, 128)][..])] {
        for (heads, kv_heads, head_dim) in cases {
            let spans = Spans::new(Arc::new(Vec::new().into()), *heads, *kv_heads, *head_dim);
            let [keys, values] = [(); 2].map(|()| random([90, (kv_heads * head_dim) as i64], dtype));
            let lengths = [
                (&[1, 1, 1, 1][..], 40, None, 1),
                (&[1, 1, 9, 1], 40, Some(5), 1),
                (&[4, 1], 40, None, 0),
                // The lists of few queries are split: here into three.
                (&[1, 1], 600, None, 2),
                (&[1, 1], 600, Some(520), 2),
            ];
            for (queries, longest, window, launches) in lengths {
                let spans = Spans { window, ..spans.clone() };
                let q = random([queries.iter().sum::<usize>() as i64, (heads * head_dim) as i64], dtype);
                agree(launches, tolerance(dtype), || {
                    vec![LibTorch::recall(
                        q.clone(),
                        keys.clone(),
                        values.clone(),
                        lists(queries, longest),
                        spans.clone(),
                    )]
                });
            }
        }
    }
}

/// Minus infinity weighs nothing; NaN is not passed over, whoever reads it.
#[test]
fn log_probabilities_of_what_is_not_finite_are_those_of_operations() {
    let head = |values: &[f32]| fresh(Tensor::from_slice(values).view([-1, 1]).to_device(device()));
    let hidden = fresh(Tensor::from_slice(&[1f32]).view([1, 1]).to_device(device()));
    for odd in [f32::NEG_INFINITY, f32::NAN, f32::INFINITY] {
        let mut values = vec![0.5; 600];
        values[599] = odd;
        let found = [Runs::Operations, Runs::Kernels(Order::Ascending)].map(|runs| {
            with(runs, || LibTorch::token_logps(hidden.clone(), head(&values), [3].into_iter().collect()).0).0
        });
        let [want, found] = found.map(|logps| host(&logps)[0]);
        assert!(found == want || (found.is_nan() && want.is_nan()), "{odd}: {found}, not {want}");
    }
}

/// A gradient of a sum is one number, expanded.
#[test]
fn gradients_that_are_one_number_in_memory_are_read_as_many() {
    let (hidden, head) = (random([6, 8], F32), random([40, 8], F32));
    let targets = || (0..6).collect();
    let (_, lse) = LibTorch::token_logps(hidden.clone(), head.clone(), targets());
    let grad = fresh(Tensor::from_slice(&[0.7f32]).to_device(device()).expand([6], false));
    agree(1, tolerance(F32), || {
        let (hidden, head, lse, grad) = (hidden.clone(), head.clone(), lse.clone(), grad.clone());
        vec![LibTorch::token_logps_backward(hidden, head, lse, grad, targets(), false).0]
    });
}

#[test]
fn steps_are_those_of_operations() {
    let step = |count, gradient_scale| Step {
        learning_rate: 0.1,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.01,
        count,
        gradient_scale,
    };
    for size in [1, 4, 7, 1030] {
        let [parameter, first, second, gradient] = [(); 4].map(|()| fresh(random([size], F32).tensor.abs()));
        agree(1, tolerance(F32), || {
            let [parameter, first, second] = [&parameter, &first, &second].map(own);
            <[_; 3]>::from(LibTorch::adamw(parameter, first, second, gradient.clone(), step(3, 0.3))).into()
        });
    }
}

#[test]
fn roundings_are_those_of_cpu() {
    let mut values: Vec<f32> = (0..1000).map(|index| (index as f32).sin() * 1e3).collect();
    values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-42]);
    let x = fresh(Tensor::from_slice(&values).to_device(device()));
    let cpu = burn::tensor::Tensor::<1>::from_data(&values[..], &burn::tensor::Device::flex());
    let cpu = crate::kernels::rounding::round_stochastically(cpu, 11).cast(F32).into_data();
    for order in ORDERS {
        let (found, _) = with(Runs::Kernels(order), || LibTorch::rounded(x.clone(), 11));
        assert_eq!(host(&found), cpu.clone().try_into_vec::<f32>().unwrap());
    }
    let nan = fresh(Tensor::from_slice(&[f32::NAN]).to_device(device()));
    let (found, _) = with(Runs::Kernels(Order::Ascending), || LibTorch::rounded(nan, 11));
    assert!(host(&found)[0].is_nan());
}

/// The gradients of a decoder layer and its head, with products of type `dtype`: of the residual stream, two norms, eight matrices.
fn gradients_of_a_layer(weights: &[TensorData; 11], dtype: FloatDType, runs: Runs) -> (Vec<Vec<f32>>, usize) {
    let device = match device() {
        Device::Cuda(index) => burn::tensor::Device::libtorch_cuda(index),
        _ => burn::tensor::Device::libtorch(),
    };
    let device = device.autodiff();
    let narrow = |tensor: &Matrix<2>| tensor.clone().cast(dtype);
    let spans = |rows: usize| {
        let segments =
            vec![Segment { start: 0, rows: 4, prefix: None }, Segment { start: 4, rows: rows - 4, prefix: Some(0) }];
        Spans::new(Arc::new(segments.into()), 4, 2, 8)
    };
    with(runs, || {
        let leaves = weights.clone().map(|data| Matrix::<2>::from_data(data, &device).require_grad());
        let [x, first, second, q, k, v, o, gate, up, down, head] = leaves.each_ref();
        let angles = [0.3f32.cos(), 0.3f32.sin(), -0.3f32.sin()]
            .map(|value| Matrix::<2>::full([12, 4], value, &device).cast(dtype));
        let norm = |x: Input, weight: &Matrix<2>| Input::shared(rms_norm(x, weight.clone().reshape([32]), 1e-5, dtype));
        let times = |x: Input, weight: &Matrix<2>| linear(x, narrow(weight), Layout::OutIn);
        let x = Input::shared(x.clone());
        let normed = norm(x.clone(), first);
        let [q, k] = [q, k].map(|weight| rotary(times(normed.clone(), weight), angles.clone(), 8));
        let attended = attention(q, k, times(normed, v), spans(12));
        let x = Input::shared(residual(x, times(attended.into(), o)));
        let normed = norm(x.clone(), second);
        let gated = swiglu(times(normed.clone(), gate), times(normed, up));
        let x = residual(x, times(gated.into(), down));
        let logps = token_logps(x.cast(dtype), narrow(head), (0..12).collect());
        let grads = logps.sum().backward();
        leaves.map(|leaf| leaf.grad(&grads).unwrap().into_data().try_into_vec::<f32>().unwrap()).into()
    })
}

/// The norm of the difference, as a share of that of `want`.
fn distance(found: &[f32], want: &[f32]) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(want).map(|(found, want)| found - want)) / norm(&mut want.iter().copied())
}

/// Kernels among all the others, on tensors as autodiff hands them over.
#[test]
fn gradients_of_a_layer_are_those_of_operations() {
    let sizes =
        [[12, 32], [1, 32], [1, 32], [32, 32], [16, 32], [16, 32], [32, 32], [48, 32], [48, 32], [32, 48], [40, 32]];
    let weights = sizes.map(|size| {
        let device = burn::tensor::Device::flex();
        Matrix::<2>::random(size, Distribution::Normal(0.0, 0.4), &device).into_data()
    });
    let gradients = |dtype, runs| gradients_of_a_layer(&weights, dtype, runs);
    let by_operations = gradients(F32, Runs::Operations).0;
    for dtype in [F32, BF16] {
        let (found, launched) = gradients(dtype, Runs::Kernels(Order::Ascending));
        // Two norms with two and three launches, two rotations, SwiGLU and the head each way.
        assert_eq!(launched, 2 * 3 + 2 * 2 + 2 + 2);
        for (index, (found, want)) in found.iter().zip(&by_operations).enumerate() {
            let (found, most) = (distance(found, want), if dtype == F32 { 1e-5 } else { 0.05 });
            assert!(found <= most, "gradient {index} in {dtype:?} differs by {found} of its norm");
        }
    }
}

/// A width that is no multiple of 4, a view that begins between two vectors, columns of a matrix.
#[test]
fn tensors_that_kernels_do_not_take_are_left_to_operations() {
    let norm = |x: TchTensor| {
        let weight = random([x.tensor.size()[1]], F32);
        agree(0, tolerance(F32), || {
            <[_; 2]>::from(LibTorch::rms_norm(x.clone(), weight.clone(), 1e-5, F32, GradientSum::default())).into()
        });
    };
    norm(random([5, 6], F32));
    norm(fresh(random([5 * 8 + 1], F32).tensor.narrow(0, 1, 40).view([5, 8])));
    norm(fresh(random([5, 8], F32).tensor.tr().contiguous().tr()));
    let none = random([0, 8], F32);
    let (empty, _) = with(Runs::Kernels(Order::Ascending), || LibTorch::swiglu(none.clone(), none.clone()));
    assert_eq!(empty.tensor.size(), [0, 8]);
}
