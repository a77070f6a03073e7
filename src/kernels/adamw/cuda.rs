//! AdamW by a kernel of this crate: one launch.

use std::ffi::c_longlong;

use tch::{Kind, Tensor};

use super::Step;
use crate::kernels::cuda::{Module, THREADS, VECTOR, module, numbers};

static MODULE: Module = module!();

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    parameter: *mut f32,
    first: *mut f32,
    second: *mut f32,
    gradient: *const f32,
    count: c_longlong,
    /// [`Step::factors`].
    factors: [f32; 7],
}

/// A step in place: nobody else may hold `parameter` and its moments. All in f32.
pub(super) fn adamw(parameter: &Tensor, [first, second]: [&Tensor; 2], gradient: &Tensor, step: Step) -> Option<()> {
    let (tensors, count) = ([parameter, first, second, gradient], parameter.numel());
    if tensors.iter().any(|tensor| tensor.kind() != Kind::Float || tensor.numel() != count) {
        return None;
    }
    let arguments = Arguments {
        parameter: numbers(parameter),
        first: numbers(first),
        second: numbers(second),
        gradient: numbers(gradient),
        count: count as c_longlong,
        factors: step.factors(),
    };
    let blocks = count.div_ceil(VECTOR).div_ceil(THREADS as usize);
    // SAFETY: the struct is the kernel's; the tensors are of one size.
    unsafe { MODULE.on(&tensors)?.launch(c"step", [blocks, 1], THREADS, arguments) }
}
