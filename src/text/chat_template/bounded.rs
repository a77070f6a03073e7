//! Where templates are parsed and rendered: on a thread with a stack for what the fuel allows, which nobody waits for
//! longer than [`PATIENCE`].
//!
//! Fuel counts instructions and bytes. It does not see how deep a list lies inside of lists, which printing, comparing
//! and freeing it follow by recursion, nor that `{% set a = [a, a] %}`, sixty times, makes a list that no comparison
//! comes to the end of.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

/// Reserved, not used: a list of a level for every seven units of fuel takes 180 MB to print.
const STACK: usize = 256 << 20;

/// All of the fuel burns in a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The result of `work`. What does not end goes on by itself until the program ends.
///
/// # Errors
/// When it takes longer than [`PATIENCE`], or no thread can be had.
pub(super) fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    within(PATIENCE, work)
}

fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (sender, receiver) = sync_channel(1);
    let builder = Builder::new().name("chat template".to_owned()).stack_size(STACK);
    let thread = builder.spawn(move || drop(sender.send(work())));
    let thread = thread.map_err(|error| format!("no thread to work on it: {error}"))?;
    receiver.recv_timeout(patience).map_err(|failure| match failure {
        RecvTimeoutError::Timeout => format!("does not end: stopped after {} s", patience.as_secs()),
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
    fn nobody_waits_for_what_does_not_end() {
        let endless = || sleep(Duration::from_secs(3600));
        let error = within(Duration::from_millis(10), endless).unwrap_err();
        assert_eq!(error, "does not end: stopped after 0 s");
        assert_eq!(bounded(|| 7), Ok(7));
    }

    #[test]
    #[should_panic(expected = "its own words")]
    fn a_panic_goes_on_in_the_caller() {
        let _ = bounded(|| panic!("its own words"));
    }
}
