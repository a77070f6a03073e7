//! Every body against the choice on the host.

use burn::backend::Flex;
#[cfg(feature = "tch")]
use burn::backend::{LibTorch, libtorch::LibTorchDevice, ops::FloatTensorOps};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;

use super::*;

type Body = fn(TensorData, Rule, Vec<Row>) -> Vec<i32>;

/// The bodies that are compared with the host's choice.
fn bodies() -> Vec<(&'static str, Body)> {
    fn in_general<B: Backend>(logits: TensorData, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
        portable::<B>(B::float_from_data(logits, &Default::default()), rule, rows)
    }
    vec![
        ("portable on flex", in_general::<Flex>),
        #[cfg(feature = "tch")]
        ("portable on LibTorch", in_general::<LibTorch>),
        #[cfg(feature = "tch")]
        ("LibTorch's", own),
    ]
}

/// That of LibTorch, on the device under test if that is LibTorch's, or on the CPU.
#[cfg(feature = "tch")]
fn own(logits: TensorData, rule: Rule, rows: Vec<Row>) -> Vec<i32> {
    let named = std::env::var("SEPO_TEST_DEVICE").unwrap_or_default();
    let device = match named.strip_prefix("libtorch:cuda:") {
        Some(index) => LibTorchDevice::Cuda(index.parse().unwrap()),
        None => LibTorchDevice::Cpu,
    };
    LibTorch::choose(LibTorch::float_from_data(logits, &device), rule, rows)
}

/// Compares all bodies on `logits`, of which every row of `rows` has an equal part.
#[track_caller]
fn check(logits: &[f32], rule: Rule, rows: &[Row]) -> Vec<i32> {
    let expected = host::chosen(logits, rule, rows);
    assert_eq!(expected.len(), rows.iter().map(|row| row.draws.len()).sum::<usize>());
    for (name, body) in bodies() {
        let data = TensorData::new(logits.to_vec(), [rows.len(), logits.len() / rows.len()]);
        let found = body(data, rule, rows.to_vec());
        let difference = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!(difference, None, "the body {name} with {rule:?}: {found:?}, expected {expected:?}");
        assert_eq!(found.len(), expected.len());
    }
    expected
}

struct Numbers(ChaCha8Rng);

impl Numbers {
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.next_u64() as usize % of.len()]
    }

    /// About a normal distribution; `steps` to a unit make ties, 0 makes none.
    fn logits(&mut self, count: usize, steps: f64) -> Vec<f32> {
        let normal = |numbers: &mut Self| (0..6).map(|_| numbers.uniform() - 0.5).sum::<f64>() * 4.0;
        let step = |number: f64| if steps > 0.0 { (number * steps).round() / steps } else { number };
        (0..count).map(|_| step(normal(self)) as f32).collect()
    }

    fn sampling(&mut self) -> Sampling {
        Sampling {
            temperature: self.one(&[0.0, 0.3, 1.0, 1.0, 1.7]),
            top_k: self.one(&[0, 0, 1, 5, 50, 1000]),
            top_p: self.one(&[1.0, 1.0, 0.9, 0.37, 0.0]),
            min_p: self.one(&[0.0, 0.0, 0.03, 0.6]),
            typical_p: self.one(&[1.0, 1.0, 0.83, 0.2]),
        }
    }

    fn ids(&mut self, most: usize, vocabulary: usize) -> Vec<i32> {
        let count = self.one(&[0, most / 2, most]);
        let mut ids: Vec<i32> = (0..count).map(|_| (self.0.next_u64() as usize % vocabulary) as i32).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[test]
fn devices_choose_what_the_host_chooses() {
    for seed in 0..300 {
        let mut numbers = Numbers(ChaCha8Rng::seed_from_u64(seed));
        let (count, vocabulary) = (numbers.one(&[1, 3, 17]), numbers.one(&[1, 2, 100, 311]));
        let steps = numbers.one(&[0.0, 0.0, 1.0, 4.0]);
        let mut logits = numbers.logits(count * vocabulary, steps);
        if numbers.one(&[true, false, false]) {
            let one = numbers.0.next_u64() as usize % logits.len();
            logits[one] = numbers.one(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            logits[..vocabulary].fill(f32::NEG_INFINITY);
        }
        let mut row = || {
            let edits = Edits { repeated: numbers.ids(20, vocabulary), forbidden: numbers.ids(20, vocabulary) };
            let draws = numbers.one(&[1, 1, 4]);
            Row { edits, draws: (0..draws).map(|_| numbers.uniform()).collect() }
        };
        let mut rows: Vec<Row> = (0..count).map(|_| row()).collect();
        if numbers.one(&[true, false]) {
            rows.iter_mut().for_each(|row| row.edits = Edits::default());
        }
        check(&logits, Rule { sampling: numbers.sampling(), repetition: numbers.one(&[1.0, 1.3, 0.7]) }, &rows);
    }
}

/// Logits, settings, and the tokens that `transformers` leaves to choose from; `make_expected.py` beside the file made it.
pub(super) fn candidates_of_transformers() -> Vec<(Vec<f64>, Sampling, Vec<usize>)> {
    let expected: Vec<(Value, Vec<usize>)> =
        serde_json::from_str(include_str!("../../../tests/fixtures/generation_config/candidates.json")).unwrap();
    let parse = |(settings, tokens): (Value, _)| {
        let number = |name: &str, otherwise: f64| settings[name].as_f64().unwrap_or(otherwise);
        let sampling = Sampling {
            temperature: number("temperature", 1.0),
            top_k: number("top_k", 0.0) as usize,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
            typical_p: number("typical_p", 1.0),
        };
        (serde_json::from_value(settings["logits"].clone()).unwrap(), sampling, tokens)
    };
    expected.into_iter().map(parse).collect()
}

/// Those of `transformers` are among the settings whose candidates it lists.
#[test]
fn devices_choose_among_the_candidates_of_transformers() {
    for (logits, sampling, tokens) in candidates_of_transformers() {
        let logits: Vec<f32> = logits.iter().map(|logit| *logit as f32).collect();
        let draws = (0..1000).map(|draw| (f64::from(draw) + 0.123) / 1000.0).collect();
        let found = check(&logits, Rule { sampling, repetition: 1.0 }, &[Row { draws, ..Row::default() }]);
        assert!(found.iter().all(|token| tokens.contains(&(*token as usize))), "{sampling:?} of {logits:?}");
    }
}

/// A vocabulary of which LibTorch's body works on some rows at a time.
#[cfg(feature = "tch")]
#[test]
fn rows_of_a_large_vocabulary_are_chosen_in_parts() {
    const VOCABULARY: usize = 1 << 17;
    let mut numbers = Numbers(ChaCha8Rng::seed_from_u64(1));
    let logits = numbers.logits(33 * VOCABULARY, 0.0);
    let mut row = || Row { edits: Edits::default(), draws: vec![numbers.uniform()] };
    let rows: Vec<Row> = (0..33).map(|_| row()).collect();
    let typical = Sampling { typical_p: 0.9, ..Sampling::new(1.0, 0.95) };
    for sampling in [Sampling::new(0.0, 1.0), Sampling::new(1.0, 1.0), typical] {
        let rule = Rule { sampling, repetition: 1.0 };
        let found = own(TensorData::new(logits.clone(), [33, VOCABULARY]), rule, rows.clone());
        assert_eq!(found, host::chosen(&logits, rule, &rows), "{sampling:?}");
    }
}

#[test]
fn no_draws_are_no_tokens() {
    let rule = Rule { sampling: Sampling::new(1.0, 1.0), repetition: 1.0 };
    assert_eq!(check(&[1.0, 2.0], rule, &[Row::default()]), [0i32; 0]);
}
