//! Lists of row numbers and token ids. Kernels read them on the host, or on the device, where all lists of a batch arrive in one copy.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::{Device, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{Slice, TensorData};

use super::once::Once;

/// A list of indices.
#[derive(Debug, Clone)]
pub struct Indices {
    arena: Arc<Arena>,
    range: Range<usize>,
}

/// Lists that are copied together.
#[derive(Debug)]
struct Arena {
    values: Vec<i32>,
    on_device: Once,
}

impl Indices {
    /// Several lists, which are copied to a device together.
    pub fn together<const N: usize>(lists: [&[i32]; N]) -> [Self; N] {
        let arena = Arc::new(Arena { values: lists.concat(), on_device: Once::default() });
        let mut end = 0;
        lists.map(|list| {
            let start = end;
            end += list.len();
            Self { arena: arena.clone(), range: start..end }
        })
    }

    /// The indices on the host.
    pub fn host(&self) -> &[i32] {
        &self.arena.values[self.range.clone()]
    }

    /// The number of indices.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The indices on `device`, `[len]`. The first call for any of the lists copies them all.
    pub(super) fn tensor<B: Backend>(&self, device: &Device<B>) -> IntTensor<B> {
        let all = self.copied(|kept: &IntTensor<B>| kept.device() == *device, |values| upload::<B>(values, device));
        B::int_slice(all, &[Slice::from(self.range.clone())])
    }

    /// All lists as `copy` copies them; a copy that `fits` is used again.
    pub(super) fn copied<T: Clone + Send + Sync + 'static>(
        &self,
        fits: impl Fn(&T) -> bool,
        copy: impl Fn(&[i32]) -> T,
    ) -> T {
        self.arena.on_device.get(fits, || copy(&self.arena.values))
    }

    /// The place of this list among all.
    #[cfg(feature = "tch")]
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// `values` on `device`.
pub(super) fn upload<B: Backend>(values: &[i32], device: &Device<B>) -> IntTensor<B> {
    let dtype = get_or_init_device_settings::<B>(device).int_dtype;
    B::int_from_data(TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype.into()), device)
}

impl From<&[i32]> for Indices {
    fn from(values: &[i32]) -> Self {
        let [list] = Self::together([values]);
        list
    }
}

impl<const N: usize> From<[i32; N]> for Indices {
    fn from(values: [i32; N]) -> Self {
        Self::from(&values[..])
    }
}

impl FromIterator<i32> for Indices {
    fn from_iter<I: IntoIterator<Item = i32>>(values: I) -> Self {
        Self::from(&*values.into_iter().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn lists_stay_apart_although_they_are_copied_together() {
        let [first, none, last] = Indices::together([&[3, 1], &[], &[2]]);
        assert_eq!((first.host(), none.host(), last.host()), (&[3, 1][..], &[][..], &[2][..]));
        let device = Default::default();
        for list in [&first, &last] {
            let tensor = list.tensor::<Flex>(&device).to_contiguous();
            assert_eq!(tensor.as_slice::<i32>().unwrap(), list.host());
        }
        assert!(none.is_empty());
    }
}
