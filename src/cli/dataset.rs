//! The dataset that a path on the command line names.

use crate::error::{Error, Result};
use crate::io::hub::SCHEME;
use crate::io::{Dataset, Location, Stores};
use crate::monitor::Monitor;
use crate::pipeline::run::MARKER;

/// Stages that a message names.
const NAMED: usize = 10;

/// The dataset at `path`.
///
/// # Errors
/// The workdir of a run; else as [`Dataset::open_watched`].
pub(super) fn open(path: &str, monitor: &dyn Monitor) -> Result<Dataset> {
    refuse_workdir(path)?;
    Dataset::open_watched(&[path.to_owned()], &Stores::default(), monitor)
}

/// Refuses what is no dataset though it holds files of rows.
///
/// # Errors
/// The workdir of a run, which keeps rows of several stages.
pub(super) fn refuse_workdir(path: &str) -> Result<()> {
    if path.starts_with(SCHEME) || path.contains(['*', '?', '[']) {
        return Ok(());
    }
    let at = Location::parse(path)?;
    // A store that lets a file be read may refuse to say that another one is not there.
    if !at.join(MARKER).exists().unwrap_or(false) {
        return Ok(());
    }
    let stages = at.join("data").entries()?;
    let mut names: Vec<String> = stages.iter().take(NAMED).map(|stage| format!("{path}/data/{stage}")).collect();
    if stages.len() > NAMED {
        names.push(format!("and {} more", stages.len() - NAMED));
    }
    let there = if names.is_empty() { "no rows yet".to_owned() } else { names.join(", ") };
    let message = format!("is the workdir of a run; name an output, or what it keeps of one stage: {there}");
    Err(Error::Store { path: path.to_owned(), message, retryable: false })
}
