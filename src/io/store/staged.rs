//! What uploads that were killed leave on a local disk. Listings do not show it, readers never see it, it only takes room.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file that was never finished.
#[derive(Debug, Clone)]
pub struct Staged {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub changed: SystemTime,
}

/// Those below `folder`.
pub(super) fn below(folder: &Path) -> io::Result<Vec<Staged>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if meta.is_dir() {
            found.extend(below(&path)?);
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            found.push(Staged { path, bytes: meta.len(), changed: meta.modified()? });
        }
    }
    Ok(found)
}

/// `object_store` writes `name` as `name#1`, or the next number that is free.
fn is_staged(name: &str) -> bool {
    let number = name.rsplit_once('#').map_or("", |(_, number)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}
