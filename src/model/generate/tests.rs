//! The cache of devices beside that of the host.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::close::{Tolerance, assert_close};
use crate::model::layers::cache::host;

const CASES: [&str; 5] = ["llama-tied", "mistral-window", "qwen3-window", "gpt_neox-parallel", "gpt2-bare"];

/// The device cache on burn's tensors of the processor.
#[test]
fn answers_by_way_of_a_device_cache_are_those_of_the_host() {
    for case in CASES {
        let generator = generator(case);
        let prompts = prompts(case);
        let prompts: Vec<Prompt> = prompts.iter().map(|ids| Prompt { ids, key: "x" }).collect();
        let limit = generator.position_limit().unwrap_or(usize::MAX);
        let cache = KvCache::on_device(generator.model.body().layers());
        let found = generator.decoded(&prompts, limit, cache).unwrap();
        assert_eq!(found, generator.answers(&prompts).unwrap(), "{case}");
        assert!(found.iter().flatten().map(|answer| answer.ids.len()).sum::<usize>() > 100, "{case}");
    }
}

/// What follows a sequence depends neither on the others in the cache nor on the passes in which it came but for rounding; all of them
/// are longer than the windows.
#[test]
fn logits_by_way_of_a_device_cache_are_those_of_the_host() {
    let devices = [
        Device::flex(),
        #[cfg(feature = "tch")]
        Device::libtorch(),
    ];
    for (case, device) in CASES.iter().flat_map(|case| devices.iter().map(move |device| (case, device))) {
        let source = ModelSource::folder(*case, folder(case));
        let model = CausalLm::load(&source, device).unwrap();
        let layers = model.body().layers();
        let sequence = |row: usize| (0..80 + 3 * row).map(|at| (3 + (at * (row + 5)) % 90) as i32).collect();
        let sequences: Vec<Vec<i32>> = (0..3).map(sequence).collect();
        let together = last_logits(&model, device, &sequences, 1, KvCache::on_device(layers));
        for (sequence, together) in sequences.iter().zip(&together) {
            let alone = std::slice::from_ref(sequence);
            let of_host = last_logits(&model, device, alone, 64, KvCache::on_host(layers));
            let in_pieces = last_logits(&model, device, alone, 7, KvCache::on_device(layers));
            for (name, found) in [("together", together), ("in pieces", &in_pieces[0])] {
                let context = format_args!("{case} on {device:?}, {name}");
                assert_close(found, &of_host[0], Tolerance::Absolute(1e-4), context);
            }
        }
    }
}

/// The logits after each of `sequences`, of which every pass appends `piece` tokens to the cache.
fn last_logits(
    model: &CausalLm,
    device: &Device,
    sequences: &[Vec<i32>],
    piece: usize,
    mut cache: KvCache,
) -> Vec<Vec<f32>> {
    let slots: Vec<Slot> = sequences.iter().map(|_| cache.open()).collect();
    let mut last = vec![Vec::new(); sequences.len()];
    let mut read = 0;
    while sequences.iter().any(|ids| read < ids.len()) {
        let (mut batch, mut places, mut ended) = (PackedBatch::default(), Vec::new(), Vec::new());
        for (index, ids) in sequences.iter().enumerate().filter(|(_, ids)| read < ids.len()) {
            for (position, id) in ids.iter().enumerate().skip(read).take(piece) {
                batch.ids.push(*id);
                batch.positions.push(position as u32);
                places.push(Place { slot: slots[index], prompt: None });
            }
            batch.rows.push(batch.len() as i32 - 1);
            ended.push(index);
        }
        cache.begin(places);
        let logits = host(model.next_logits(&batch, &mut cache, device));
        for (index, logits) in ended.into_iter().zip(logits.chunks_exact(model.vocab_size())) {
            last[index] = logits.to_vec();
        }
        read += piece;
    }
    last
}

fn folder(case: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case)
}

fn prompts(case: &str) -> Vec<Vec<i32>> {
    let rows: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder(case).join("generated.json")).unwrap()).unwrap();
    rows.iter().map(|row| serde_json::from_value(row["prompt"].clone()).unwrap()).collect()
}

fn generator(case: &str) -> Generator {
    let settings = Settings {
        sampling: Sampling::new(0.0, 1.0),
        penalties: Penalties::default(),
        max_tokens: 40,
        samples: 2,
        seed: 3,
        batch_tokens: 400,
        stops: Stops { ids: [2].into(), ..Stops::default() },
    };
    let source = ModelSource::folder(case, folder(case));
    Generator::load(&source, DeviceSpec::Cpu, Precision::F32, settings).unwrap()
}
