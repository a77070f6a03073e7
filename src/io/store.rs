//! Paths and URLs over `object_store`. This file owns the only async runtime; what it exposes blocks.

use std::fmt;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error as StoreError, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use tokio::runtime::Runtime;

use crate::error::{Error, Result};

/// Sequential reads fetch this much at a time, uploads send it.
const BLOCK: usize = 8 << 20;

/// A file or folder: a local path, or a URL of a store that this build knows.
#[derive(Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    path: Path,
    shown: String,
    local: Option<PathBuf>,
    version: Option<String>,
}

impl Location {
    /// Parses a local path (relative to the working directory) or a `file://` URL.
    pub fn parse(text: &str) -> Result<Self> {
        let local = match text.split_once("://") {
            None => PathBuf::from(text),
            Some(("file", path)) => PathBuf::from(path),
            Some((scheme, _)) => {
                let message = format!("`{scheme}://` is not supported yet; supported: local paths and file://");
                return Err(Error::Store { path: text.to_owned(), message, retryable: false });
            }
        };
        let absolute = std::path::absolute(&local).map_err(|error| failed(text, &error))?;
        let path = Path::from_absolute_path(&absolute).map_err(|error| failed(text, &error))?;
        let store = Arc::new(LocalFileSystem::new());
        Ok(Self { store, path, shown: text.trim_end_matches('/').to_owned(), local: Some(absolute), version: None })
    }

    /// The file `local` on this machine, a copy of what is known as `original` under `version`.
    pub fn copy(local: &FilePath, original: impl fmt::Display, version: Option<String>) -> Result<Self> {
        let original = original.to_string();
        let path = Path::from_absolute_path(local).map_err(|error| failed(&original, &error))?;
        let store = Arc::new(LocalFileSystem::new());
        Ok(Self { store, path, shown: original, local: Some(local.to_owned()), version })
    }

    /// The file or folder `name` (with `/` between folders) below this one.
    pub fn join(&self, name: &str) -> Self {
        let path = name.split('/').fold(self.path.clone(), |path, part| path.join(part));
        let local = self.local.as_ref().map(|local| local.join(name));
        Self { store: self.store.clone(), path, shown: format!("{}/{name}", self.shown), local, version: None }
    }

    /// The path on this machine, where it is one.
    pub fn local(&self) -> Option<&FilePath> {
        self.local.as_deref()
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or_default()
    }

    /// Whether it is a file, or the start of the path of one.
    pub fn exists(&self) -> Result<bool> {
        Ok(self.meta()?.is_some() || !self.list()?.is_empty())
    }

    /// The file's content, and none where there is no such file.
    pub fn read(&self) -> Result<Option<Bytes>> {
        let read = async { self.store.get(&self.path).await?.bytes().await };
        match block_on(read) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if self.is_absent(&error) => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Writes a whole file in one go, in place of one that may be there.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let put = self.store.put(&self.path, PutPayload::from_bytes(bytes.into()));
        block_on(put).map(drop).map_err(|error| self.error(&error))
    }

    /// Writes a whole file unless there is one; false where there was.
    pub fn create(&self, bytes: impl Into<Bytes>) -> Result<bool> {
        let payload = PutPayload::from_bytes(bytes.into());
        match block_on(self.store.put_opts(&self.path, payload, PutMode::Create.into())) {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// All files below, in the order of their paths.
    pub fn list(&self) -> Result<Vec<Self>> {
        let listed: Result<Vec<ObjectMeta>, _> = block_on(self.store.list(Some(&self.path)).try_collect());
        let mut listed = listed.map_err(|error| self.error(&error))?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        let below = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&self.path)?.collect();
            let names: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let below = Self { path: meta.location.clone(), ..self.join(&names.join("/")) };
            (!parts.is_empty()).then_some(below)
        };
        Ok(listed.into_iter().filter_map(below).collect())
    }

    /// Removes the file.
    pub fn delete(&self) -> Result<()> {
        block_on(self.store.delete(&self.path)).map_err(|error| self.error(&error))
    }

    /// Removes every file below.
    pub fn delete_all(&self) -> Result<()> {
        self.list()?.iter().try_for_each(Self::delete)?;
        if let Some(folder) = self.local.as_ref().filter(|folder| folder.is_dir()) {
            std::fs::remove_dir_all(folder).map_err(|error| failed(&self.shown, &error))?;
        }
        Ok(())
    }

    /// Moves the file to `to`, in place of one that may be there.
    pub fn rename(&self, to: &Self) -> Result<()> {
        block_on(self.store.rename(&self.path, &to.path)).map_err(|error| self.error(&error))
    }

    /// The file, for reading by ranges.
    pub fn open(&self) -> Result<Blob> {
        match self.meta()? {
            Some(meta) => Ok(Blob { location: self.clone(), size: meta.size }),
            None => Err(Error::Store { path: self.shown.clone(), message: "no such file".into(), retryable: false }),
        }
    }

    /// What changes when the file does: size and time, or the store's tag.
    pub fn version(&self) -> Result<String> {
        if let Some(version) = &self.version {
            return Ok(version.clone());
        }
        let meta = self.meta()?;
        Ok(meta.map(|meta| meta.e_tag.unwrap_or_else(|| format!("{}", meta.size))).unwrap_or_default())
    }

    /// A file to be written bit by bit, which appears when it is finished.
    pub fn upload(&self) -> Result<Upload> {
        let parts = block_on(self.store.put_multipart(&self.path)).map_err(|error| self.error(&error))?;
        Ok(Upload { location: self.clone(), parts: Some(parts), buffer: Vec::new(), sent: 0 })
    }

    fn meta(&self) -> Result<Option<ObjectMeta>> {
        match block_on(self.store.head(&self.path)) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if self.is_absent(&error) => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Local stores also say "is a folder" or "the parent is a file" where there is no such file.
    fn is_absent(&self, error: &StoreError) -> bool {
        let not_a_file = || self.local.as_ref().is_some_and(|local| !local.is_file());
        matches!(error, StoreError::NotFound { .. }) || not_a_file()
    }

    fn error(&self, error: &StoreError) -> Error {
        let (message, retryable) = match error {
            StoreError::NotFound { .. } => ("no such file".to_owned(), false),
            StoreError::Generic { .. } => (innermost(error), self.local.is_none()),
            other => (innermost(other), false),
        };
        Error::Store { path: self.shown.clone(), message, retryable }
    }
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

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn block_on<F: Future>(future: F) -> F::Output {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let builder = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        builder.expect("the operating system lends two threads")
    });
    runtime.block_on(future)
}

/// A file that is read by ranges.
#[derive(Debug, Clone)]
pub struct Blob {
    location: Location,
    size: u64,
}

impl Blob {
    /// Bytes `start .. start + length`.
    pub fn range(&self, start: u64, length: usize) -> Result<Bytes> {
        let range = start..start + length as u64;
        let get = self.location.store.get_range(&self.location.path, range);
        block_on(get).map_err(|error| self.location.error(&error))
    }

    /// A reader from `start` on.
    pub fn reader(&self, start: u64) -> BlobReader {
        BlobReader { blob: self.clone(), at: start, block: Bytes::new() }
    }
}

impl Length for Blob {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Blob {
    type T = BlobReader;

    fn get_read(&self, start: u64) -> Result<BlobReader, ParquetError> {
        Ok(self.reader(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.saturating_add(length as u64) > self.size {
            let message = format!("bytes {start} to {} lie behind the end of the file", start + length as u64);
            return Err(ParquetError::EOF(message));
        }
        self.range(start, length).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

/// Reads a [`Blob`] in order, a block at a time.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    at: u64,
    block: Bytes,
}

impl Read for BlobReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            let left = self.blob.size.saturating_sub(self.at);
            if left == 0 {
                return Ok(0);
            }
            self.block = self.blob.range(self.at, left.min(BLOCK as u64) as usize).map_err(io::Error::other)?;
        }
        let taken = self.block.split_to(out.len().min(self.block.len()));
        out[..taken.len()].copy_from_slice(&taken);
        self.at += taken.len() as u64;
        Ok(taken.len())
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.blob.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the start of the file"))?;
        self.block = Bytes::new();
        Ok(self.at)
    }
}

/// A file being written. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    location: Location,
    parts: Option<Box<dyn MultipartUpload>>,
    buffer: Vec<u8>,
    sent: u64,
}

impl Upload {
    /// Publishes the file; returns its size.
    pub fn finish(mut self) -> Result<u64> {
        self.send().map_err(|error| failed(&self.location.shown, &error))?;
        let mut parts = self.parts.take().expect("an upload is finished once");
        block_on(parts.complete()).map_err(|error| self.location.error(&error))?;
        Ok(self.sent)
    }

    fn send(&mut self) -> io::Result<()> {
        let Some(parts) = self.parts.as_mut().filter(|_| !self.buffer.is_empty()) else { return Ok(()) };
        self.sent += self.buffer.len() as u64;
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        block_on(parts.put_part(payload)).map_err(|error| io::Error::other(self.location.error(&error)))
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BLOCK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            // Nobody is left to tell; an orphaned part is what the store's own clean-up is for.
            let _ = block_on(parts.abort());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole() {
        let folder = tempfile::tempdir().unwrap();
        let root = Location::parse(folder.path().to_str().unwrap()).unwrap();
        let file = root.join("a b/x-1.bin");
        let mut upload = file.upload().unwrap();
        upload.write_all(&[7; 100]).unwrap();
        drop(upload);
        assert!(!file.exists().unwrap() && root.list().unwrap().is_empty());
        let mut upload = file.upload().unwrap();
        upload.write_all(&vec![7; BLOCK + 5]).unwrap();
        assert!(!file.exists().unwrap());
        assert_eq!(upload.finish().unwrap(), BLOCK as u64 + 5);
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
