//! What the bodies for LibTorch share.
//!
//! A body gets `TchTensor`s, whose storage burn counts: an operation of burn writes into a tensor that nobody else holds. So a result
//! that is a view of an input must never be wrapped by [`fresh`], and an input may be written to only as [`owned`] gives it.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::libtorch::TchTensor;
use burn::tensor::FloatDType;
use tch::{Device, Kind, Tensor};

use super::indices::Indices;

/// A result in memory of its own.
pub(super) fn fresh(tensor: Tensor) -> TchTensor {
    TchTensor::new(tensor)
}

/// The tensor to write to: itself if nobody else holds it, else a copy.
pub(super) fn owned(tensor: TchTensor) -> Tensor {
    if tensor.can_mut() { tensor.tensor } else { tensor.tensor.copy() }
}

/// LibTorch's name of a type.
pub(super) fn kind(dtype: FloatDType) -> Kind {
    match dtype {
        FloatDType::F64 => Kind::Double,
        FloatDType::F32 | FloatDType::Flex32 => Kind::Float,
        FloatDType::F16 => Kind::Half,
        FloatDType::BF16 => Kind::BFloat16,
    }
}

/// `indices` on `device`, `[len]`, a view of one copy of all lists of the batch.
pub(super) fn ints(indices: &Indices, device: Device) -> Tensor {
    let all = indices.copied(
        |kept: &TchTensor| kept.tensor.device() == device,
        |values| {
            let values: Vec<i64> = values.iter().map(|value| i64::from(*value)).collect();
            fresh(uploaded(Tensor::from_slice(&values), device))
        },
    );
    let range = indices.range();
    all.tensor.narrow(0, range.start as i64, range.len() as i64)
}

/// A tensor of the host on `device`. Copies to a GPU come from pinned memory, so that the host does not wait for them.
pub(super) fn uploaded(host: Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => host,
        gpu => host.pin_memory(gpu).to_device_(gpu, host.kind(), true, false),
    }
}

/// `x weight^T` in f32: x `[rows, in]`, weight `[out, in]` of the same type. bf16 factors have f32 sums and an f32 result.
pub(super) fn wide_product(x: &Tensor, weight: &Tensor) -> Tensor {
    wide_matmul(x, &weight.tr())
}

/// `lhs rhs` in f32, of matrices of the same type.
pub(super) fn wide_matmul(lhs: &Tensor, rhs: &Tensor) -> Tensor {
    match (lhs.kind(), lhs.device()) {
        (Kind::Float, _) => lhs.mm(rhs),
        // The product of two bf16 numbers is exact in f32.
        (_, Device::Cpu) => lhs.to_kind(Kind::Float).mm(&rhs.to_kind(Kind::Float)),
        _ => lhs.mm_dtype(rhs, Kind::Float),
    }
}

/// The CUDA devices that LibTorch finds.
pub(crate) fn cuda_devices() -> usize {
    tch::Cuda::device_count().try_into().unwrap_or_default()
}

/// The address of a symbol of LibTorch.
pub(super) fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Sets whether products in f32 on CUDA devices round what they multiply to TF32, for the whole process; returns whether this LibTorch
/// has the switch. tch lacks it: `at::globalContext().setAllowTF32CuBLAS(on)`.
pub(crate) fn set_tf32(on: bool) -> bool {
    /// LibTorch starts with the switch off, and warns of its age whenever it is set.
    static IS_ON: AtomicBool = AtomicBool::new(false);
    let symbols = [c"_ZN2at13globalContextEv", c"_ZN2at7Context18setAllowTF32CuBLASEb"].map(symbol);
    let [Some(context), Some(set)] = symbols else { return false };
    if IS_ON.swap(on, Ordering::Relaxed) == on {
        return true;
    }
    // SAFETY: the mangled names are those of `at::Context& globalContext()` and `void Context::setAllowTF32CuBLAS(bool)`; a method
    // takes `this` as its first argument.
    unsafe {
        let context = transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(context);
        let set = transmute::<*mut c_void, extern "C" fn(*mut c_void, bool)>(set);
        set(context(), on);
    }
    true
}

/// The bytes that are free on CUDA device `index`; `None` without CUDA. tch lacks it: `cudaMemGetInfo` of CUDA's runtime.
pub(crate) fn free_on_cuda(index: usize) -> Option<u64> {
    let [get, set, info] = [c"cudaGetDevice", c"cudaSetDevice", c"cudaMemGetInfo"].map(symbol);
    let index = c_int::try_from(index).ok()?;
    // SAFETY: `cudaError_t cudaGetDevice(int*)`, `cudaSetDevice(int)` and `cudaMemGetInfo(size_t* free, size_t* total)`; 0 is success.
    unsafe {
        let get = transmute::<*mut c_void, extern "C" fn(*mut c_int) -> c_int>(get?);
        let set = transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(set?);
        let info = transmute::<*mut c_void, extern "C" fn(*mut usize, *mut usize) -> c_int>(info?);
        let (mut before, mut free, mut total) = (0, 0, 0);
        if get(&mut before) != 0 || set(index) != 0 {
            return None;
        }
        let found = info(&mut free, &mut total) == 0;
        set(before);
        found.then_some(free as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_of_tf32_is_where_it_is_looked_for() {
        let read = || {
            let [context, get] = [c"_ZN2at13globalContextEv", c"_ZNK2at7Context15allowTF32CuBLASEv"].map(symbol);
            // SAFETY: as in `set_tf32`; the method is `bool Context::allowTF32CuBLAS() const`.
            unsafe {
                let context = transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(context.unwrap());
                let get = transmute::<*mut c_void, extern "C" fn(*mut c_void) -> bool>(get.unwrap());
                get(context())
            }
        };
        for on in [true, false] {
            assert!(set_tf32(on));
            assert_eq!(read(), on);
        }
    }
}
