//! The local disk. A file is written under a name of this process beside its final one, brought to the disk, and then
//! renamed. Whoever finds a file finds all of it. Files are read by ranges, in the caller's thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::stamp::{Inode, Stamp};
use crate::io::faults;
use crate::io::session;

/// A file that is not finished. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Draft {
    at: PathBuf,
    file: File,
    published: bool,
}

impl Draft {
    /// Begins a file that will be called `to`, in a folder that is made if it is missing.
    pub(super) fn beside(to: &Path) -> io::Result<Self> {
        let folder = to.parent().unwrap_or(Path::new("/"));
        let at = folder.join(session::draft_name());
        faults::pass(at.display())?;
        fs::create_dir_all(folder)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&at)?;
        Ok(Self { at, file, published: false })
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        faults::pass(self.at.display())?;
        self.file.write_all(bytes)
    }

    /// Gives the file its name, in place of a file that may be there.
    pub(super) fn replace(mut self, to: &Path) -> io::Result<()> {
        self.sync(to)?;
        fs::rename(&self.at, to)?;
        self.published = true;
        Ok(())
    }

    /// Gives the file its name unless there is such a file; false where there is.
    pub(super) fn create(self, to: &Path) -> io::Result<bool> {
        self.sync(to)?;
        match fs::hard_link(&self.at, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync(&self, to: &Path) -> io::Result<()> {
        faults::pass(self.at.display())?;
        self.file.sync_all()?;
        faults::pass(to.display())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published && faults::pass(self.at.display()).is_ok() {
            // What cannot be removed now has this process's mark, by which it is found later.
            drop(fs::remove_file(&self.at));
        }
    }
}

/// Bytes `range` of the file at `path`, and the version that they are of.
pub(super) fn range(path: &Path, range: Range<u64>) -> io::Result<(Stamp, Bytes)> {
    let mut file = File::open(path)?;
    let inode = Inode::of(&file.metadata()?);
    if range.end > inode.bytes {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let length = range.end - range.start;
    let mut bytes = Vec::with_capacity(length as usize);
    file.seek(SeekFrom::Start(range.start))?;
    if (file.take(length).read_to_end(&mut bytes)? as u64) < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((Stamp::Local(inode), bytes.into()))
}

/// Moves `from` to `to`, in place of a file that may be there.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::pass(to.display())?;
    fs::rename(from, to)
}

/// Removes the file or link at `path`.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    faults::pass(path.display())?;
    fs::remove_file(path)
}
