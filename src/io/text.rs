//! The bytes of a text file: decompressed by the end of its name, without a byte order mark.
//!
//! 400 kB of Zstandard can hold 4 GB of empty lines, so what a file unpacks to has a bound.

use std::io::{self, BufRead, BufReader, Read};

use ::parquet::file::reader::Length;
use flate2::read::MultiGzDecoder;

use super::store::Location;
use crate::error::{Error, Place, Result};

/// Endings of compressed text files.
pub(super) const COMPRESSED: [&str; 2] = [".gz", ".zst"];

const MARK: &[u8] = "\u{feff}".as_bytes();

/// Bytes that any compressed file may hold, and how many of them for each of its own a large one: JSON Lines are seldom
/// packed to less than a hundredth.
const UNPACKED: u64 = 1 << 30;
const GROWTH: u64 = 1000;

/// A reader of the text of `location`.
pub(super) fn reader(location: &Location) -> Result<Box<dyn BufRead + Send>> {
    let wrong = |error| Error::data(Place::file(location).row(1), error);
    let blob = location.open()?;
    let most = blob.len().saturating_mul(GROWTH).max(UNPACKED);
    let (bytes, name) = (blob.reader(0), location.name().to_ascii_lowercase());
    let bytes: Box<dyn Read + Send> = if name.ends_with(".gz") {
        Box::new(Unpacked { bytes: MultiGzDecoder::new(bytes), left: most, most })
    } else if name.ends_with(".zst") {
        Box::new(Unpacked { bytes: zstd::Decoder::new(bytes).map_err(wrong)?, left: most, most })
    } else {
        Box::new(bytes)
    };
    let mut text = BufReader::with_capacity(1 << 20, bytes);
    if text.fill_buf().map_err(wrong)?.starts_with(MARK) {
        text.consume(MARK.len());
    }
    Ok(Box::new(text))
}

/// Decompressed bytes, up to a bound.
struct Unpacked<R> {
    bytes: R,
    left: u64,
    most: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(out)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| {
            let message = format!(
                "unpacks to more than {} bytes; the most is a GiB, or {GROWTH} times the file's size; if it is right, unpack \
                 it first",
                self.most
            );
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        Ok(read)
    }
}
