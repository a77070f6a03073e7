//! Attention of single queries to a cache by kernels of this crate, which read keys and values where they are: one launch, or two where
//! there are too few queries to keep a device busy with whole lists.

use std::ffi::{CStr, c_int, c_longlong, c_void};

use tch::{Kind, Tensor};

use super::Spans;
use crate::kernels::cuda::{Module, THREADS, VECTOR, address, module, numbers, unwritten};

static MODULE: Module = module!();

/// Threads of a block for some keys of a query.
const OF_KEYS: u32 = 128;
/// The most heads that share keys in a block.
const QUERIES: usize = 4;
/// The widest head that the kernels take.
const WIDTH: usize = 128;
/// Blocks that keep a device busy.
const BUSY: usize = 1024;
/// The fewest rows for which a list is split again.
const LONG: usize = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct Recall {
    q: *const c_void,
    keys: *const c_void,
    values: *const c_void,
    out: *mut c_void,
    outs: *mut f32,
    largest: *mut f32,
    sums: *mut f32,
    rows: *const c_int,
    ends: *const c_int,
    heads: c_int,
    kv_heads: c_int,
    head_dim: c_int,
    window: c_int,
    splits: c_int,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Join {
    outs: *const f32,
    largest: *const f32,
    sums: *const f32,
    out: *mut c_void,
    heads: c_longlong,
    head_dim: c_int,
    splits: c_int,
}

/// Single queries and what they attend to.
pub(super) struct Singles<'a> {
    /// Queries `[rows, heads * d]`, of which the first ones are single; keys and values `[cached, kv_heads * d]`.
    pub(super) qkv: [&'a Tensor; 3],
    /// How many.
    pub(super) count: usize,
    /// The rows of keys and values that they attend to, in 32 bits.
    pub(super) rows: &'a Tensor,
    /// Where the rows of each end, from 0, in 32 bits.
    pub(super) ends: &'a Tensor,
    /// The most rows of one.
    pub(super) longest: usize,
}

/// Whether the kernels take queries, keys and values of one type, with heads of `spans`.
pub(super) fn takes(qkv: [&Tensor; 3], spans: &Spans) -> bool {
    let kind = qkv[0].kind();
    let alike = qkv.iter().all(|tensor| tensor.kind() == kind);
    let narrow = spans.head_dim <= WIDTH && spans.head_dim.is_multiple_of(VECTOR);
    alike && narrow && matches!(kind, Kind::Float | Kind::BFloat16) && MODULE.on(&qkv).is_some()
}

/// The outputs `[count, heads * d]` of single queries.
pub(super) fn recall(singles: &Singles, spans: &Spans) -> Option<Tensor> {
    let Singles { qkv: [q, keys, values], count, rows, ends, longest } = *singles;
    let launcher = MODULE.on(&singles.qkv)?;
    let blocks = spans.kv_heads * spans.group().div_ceil(if spans.group() == 1 { 1 } else { QUERIES });
    let seen = spans.window.map_or(longest, |window| window.min(longest));
    let splits = BUSY.div_ceil(count * blocks).min(seen.div_ceil(LONG)).max(1);
    let out = unwritten(&[count as i64, q.size()[1]], q.kind(), q);
    let heads = (count * spans.heads) as i64;
    // Those of whole lists are not written.
    let scratch = if splits == 1 { 0 } else { splits as i64 };
    let outs = unwritten(&[scratch, heads, spans.head_dim as i64], Kind::Float, q);
    let [largest, sums] = [(); 2].map(|()| unwritten(&[scratch, heads], Kind::Float, q));
    let arguments = Recall {
        q: address(q),
        keys: address(keys),
        values: address(values),
        out: address(&out),
        outs: numbers(&outs),
        largest: numbers(&largest),
        sums: numbers(&sums),
        rows: numbers(rows),
        ends: numbers(ends),
        heads: spans.heads as c_int,
        kv_heads: spans.kv_heads as c_int,
        head_dim: spans.head_dim as c_int,
        window: spans.window.map_or(0, |window| window as c_int),
        splits: splits as c_int,
        scale: spans.scale,
    };
    let kernel = match spans.group() {
        1 => by_type(q, [c"alone_f32", c"alone_bf16"]),
        _ => by_type(q, [c"grouped_f32", c"grouped_bf16"]),
    };
    // SAFETY: the struct is the kernel's; `ends` has one number more than there are queries, and every row is one of keys and values.
    unsafe { launcher.launch(kernel, [count, blocks * splits], OF_KEYS, arguments) }?;
    if splits > 1 {
        let arguments = Join {
            outs: numbers(&outs),
            largest: numbers(&largest),
            sums: numbers(&sums),
            out: address(&out),
            heads,
            head_dim: spans.head_dim as c_int,
            splits: splits as c_int,
        };
        let blocks = out.numel().div_ceil(THREADS as usize);
        // SAFETY: the struct is the kernel's; the kernel before this one writes all of what it reads.
        unsafe { launcher.launch(by_type(q, [c"join_f32", c"join_bf16"]), [blocks, 1], THREADS, arguments) }?;
    }
    Some(out)
}

fn by_type(q: &Tensor, [wide, narrow]: [&'static CStr; 2]) -> &'static CStr {
    if q.kind() == Kind::Float { wide } else { narrow }
}
