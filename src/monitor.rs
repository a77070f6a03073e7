//! How long work talks to whoever watches it: progress out, a wish to stop in.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Receives progress and carries the wish to stop. The command line draws bars; tests use [`Silent`].
pub trait Monitor: Send + Sync {
    /// A piece of work begins. `total` is in `unit`s where it is known.
    fn begin(&self, label: &str, total: Option<u64>, unit: &'static str);
    /// `n` more units are done; `note` is a short state such as `loss 0.69`.
    fn advance(&self, n: u64, note: &str);
    /// `n` units of the total are not to come: rows that were filtered or set aside.
    fn skip(&self, n: u64);
    /// The piece of work ended.
    fn end(&self);
    /// What takes a while and has no units, just before it happens.
    fn note(&self, _note: Note) {}
    /// True once the user asked to stop; long loops look at it between units of work.
    fn stopping(&self) -> bool;
}

/// What happens before or between pieces of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note<'a> {
    /// The digest of a model's files is computed.
    Digests {
        /// Its name in the pipeline file.
        model: &'a str,
        /// The size of its weights.
        bytes: u64,
    },
    /// A stage loads a model.
    Loads {
        /// The stage.
        stage: &'a str,
        /// The model's name in the pipeline file.
        model: &'a str,
        /// The size of its weights; 0 where new parameters are drawn.
        bytes: u64,
    },
    /// A stage was done by an earlier run, whose result is used.
    Reuses {
        /// The stage.
        stage: &'a str,
    },
}

/// Warns of `message`, which this process did not say before: a model is loaded several times in a run.
pub fn warn_once(message: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(message.to_owned()) {
        tracing::warn!("{message}");
    }
}

/// Watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn begin(&self, _: &str, _: Option<u64>, _: &'static str) {}
    fn advance(&self, _: u64, _: &str) {}
    fn skip(&self, _: u64) {}
    fn end(&self) {}
    fn stopping(&self) -> bool {
        false
    }
}
