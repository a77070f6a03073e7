//! Stochastic rounding on LibTorch: a kernel of this crate on CUDA, elsewhere noise of its own generator, an addition of integers, and a copy of the upper halves.

use std::sync::{Mutex, PoisonError};

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::{Kind, Tensor};

use super::{Rounding, cuda};
use crate::kernels::libtorch::fresh;

/// LibTorch's generator is one for the process: whoever seeds it draws before anyone else does.
static GENERATOR: Mutex<()> = Mutex::new(());

impl Rounding for LibTorch {
    fn rounded(x: TchTensor, seed: u64) -> TchTensor {
        let x = x.tensor.contiguous();
        if let Some(out) = cuda::rounded(&x, seed) {
            return fresh(out);
        }
        let size = x.size()[0];
        let mut bits = Tensor::empty([size], (Kind::Int, x.device()));
        {
            let _own = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
            tch::manual_seed(seed as i64);
            let _ = bits.random_to_(1 << 16);
        }
        // Numbers that are not finite have zeros below, so that nothing carries into their exponents.
        let _ = bits.g_add_(&x.view_dtype(Kind::Int));
        let upper =
            bits.view_dtype(Kind::Int16).view([size, 2]).select(1, usize::from(cfg!(target_endian = "little")) as i64);
        fresh(upper.contiguous().view_dtype(Kind::BFloat16))
    }
}
