//! The dataset that a path on the command line names.

use crate::error::{Error, Result};
use crate::io::hub::SCHEME;
use crate::io::{Dataset, Location, Stores};
use crate::monitor::Monitor;
use crate::pipeline::run::MARKER;

/// The dataset at `path`.
///
/// # Errors
/// The workdir of a run, which keeps rows of several stages; else as [`Dataset::open_watched`].
pub(super) fn open(path: &str, monitor: &dyn Monitor) -> Result<Dataset> {
    if !path.starts_with(SCHEME) && !path.contains(['*', '?', '[']) {
        let at = Location::parse(path)?;
        if at.join(MARKER).exists()? {
            let stages = at.join("data").entries()?;
            let names: Vec<String> = stages.iter().map(|stage| format!("{path}/data/{stage}")).collect();
            let there = if names.is_empty() { "no rows yet".to_owned() } else { names.join(", ") };
            let message = format!("is the workdir of a run; name an output, or what it keeps of one stage: {there}");
            return Err(Error::Store { path: path.to_owned(), message, retryable: false });
        }
    }
    Dataset::open_watched(&[path.to_owned()], &Stores::default(), monitor)
}
