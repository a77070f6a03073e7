//! The bytes of a text file: decompressed by the end of its name, without a byte order mark.

use std::io::{BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;

use super::store::Location;
use crate::error::{Error, Place, Result};

/// Endings of compressed text files.
pub(super) const COMPRESSED: [&str; 2] = [".gz", ".zst"];

const MARK: &[u8] = "\u{feff}".as_bytes();

/// A reader of the text of `location`.
pub(super) fn reader(location: &Location) -> Result<Box<dyn BufRead + Send>> {
    let wrong = |error| Error::data(Place::file(location).row(1), error);
    let bytes = location.open()?.reader(0);
    let name = location.name().to_ascii_lowercase();
    let bytes: Box<dyn Read + Send> = if name.ends_with(".gz") {
        Box::new(MultiGzDecoder::new(bytes))
    } else if name.ends_with(".zst") {
        Box::new(zstd::Decoder::new(bytes).map_err(wrong)?)
    } else {
        Box::new(bytes)
    };
    let mut text = BufReader::with_capacity(1 << 20, bytes);
    if text.fill_buf().map_err(wrong)?.starts_with(MARK) {
        text.consume(MARK.len());
    }
    Ok(Box::new(text))
}
