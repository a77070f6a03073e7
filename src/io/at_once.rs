//! Work on many files of a store, each of which costs several answers: several files at a time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;

/// What work on an item costs, which decides how many of them are worked on at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Reads from this machine: nothing is waited for.
    Local,
    /// Answers of a store that may fill a block each.
    Blocks,
    /// Answers of a store of a few kilobytes: nothing but waiting.
    Waiting,
}

impl Cost {
    /// What answers that may fill a block each cost, of this machine or of a store.
    pub(crate) fn of_blocks(are_local: bool) -> Self {
        if are_local { Self::Local } else { Self::Blocks }
    }

    fn at_a_time(self) -> usize {
        match self {
            Self::Local => 1,
            Self::Blocks => 16,
            Self::Waiting => 64,
        }
    }
}

/// What `work` makes of all `items`, as many at a time as its `cost` permits.
pub(crate) fn at_once<T: Sync, U: Send + Sync>(
    items: &[T],
    cost: Cost,
    work: impl Fn(&T) -> Result<U> + Sync,
) -> Result<Vec<U>> {
    if cost == Cost::Local {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let made: Vec<OnceLock<Result<U>>> = items.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..cost.at_a_time().min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    made[index].get_or_init(|| work(item));
                }
            });
        }
    });
    made.into_iter().filter_map(OnceLock::into_inner).collect()
}
