//! The next tokens, chosen from logits where the logits are: a device sends ids to the host, not logits.
//!
//! The host draws the random numbers and lists the changes to logits ([`Edits`]); what they mean is [`Sampling`]'s.

mod edits;
mod flex;
mod host;
#[cfg(feature = "tch")]
mod libtorch;
mod sampling;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, get_or_init_device_settings};
use burn::tensor::{Element, Tensor, TensorData, try_read_sync};

pub use edits::Edits;
pub use sampling::Sampling;

/// How tokens are chosen, in all rows alike.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// What logits in [`Edits::repeated`] are divided by, or multiplied with where they are below 0.
    pub repetition: f32,
}

/// What is wanted of a row of logits.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// What is done to the logits first.
    pub edits: Edits,
    /// A random number in [0, 1) for each token that is drawn from the row.
    pub draws: Vec<f64>,
}

/// A token for every draw of `rows`, row after row: logits `[rows, vocabulary]` in f32, on a device without autodiff.
/// Ids in edits are below the vocabulary.
///
/// Devices choose what the host chooses but for rounding: a draw that lies within rounding of the border between two
/// tokens may fall to either, and so may a token at the border of a restriction.
pub fn choose(logits: Tensor<2>, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
    <Dispatch as Choice>::choose(logits.into_dispatch(), rule, rows)
}

/// The kernel; see [`choose`].
#[backend_extension(
    Flex,
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))
)]
pub trait Choice: Backend {
    /// The tokens; the host waits for them.
    fn choose(logits: FloatTensor<Self>, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
        portable::<Self>(logits, rule, rows)
    }
}

/// The body in backend operations. The likeliest tokens are found on the device. Else the host chooses: burn has no sort
/// that keeps the order of equal numbers, and CubeCL's sorts on the host.
fn portable<B: Backend>(logits: FloatTensor<B>, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
    if rule.sampling.temperature == 0.0 && rows.iter().all(|row| row.edits.is_empty()) {
        let best: Vec<i32> = read(B::int_into_data(likeliest::<B>(logits)));
        return rows.iter().zip(best).flat_map(|(row, best)| std::iter::repeat_n(best, row.draws.len())).collect();
    }
    let logits: Vec<f32> = read(B::float_into_data(logits));
    host::chosen(&logits, rule, &rows)
}

/// The numbers of a tensor on the host.
fn read<T: Element, E: Debug>(data: impl Future<Output = Result<TensorData, E>>) -> Vec<T> {
    let data = try_read_sync(data).expect("devices are read at once").expect("the device works");
    data.convert::<T>().try_into_vec().expect("just converted")
}

/// The first of the largest numbers of each row, `[rows, 1]`; NaN counts as `-inf`. Back ends differ in which of these
/// their `argmax` finds.
fn likeliest<B: Backend>(logits: FloatTensor<B>) -> IntTensor<B> {
    let (shape, device) = (logits.shape(), logits.device());
    let settings = get_or_init_device_settings::<B>(&device);
    let nan = B::float_is_nan(logits.clone(), settings.bool_dtype);
    let logits = B::float_mask_fill(logits, nan, f32::NEG_INFINITY.into());
    let highest = B::float_expand(B::float_max_dim(logits.clone(), 1), shape.clone());
    let is_less = B::float_lower(logits, highest, settings.bool_dtype);
    let vocabulary = shape[1] as i64;
    let ids = B::int_reshape(B::int_arange(0..vocabulary, &device, settings.int_dtype), [1, shape[1]].into());
    B::int_min_dim(B::int_mask_fill(B::int_expand(ids, shape), is_less, vocabulary.into()), 1)
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
impl Choice for burn::backend::Cube {}
