//! The random numbers by which answers are sampled.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The random numbers of one answer.
#[derive(Debug)]
pub(super) struct AnswerRng(ChaCha8Rng);

impl AnswerRng {
    /// The random numbers of answer `sample` to the prompt `key`; they depend on nothing else.
    pub(super) fn new(seed: u64, key: &str, sample: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&(sample as u64).to_le_bytes()).update(key.as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    /// In [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_sample_has_random_numbers_of_its_own() {
        let first = |seed, key, sample| AnswerRng::new(seed, key, sample).uniform();
        assert_eq!(first(1, "a", 0), first(1, "a", 0));
        assert!(first(1, "a", 0) != first(1, "a", 1) && first(1, "a", 0) != first(1, "b", 0));
        assert!(first(1, "a", 0) != first(2, "a", 0));
    }
}
