//! Who reads for the streams: a few threads for all of them, whatever their number. Memory that a thread frees is mostly used
//! again by the same thread, so that one thread a stream would hold several times what the streams need.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

/// Threads that read. What they decode fills most networks, and as many requests to a store are under way.
const THREADS: usize = 4;

/// How long a thread waits for work before it ends.
const PATIENCE: Duration = Duration::from_hours(1);

/// The threads, and how many streams they may serve. Clones share both.
#[derive(Clone)]
pub(super) struct Readers {
    threads: Handle,
    streams: Arc<Semaphore>,
}

impl Readers {
    /// Threads that run as long as what is returned beside them, for at most `streams` streams at a time.
    pub(super) fn start(streams: usize) -> io::Result<(Self, Runtime)> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .thread_keep_alive(PATIENCE)
            .thread_name("reader")
            .build()?;
        Ok((Self { threads: runtime.handle().clone(), streams: Arc::new(Semaphore::new(streams)) }, runtime))
    }

    /// Room for one more stream, until it is dropped.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// The outcome of `work`, which blocks, on one of the threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.threads.spawn_blocking(work).await
    }
}
