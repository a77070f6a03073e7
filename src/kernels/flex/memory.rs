//! The memory of flex tensors as slices, and pointers for tasks that write disjoint parts of it.

use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType};

/// Rows per task of row-parallel bodies.
pub(in crate::kernels) const ROWS: usize = 16;

/// The values of a contiguous f32 tensor.
pub(in crate::kernels) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("flex kernels get contiguous f32 tensors")
}

/// The tensor as the only content of its memory, to be written in place: `storage_mut` copies it only if it is shared.
pub(in crate::kernels) fn whole(tensor: FlexTensor) -> FlexTensor {
    let tensor = if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() };
    let shape = tensor.shape();
    if tensor.bytes().len() == size_of_val(values(&tensor)) {
        return tensor;
    }
    FlexTensor::new(Bytes::from_elems(values(&tensor).to_vec()), Layout::contiguous(shape), DType::F32)
}

/// A tensor that owns `values`.
pub(in crate::kernels) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

/// The elementwise sum of parts of equal length, in order.
pub(in crate::kernels) fn sum(parts: Vec<Vec<f32>>) -> Vec<f32> {
    parts
        .into_iter()
        .reduce(|mut sum, part| {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            sum
        })
        .unwrap_or_default()
}

/// A pointer shared by tasks that write disjoint elements.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Shared(pub(in crate::kernels) *mut f32);

// SAFETY: tasks that share the pointer access disjoint elements.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer to the element at `offset`.
    ///
    /// # Safety
    /// As for [`pointer::add`]: the element is inside the same allocation.
    #[inline]
    pub(in crate::kernels) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's contract.
        unsafe { self.0.add(offset) }
    }
}
