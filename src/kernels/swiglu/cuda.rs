//! SwiGLU by kernels of this crate: one launch each way.

use std::ffi::{CStr, c_longlong, c_void};

use tch::{Kind, Tensor};

use crate::kernels::cuda::{Launcher, Module, THREADS, VECTOR, address, module, unwritten};

static MODULE: Module = module!();

#[repr(C)]
#[derive(Clone, Copy)]
struct Forward {
    gate: *const c_void,
    up: *const c_void,
    out: *mut c_void,
    count: c_longlong,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Backward {
    gate: *const c_void,
    up: *const c_void,
    grad: *const c_void,
    grad_gate: *mut c_void,
    grad_up: *mut c_void,
    count: c_longlong,
}

/// The launcher for tensors of one type and size, one of two kernels by their type, and the blocks of its grid.
fn launcher(
    tensors: &[&Tensor],
    [wide, narrow]: [&'static CStr; 2],
) -> Option<(Launcher<'static>, &'static CStr, [usize; 2])> {
    let (kind, count) = (tensors[0].kind(), tensors[0].numel());
    let kernel = match kind {
        Kind::Float => wide,
        Kind::BFloat16 => narrow,
        _ => return None,
    };
    let alike = tensors.iter().all(|tensor| tensor.kind() == kind && tensor.numel() == count);
    let launcher = (alike && count.is_multiple_of(VECTOR)).then(|| MODULE.on(tensors)).flatten()?;
    Some((launcher, kernel, [(count / VECTOR).div_ceil(THREADS as usize), 1]))
}

/// `silu(gate) * up`, written to `gate` if nobody else holds it: `in_place`.
pub(super) fn forward(gate: &Tensor, up: &Tensor, in_place: bool) -> Option<Tensor> {
    let (launcher, kernel, grid) = launcher(&[gate, up], [c"forward_f32", c"forward_bf16"])?;
    let out = if in_place { gate.shallow_clone() } else { unwritten(&gate.size(), gate.kind(), gate) };
    let arguments =
        Forward { gate: address(gate), up: address(up), out: address(&out), count: gate.numel() as c_longlong };
    // SAFETY: the struct is the kernel's; the tensors are of one size, and a thread reads what it overwrites.
    unsafe { launcher.launch(kernel, grid, THREADS, arguments) }?;
    Some(out)
}

/// The gradient of up. That of gate is written to `grad`, which nobody else may hold.
pub(super) fn backward(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Option<Tensor> {
    let (launcher, kernel, grid) = launcher(&[gate, up, grad], [c"backward_f32", c"backward_bf16"])?;
    let grad_up = unwritten(&up.size(), up.kind(), up);
    let arguments = Backward {
        gate: address(gate),
        up: address(up),
        grad: address(grad),
        grad_gate: address(grad),
        grad_up: address(&grad_up),
        count: gate.numel() as c_longlong,
    };
    // SAFETY: the struct is the kernel's; the tensors are of one size, and a thread reads what it overwrites.
    unsafe { launcher.launch(kernel, grid, THREADS, arguments) }?;
    Some(grad_up)
}
