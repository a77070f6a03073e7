//! Names that nobody else uses. A process id is none: in a container every process is number 1.

use std::hash::{BuildHasher, RandomState};

/// 64 random bits from the operating system.
pub fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// 128 random bits in hexadecimal, from the operating system.
pub fn nonce() -> String {
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_are_alike() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..1000).map(|_| nonce()).collect::<Vec<_>>())).collect();
        let all: BTreeSet<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 4000);
        assert!(all.iter().all(|nonce| nonce.len() == 32));
    }
}
