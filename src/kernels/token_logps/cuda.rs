//! The softmax of logits by kernels of this crate: one launch each way, which reads the logits once.

use std::ffi::{c_int, c_longlong, c_void};

use tch::{Kind, Tensor};

use crate::kernels::cuda::{Module, address, module, numbers, unwritten};

static MODULE: Module = module!();

/// Threads of a block, which reads a row.
const THREADS: u32 = 512;

#[repr(C)]
#[derive(Clone, Copy)]
struct Reduce {
    logits: *const f32,
    targets: *const c_longlong,
    logps: *mut f32,
    lses: *mut f32,
    vocabulary: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Errors {
    logits: *const f32,
    targets: *const c_longlong,
    lses: *const f32,
    grads: *const f32,
    errors: *mut c_void,
    vocabulary: c_int,
}

/// Rows and size of the vocabulary of `logits` in f32, where `lists` of a number a row lie in one piece.
fn sizes(logits: &Tensor, lists: &[&Tensor]) -> Option<(usize, c_int)> {
    let [rows, vocabulary] = logits.size()[..] else { return None };
    let fits = |list: &&Tensor| list.is_contiguous() && list.numel() == rows as usize;
    if logits.kind() != Kind::Float || !lists.iter().all(fits) {
        return None;
    }
    Some((rows as usize, c_int::try_from(vocabulary).ok()?))
}

/// Log-probabilities of `targets` and log-sum-exp, `[rows, 1]` each, of the rows of `logits` in f32.
pub(super) fn reduce(logits: &Tensor, targets: &Tensor) -> Option<[Tensor; 2]> {
    let (rows, vocabulary) = sizes(logits, &[targets])?;
    let launcher = MODULE.on(&[logits])?;
    let found = [(); 2].map(|()| unwritten(&[rows as i64, 1], Kind::Float, logits));
    let [logps, lses] = found.each_ref().map(numbers);
    let arguments = Reduce { logits: numbers(logits), targets: numbers(targets), logps, lses, vocabulary };
    // SAFETY: the struct is the kernel's; the lists have a number a row, and every target is below the vocabulary.
    unsafe { launcher.launch(c"reduce", [rows, 1], THREADS, arguments) }?;
    Some(found)
}

/// `(onehot - softmax) * grad` of every row, in type `kind`; `targets`, `lses` and `grads` are lists. Errors in f32 are written over the
/// logits.
pub(super) fn errors(logits: &Tensor, [targets, lses, grads]: [&Tensor; 3], kind: Kind) -> Option<Tensor> {
    let (rows, vocabulary) = sizes(logits, &[targets, lses, grads])?;
    let (kernel, errors) = match kind {
        Kind::Float => (c"errors_f32", logits.shallow_clone()),
        Kind::BFloat16 => (c"errors_bf16", unwritten(&logits.size(), kind, logits)),
        _ => return None,
    };
    let launcher = MODULE.on(&[logits])?;
    let arguments = Errors {
        logits: numbers(logits),
        targets: numbers(targets),
        lses: numbers(lses),
        grads: numbers(grads),
        errors: address(&errors),
        vocabulary,
    };
    // SAFETY: the struct is the kernel's; the lists have a number a row, and a thread reads what it overwrites.
    unsafe { launcher.launch(kernel, [rows, 1], THREADS, arguments) }?;
    Some(errors)
}
