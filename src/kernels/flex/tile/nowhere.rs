//! Replaces the bodies with AVX-512 on other architectures, where `is_fast` is false and nothing calls them.

use super::Place;
use crate::kernels::flex::matrix::Matrix;

pub(in crate::kernels) unsafe fn products(_: usize, _: Matrix, _: &[f32], _: Place) {
    unreachable!("no AVX-512 here")
}

pub(in crate::kernels) unsafe fn transpose(_: *const f32, _: usize, _: *mut f32, _: usize) {
    unreachable!("no AVX-512 here")
}
