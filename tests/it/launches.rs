//! How many operations a decoder layer launches on LibTorch, forward and back, counted by LibTorch's own hook for profilers.
//!
//! A CPU's LibTorch launches what a GPU's does, with two exceptions that are counted as a GPU has them: `_fused_rms_norm` is one kernel
//! there, and attention is [`FLASH`].

use std::cell::RefCell;
use std::sync::Once;

use burn::tensor::{Device, Distribution, FloatDType, Tensor, TensorData};
use sepo::kernels::attention::{Segment, Spans, attention};
use sepo::kernels::choice::{Edits, Row, Rule, Sampling, choose};
use sepo::model::{CausalLm, Memory, ModelSource, Needed, PackedBatch, Response, WeightFormat, Weights};
use serde_json::json;

use crate::hook::{Listener, listen};

/// Launches of attention forward: two gathers of keys and values, FlashAttention. Back: the gathers, FlashAttention, zeros for keys and
/// values together, and for each the sum over copies.
const FLASH: [usize; 2] = [3, 6];

thread_local! {
    /// The operations under way: name, and launches of those that they called.
    static UNDER_WAY: RefCell<Vec<(String, usize)>> = const { RefCell::new(Vec::new()) };
    /// The launches so far, by name.
    static LAUNCHED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// The operations of [`WAITING`] that were called.
    static WAITED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Launches;

impl Listener for Launches {
    fn start(name: &str) {
        let short = name.strip_prefix("aten::").unwrap_or(name);
        if WAITING.contains(&short) {
            WAITED.with_borrow_mut(|waited| waited.push(short.to_owned()));
        }
        UNDER_WAY.with_borrow_mut(|stack| stack.push((name.to_owned(), 0)));
    }

    fn end() {
        let Some((name, inner)) = UNDER_WAY.with_borrow_mut(Vec::pop) else { return };
        let own = launches(&name, inner);
        UNDER_WAY.with_borrow_mut(|stack| match stack.last_mut() {
            Some((_, sum)) => *sum += own,
            None => LAUNCHED.with_borrow_mut(|all| all.extend(std::iter::repeat_n(name, own))),
        });
    }
}

/// What an operation launches that called others with `inner` launches.
fn launches(name: &str, inner: usize) -> usize {
    // Views, memory, and operations that only call others.
    const NOTHING: &[&str] = &[
        "alias",
        "as_strided",
        "contiguous",
        "detach",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "lift_fresh",
        "matmul",
        "narrow",
        "numpy_T",
        "permute",
        "reshape",
        "resize_",
        "select",
        "slice",
        "squeeze",
        "t",
        "to",
        "transpose",
        "unflatten",
        "unsqueeze",
        "view",
        "_reshape_alias",
        "_unsafe_view",
        "zeros",
        "zeros_like",
        "cat",
        "resolve_conj",
        "resolve_neg",
        "to_kind",
        "_to_copy",
        "clone",
    ];
    let short = name.strip_prefix("aten::").unwrap_or(name);
    match (short, inner) {
        ("_fused_rms_norm", _) => 1,
        ("cat", 0) => 1,
        (short, 0) => usize::from(!NOTHING.contains(&short)),
        (_, inner) => inner,
    }
}

/// The launches of `work` on this thread.
fn counted<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(listen::<Launches>);
    LAUNCHED.with_borrow_mut(Vec::clear);
    let result = work();
    (result, LAUNCHED.with_borrow_mut(std::mem::take))
}

fn batch() -> PackedBatch {
    let mut batch = PackedBatch::default();
    for prompt in [&[5, 9, 1, 7][..], &[3, 3]] {
        let responses = [&[4, 8, 2][..], &[6, 1]].map(|ids| Response { ids, needed: Needed::All });
        batch.push(prompt, &responses);
    }
    batch
}

fn source(layers: usize) -> ModelSource {
    let config = json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    ModelSource::new("layers", Weights::Init { config, seed: 1 }, None)
}

/// Launches of a forward and a backward pass through `layers` layers that train.
fn passes(layers: usize, format: WeightFormat) -> [Vec<String>; 2] {
    let device = Device::libtorch().autodiff();
    let model = CausalLm::frozen(&source(layers), format, &device).unwrap();
    let batch = batch();
    // What a batch holds on the device is made by its first pass.
    drop(model.hidden(&batch, &device));
    let (pass, forward) = counted(|| model.pass(&batch, &device, Memory::Normal));
    let logps = model.logps_of(pass.hidden(), &batch);
    let slopes = TensorData::new(vec![0.5f32; batch.targets.len()], [batch.targets.len()]);
    let loss = (logps * Tensor::from_data(slopes, &device)).sum();
    let ((), backward) = counted(|| pass.backward(loss, |_| {}));
    [forward, backward]
}

/// Launches of attention alone, forward and back, as it is on a CPU.
fn attention_alone(dtype: FloatDType) -> [usize; 2] {
    let device = Device::libtorch().autodiff();
    let batch = batch();
    let spans = Spans::new(std::sync::Arc::new(Vec::<Segment>::clone(&batch.segments).into()), 4, 2, 8);
    let random = |width| {
        let tensor =
            Tensor::<2>::random([batch.len(), width], Distribution::Default, &device.clone().without_autodiff());
        tensor.cast(dtype).autodiff().require_grad()
    };
    let (q, k, v) = (random(32), random(16), random(16));
    drop(attention(q.clone(), k.clone(), v.clone(), spans.clone()));
    let (out, forward) = counted(|| attention(q, k, v, spans));
    let sum = out.sum();
    let (_, backward) = counted(|| sum.backward());
    // The sum's own way back is not attention's.
    let leaf = Tensor::<2>::zeros([3, 3], &device.clone().without_autodiff()).cast(dtype).autodiff().require_grad();
    let sum = leaf.sum();
    let (_, of_sum) = counted(|| sum.backward());
    [forward.len(), backward.len() - of_sum.len()]
}

/// Operations for whose result the host waits: of a size or a value that only the device knows.
const WAITING: &[&str] =
    &["_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2"];

/// Copies between host and device are none on a CPU, so they are not seen here.
#[test]
fn a_pass_asks_for_no_number() {
    for format in [WeightFormat::Plain, WeightFormat::Bf16] {
        passes(2, format);
        assert_eq!(WAITED.take(), Vec::<String>::new());
    }
    drop(Tensor::<1>::ones([3], &Device::libtorch()).greater_elem(0.0).argwhere());
    assert!(WAITED.take().iter().any(|name| name == "nonzero"), "the hook sees such an operation inside another");
}

/// As above: the host waits for the ids alone.
#[test]
fn a_choice_of_tokens_asks_for_no_number() {
    let sampling = Sampling { temperature: 0.7, top_k: 20, top_p: 0.9, min_p: 0.01, typical_p: 0.9 };
    let edits = Edits { repeated: vec![1, 5], forbidden: vec![7] };
    let rows = vec![Row { edits, draws: vec![0.3, 0.6] }, Row { edits: Edits::default(), draws: vec![0.1] }];
    for sampling in [Sampling::new(0.0, 1.0), Sampling::new(1.0, 1.0), sampling] {
        let logits = Tensor::<2>::random([2, 40], Distribution::Default, &Device::libtorch());
        let rule = Rule { sampling, repetition: 1.2 };
        let (ids, launched) = counted(|| choose(logits, rule, rows.clone()));
        assert_eq!(ids.len(), 3);
        assert_eq!(WAITED.take(), Vec::<String>::new(), "{launched:?}");
        println!("{sampling:?}: {} launches", launched.len());
    }
}

#[test]
fn a_layer_launches_few_operations() {
    // Constants are made by the first pass of a thread.
    passes(1, WeightFormat::Bf16);
    let [few, many] = [2, 6].map(|layers| passes(layers, WeightFormat::Bf16));
    let own = attention_alone(FloatDType::BF16);
    for (pass, (name, most)) in [("forward", 25), ("backward", 45)].into_iter().enumerate() {
        let difference = many[pass].len() - few[pass].len();
        assert!(difference.is_multiple_of(4), "every layer launches the same");
        let layer = difference / 4 - own[pass] + FLASH[pass];
        println!("{name}: {layer} launches a layer, {} of them in attention", FLASH[pass]);
        assert!(layer <= most, "{name}: {layer} launches a layer; of two layers, all: {:?}", few[pass]);
    }
}
