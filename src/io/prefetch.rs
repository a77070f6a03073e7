//! Reading ahead: the next batches are fetched and decoded while the ones before are computed with.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use super::Chunk;
use crate::error::Result;

/// Batches that wait at most.
const BATCHES: usize = 2;

/// The items of another iterator, which runs on a thread of its own, a few items ahead.
pub struct Prefetch {
    chunks: Receiver<Result<Chunk>>,
    thread: Option<JoinHandle<()>>,
}

/// Runs `chunks` ahead of whoever takes them.
pub fn prefetch(chunks: Box<dyn Iterator<Item = Result<Chunk>> + Send>) -> Prefetch {
    let (sender, receiver) = sync_channel(BATCHES);
    let thread = thread::spawn(move || {
        for chunk in chunks {
            // Nobody wants more.
            if sender.send(chunk).is_err() {
                break;
            }
        }
    });
    Prefetch { chunks: receiver, thread: Some(thread) }
}

impl Iterator for Prefetch {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Result<Chunk>> {
        if let Ok(chunk) = self.chunks.recv() {
            return Some(chunk);
        }
        // A reader that panicked must not look like one that came to its end.
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            resume_unwind(panic);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn it_keeps_the_order_and_runs_no_further_than_it_may() {
        let made = Arc::new(AtomicU64::new(0));
        let counter = made.clone();
        let chunk = move |first_row| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(Chunk { batch: RecordBatch::new_empty(Arc::new(Schema::empty())), first_row })
        };
        let mut ahead = prefetch(Box::new((0..100).map(chunk)));
        assert_eq!(ahead.next().unwrap().unwrap().first_row, 0);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(made.load(Ordering::SeqCst) <= 2 + BATCHES as u64);
        let rows: Vec<u64> = ahead.map(|chunk| chunk.unwrap().first_row).collect();
        assert_eq!(rows, (1..100).collect::<Vec<u64>>());
    }
}
