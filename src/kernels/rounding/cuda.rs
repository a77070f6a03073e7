//! Stochastic rounding by a kernel of this crate: one launch, and the numbers of `cpu`.

use std::ffi::c_longlong;

use tch::{Kind, Tensor};

use crate::kernels::cuda::{Module, THREADS, VECTOR, module, numbers, unwritten};

static MODULE: Module = module!();

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    x: *const f32,
    out: *mut u16,
    seed: u64,
    count: c_longlong,
}

/// `x` in f32, flat, rounded to bf16.
pub(super) fn rounded(x: &Tensor, seed: u64) -> Option<Tensor> {
    let count = x.numel();
    let launcher = MODULE.on(&[x])?;
    let out = unwritten(&x.size(), Kind::BFloat16, x);
    let arguments = Arguments { x: numbers(x), out: numbers(&out), seed, count: count as c_longlong };
    // SAFETY: the struct is the kernel's; both tensors have `count` numbers.
    unsafe { launcher.launch(c"rounded", [count.div_ceil(VECTOR).div_ceil(THREADS as usize), 1], THREADS, arguments) }?;
    Some(out)
}
