//! Leases: work that one process does while the others wait for it, and that passes to another one when its holder dies.
//!
//! **On this machine and on network disks** a lease is a lock of the operating system on the file `<name>.lock`. The kernel
//! takes the lock from a process that ends, however it ends. The file says who holds it, for people, and is never deleted:
//! whoever waited for a deleted file would get a lock that nobody else sees. On a file system that refuses to lock, the
//! protocol for stores is used. One whose locks hold on one machine only (NFS mounted with `local_lock`, Lustre with
//! `localflock`) cannot be told from others: there two machines may hold one lease.
//!
//! **In a store** it is a row of numbered objects, `<name>/1.json`, `<name>/2.json`, …, each written by the process that
//! created it and by no other (`numbered.rs`):
//!
//! - The holder is the process that created the highest number. Creation is conditional, so a number has one creator.
//! - The holder rewrites its object every third of the lease's time to live, with another beat each time.
//! - A process that waits takes over by creating the next number, once it has seen one content for a whole time to live,
//!   or a content that says that the lease was released. It measures by its own monotonic clock from when it first saw that
//!   content; clocks of different machines are never compared.
//! - The holder counts its time from when it sent its last renewal that succeeded. When that time is over, or a higher
//!   number is there, the lease is lost, for good. [`Lease::held`] also fails when less than a third of it is left.
//! - Whoever takes over deletes lower numbers. The highest number is never deleted, so numbers only grow; and a process
//!   whose creation succeeded because its number had been used and deleted in the meantime finds a higher one when it
//!   looks again, and does not hold the lease.
//!
//! **Invariant**: at no time does [`Lease::held`] succeed in two processes whose clocks run equally fast, and where a clock
//! stood still (a paused machine), the higher number is found in the store. What a holder publishes right after `held` is
//! published with at least a third of its time left. A process that is stopped for longer than that between `held` and its
//! write is the one case left; so what is published must also be right when two processes publish it.
//!
//! Process ids are for people: in a container every process is number 1. Holders know one another by random numbers.

mod lock;
mod numbered;

use std::env;
use std::fmt;
use std::fs;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::nonce::nonce;
use super::store::Location;
use crate::error::{Error, Result};
use lock::{Attempt, Lock};
use numbered::Numbered;

/// How long a holder in a store may be silent. Three times the longest pause that should cost it the lease.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// The most time between two looks at who holds a lease. In a store, whoever waited for long looks after a tenth of the time
/// that it waited so far, at most a twelfth of the time to live.
const LOOK: Duration = Duration::from_secs(2);

/// Work that this process alone does. Dropped, it is released.
#[derive(Debug)]
pub struct Lease(Held);

#[derive(Debug)]
enum Held {
    Lock(Lock),
    Numbered(Numbered),
}

/// Who holds a lease, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The machine's name.
    pub host: String,
    /// The process there.
    pub process: u32,
    /// When it began to hold, in UTC by its own clock.
    pub since: String,
    /// What distinguishes it from all others.
    nonce: String,
}

/// What to do while somebody else holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait on.
    On,
    /// Do without.
    GiveUp,
}

impl Lease {
    /// The lease `name` in the folder `at`. While somebody else holds it, `wait` is asked again and again. None where it
    /// gave up. Who gets a lease after waiting should look whether the work is still to be done.
    ///
    /// # Errors
    /// A disk or store that fails; what `wait` fails with.
    pub fn acquire(at: &Location, name: &str, wait: impl FnMut(&Holder) -> Result<Wait>) -> Result<Option<Self>> {
        Self::acquire_for(at, name, TIME_TO_LIVE, wait)
    }

    fn acquire_for(
        at: &Location,
        name: &str,
        time_to_live: Duration,
        mut wait: impl FnMut(&Holder) -> Result<Wait>,
    ) -> Result<Option<Self>> {
        let me = Holder::this_process();
        let look = (time_to_live / 20).clamp(Duration::from_millis(1), LOOK);
        if let Some(folder) = at.local() {
            let path = folder.join(format!("{name}.lock"));
            loop {
                match Lock::attempt(&path, &me).map_err(|error| failed(&path.display(), &error))? {
                    Attempt::Ours(lock) => return Ok(Some(Self(Held::Lock(lock)))),
                    Attempt::Theirs(holder) if wait(&holder)? == Wait::GiveUp => return Ok(None),
                    Attempt::Theirs(_) => std::thread::sleep(look),
                    // Numbers need nothing but files that are created once.
                    Attempt::NoLocks => break,
                }
            }
        }
        let lease = numbered::acquire(&at.join(name), &me, (time_to_live, look), &mut wait)?;
        Ok(lease.map(|lease| Self(Held::Numbered(lease))))
    }

    /// Whether the lease is still this process's; to be asked right before the work is published.
    ///
    /// # Errors
    /// It was lost, so that somebody else may do the same work; a store that cannot say.
    pub fn held(&self) -> Result<()> {
        match &self.0 {
            Held::Lock(lock) => lock.held(),
            Held::Numbered(numbered) => numbered.held(),
        }
    }
}

impl Holder {
    fn this_process() -> Self {
        let since = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        Self { host: host(), process: std::process::id(), since, nonce: nonce() }
    }

    /// Somebody who has not said who they are.
    fn unknown() -> Self {
        let unknown = || "unknown".to_owned();
        Self { host: unknown(), process: 0, since: unknown(), nonce: String::new() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nonce.is_empty() {
            true => f.write_str("another process"),
            false => write!(f, "process {} on {} since {}", self.process, self.host, self.since),
        }
    }
}

/// The machine's name, for people.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "this machine".to_owned())
}

fn failed(path: &dyn fmt::Display, error: &dyn fmt::Display) -> Error {
    Error::Store { path: path.to_string(), message: error.to_string(), retryable: false }
}

#[cfg(test)]
mod tests;
