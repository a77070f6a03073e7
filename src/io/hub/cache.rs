//! The folder of downloads that Python's `huggingface_hub` keeps, so that what one has fetched the other finds:
//!
//! ```text
//! models--org--name/refs/main                     the commit that a revision meant
//! models--org--name/snapshots/<commit>/<path>     links into blobs
//! models--org--name/blobs/<etag>                  contents; <etag>.incomplete while they arrive
//! .locks/models--org--name/<etag>.lock            held while they do
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::address::{Address, is_inside};

/// The downloads of one repository.
#[derive(Debug, Clone)]
pub(super) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub(super) fn new(cache: &Path, address: &Address) -> Self {
        let name = format!("{}--{}", address.kind.plural(), address.repo.replace('/', "--"));
        Self { locks: cache.join(".locks").join(&name), folder: cache.join(name) }
    }

    /// The commit that `revision` meant when it was last asked for, if its files are here.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let noted = fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let commit = noted.map_or_else(|| revision.to_owned(), |commit| commit.trim().to_owned());
        (is_inside(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Notes what `revision` means.
    pub(super) fn note(&self, revision: &str, commit: &str) -> io::Result<()> {
        let file = self.folder.join("refs").join(revision);
        if revision == commit || fs::read_to_string(&file).is_ok_and(|noted| noted.trim() == commit) {
            return Ok(());
        }
        fs::create_dir_all(file.parent().unwrap_or(&self.folder))?;
        fs::write(file, commit)
    }

    /// The folder with the files of `commit`.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The files of `commit` that are here, as paths inside the repository, in order.
    pub(super) fn files(&self, commit: &str) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        collect(&self.snapshot(commit), "", &mut found)?;
        found.sort();
        Ok(found)
    }

    /// Where the content `etag` is kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Waits until no other process fetches `etag`, Python's included.
    pub(super) fn lock(&self, etag: &str) -> io::Result<File> {
        fs::create_dir_all(&self.locks)?;
        fs::create_dir_all(self.folder.join("blobs"))?;
        let lock = File::create(self.locks.join(format!("{etag}.lock")))?;
        lock.lock()?;
        Ok(lock)
    }

    /// Makes `path` of `commit` show the content `etag`.
    pub(super) fn link(&self, commit: &str, path: &str, etag: &str) -> io::Result<()> {
        let file = self.snapshot(commit).join(path);
        fs::create_dir_all(file.parent().unwrap_or(&self.folder))?;
        // A link to a content that was deleted.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let up = "../".repeat(path.matches('/').count() + 2);
        symlink(&format!("{up}blobs/{etag}"), &file).or_else(|_| fs::copy(self.blob(etag), &file).map(drop))
    }
}

#[cfg(unix)]
fn symlink(to: &str, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), found)?;
        } else if entry.path().exists() {
            found.push(name);
        }
    }
    Ok(())
}
