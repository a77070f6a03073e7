//! A file that is read by ranges, all of them of one version of it.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use object_store::{Error as StoreError, GetOptions, ObjectStore};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::attempts::persist;
use super::local;
use super::stamp::Stamp;
use super::wrong::{self, Retryability};
use super::{BLOCK, Location};
use crate::error::{Error, Result};

/// A file that is read by ranges.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Pinned.
    location: Location,
    size: u64,
}

impl Blob {
    /// The file at the pinned `location`.
    pub(super) fn new(location: Location) -> Self {
        let size = location.pin().map_or(0, Stamp::bytes);
        Self { location, size }
    }

    /// The file's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the file lies on this machine.
    pub fn is_local(&self) -> bool {
        self.location.local.is_some()
    }

    /// Bytes `start .. start + length`. A range that breaks off is fetched again.
    ///
    /// # Errors
    /// A store that fails; a file that changed since it was opened.
    pub fn range(&self, start: u64, length: usize) -> Result<Bytes> {
        let range = start..start + length as u64;
        let mut got = self.get(range.clone(), self.location.pin().and_then(Stamp::condition));
        // A server may hold the condition against an answer that only leads to the file. What comes is compared anyway.
        if matches!(got, Err(StoreError::Precondition { .. })) && self.location.unchanged().is_ok() {
            got = self.get(range, None);
        }
        let checked = got.map_err(|error| self.why(&error)).and_then(|(stamp, bytes)| {
            self.location.expect(&stamp)?;
            Ok(bytes)
        });
        checked.map_err(|error| self.location.keep(error))
    }

    /// Bytes and the version that they are of.
    fn get(&self, range: Range<u64>, if_match: Option<String>) -> Result<(Stamp, Bytes), StoreError> {
        let Location { client, path, local, .. } = &self.location;
        // The local store hands each read to two other threads. Where it fails, that store says why.
        if let Some(Ok(found)) = local.as_ref().map(|local| local::range(local, range.clone())) {
            return Ok(found);
        }
        persist(&client.retry_policy, |_| async {
            let (range, if_match) = (Some(range.clone().into()), if_match.clone());
            let found = client.objects.get_opts(path, GetOptions { range, if_match, ..GetOptions::default() }).await?;
            let unknown = |error| StoreError::Generic { store: "local", source: Box::new(error) };
            let stamp = Stamp::of(&found).map_err(unknown)?;
            Ok((stamp, found.bytes().await?))
        })
    }

    /// What is behind a read that failed with `error`: a file that is shorter now, or gone, fails in many ways.
    fn why(&self, error: &StoreError) -> Error {
        let refused = || match error {
            StoreError::Precondition { .. } => self.location.changed("the store has another version of it"),
            error => self.location.error(error),
        };
        match wrong::retryability(error) {
            // Nothing more can be asked of a store that is away.
            Retryability::Later | Retryability::Identity => self.location.error(error),
            Retryability::Never => self.location.unchanged().err().unwrap_or_else(refused),
        }
    }

    /// A reader from `start` on.
    pub fn reader(&self, start: u64) -> BlobReader {
        self.reader_with(start, Bytes::new())
    }

    /// A reader from `start` on, where `block` is.
    pub(crate) fn reader_with(&self, start: u64, block: Bytes) -> BlobReader {
        BlobReader { blob: self.clone(), at: start, block }
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
        let at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the start of the file"))?;
        let ahead = at.checked_sub(self.at).map(|ahead| ahead as usize);
        match ahead.filter(|ahead| *ahead <= self.block.len()) {
            Some(ahead) => drop(self.block.split_to(ahead)),
            None => self.block = Bytes::new(),
        }
        self.at = at;
        Ok(self.at)
    }
}
