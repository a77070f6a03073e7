//! A lease as a lock of the operating system on a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::{Holder, failed};
use crate::error::Result;
use crate::io::store::Inode;

/// A locked file.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

/// What came of an attempt to lock a file.
pub(super) enum Attempt {
    Ours(Lock),
    Theirs(Holder),
    /// The file system cannot lock.
    NoLocks,
}

impl Lock {
    /// Locks the file `path` for `me`, if nobody else has.
    pub(super) fn attempt(path: &Path, me: &Holder) -> io::Result<Attempt> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        loop {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(Attempt::Theirs(holder(&mut file))),
                Err(TryLockError::Error(error)) if cannot_lock(&error) => return Ok(Attempt::NoLocks),
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => {}
            }
            let lock = Self { path: path.to_owned(), file };
            // Somebody may have deleted the file between its opening and its locking.
            if lock.is_in_place() {
                lock.sign(me)?;
                return Ok(Attempt::Ours(lock));
            }
        }
    }

    /// Whether the locked file is the one that others would lock.
    fn is_in_place(&self) -> bool {
        let number = |metadata: &fs::Metadata| {
            let Inode { device, number, .. } = Inode::of(metadata);
            (device, number)
        };
        let [there, own] = [fs::metadata(&self.path), self.file.metadata()];
        there.is_ok_and(|there| own.is_ok_and(|own| number(&there) == number(&own)))
    }

    fn sign(&self, me: &Holder) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(me)?)
    }

    pub(super) fn held(&self) -> Result<()> {
        let message = "the lock file was deleted under this run, so that another may do the same work; nothing was kept of \
                       this run's, run the same command again";
        if self.is_in_place() { Ok(()) } else { Err(failed(&self.path.display(), &message)) }
    }
}

/// Who locked `file`, as far as it says so.
fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.read_to_string(&mut text).ok();
    read.and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_else(Holder::unknown)
}

/// Whether the file system has no locks (some network file systems, by how they are mounted).
fn cannot_lock(error: &io::Error) -> bool {
    /// `ENOLCK` of Linux and of macOS.
    const NO_LOCKS: [i32; 2] = [37, 77];
    error.kind() == ErrorKind::Unsupported
        || cfg!(unix) && error.raw_os_error().is_some_and(|code| NO_LOCKS.contains(&code))
}
