//! FlashAttention for sequences of various lengths (arXiv 2307.08691), as LibTorch has it for CUDA devices.
//!
//! tch has its backward pass but not its forward pass. LibTorch's own C interface has it
//! (`torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h`, the same signature in 2.9 and 2.11), with tensors as tch holds them. The
//! function is looked up by its name when it is first needed, so that a LibTorch without CUDA links too.

use std::ffi::c_void;
use std::mem::transmute;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use crate::kernels::libtorch::symbol;

/// Sequences of queries and keys, one after the other in their tensors.
pub(super) struct Sequences<'a> {
    /// Where the queries of each sequence end, from 0, in 32 bits.
    pub(super) query_ends: &'a Tensor,
    /// Where the keys of each sequence end, from 0, in 32 bits.
    pub(super) key_ends: &'a Tensor,
    /// The most queries and the most keys of a sequence.
    pub(super) longest: [i64; 2],
    /// Factor of the scores.
    pub(super) scale: f64,
    /// Sliding window, in positions including the own one.
    pub(super) window: Option<i64>,
}

impl Sequences<'_> {
    /// How many keys before the last one, and after it, a query sees: -1 for all.
    fn windows(&self) -> [i64; 2] {
        self.window.map_or([-1, -1], |window| [window - 1, 0])
    }
}

/// Attention of sequences, causal with the last query aligned to the last key: q `[rows, heads, d]`, k and v `[keys, kv_heads, d]`.
pub(super) trait VariableLength {
    /// The output, of the shape of q, and the log-sum-exp of the scores in f32, `[heads, rows]`.
    fn forward(qkv: [&Tensor; 3], sequences: &Sequences) -> (Tensor, Tensor);

    /// The gradients of q, k and v.
    fn backward(
        qkv: [&Tensor; 3],
        out: &Tensor,
        lse: &Tensor,
        grad: &Tensor,
        sequences: &Sequences,
    ) -> (Tensor, Tensor, Tensor);
}

/// LibTorch's FlashAttention.
pub(super) enum Flash {}

impl Flash {
    /// Whether it computes attention of heads of width `head_dim` for tensors like `q`.
    pub(super) fn takes(q: &Tensor, head_dim: usize) -> bool {
        let narrow = matches!(q.kind(), Kind::BFloat16 | Kind::Half);
        let fits = head_dim.is_multiple_of(8) && head_dim <= 256;
        narrow && fits && matches!(q.device(), Device::Cuda(_)) && function().is_some()
    }
}

impl VariableLength for Flash {
    fn forward([q, k, v]: [&Tensor; 3], sequences: &Sequences) -> (Tensor, Tensor) {
        let function = function().expect("asked for only where LibTorch has it");
        let [left, right] = sequences.windows();
        let [queries, keys] = sequences.longest;
        let ends = [sequences.query_ends, sequences.key_ends].map(Tensor::as_ptr);
        let mut found = [null_mut::<C_tensor>(); 5];
        let [out, lse, seed, offset, mask] = found.each_mut().map(std::ptr::from_mut);
        // SAFETY: the signature is that of the header; all tensors outlive the call, which writes five new ones.
        let code = unsafe {
            function(
                q.as_ptr(),
                k.as_ptr(),
                v.as_ptr(),
                &raw const ends[0],
                &raw const ends[1],
                queries,
                keys,
                0.0,
                1,
                0,
                &raw const sequences.scale,
                &raw const left,
                &raw const right,
                null(),
                null(),
                out,
                lse,
                seed,
                offset,
                mask,
            )
        };
        assert_eq!(code, 0, "FlashAttention failed; LibTorch wrote the reason to the standard error");
        // SAFETY: the call succeeded, so each is a tensor that nobody else owns.
        let [out, lse, ..] = found.map(|tensor| unsafe { Tensor::from_ptr(tensor) });
        (out, lse)
    }

    fn backward(
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        lse: &Tensor,
        grad: &Tensor,
        sequences: &Sequences,
    ) -> (Tensor, Tensor, Tensor) {
        let [queries, keys] = sequences.longest;
        let [left, right] = sequences.windows();
        let (ends, no_dropout) = (sequences, Tensor::empty([2], (Kind::Int64, q.device())));
        Tensor::internal_flash_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse,
            ends.query_ends,
            ends.key_ends,
            queries,
            keys,
            0.0,
            true,
            &no_dropout,
            &no_dropout,
            sequences.scale,
            left,
            right,
        )
    }
}

/// `aoti_torch_cuda__flash_attention_forward`: q, k, v; ends of queries and keys; most queries and keys; dropout, causal, debug mask;
/// scale, window; used keys, slopes; then where to put output, log-sum-exp, state of the dropout (two), and mask.
type Function = unsafe extern "C" fn(
    *const C_tensor,
    *const C_tensor,
    *const C_tensor,
    *const *const C_tensor,
    *const *const C_tensor,
    i64,
    i64,
    f64,
    i32,
    i32,
    *const f64,
    *const i64,
    *const i64,
    *const *const C_tensor,
    *const *const C_tensor,
    *mut *mut C_tensor,
    *mut *mut C_tensor,
    *mut *mut C_tensor,
    *mut *mut C_tensor,
    *mut *mut C_tensor,
) -> i32;

/// The function, in a LibTorch with CUDA.
fn function() -> Option<Function> {
    static FOUND: OnceLock<Option<Function>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let address = symbol(c"aoti_torch_cuda__flash_attention_forward")?;
        // SAFETY: the symbol has this signature in every LibTorch that has it.
        Some(unsafe { transmute::<*mut c_void, Function>(address) })
    })
}
