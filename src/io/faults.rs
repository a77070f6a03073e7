//! Failures on demand. Every change that this program makes to a file passes through `pass`, so that a test can let one
//! change fail as a full disk would, or let the process seem to be killed just before it.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happens to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with an error of this kind; later changes succeed.
    Fails(io::ErrorKind),
    /// It and every later change fail, as if the process had been killed just before it.
    Killed,
}

#[derive(Debug)]
struct Armed {
    /// Changes that still succeed.
    left: u64,
    fault: Fault,
    struck: bool,
}

/// Without an armed fault, a change costs one load.
static IS_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

fn armed() -> MutexGuard<'static, Option<Armed>> {
    ARMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets `fault` strike after `changes` more changes, whichever thread of this process makes them.
pub fn arm(changes: u64, fault: Fault) {
    *armed() = Some(Armed { left: changes, fault, struck: false });
    IS_ARMED.store(true, Ordering::SeqCst);
}

/// Ends the failures; whether the fault struck.
pub fn disarm() -> bool {
    IS_ARMED.store(false, Ordering::SeqCst);
    armed().take().is_some_and(|armed| armed.struck)
}

/// To be called before every change to a file at `path`.
///
/// # Errors
/// The armed fault.
pub(crate) fn pass(path: impl Display) -> io::Result<()> {
    if !IS_ARMED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut armed = armed();
    let Some(armed) = armed.as_mut() else { return Ok(()) };
    let strikes = match (armed.left, armed.struck, armed.fault) {
        (0, false, _) | (_, true, Fault::Killed) => true,
        (0, true, Fault::Fails(_)) => false,
        (left, ..) => {
            armed.left = left - 1;
            false
        }
    };
    if !strikes {
        return Ok(());
    }
    armed.struck = true;
    Err(match armed.fault {
        Fault::Fails(kind) => io::Error::new(kind, format!("{kind} (on demand, at {path})")),
        Fault::Killed => io::Error::other("killed (on demand)"),
    })
}
