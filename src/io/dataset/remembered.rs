//! Identities of files on this machine that were read before, so that the next run of a large input reads nothing to know
//! it. As git's index does, this knows a file by what the file system says about it, and remembers nothing about a file
//! that was written so recently that one more write could leave the same time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::info;

use super::identity::is_identity;
use crate::io::mirror::cache;
use crate::io::nonce::nonce;
use crate::io::store::Inode;

/// The name in the folder of caches.
const NAME: &str = "inputs.json";

/// Smaller files are read faster than they are looked up.
const SMALL: u64 = 64 << 10;

/// Files that are remembered; those that were read longest ago go first.
const MOST: usize = 65_536;

/// A larger cache is not ours.
const MOST_BYTES: u64 = 64 << 20;

/// The coarsest clock of a file system (FAT), in nanoseconds.
const TICK: i128 = 2_000_000_000;

/// What is known of files by their [`Inode`]s.
pub(super) struct Remembered {
    /// None where there is no folder that is the user's own.
    at: Option<PathBuf>,
    known: BTreeMap<String, Known>,
    new: Mutex<BTreeMap<String, Known>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    identity: String,
    /// When the file was read, in seconds since 1970.
    read: u64,
}

impl Remembered {
    /// What runs on this machine remembered so far.
    pub(super) fn of_this_machine() -> Self {
        let folder = Some(cache()).filter(|folder| *folder != std::env::temp_dir());
        Self::at(folder.map(|folder| folder.join(NAME)))
    }

    /// What the cache `at` holds.
    pub(super) fn at(at: Option<PathBuf>) -> Self {
        let known = at.as_deref().map(read).unwrap_or_default();
        Self { at, known, new: Mutex::default() }
    }

    /// The identity of the file that `inode` describes.
    pub(super) fn get(&self, inode: &Inode) -> Option<String> {
        self.known.get(&key(inode)).map(|known| known.identity.clone())
    }

    /// Remembers the identity of a file that `inode` described before and after it was read, from `began` on.
    pub(super) fn put(&self, inode: &Inode, identity: &str, began: SystemTime) {
        let began = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = began.as_nanos() as i128 - inode.modified.max(inode.changed) >= TICK;
        if inode.number != 0 && inode.bytes >= SMALL && settled {
            let known = Known { identity: identity.to_owned(), read: began.as_secs() };
            self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(key(inode), known);
        }
    }

    /// Keeps what is new for later runs. What cannot be kept is read again then.
    pub(super) fn save(self) {
        let new = self.new.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = self.at.filter(|_| !new.is_empty()) else { return };
        // Other runs may have remembered something in the meantime.
        let mut known = read(&at);
        known.extend(new);
        if known.len() > MOST {
            let mut times: Vec<u64> = known.values().map(|known| known.read).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            let oldest = times[MOST - 1];
            known.retain(|_, known| known.read >= oldest);
        }
        if let Err(error) = write(&at, &known) {
            info!("{}: {error}; inputs will be read again to know them", at.display());
        }
    }
}

fn key(inode: &Inode) -> String {
    let Inode { device, number, bytes, modified, changed } = inode;
    format!("{device:x}-{number:x}-{bytes}-{modified}-{changed}")
}

/// What the cache at `at` holds: nothing if it is broken.
fn read(at: &Path) -> BTreeMap<String, Known> {
    let is_ours = fs::metadata(at).is_ok_and(|file| file.is_file() && file.len() <= MOST_BYTES);
    let text = if is_ours { fs::read(at).unwrap_or_default() } else { Vec::new() };
    let known: BTreeMap<String, Known> = serde_json::from_slice(&text).unwrap_or_default();
    if known.values().all(|known| is_identity(&known.identity)) { known } else { BTreeMap::new() }
}

fn write(at: &Path, known: &BTreeMap<String, Known>) -> io::Result<()> {
    let draft = at.with_file_name(format!(".{NAME}.{}", nonce()));
    fs::create_dir_all(at.parent().unwrap_or(at))?;
    let written = fs::write(&draft, serde_json::to_vec(known)?).and_then(|()| fs::rename(&draft, at));
    written.inspect_err(|_| {
        // It may not exist; what matters is the error that led here.
        drop(fs::remove_file(&draft));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn inode(number: u64) -> Inode {
        Inode { device: 1, number, bytes: 1 << 20, modified: 100 * TICK, changed: 100 * TICK }
    }

    fn at(nanoseconds: i128) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(nanoseconds as u64)
    }

    #[test]
    fn what_was_read_is_known_to_the_next_run_and_what_was_just_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder").join(NAME);
        let identity = format!("blake3:{}", "5".repeat(64));
        let open = || Remembered::at(Some(path.clone()));
        let first = open();
        first.put(&inode(1), &identity, at(101 * TICK));
        first.put(&inode(2), &identity, at(101 * TICK - 1));
        first.put(&Inode { changed: 102 * TICK, ..inode(3) }, &identity, at(102 * TICK));
        first.put(&Inode { bytes: 100, ..inode(4) }, &identity, at(200 * TICK));
        let meanwhile = open();
        meanwhile.put(&inode(5), &identity, at(200 * TICK));
        meanwhile.save();
        first.save();
        let second = open();
        let known = |inode: Inode| second.get(&inode).is_some();
        assert_eq!([1, 2, 5].map(|number| known(inode(number))), [true, false, true]);
        assert!(!known(Inode { changed: 102 * TICK, ..inode(3) }) && !known(Inode { bytes: 100, ..inode(4) }));
        assert!(!known(Inode { modified: 99 * TICK, ..inode(1) }) && !known(Inode { changed: 0, ..inode(1) }));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_broken_cache_is_ignored_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let identity = format!("blake3:{}", "5".repeat(64));
        for broken in ["", "{\"1-1", "[]", "\0\0\0", "{\"1-1-1048576-200-200\": {\"identity\": \"x\", \"read\": 1}}"] {
            fs::write(&path, broken).unwrap();
            let remembered = Remembered::at(Some(path.clone()));
            assert!(remembered.known.is_empty(), "{broken}");
            remembered.put(&inode(1), &identity, at(200 * TICK));
            remembered.save();
            assert_eq!(Remembered::at(Some(path.clone())).get(&inode(1)).as_ref(), Some(&identity));
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let remembered = Remembered::at(Some(path.clone()));
        let identity = format!("blake3:{}", "5".repeat(64));
        for number in 1..=MOST as u64 + 10 {
            remembered.put(&inode(number), &identity, at((200 + i128::from(number)) * TICK));
        }
        remembered.save();
        let known = Remembered::at(Some(path)).known;
        assert_eq!(known.len(), MOST);
        assert!(known.contains_key(&key(&inode(11))) && !known.contains_key(&key(&inode(10))));
    }
}
