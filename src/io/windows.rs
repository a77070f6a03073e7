//! Parts of a file, fetched in few requests: a Parquet reader asks for every page and every page's header by itself, and a
//! store answers each question in tens of milliseconds.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::store::{Blob, BlobReader};
use crate::error::Result;

/// What is fetched at once, and held of one column, where nothing says otherwise.
pub(super) const WINDOW: u64 = 8 << 20;

/// What is fetched along rather than asked for in two requests.
const GAP: u64 = 1 << 20;

/// More than a page's header takes.
pub(super) const HEADER: u64 = 16 << 10;

/// A file of which some spans will be read, each from its start to its end.
#[derive(Clone)]
pub(super) struct Windows {
    blob: Blob,
    most: u64,
    windows: Arc<Vec<Mutex<Window>>>,
}

/// A span, and the bytes that are held of it.
struct Window {
    span: Range<u64>,
    at: u64,
    bytes: Bytes,
}

impl Windows {
    /// `spans` of `blob`, in their order in the file, by windows of at most `most` bytes; near ones that fit into a window are
    /// fetched together.
    pub(super) fn new(blob: Blob, spans: impl IntoIterator<Item = Range<u64>>, most: u64) -> Self {
        let mut merged: Vec<Range<u64>> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last)
                    if span.start >= last.end
                        && span.start - last.end <= GAP
                        && span.end.saturating_sub(last.start) <= most =>
                {
                    last.end = span.end;
                }
                _ => merged.push(span),
            }
        }
        let window = |span: Range<u64>| Mutex::new(Window { at: span.start, span, bytes: Bytes::new() });
        Self { blob, most, windows: Arc::new(merged.into_iter().map(window).collect()) }
    }

    /// The held bytes from `start` on, at least `length` of them unless the span ends before or a window has no room for them.
    fn held(&self, start: u64, length: u64) -> Result<Bytes> {
        if length > self.most {
            return Ok(Bytes::new());
        }
        for window in &*self.windows {
            let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
            if !window.span.contains(&start) {
                continue;
            }
            let end = (start + length).min(window.span.end);
            if start < window.at || window.at + (window.bytes.len() as u64) < end {
                let whole = window.span.end - window.span.start <= self.most;
                let from = if whole { window.span.start } else { start };
                let to = window.span.end.min(from + self.most).max(end);
                window.bytes = self.blob.range(from, (to - from) as usize)?;
                window.at = from;
            }
            return Ok(window.bytes.slice((start - window.at) as usize..));
        }
        Ok(Bytes::new())
    }
}

impl Length for Windows {
    fn len(&self) -> u64 {
        self.blob.len()
    }
}

impl ChunkReader for Windows {
    type T = BlobReader;

    fn get_read(&self, start: u64) -> Result<BlobReader, ParquetError> {
        let held = self.held(start, HEADER).map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(self.blob.reader_with(start, held))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let held = self.held(start, length as u64).map_err(|error| ParquetError::External(Box::new(error)))?;
        // What lies outside of the spans, reaches beyond one, or is longer than a window comes by itself, and is not held.
        if held.len() >= length { Ok(held.slice(..length)) } else { self.blob.get_bytes(start, length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Location;
    use std::io::Read;

    #[test]
    fn windows_slide_over_their_spans() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::parse(folder.path().join("x").to_str().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..20 << 20).map(|at: u32| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
        location.write(bytes.clone()).unwrap();
        let long = 2000..WINDOW + 9_000_000;
        for most in [WINDOW, 64 << 10] {
            let windows = Windows::new(location.open().unwrap(), [0..500, 500..1000, long.clone()], most);
            assert_eq!(windows.windows.len(), 2);
            for (start, length) in
                [(0, 10), (900, 100), (2000, 5), (9 << 20, 1 << 20), (1990, 20), (5000, 70_000), (long.end - 3, 3)]
            {
                let expected = &bytes[start as usize..start as usize + length];
                assert_eq!(windows.get_bytes(start, length).unwrap(), expected, "{start}");
                let mut read = vec![0; length];
                windows.get_read(start).unwrap().read_exact(&mut read).unwrap();
                assert_eq!(read, expected, "{start}");
                for window in &*windows.windows {
                    assert!(window.lock().unwrap().bytes.len() as u64 <= most);
                }
            }
        }
    }
}
