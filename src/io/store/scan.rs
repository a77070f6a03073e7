//! Everything that lies below a folder, as it is: links are not followed, unfinished and hidden files are not left out.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Something below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path below the folder, with `/` between names.
    pub path: String,
    /// Whether it is a file: not a link, a socket or a device.
    pub is_file: bool,
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub changed: SystemTime,
}

impl Found {
    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// The names of what lies directly below `folder`; nothing where there is no such folder.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.map(name).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

/// All but folders below `folder`, in the order of their paths; nothing where there is no such folder. `folder` itself may
/// be a link.
pub(super) fn below(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    if folder.is_dir() {
        walk(folder, "", &mut found)?;
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<Found>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        // Another process may remove what it made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let meta = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found)?;
        } else {
            let changed = meta.modified()?;
            found.push(Found { path, is_file: meta.is_file(), bytes: meta.len(), changed });
        }
    }
    Ok(())
}
