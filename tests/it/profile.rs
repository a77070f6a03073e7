//! Which of LibTorch's operations take the time of a scoring pass and of a training step. `benches/gpu/run.sh` runs it:
//!
//! ```text
//! SEPO_PROFILE='{"model": DIR, "device": "libtorch", "precision": "bf16", "tokens": 8192, "lora": 0, "out": FILE}' \
//!     it.test --ignored --exact profile::operations
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::fmt::Write;
use std::mem::transmute;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sepo::kernels::upload::upload;
use sepo::model::{CausalLm, Memory, ModelSource, Needed, PackedBatch, Precision, Response, WeightFormat};
use sepo::objective::States;
use sepo::train::kept::Kept;
use sepo::train::optimizer::{AdamW, Gradients, State};
use sepo::train::policy::Policy;
use serde::Deserialize;
use serde_json::json;

use crate::hook::{Listener, listen, symbol};

/// The content of the variable `SEPO_PROFILE`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    model: PathBuf,
    device: String,
    /// `f32` or `bf16`.
    precision: Precision,
    /// Tokens of a pass, at most.
    tokens: usize,
    /// The rank of the adapters that train, with `memory: low`; 0 trains all weights.
    lora: usize,
    /// Where the tables go.
    out: PathBuf,
}

/// Calls of an operation, and the time that they took.
type Calls = BTreeMap<String, (usize, Duration)>;

thread_local! {
    /// Whether operations are timed, one at a time.
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    /// Whether they run on a GPU, which calls do not wait for.
    static IS_CUDA: Cell<bool> = const { Cell::new(false) };
    /// How many operations are under way, of which each but the first was called by another; the first one's name and
    /// start.
    static UNDER_WAY: RefCell<(usize, Option<(String, Instant)>)> = const { RefCell::new((0, None)) };
    static CALLS: RefCell<Calls> = const { RefCell::new(Calls::new()) };
    /// The end of the last operation, and the time between operations: of the host, and of kernels that are none of LibTorch's.
    static BETWEEN: Cell<(Option<Instant>, Duration)> = const { Cell::new((None, Duration::ZERO)) };
}

/// Waits for the work of CUDA's current device.
fn wait() {
    if IS_CUDA.get() {
        let address = symbol(c"cudaDeviceSynchronize").expect("CUDA's runtime is loaded");
        // SAFETY: `cudaError_t cudaDeviceSynchronize()` of CUDA's runtime.
        let failed = unsafe { transmute::<*mut c_void, extern "C" fn() -> c_int>(address)() };
        assert_eq!(failed, 0, "the device failed");
    }
}

struct Times;

impl Listener for Times {
    fn start(name: &str) {
        if !IS_ON.get() {
            return;
        }
        UNDER_WAY.with_borrow_mut(|(depth, first)| {
            if *depth == 0 {
                wait();
                if let (Some(end), between) = BETWEEN.get() {
                    BETWEEN.set((None, between + end.elapsed()));
                }
                *first = Some((name.strip_prefix("aten::").unwrap_or(name).to_owned(), Instant::now()));
            }
            *depth += 1;
        });
    }

    fn end() {
        if !IS_ON.get() {
            return;
        }
        let ended = UNDER_WAY.with_borrow_mut(|(depth, first)| {
            *depth -= 1;
            if *depth == 0 { first.take() } else { None }
        });
        if let Some((name, start)) = ended {
            wait();
            CALLS.with_borrow_mut(|calls| {
                let (count, time) = calls.entry(name).or_default();
                *count += 1;
                *time += start.elapsed();
            });
            BETWEEN.set((Some(Instant::now()), BETWEEN.get().1));
        }
    }
}

/// A table of the operations of `work`, which is done three times: to warm up, for its time, and with the device waited
/// for at start and end of every operation that no other one calls.
fn table(title: &str, mut work: impl FnMut()) -> String {
    work();
    wait();
    let start = Instant::now();
    work();
    wait();
    let whole = start.elapsed();
    IS_ON.set(true);
    work();
    IS_ON.set(false);
    let mut calls: Vec<_> = CALLS.take().into_iter().collect();
    calls.sort_by_key(|(_, (_, time))| std::cmp::Reverse(*time));
    let count: usize = calls.iter().map(|(_, (count, _))| count).sum();
    let sum: Duration = calls.iter().map(|(_, (_, time))| *time).sum();
    let (_, between) = BETWEEN.replace((None, Duration::ZERO));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let mut out = format!(
        "#### {title}\n\n{:.2} ms. Its {count} operations, each waited for: {:.2} ms; between them, where the host and this program's \
         kernels are at work: {:.2} ms.\n\n\
         | operation | calls | ms | share |\n|---|---|---|---|\n",
        milliseconds(whole),
        milliseconds(sum),
        milliseconds(between)
    );
    for (name, (count, time)) in calls {
        let share = 100.0 * time.as_secs_f64() / sum.as_secs_f64();
        writeln!(out, "| `{name}` | {count} | {:.2} | {share:.1} % |", milliseconds(time)).unwrap();
    }
    out
}

/// Pairs of answers of 337 tokens to prompts of 143, the means of UltraFeedback's, as many as fit; shorter ones where
/// none does.
fn batch(tokens: usize, vocabulary: usize) -> PackedBatch {
    let lengths = [143, 337, 337].map(|length| length.min(tokens / 3).max(1));
    let mut batch = PackedBatch::default();
    let mut ids = (0..).map(|place: usize| (place * 7919 % vocabulary) as i32);
    while batch.is_empty() || batch.len() + lengths.iter().sum::<usize>() <= tokens {
        let [prompt, chosen, rejected] = lengths.map(|length| ids.by_ref().take(length).collect::<Vec<i32>>());
        batch.push(&prompt, &[&chosen, &rejected].map(|ids| Response { ids, needed: Needed::All }));
    }
    batch
}

#[test]
#[ignore = "writes tables about one machine; benches/gpu/run.sh runs it"]
fn operations() {
    let wanted =
        std::env::var("SEPO_PROFILE").expect("SEPO_PROFILE says what to profile, as the head of this file does");
    let Wanted { model, device, precision, tokens, lora, out } = serde_json::from_str(&wanted).unwrap();
    let source = ModelSource::folder("model", model);
    listen::<Times>();
    IS_CUDA.set(device.contains("cuda"));

    let (model, device, precision) = CausalLm::open(&source, device.parse().unwrap(), precision).unwrap();
    let batch = batch(tokens, model.vocab_size());
    let of = format!("{} tokens in {precision}", batch.len());
    let mut text = table(&format!("A scoring pass: {of}"), || drop(model.token_logps(&batch, &device).into_data()));
    drop(model);

    let device = device.autodiff();
    let is_bf16 = precision == Precision::Bf16;
    let model = match lora {
        0 => CausalLm::load(&source, &device),
        r => {
            let format = if is_bf16 { WeightFormat::Bf16 } else { WeightFormat::Plain };
            CausalLm::adapted(&source, &serde_json::from_value(json!({ "r": r })).unwrap(), 1, format, &device)
        }
    };
    let (memory, of) = match lora {
        0 => (Memory::Normal, of),
        r => (Memory::Low, format!("{of}, LoRA of rank {r}, `memory: low`")),
    };
    let mut state = State::new(Kept::default(), 1);
    let policy = Policy::new(model.unwrap(), States::Nothing, 1, &device);
    let mut policy = Some(if is_bf16 && lora == 0 { state.narrowed(policy) } else { policy });
    let settings = AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.01 };
    text.push('\n');
    text += &table(&format!("A training step: {of}"), || {
        let own = policy.take().expect("every step leaves a policy");
        let pass = own.model().pass(&batch, &device, memory);
        let logps = own.model().logps_of(pass.hidden(), &batch);
        let slopes = upload(vec![-1e-3; batch.targets.len()], [batch.targets.len()], &device);
        let mut gradients = Gradients::default();
        pass.backward((logps * slopes).sum(), |found| gradients.add(&own, found));
        let norm = gradients.norm();
        policy = Some(state.step(own, gradients, &settings, 1e-6, 1.0 / norm.max(1.0)));
    });
    std::fs::write(&out, &text).unwrap();
    println!("{text}");
}
