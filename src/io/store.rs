//! Files and folders by path or URL, over `object_store`. What is exposed here blocks.

mod asked;
mod attempts;
mod blob;
mod client;
mod staged;
mod stamp;
mod upload;
mod wrong;

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutMode, PutPayload, Result as StoreResult,
};

use super::Written;
use crate::error::{Error, Result};
use attempts::persist;
pub use blob::{Blob, BlobReader};
#[cfg(test)]
pub(crate) use client::bucket_of;
use client::{Client, Kind};
pub use client::{Stores, shown};
pub use staged::Staged;
pub use stamp::{Answer, Inode, Stamp, Unchanged};
pub use upload::Upload;
use wrong::Hope;

/// Sequential reads fetch this much at a time, uploads send it.
const BLOCK: usize = 8 << 20;

/// A file or folder: a local path, or a URL of a store.
#[derive(Clone)]
pub struct Location {
    client: Client,
    path: Path,
    shown: String,
    local: Option<PathBuf>,
    /// What names the content of a copy of what lies elsewhere.
    version: Option<String>,
    /// The version of the file that is read, where another must not be.
    pin: Option<Arc<Stamp>>,
    failure: Arc<Mutex<Option<Error>>>,
}

/// A file below a folder.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The file.
    pub file: Location,
    /// What changes when the file does.
    pub version: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub changed: SystemTime,
}

impl Location {
    /// Parses a path (relative to the working directory) or a URL; stores are reached as the environment says.
    pub fn parse(text: &str) -> Result<Self> {
        Stores::of_environment().locate(text)
    }

    /// The file `local` on this machine, a copy of what is known as `original` under `version`.
    pub fn copy(local: &FilePath, original: impl fmt::Display, version: Option<String>) -> Result<Self> {
        let file = Self::parse(&local.display().to_string())?;
        Ok(Self { shown: original.to_string(), version, ..file })
    }

    fn new(client: Client, path: Path, shown: String, local: Option<PathBuf>) -> Self {
        Self { client, path, shown, local, version: None, pin: None, failure: Arc::default() }
    }

    /// The file or folder `name` (with `/` between folders) below this one.
    pub fn join(&self, name: &str) -> Self {
        let path = name.split('/').fold(self.path.clone(), |path, part| path.join(part));
        let local = self.local.as_ref().map(|local| local.join(name));
        Self::new(self.client.clone(), path, format!("{}/{name}", self.shown), local)
    }

    /// The same file or folder; a request that fails is not tried again later than `limit` after it began.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        let mut client = self.client.clone();
        client.patience.retry.timeout = client.patience.retry.timeout.min(limit.as_secs());
        Self { client, ..self.clone() }
    }

    /// The path on this machine, where it is one.
    pub fn local(&self) -> Option<&FilePath> {
        self.local.as_deref()
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or_default()
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> Result<bool> {
        Ok(self.meta()?.is_some())
    }

    /// The file's content, and none where there is no such file.
    pub fn read(&self) -> Result<Option<Bytes>> {
        let read = |_| async { self.client.objects.get(&self.path).await?.bytes().await };
        self.if_present(persist(&self.client.patience, read))
    }

    /// The file's size and digest, and none where there is no such file. Reads all of it.
    pub fn digest(&self) -> Result<Option<Written>> {
        let Some(pinned) = self.found()? else { return Ok(None) };
        let blob = Blob::new(pinned);
        let mut hasher = blake3::Hasher::new();
        let read = hasher.update_reader(&mut blob.reader(0));
        read.map_err(|error| self.cause(failed(&self.shown, &error)))?;
        Ok(Some(Written { bytes: blob.size(), blake3: hasher.finalize().to_hex().to_string() }))
    }

    /// Writes a whole file in one go, in place of one that may be there.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.refuse_web()?;
        let payload = PutPayload::from_bytes(bytes.into());
        let put = |_| self.client.objects.put(&self.path, payload.clone());
        persist(&self.client.patience, put).map(drop).map_err(|error| self.error(&error))
    }

    /// Writes a whole file unless there is one; false where there was.
    pub fn create(&self, bytes: impl Into<Bytes>) -> Result<bool> {
        self.refuse_web()?;
        let bytes = bytes.into();
        let payload = PutPayload::from_bytes(bytes.clone());
        let mut tries = 0;
        let put = |before| {
            tries = before;
            self.client.objects.put_opts(&self.path, payload.clone(), PutMode::Create.into())
        };
        match persist(&self.client.patience, put) {
            Ok(_) => Ok(true),
            // A try whose answer was lost may have made it.
            Err(StoreError::AlreadyExists { .. }) => Ok(tries > 0 && self.read()? == Some(bytes)),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// All files below, in the order of their paths.
    pub fn list(&self) -> Result<Vec<Self>> {
        Ok(self.list_all()?.into_iter().map(|listed| listed.file).collect())
    }

    /// All files below and what the store tells about them, in the order of their paths.
    pub fn list_all(&self) -> Result<Vec<Listed>> {
        if self.client.kind == Kind::Web {
            return Ok(Vec::new());
        }
        let list = |_| self.client.objects.list(Some(&self.path)).try_collect::<Vec<ObjectMeta>>();
        let mut listed = persist(&self.client.patience, list).map_err(|error| self.error(&error))?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        let below = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&self.path)?.collect();
            let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let file = Self { path: meta.location.clone(), ..self.join(&names.join("/")) };
            let (version, bytes, changed) = (version(&meta), meta.size, meta.last_modified.into());
            (!parts.is_empty()).then_some(Listed { file, version, bytes, changed })
        };
        Ok(listed.into_iter().filter_map(below).collect())
    }

    /// Files below that uploads on this machine left unfinished; what a store has of them it does not tell.
    pub fn staged(&self) -> Result<Vec<Staged>> {
        let Some(local) = &self.local else { return Ok(Vec::new()) };
        staged::below(local).map_err(|error| failed(&self.shown, &error))
    }

    /// Removes the file.
    pub fn delete(&self) -> Result<()> {
        match persist(&self.client.patience, |_| self.client.objects.delete(&self.path)) {
            // An earlier try, or somebody else, was faster.
            Err(StoreError::NotFound { .. }) if self.local.is_none() => Ok(()),
            deleted => deleted.map_err(|error| self.error(&error)),
        }
    }

    /// Removes every file below.
    pub fn delete_all(&self) -> Result<()> {
        self.list()?.iter().try_for_each(Self::delete)?;
        if let Some(folder) = self.local.as_ref().filter(|folder| folder.is_dir()) {
            std::fs::remove_dir_all(folder).map_err(|error| failed(&self.shown, &error))?;
        }
        Ok(())
    }

    /// Moves the file to `to` in the same store, in place of one that may be there.
    pub fn rename(&self, to: &Self) -> Result<()> {
        if self.local.is_some() {
            return persist(&self.client.patience, |_| self.client.objects.rename(&self.path, &to.path))
                .map_err(|error| self.error(&error));
        }
        let copy = |_| self.client.objects.copy(&self.path, &to.path);
        persist(&self.client.patience, copy).map_err(|error| self.error(&error))?;
        self.delete()
    }

    /// The file, for reading by ranges: in the version that a pinned location means, else in that of now.
    pub fn open(&self) -> Result<Blob> {
        self.pinned().map(Blob::new)
    }

    /// What names the content of a copy, where this is one.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// A file to be written bit by bit, which appears when it is finished.
    pub fn upload(&self) -> Result<Upload> {
        Ok(Upload::new(self.clone()))
    }

    fn refuse_web(&self) -> Result<()> {
        match self.client.kind {
            Kind::Web => Err(failed(&self.shown, &"http:// and https:// can only be read")),
            Kind::Local | Kind::Bucket => Ok(()),
        }
    }

    /// What the store itself said, where that is what lies behind `error`: readers of file formats wrap it in words of
    /// their own, and whether to try again later would be lost.
    pub fn cause(&self, error: Error) -> Error {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error)
    }

    fn meta(&self) -> Result<Option<ObjectMeta>> {
        let head = persist(&self.client.patience, |_| self.client.objects.head(&self.path));
        match head {
            // A signed URL holds for GET alone.
            Err(error) if self.client.kind == Kind::Web && !matches!(error, StoreError::NotFound { .. }) => {
                let first = || GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
                let get = |_| self.client.objects.get_opts(&self.path, first());
                self.if_present(persist(&self.client.patience, get).map(|found| found.meta))
            }
            head => self.if_present(head),
        }
    }

    fn if_present<T>(&self, found: StoreResult<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if self.is_absent(&error) => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Local stores also say "is a folder" or "the parent is a file" where there is no such file.
    fn is_absent(&self, error: &StoreError) -> bool {
        let not_a_file = || self.local.as_ref().is_some_and(|local| !local.is_file());
        matches!(error, StoreError::NotFound { .. }) && !wrong::is_bucket(error) || not_a_file()
    }

    fn error(&self, error: &StoreError) -> Error {
        let retryable = self.local.is_none() && wrong::hope(error) == Hope::Later;
        let help = if retryable { "; the store kept failing, run the same command again later" } else { "" };
        Error::Store { path: self.shown.clone(), message: format!("{}{help}", wrong::message(error)), retryable }
    }

    /// [`Self::error`], kept for [`Self::cause`].
    fn note(&self, error: &StoreError) -> Error {
        self.keep(self.error(error))
    }

    /// `error`, kept for [`Self::cause`].
    fn keep(&self, error: Error) -> Error {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        error
    }
}

fn version(meta: &ObjectMeta) -> String {
    let dated = || format!("{}-{}", meta.size, meta.last_modified.timestamp_millis());
    meta.e_tag.clone().unwrap_or_else(dated)
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.shown)
    }
}

fn failed(path: &str, error: &dyn fmt::Display) -> Error {
    Error::Store { path: path.to_owned(), message: error.to_string(), retryable: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn files_appear_whole() {
        let folder = tempfile::tempdir().unwrap();
        let root = Location::parse(folder.path().to_str().unwrap()).unwrap();
        let file = root.join("a b/x-1.bin");
        let mut upload = file.upload().unwrap();
        upload.write_all(&[7; 100]).unwrap();
        drop(upload);
        assert!(!file.is_file().unwrap() && root.list().unwrap().is_empty());
        let mut upload = file.upload().unwrap();
        upload.write_all(&vec![7; BLOCK + 5]).unwrap();
        assert!(!file.is_file().unwrap());
        let written = upload.finish().unwrap();
        assert_eq!(written.bytes, BLOCK as u64 + 5);
        assert_eq!(file.digest().unwrap(), Some(written));
        assert_eq!(root.join("missing").digest().unwrap(), None);
        let mut back = Vec::new();
        file.open().unwrap().reader(0).read_to_end(&mut back).unwrap();
        assert_eq!(back, vec![7; BLOCK + 5]);
        assert_eq!(root.list().unwrap().len(), 1);
        assert_eq!(root.list().unwrap()[0].local(), file.local());
    }

    #[test]
    fn create_has_one_winner() {
        let folder = tempfile::tempdir().unwrap();
        let file = Location::parse(folder.path().join("m.json").to_str().unwrap()).unwrap();
        assert!(file.create("one").unwrap());
        assert!(!file.create("two").unwrap());
        assert_eq!(file.read().unwrap().unwrap(), "one");
        assert_eq!(file.join("missing").read().unwrap(), None);
        let error = file.join("missing").open().unwrap_err().to_string();
        assert!(error.ends_with("m.json/missing: no such file"), "{error}");
    }

    #[test]
    fn unknown_schemes_are_named() {
        let error = Location::parse("ftp://host/x").unwrap_err().to_string();
        assert!(error.contains("`ftp://` is not supported"), "{error}");
    }
}
