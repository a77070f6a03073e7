//! Work on many files of a store, each of which costs several answers: several files at a time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;

/// Files at a time.
const AT_ONCE: usize = 16;

/// What `work` makes of all `items`, of several at a time unless they are local.
pub(crate) fn at_once<T: Sync, U: Send + Sync>(
    items: &[T],
    are_local: bool,
    work: impl Fn(&T) -> Result<U> + Sync,
) -> Result<Vec<U>> {
    if are_local {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let made: Vec<OnceLock<Result<U>>> = items.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
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
