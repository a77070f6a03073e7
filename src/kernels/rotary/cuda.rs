//! Rotary position embedding by a kernel of this crate: one launch, in place.

use std::ffi::{c_int, c_longlong, c_void};

use tch::{Kind, Tensor};

use crate::kernels::cuda::{Module, THREADS, VECTOR, address, module};

static MODULE: Module = module!();

#[repr(C)]
#[derive(Clone, Copy)]
struct Rotate {
    x: *mut c_void,
    cos: *const c_void,
    sin: *const c_void,
    minus_sin: *const c_void,
    rows: c_longlong,
    heads: c_int,
    head_dim: c_int,
    half: c_int,
}

/// Rotates x `[rows, heads * head_dim]`, which nobody else may hold, by the angles `[cos, sin, -sin]`, `[rows, half]` in its type.
pub(super) fn rotate(x: &Tensor, angles: [&Tensor; 3], head_dim: usize) -> Option<()> {
    let [rows, width] = x.size()[..] else { return None };
    let half = angles[0].size()[1] as usize;
    let kernel = match x.kind() {
        Kind::Float => c"rotate_f32",
        Kind::BFloat16 => c"rotate_bf16",
        _ => return None,
    };
    let vectors = half.is_multiple_of(VECTOR) && head_dim.is_multiple_of(VECTOR);
    if !vectors || angles.iter().any(|table| table.kind() != x.kind()) {
        return None;
    }
    let [cos, sin, minus_sin] = angles;
    let launcher = MODULE.on(&[x, cos, sin, minus_sin])?;
    let heads = width as usize / head_dim;
    let arguments = Rotate {
        x: address(x),
        cos: address(cos),
        sin: address(sin),
        minus_sin: address(minus_sin),
        rows: rows as c_longlong,
        heads: heads as c_int,
        head_dim: head_dim as c_int,
        half: half as c_int,
    };
    let blocks = (rows as usize * heads * half / VECTOR).div_ceil(THREADS as usize);
    // SAFETY: the struct is the kernel's; `2 * half` numbers of each head, and the tables' rows, are within their tensors.
    unsafe { launcher.launch(kernel, [blocks, 1], THREADS, arguments) }
}
