//! Packed weights in use, by content: models with equal weights, such as adapters of one base, share them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use super::Packed;
use crate::kernels::layout::Layout;
use crate::kernels::precision::Precision;

/// Outputs and inputs, layout, precision, and digest of the values.
type Key = ([usize; 2], Layout, Precision, blake3::Hash);

static SHELF: LazyLock<Mutex<HashMap<Key, Weak<Packed>>>> = LazyLock::new(Mutex::default);

impl Packed {
    /// The weight `[outputs, inputs]` of `values` in the given layout; an equal weight that is in use is returned instead of a copy.
    pub fn shared(values: &[f32], shape: [usize; 2], layout: Layout, precision: Precision) -> Arc<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(bytemuck::cast_slice(values));
        let key = (shape, layout, precision, hasher.finalize());
        let shelf = || SHELF.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = shelf().get(&key).and_then(Weak::upgrade) {
            return packed;
        }
        let [outputs, inputs] = shape;
        let packed = Arc::new(Self::new(shape, precision, |output, input| match layout {
            Layout::OutIn => values[output * inputs + input],
            Layout::InOut => values[input * outputs + output],
        }));
        let mut shelf = shelf();
        shelf.retain(|_, weight| weight.strong_count() > 0);
        shelf.insert(key, Arc::downgrade(&packed));
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_kept_once_and_no_longer_than_needed() {
        let values: Vec<f32> = (0..6).map(|value| value as f32 + 0.123).collect();
        let pack = |precision| Packed::shared(&values, [2, 3], Layout::OutIn, precision);
        let (one, other, coarse) = (pack(Precision::F32), pack(Precision::F32), pack(Precision::Bf16));
        let transposed = Packed::shared(&values, [2, 3], Layout::InOut, Precision::F32);
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &coarse) && !Arc::ptr_eq(&one, &transposed));
        assert_eq!(transposed.rows(0..1), [values[0], values[2], values[4]]);
        let weak = Arc::downgrade(&one);
        drop((one, other));
        assert!(weak.upgrade().is_none());
        assert_eq!(pack(Precision::F32).rows(0..2), values);
    }
}
