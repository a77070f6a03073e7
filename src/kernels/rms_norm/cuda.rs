//! Root-mean-square norm by kernels of this crate: one launch forward, one for the gradient of x, two for that of the weight.

use std::ffi::{CStr, c_int, c_longlong, c_void};
use std::ptr::null;

use tch::{Kind, Tensor};

use crate::kernels::cuda::{Module, THREADS, VECTOR, WARP, address, module, numbers, unwritten};

static MODULE: Module = module!();

/// The warps of a block.
const WARPS: usize = (THREADS / WARP) as usize;
/// The width from which a block computes a row; below it is a warp.
const WIDE: c_int = 1024;
/// The columns of a block in the gradient of the weight.
const COLUMNS: usize = WARP as usize * VECTOR;
/// Blocks that keep a device busy.
const BUSY: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct Forward {
    x: *const c_void,
    weight: *const f32,
    y: *mut c_void,
    r: *mut f32,
    rows: c_longlong,
    width: c_int,
    threads: c_int,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Backward {
    x: *const c_void,
    weight: *const f32,
    r: *const f32,
    grad: *const c_void,
    sum: *const c_void,
    grad_x: *mut c_void,
    rows: c_longlong,
    width: c_int,
    threads: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct OfWeight {
    x: *const c_void,
    r: *const f32,
    grad: *const c_void,
    parts: *mut f32,
    rows: c_longlong,
    width: c_int,
}

/// One of three kernels by the types of x and of its norm.
fn by_types(x: Kind, y: Kind, [wide, mixed, narrow]: [&'static CStr; 3]) -> Option<&'static CStr> {
    match (x, y) {
        (Kind::Float, Kind::Float) => Some(wide),
        (Kind::Float, Kind::BFloat16) => Some(mixed),
        (Kind::BFloat16, Kind::BFloat16) => Some(narrow),
        _ => None,
    }
}

/// Threads of a row, and the blocks of a grid.
fn by_row(rows: usize, width: c_int) -> (c_int, [usize; 2]) {
    match width >= WIDE {
        true => (THREADS as c_int, [rows, 1]),
        false => (WARP as c_int, [rows.div_ceil(WARPS), 1]),
    }
}

/// Rows and width of x, if kernels take its width and the type of the weight.
fn sizes(x: &Tensor, weight: &Tensor) -> Option<(usize, c_int)> {
    let [rows, width] = x.size()[..] else { return None };
    let fits = width % VECTOR as i64 == 0 && weight.kind() == Kind::Float && weight.size() == [width];
    fits.then_some((rows as usize, c_int::try_from(width).ok()?))
}

/// The norm of every row of x `[rows, width]`, of type `out`, and its inverse root mean square `[rows, 1]`.
pub(super) fn forward(x: &Tensor, weight: &Tensor, eps: f64, out: Kind) -> Option<(Tensor, Tensor)> {
    let (rows, width) = sizes(x, weight)?;
    let kernel = by_types(x.kind(), out, [c"forward_f32_f32", c"forward_f32_bf16", c"forward_bf16_bf16"])?;
    let launcher = MODULE.on(&[x, weight])?;
    let (threads, grid) = by_row(rows, width);
    let (y, r) = (unwritten(&x.size(), out, x), unwritten(&[rows as i64, 1], Kind::Float, x));
    let arguments = Forward {
        x: address(x),
        weight: numbers(weight),
        y: address(&y),
        r: numbers(&r),
        rows: rows as c_longlong,
        width,
        threads,
        eps: eps as f32,
    };
    // SAFETY: the struct is the kernel's; y is of the size of x, and r has a number a row.
    unsafe { launcher.launch(kernel, grid, THREADS, arguments) }?;
    Some((y, r))
}

/// The gradient of x, in its type. It is written to `sum` and added to what is there, if that is given.
pub(super) fn backward(x: &Tensor, weight: &Tensor, r: &Tensor, grad: &Tensor, sum: Option<&Tensor>) -> Option<Tensor> {
    let (rows, width) = sizes(x, weight)?;
    let kernel = by_types(x.kind(), grad.kind(), [c"backward_f32_f32", c"backward_f32_bf16", c"backward_bf16_bf16"])?;
    let launcher = MODULE.on(&[&[x, weight, r, grad][..], sum.as_slice()].concat())?;
    let grad_x = match sum {
        Some(sum) if sum.kind() == x.kind() => sum.shallow_clone(),
        Some(_) => return None,
        None => unwritten(&x.size(), x.kind(), x),
    };
    let (threads, grid) = by_row(rows, width);
    let arguments = Backward {
        x: address(x),
        weight: numbers(weight),
        r: numbers(r),
        grad: address(grad),
        sum: sum.map_or(null(), |sum| address(sum)),
        grad_x: address(&grad_x),
        rows: rows as c_longlong,
        width,
        threads,
    };
    // SAFETY: the struct is the kernel's; x and all gradients have one size, and a thread reads what it overwrites.
    unsafe { launcher.launch(kernel, grid, THREADS, arguments) }?;
    Some(grad_x)
}

/// The gradient of the weight.
pub(super) fn of_weight(x: &Tensor, weight: &Tensor, r: &Tensor, grad: &Tensor) -> Option<Tensor> {
    let (rows, width) = sizes(x, weight)?;
    let kernel =
        by_types(x.kind(), grad.kind(), [c"of_weight_f32_f32", c"of_weight_f32_bf16", c"of_weight_bf16_bf16"])?;
    let launcher = MODULE.on(&[x, r, grad])?;
    let columns = (width as usize).div_ceil(COLUMNS);
    let parts = rows.div_ceil(WARPS).min(BUSY.div_ceil(columns));
    let sums = unwritten(&[(parts * WARPS) as i64, i64::from(width)], Kind::Float, x);
    let arguments = OfWeight {
        x: address(x),
        r: numbers(r),
        grad: address(grad),
        parts: numbers(&sums),
        rows: rows as c_longlong,
        width,
    };
    // SAFETY: the struct is the kernel's; the sums have a row for every warp of a column.
    unsafe { launcher.launch(kernel, [columns, parts], THREADS, arguments) }?;
    Some(sums.sum_dim_intlist(0i64, false, None::<Kind>))
}
