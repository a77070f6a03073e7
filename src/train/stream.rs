//! Examples as a stream: units in a seeded order, a bounded shuffle window, read and decoded ahead on another thread.
//! Memory does not depend on the dataset's size; the order depends on seed and epoch alone.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use arrow::array::RecordBatch;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::example::{Example, Wanted};
use crate::error::Result;

/// Rows in units that can be read in any order.
pub trait Source: Send + Sync {
    /// Number of units.
    fn units(&self) -> usize;
    /// Hands the rows of `unit` to `take`, which says whether it wants more.
    ///
    /// # Errors
    /// Rows that cannot be read or computed.
    fn read(&self, unit: usize, take: &mut dyn FnMut(RecordBatch) -> bool) -> Result<()>;
}

/// Seed and size of a shuffle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shuffle {
    /// Seed; the epoch is mixed in.
    pub seed: u64,
    /// Examples that are held back to be drawn from.
    pub window: usize,
}

/// Examples that wait between the reading and the training thread.
const AHEAD: usize = 256;

/// The examples of one epoch.
pub fn examples(
    source: Arc<dyn Source>,
    wanted: Wanted,
    shuffle: Option<Shuffle>,
    epoch: u32,
) -> impl Iterator<Item = Result<Example>> {
    let (sender, receiver) = sync_channel(AHEAD);
    thread::spawn(move || produce(&*source, &wanted, shuffle, epoch, &sender));
    receiver.into_iter()
}

fn produce(
    source: &dyn Source,
    wanted: &Wanted,
    shuffle: Option<Shuffle>,
    epoch: u32,
    sender: &SyncSender<Result<Example>>,
) {
    let mut order: Vec<usize> = (0..source.units()).collect();
    let mut rng = shuffle.map(|shuffle| {
        let seed = blake3::keyed_hash(blake3::hash(&shuffle.seed.to_le_bytes()).as_bytes(), &epoch.to_le_bytes());
        (ChaCha8Rng::from_seed(*seed.as_bytes()), shuffle.window.max(1))
    });
    if let Some((rng, _)) = &mut rng {
        for last in (1..order.len()).rev() {
            order.swap(last, below(rng, last + 1));
        }
    }
    let mut window: Vec<Example> = Vec::new();
    // A receiver that is gone wants nothing more: the epoch was cut short.
    let mut open = true;
    for unit in order {
        let mut failed = None;
        let read = source.read(unit, &mut |batch| {
            match Example::from_batch(&batch, wanted) {
                Err(error) => failed = Some(error),
                Ok(examples) => {
                    for example in examples {
                        let next = match &mut rng {
                            None => Some(example),
                            Some((rng, size)) => {
                                window.push(example);
                                (window.len() > *size).then(|| window.swap_remove(below(rng, window.len())))
                            }
                        };
                        open = open && next.is_none_or(|example| sender.send(Ok(example)).is_ok());
                    }
                }
            }
            open && failed.is_none()
        });
        if let Err(error) = read.and(failed.map_or(Ok(()), Err)) {
            // The receiver sees the error, or is gone and does not care.
            let _ = sender.send(Err(error));
            return;
        }
        if !open {
            return;
        }
    }
    if let Some((rng, _)) = &mut rng {
        while !window.is_empty() {
            let example = window.swap_remove(below(rng, window.len()));
            if sender.send(Ok(example)).is_err() {
                return;
            }
        }
    }
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    (rng.next_u64() % n as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::lists::from_rows;
    use crate::columns::{PROMPT_IDS, Side};
    use arrow::datatypes::Int32Type;

    struct Numbers;

    impl Source for Numbers {
        fn units(&self) -> usize {
            10
        }

        fn read(&self, unit: usize, take: &mut dyn FnMut(RecordBatch) -> bool) -> Result<()> {
            let ids = || from_rows::<Int32Type>((0..20).map(|row| [(unit * 20 + row) as i32]));
            let columns = [PROMPT_IDS.to_owned(), Side::Chosen.ids(), Side::Rejected.ids()].map(|name| (name, ids()));
            take(RecordBatch::try_from_iter(columns).unwrap());
            Ok(())
        }
    }

    fn order(shuffle: Option<Shuffle>, epoch: u32) -> Vec<i32> {
        let examples = examples(Arc::new(Numbers), Wanted::default(), shuffle, epoch);
        examples.map(|example| example.unwrap().prompt[0]).collect()
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_and_every_row_comes_once() {
        let all: Vec<i32> = (0..200).collect();
        assert_eq!(order(None, 3), all);
        let shuffle = |seed| Some(Shuffle { seed, window: 30 });
        let first = order(shuffle(1), 0);
        assert_eq!(first, order(shuffle(1), 0));
        for other in [order(shuffle(1), 1), order(shuffle(2), 0)] {
            assert_ne!(first, other);
            let mut sorted = other;
            sorted.sort_unstable();
            assert_eq!(sorted, all);
        }
    }
}
