//! Whether a column's dictionary can hold as many values as its page says, before the reader believes it: it makes room for all of
//! them at once. Every value takes a byte at least.
//!
//! A page's header is a struct whose first field is the kind of page, whose second and third are the sizes of its content, unpacked
//! and packed, and whose seventh tells of a dictionary, first the number of its values (parquet.thrift). As in the footer, a wrong
//! kind beside a field's number would lead the reader elsewhere than here.

use std::ops::Range;

use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::{Cursor, I32, STRUCT};
use crate::io::windows::{HEADER, WINDOW, Windows};

const DICTIONARY: i64 = 2;

/// Looks at all pages that begin in `spans`, or in the first window of a longer one: the bytes that will be read next.
pub(super) fn check(windows: &Windows, spans: &[Range<u64>]) -> Result<(), ParquetError> {
    for span in spans {
        let end = span.end.min(span.start.saturating_add(WINDOW)).min(windows.len());
        let mut at = span.start;
        while at < end {
            let head = windows.get_bytes(at, HEADER.min(end - at) as usize)?;
            let mut cursor = Cursor(&head);
            // A header that is cut off is for the reader to report.
            let Some(page) = Page::read(&mut cursor) else { break };
            if page.is_strange {
                return Err(ParquetError::General("a page's header cannot be followed".to_owned()));
            }
            if page.kind == DICTIONARY && !(0..=page.unpacked).contains(&page.values) {
                let (values, bytes) = (page.values, page.unpacked);
                return Err(ParquetError::General(format!("a dictionary would hold {values} values in {bytes} bytes")));
            }
            let header = (head.len() - cursor.0.len()) as u64;
            at = at.saturating_add(header).saturating_add(u64::try_from(page.packed).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq)]
struct Page {
    kind: i64,
    unpacked: i64,
    packed: i64,
    /// Of a dictionary.
    values: i64,
    /// Whether a field is of another kind than it must be.
    is_strange: bool,
}

impl Page {
    fn read(cursor: &mut Cursor) -> Option<Self> {
        let (mut page, mut field) = (Self::default(), 0);
        while let Some(kind) = cursor.field(&mut field)? {
            match (field, kind) {
                (1, I32) => page.kind = cursor.zigzag()?,
                (2, I32) => page.unpacked = cursor.zigzag()?,
                (3, I32) => page.packed = cursor.zigzag()?,
                (7, STRUCT) => page.read_dictionary(cursor)?,
                (4, I32) | (5 | 6 | 8, STRUCT) => cursor.skip(kind, 0)?,
                (1..=8, _) => page.is_strange = true,
                _ => cursor.skip(kind, 0)?,
            }
            if page.is_strange {
                break;
            }
        }
        Some(page)
    }

    fn read_dictionary(&mut self, cursor: &mut Cursor) -> Option<()> {
        let mut field = 0;
        while let Some(kind) = cursor.field(&mut field)? {
            match (field, kind) {
                (1, I32) => self.values = cursor.zigzag()?,
                (2, I32) | (3, 1 | 2) => cursor.skip(kind, 0)?,
                (1..=3, _) => {
                    self.is_strange = true;
                    break;
                }
                _ => cursor.skip(kind, 0)?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_to_its_end() {
        // Kind 2, 8 bytes, packed into 6, a checksum, a dictionary of 3 values in encoding 0, and what follows.
        let bytes = [0x15, 4, 0x15, 16, 0x15, 12, 0x15, 2, 0x3c, 0x15, 6, 0x15, 0, 0, 0, 0xff];
        let mut cursor = Cursor(&bytes);
        assert_eq!(
            Page::read(&mut cursor),
            Some(Page { kind: 2, unpacked: 8, packed: 6, values: 3, is_strange: false })
        );
        assert_eq!(cursor.0, [0xff]);
        assert_eq!(Page::read(&mut Cursor(&bytes[..9])), None);
        // The number of values as a text.
        let bytes = [0x15, 4, 0x15, 16, 0x15, 12, 0x15, 2, 0x3c, 0x18, 6, 0x15, 0, 0, 0];
        assert!(Page::read(&mut Cursor(&bytes)).unwrap().is_strange);
    }
}
