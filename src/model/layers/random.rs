//! Random numbers that a parameter starts with.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Random numbers for the parameter `name`, whatever the order in which parameters are made.
pub(in crate::model) fn random(seed: u64, name: &str) -> ChaCha8Rng {
    let key = blake3::keyed_hash(blake3::hash(&seed.to_le_bytes()).as_bytes(), name.as_bytes());
    ChaCha8Rng::from_seed(*key.as_bytes())
}
