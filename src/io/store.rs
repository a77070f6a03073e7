//! Files and folders by path or URL, over `object_store`. What is exposed here blocks.

mod asked;
mod attempts;
mod blob;
mod canonical;
mod client;
mod local;
mod scan;
mod stamp;
mod upload;
mod wrong;

use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutMode, PutPayload, Result as StoreResult,
};

use super::{Written, faults, session};
use crate::error::{Error, Result};
use attempts::persist;
#[cfg(feature = "flight")]
pub(super) use attempts::runtime;
pub use blob::{Blob, BlobReader};
pub use canonical::Canonical;
#[cfg(test)]
pub(crate) use client::bucket_of;
use client::{Client, Kind};
pub use client::{Stores, shown};
use local::Draft;
pub use scan::Found;
pub use stamp::{Answer, Inode, Stamp, Unchanged};
pub use upload::Upload;
use wrong::Retryability;

/// Sequential reads fetch this much at a time, uploads send it.
const BLOCK: usize = 8 << 20;

/// Files that an answer lists, in most stores.
const PAGE: usize = 1000;

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
    ///
    /// # Errors
    /// A URL of an unknown scheme or without a bucket; credentials that cannot be used.
    pub fn parse(text: &str) -> Result<Self> {
        Stores::of_environment().locate(text)
    }

    /// The file `local` on this machine, a copy of what is known as `original` under `version`.
    ///
    /// # Errors
    /// As [`Self::parse`].
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
        client.retry_policy.retry.timeout = client.retry_policy.retry.timeout.min(limit.as_secs());
        Self { client, ..self.clone() }
    }

    /// The path on this machine, where it is one.
    pub fn local(&self) -> Option<&FilePath> {
        self.local.as_deref()
    }

    /// The place in its one spelling.
    pub fn canonical(&self) -> Canonical {
        Canonical::of(self)
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or_default()
    }

    /// Whether it is a file.
    ///
    /// # Errors
    /// A store that fails.
    pub fn is_file(&self) -> Result<bool> {
        Ok(self.meta()?.is_some())
    }

    /// The file's size; nothing where there is no such file.
    ///
    /// # Errors
    /// A store that fails.
    pub fn size(&self) -> Result<Option<u64>> {
        Ok(self.meta()?.map(|meta| meta.size))
    }

    /// Whether there is something at the place, be it a file, a folder or a link; in a store, a file.
    ///
    /// # Errors
    /// A store that fails.
    pub fn exists(&self) -> Result<bool> {
        match &self.local {
            Some(local) => Ok(local.symlink_metadata().is_ok()),
            None => self.is_file(),
        }
    }

    /// The file's content, and none where there is no such file.
    ///
    /// # Errors
    /// A store that fails.
    pub fn read(&self) -> Result<Option<Bytes>> {
        let read = |_| async { self.client.objects.get(&self.path).await?.bytes().await };
        self.if_present(persist(&self.client.retry_policy, read))
    }

    /// The file's size and digest, and none where there is no such file. Reads all of it.
    ///
    /// # Errors
    /// A store that fails.
    pub fn digest(&self) -> Result<Option<Written>> {
        let Some(pinned) = self.found()? else { return Ok(None) };
        let blob = Blob::new(pinned);
        let mut hasher = blake3::Hasher::new();
        let read = hasher.update_reader(&mut blob.reader(0));
        read.map_err(|error| self.cause(failed(&self.shown, &error)))?;
        Ok(Some(Written { bytes: blob.size(), blake3: hasher.finalize().to_hex().to_string() }))
    }

    /// Whether the file is there and as it was when it was `written`. Reads all of it; a small one by a single request.
    ///
    /// # Errors
    /// A store that fails.
    pub fn is_still(&self, written: &Written) -> Result<bool> {
        if written.is_small() {
            // One byte more, by which a longer file is found.
            let range = 0..written.bytes + 1;
            let read = |_| async { self.client.objects.get_range(&self.path, range.clone()).await };
            match persist(&self.client.retry_policy, read) {
                Ok(bytes) => {
                    let blake3 = blake3::hash(&bytes).to_hex();
                    return Ok(bytes.len() as u64 == written.bytes && *blake3 == *written.blake3);
                }
                // Stores refuse a range of an empty file.
                Err(error) if matches!(wrong::retryability(&error), Retryability::Never) => {}
                Err(error) => return Err(self.error(&error)),
            }
        }
        Ok(self.digest()?.as_ref() == Some(written))
    }

    /// A place beside this one for what is not finished, under a name with the mark of this process.
    pub fn draft(&self) -> Self {
        let name = session::draft_name();
        let parts: Vec<_> = self.path.parts().collect();
        let above = parts.iter().take(parts.len().saturating_sub(1)).cloned();
        let path = above.collect::<Path>().join(name.as_str());
        let shown = self.shown.rsplit_once('/').map_or(name.clone(), |(above, _)| format!("{above}/{name}"));
        let local = self.local.as_ref().map(|local| local.with_file_name(name));
        Self::new(self.client.clone(), path, shown, local)
    }

    /// Writes a whole file in one go, in place of one that may be there.
    ///
    /// # Errors
    /// A store that fails.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.refuse_web()?;
        let bytes = bytes.into();
        if let Some(local) = &self.local {
            let write = || {
                let mut draft = Draft::beside(local)?;
                draft.write_all(&bytes)?;
                draft.replace(local)
            };
            return write().map_err(|error| failed(&self.shown, &error));
        }
        self.pass()?;
        let payload = PutPayload::from_bytes(bytes);
        let put = |_| self.client.objects.put(&self.path, payload.clone());
        persist(&self.client.retry_policy, put).map(drop).map_err(|error| self.error(&error))
    }

    /// Writes a whole file unless there is one; false where there was.
    ///
    /// # Errors
    /// A store that fails.
    pub fn create(&self, bytes: impl Into<Bytes>) -> Result<bool> {
        self.refuse_web()?;
        let bytes = bytes.into();
        if let Some(local) = &self.local {
            let create = || {
                let mut draft = Draft::beside(local)?;
                draft.write_all(&bytes)?;
                draft.create(local)
            };
            return create().map_err(|error| failed(&self.shown, &error));
        }
        self.pass()?;
        let payload = PutPayload::from_bytes(bytes.clone());
        let mut tries = 0;
        let put = |before| {
            tries = before;
            self.client.objects.put_opts(&self.path, payload.clone(), PutMode::Create.into())
        };
        match persist(&self.client.retry_policy, put) {
            Ok(_) => Ok(true),
            // A try whose answer was lost may have made it.
            Err(StoreError::AlreadyExists { .. }) => Ok(tries > 0 && self.read()? == Some(bytes)),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// All files below, in the order of their paths, but those that are not finished.
    ///
    /// # Errors
    /// A store that fails.
    pub fn list(&self) -> Result<Vec<Self>> {
        Ok(self.list_all()?.into_iter().map(|listed| listed.file).collect())
    }

    /// As [`Self::list`], with what the store tells about the files. Links are followed.
    ///
    /// # Errors
    /// A store that fails.
    pub fn list_all(&self) -> Result<Vec<Listed>> {
        if self.client.kind == Kind::Web {
            return Ok(Vec::new());
        }
        let list = |_| self.client.objects.list(Some(&self.path)).try_collect::<Vec<ObjectMeta>>();
        let mut listed = persist(&self.client.retry_policy, list).map_err(|error| self.error(&error))?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        let below = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&self.path)?.collect();
            let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let file = Self { path: meta.location.clone(), ..self.join(&names.join("/")) };
            let (version, bytes, changed) = (version(&meta), meta.size, meta.last_modified.into());
            let finished = !names.iter().any(|name| session::mark_of(name).is_some());
            (!parts.is_empty() && finished).then_some(Listed { file, version, bytes, changed })
        };
        Ok(listed.into_iter().filter_map(below).collect())
    }

    /// Names of files directly below that come after `name`, in order: all of them on this machine, as many as one answer
    /// tells in a store.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn names_after(&self, name: &str) -> Result<Vec<String>> {
        if self.local.is_some() {
            return Ok(self.entries()?.into_iter().filter(|entry| entry.as_str() > name).collect());
        }
        let after = self.path.clone().join(name);
        let list = |_| {
            self.client.objects.list_with_offset(Some(&self.path), &after).take(PAGE).try_collect::<Vec<ObjectMeta>>()
        };
        let listed = persist(&self.client.retry_policy, list).map_err(|error| self.error(&error))?;
        Ok(listed.iter().filter_map(|meta| meta.location.filename().map(str::to_owned)).collect())
    }

    /// The names of the files and folders directly below.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn entries(&self) -> Result<Vec<String>> {
        if let Some(local) = &self.local {
            return scan::entries(local).map_err(|error| failed(&self.shown, &error));
        }
        let list = |_| self.client.objects.list_with_delimiter(Some(&self.path));
        let listed = persist(&self.client.retry_policy, list).map_err(|error| self.error(&error))?;
        let files = listed.objects.into_iter().map(|meta| meta.location);
        let paths = files.chain(listed.common_prefixes).filter(|path| *path != self.path);
        let mut names: Vec<String> = paths.filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Everything below, with links as links and with what is not finished.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn scan(&self) -> Result<Vec<Found>> {
        if let Some(local) = &self.local {
            return scan::below(local).map_err(|error| failed(&self.shown, &error));
        }
        let list = |_| self.client.objects.list(Some(&self.path)).try_collect::<Vec<ObjectMeta>>();
        let listed = persist(&self.client.retry_policy, list).map_err(|error| self.error(&error))?;
        let found = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&self.path)?.collect();
            let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let (path, changed) = (names.join("/"), meta.last_modified.into());
            (!path.is_empty()).then_some(Found { path, is_file: true, bytes: meta.size, changed })
        };
        let mut found: Vec<Found> = listed.into_iter().filter_map(found).collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Removes the file, or the link.
    ///
    /// # Errors
    /// A store that fails.
    pub fn delete(&self) -> Result<()> {
        if let Some(local) = &self.local {
            return local::remove(local).map_err(|error| failed(&self.shown, &error));
        }
        self.pass()?;
        match persist(&self.client.retry_policy, |_| self.client.objects.delete(&self.path)) {
            // An earlier try, or somebody else, was faster.
            Err(StoreError::NotFound { .. }) => Ok(()),
            deleted => deleted.map_err(|error| self.error(&error)),
        }
    }

    /// Moves the file to `to` in the same store, in place of one that may be there.
    ///
    /// # Errors
    /// A store that fails; links between two stores.
    pub fn rename(&self, to: &Self) -> Result<()> {
        if let (Some(from), Some(local)) = (&self.local, &to.local) {
            return local::rename(from, local).map_err(|error| failed(&to.shown, &error));
        }
        to.pass()?;
        let copy = |_| self.client.objects.copy(&self.path, &to.path);
        persist(&self.client.retry_policy, copy).map_err(|error| self.error(&error))?;
        self.delete()
    }

    /// The file, for reading by ranges: in the version that a pinned location means, else in that of now.
    ///
    /// # Errors
    /// No such file; a store that fails.
    pub fn open(&self) -> Result<Blob> {
        self.pinned().map(Blob::new)
    }

    /// What names the content of a copy, where this is one.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What changes when the file does, empty where there is no such file: the store's tag, or inode, size and time.
    ///
    /// # Errors
    /// A store that fails.
    pub fn tag(&self) -> Result<String> {
        Ok(self.meta()?.as_ref().map(version).unwrap_or_default())
    }

    /// A file to be written bit by bit, which appears when it is finished.
    ///
    /// # Errors
    /// A store that can only be read.
    pub fn upload(&self) -> Result<Upload> {
        self.refuse_web()?;
        Ok(Upload::new(self.clone()))
    }

    /// To be called before every change in a store; on the local disk [`local`] does it.
    fn pass(&self) -> Result<()> {
        faults::pass(&self.shown).map_err(|error| failed(&self.shown, &error))
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
        let head = persist(&self.client.retry_policy, |_| self.client.objects.head(&self.path));
        match head {
            // A signed URL holds for GET alone.
            Err(error) if self.client.kind == Kind::Web && !matches!(error, StoreError::NotFound { .. }) => {
                let first = || GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
                let get = |_| self.client.objects.get_opts(&self.path, first());
                self.if_present(persist(&self.client.retry_policy, get).map(|found| found.meta))
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
        let retryable = self.local.is_none() && wrong::retryability(error) == Retryability::Later;
        let help = if retryable { "; the store kept failing, run the same command again later" } else { "" };
        Error::Store { path: self.shown.clone(), message: format!("{}{help}", wrong::message(error)), retryable }
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
mod tests;
