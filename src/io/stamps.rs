//! Whether files on this machine are still those that were looked at before: by inode, size and time, without reading them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::store::Inode;

/// Files as they were when they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamps(BTreeMap<PathBuf, Option<Inode>>);

impl Stamps {
    /// The files directly in `folders` whose names end with one of `endings`, as they are now.
    pub fn of(folders: impl IntoIterator<Item = PathBuf>, endings: &[&str]) -> Self {
        let mut stamps = BTreeMap::new();
        for folder in folders {
            // A folder that cannot be listed is reported by whoever reads its files.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                    let stamp = stamp(&path);
                    stamps.insert(path, stamp);
                }
            }
        }
        Self(stamps)
    }

    /// A file that is not as it was.
    pub fn changed(&self) -> Option<&Path> {
        self.0.iter().find(|(path, before)| stamp(path) != **before).map(|(path, _)| path.as_path())
    }
}

fn stamp(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|meta| Inode::of(&meta))
}
