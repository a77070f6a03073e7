//! Random numbers for the initial values of parameters.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The random numbers of the parameter `name`; they do not depend on the order in which parameters are created.
pub(in crate::model) fn random(seed: u64, name: &str) -> ChaCha8Rng {
    let key = blake3::keyed_hash(blake3::hash(&seed.to_le_bytes()).as_bytes(), name.as_bytes());
    ChaCha8Rng::from_seed(*key.as_bytes())
}
