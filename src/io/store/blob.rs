//! A file that is read by ranges.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::attempts::persist;
use super::{BLOCK, Location};
use crate::error::Result;

/// A file that is read by ranges.
#[derive(Debug, Clone)]
pub struct Blob {
    location: Location,
    size: u64,
}

impl Blob {
    pub(super) fn new(location: Location, size: u64) -> Self {
        Self { location, size }
    }

    /// Bytes `start .. start + length`. A range that breaks off is fetched again.
    pub fn range(&self, start: u64, length: usize) -> Result<Bytes> {
        let Location { client, path, .. } = &self.location;
        let get = |_| client.objects.get_range(path, start..start + length as u64);
        persist(&client.patience, get).map_err(|error| self.location.note(&error))
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
