//! Parses and renders templates on a thread of their own, with a large stack and a time limit.
//!
//! Fuel limits instructions and bytes. It does not limit the nesting of lists, which are printed, compared and freed by recursion, nor
//! the time to compare the list that `{% set a = [a, a] %}` builds when repeated sixty times.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

/// Reserved address space, not memory in use. Printing the deepest list that fuel allows, a level for every seven units, needs 180 MB.
const STACK: usize = 256 << 20;

/// The time limit. Using all of the fuel takes about a second.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The result of `work`, on another thread. A thread that exceeds the time limit is abandoned, not stopped.
///
/// # Errors
/// `work` that takes longer than [`TIME_LIMIT`], or a thread that cannot be started.
pub(super) fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    within(TIME_LIMIT, work)
}

fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (sender, receiver) = sync_channel(1);
    let builder = Builder::new().name("chat template".to_owned()).stack_size(STACK);
    let thread = builder.spawn(move || drop(sender.send(work())));
    let thread = thread.map_err(|error| format!("no thread to work on it: {error}"))?;
    receiver.recv_timeout(limit).map_err(|failure| match failure {
        RecvTimeoutError::Timeout => format!("does not end: stopped after {} s", limit.as_secs()),
        RecvTimeoutError::Disconnected => match thread.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => "ended without a result".to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn endless_work_is_an_error() {
        let endless = || sleep(Duration::from_secs(3600));
        let error = within(Duration::from_millis(10), endless).unwrap_err();
        assert_eq!(error, "does not end: stopped after 0 s");
        assert_eq!(bounded(|| 7), Ok(7));
    }

    #[test]
    #[should_panic(expected = "its own words")]
    fn a_panic_is_raised_in_the_caller() {
        let _ = bounded(|| panic!("its own words"));
    }
}
