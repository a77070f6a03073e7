//! Requests to a store, tried again where that helps. The only async runtime is here; everybody else waits.
//!
//! The stores' own retries are off: they give up at once on broken bodies and on conditional writes, and theirs and ours
//! together would have no limit that anybody could state.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use object_store::{Error as StoreError, Result};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tracing::info;

use super::asked::Asked;
use super::wrong::{self, Retryability};
use crate::io::storage::Retry;

/// Tries while the machine's identity cannot be had: without one there never will be.
const WITHOUT_IDENTITY: u32 = 2;

/// The threads of all requests, those that are made and those that are answered.
pub(in crate::io) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let builder = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        builder.expect("the operating system lends two threads")
    })
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Begins work that goes on while the caller does something else.
pub(super) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    runtime().spawn(future)
}

/// How often and after what pauses a store is asked again.
#[derive(Debug, Clone, Default)]
pub(super) struct RetryPolicy {
    pub(super) retry: Retry,
    /// What the store itself asked for.
    pub(super) asked: Asked,
}

/// The outcome of `request`, which is made again while it fails in a way that may pass. It gets the number of tries before.
pub(super) async fn attempt<T, F>(retry_policy: &RetryPolicy, mut request: impl FnMut(u32) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (retry, start) = (&retry_policy.retry, Instant::now());
    let mut tries = 0;
    loop {
        let error = match request(tries).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tries += 1;
        let most = match wrong::retryability(&error) {
            Retryability::Never => 0,
            Retryability::Identity => WITHOUT_IDENTITY.min(retry.max_retries),
            Retryability::Later => retry.max_retries,
        };
        let pause = retry.pause(tries).max(retry_policy.asked.left());
        if tries > most || start.elapsed() + pause > Duration::from_secs(retry.timeout) {
            return Err(error);
        }
        info!("{}; trying again in {pause:.1?} ({tries} of {most})", wrong::message(&error));
        tokio::time::sleep(pause).await;
    }
}

/// [`attempt`], waiting for the outcome.
pub(super) fn persist<T, F>(retry_policy: &RetryPolicy, request: impl FnMut(u32) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T>>,
{
    block_on(attempt(retry_policy, request))
}
