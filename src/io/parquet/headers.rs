//! Whether the headers of pages can be true, before the reader believes them: it makes room for all values of a dictionary at once,
//! of which each takes a byte at least; and it counts to two billion over a list that is not there.
//!
//! A header is a struct of Thrift's compact protocol (parquet.thrift). As in the footer, a wrong kind beside a field's number would
//! lead the reader elsewhere than here: there must be none.

use std::ops::Range;

use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::{BINARY, Cursor, I32, I64, STRUCT};
use crate::io::windows::{HEADER, WINDOW, Windows};

/// Bytes that a page takes at most once it is unpacked, and the pages of all columns together of which each is the largest of
/// its column.
const PAGE: u64 = 1 << 30;
const PAGES: u64 = 4 << 30;

/// Bytes of a page, unpacked, that are believed whatever the footer says of its column.
const SMALL: u64 = 16 << 20;

/// Looks at all pages of `group` that begin in `spans`, or in the first `most` bytes of a longer one. The pages of a column
/// that is a span must have as many values together as the footer says: no checksum covers the number in a header.
///
/// Returns the bytes of the largest dictionary of texts: any row of the group may have a text as long.
pub(super) fn check(
    windows: &Windows,
    spans: &[Range<u64>],
    group: &RowGroupMetaData,
    most: u64,
) -> Result<u64, ParquetError> {
    let wrong = |message: String| Err(ParquetError::General(message));
    let (mut dictionary, mut pages) = (0, 0);
    for span in spans {
        let mut largest = 0;
        // Behind the last value of a column anything may lie.
        let whole = (span.start, span.end.saturating_sub(span.start));
        let column = group.columns().iter().find(|column| column.byte_range() == whole);
        let mut left = column.map_or(i64::MAX, ColumnChunkMetaData::num_values);
        let end = span.end.min(span.start.saturating_add(most)).min(windows.len());
        let mut at = span.start;
        while at < end && left > 0 {
            let read = |most: u64| -> Result<_, ParquetError> {
                let bytes = windows.get_bytes(at, most.min(end - at) as usize)?;
                let mut cursor = Cursor(&bytes);
                Ok(Page::read(&mut cursor).map(|page| (page, bytes.len() - cursor.0.len())))
            };
            // Statistics of long texts make long headers.
            let Some((page, header)) = read(HEADER)?.map_or_else(|| read(WINDOW), |page| Ok(Some(page)))? else {
                return wrong(format!("the header of the page at byte {at} cannot be followed"));
            };
            let Page { kind, unpacked, packed, values } = page;
            let bytes = u64::try_from(unpacked).unwrap_or_default();
            if bytes > PAGE {
                return wrong(format!("a page of {bytes} bytes; the most is {PAGE}"));
            }
            let most = column.map_or(PAGE, |column| u64::try_from(column.uncompressed_size()).unwrap_or_default());
            if bytes > most.max(SMALL) {
                return wrong(format!(
                    "a page of {bytes} bytes in a column of which the footer says that it has {most}"
                ));
            }
            largest = largest.max(bytes);
            if kind != DICTIONARY {
                left = left.saturating_sub(i64::from(values));
            } else if values < 0 || i64::from(values) * column.map_or(1, least) > i64::from(unpacked) {
                return wrong(format!("a dictionary would hold {values} values in {unpacked} bytes"));
            } else if column.is_none_or(|column| column.column_type() == Type::BYTE_ARRAY) {
                dictionary = dictionary.max(bytes);
            }
            at = at.saturating_add(header as u64).saturating_add(u64::try_from(packed).unwrap_or(u64::MAX));
        }
        if let Some(column) = column
            && (left < 0 || left > 0 && at >= span.end)
        {
            let (name, values) = (column.column_path().string(), column.num_values());
            return wrong(format!("the pages of column `{name}` do not have the {values} values that the footer says"));
        }
        pages += largest;
    }
    if pages > PAGES {
        return wrong(format!("pages of {pages} bytes, one for each column; the most is {PAGES}"));
    }
    Ok(dictionary)
}

/// The bytes that a value of a dictionary takes at least.
fn least(column: &ColumnChunkMetaData) -> i64 {
    match column.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => i64::from(column.column_descr().type_length()).max(1),
    }
}

const DICTIONARY: i32 = 2;

/// What a header says of its page: its kind, the sizes of its content, and how many values it has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    kind: i32,
    pub(super) unpacked: i32,
    pub(super) packed: i32,
    values: i32,
}

impl Page {
    /// None where the header is cut off or has a field of a wrong kind.
    pub(super) fn read(cursor: &mut Cursor) -> Option<Self> {
        let mut page = Self::default();
        page.follow(cursor, Shape::Header)?;
        Some(page)
    }

    fn follow(&mut self, cursor: &mut Cursor, shape: Shape) -> Option<()> {
        let mut field = 0;
        while let Some(kind) = cursor.field(&mut field)? {
            match (shape.field(field), kind) {
                (Field::Number, I32) => {
                    // The reader takes the lower half of a number that is too long.
                    let number = cursor.zigzag()? as i32;
                    match (shape, field) {
                        (Shape::Header, 1) => self.kind = number,
                        (Shape::Header, 2) => self.unpacked = number,
                        (Shape::Header, 3) => self.packed = number,
                        (Shape::Data | Shape::Dictionary | Shape::DataV2, 1) => self.values = number,
                        _ => {}
                    }
                }
                (Field::Struct(inner), STRUCT) => self.follow(cursor, inner)?,
                (Field::Truth, 1 | 2) | (Field::Long, I64) | (Field::Text, BINARY) | (Field::Unknown, _) => {
                    cursor.skip(kind, 0)?
                }
                _ => return None,
            }
        }
        Some(())
    }
}

/// The structs that a header is made of.
#[derive(Clone, Copy)]
enum Shape {
    Header,
    Data,
    Index,
    Dictionary,
    DataV2,
    Statistics,
}

enum Field {
    Number,
    Long,
    Truth,
    Text,
    Struct(Shape),
    Unknown,
}

impl Shape {
    fn field(self, number: i64) -> Field {
        match (self, number) {
            (Self::Header | Self::Data, 1..=4) | (Self::Dictionary, 1 | 2) | (Self::DataV2, 1..=6) => Field::Number,
            (Self::Header, 5) => Field::Struct(Self::Data),
            (Self::Header, 6) => Field::Struct(Self::Index),
            (Self::Header, 7) => Field::Struct(Self::Dictionary),
            (Self::Header, 8) => Field::Struct(Self::DataV2),
            (Self::Data, 5) | (Self::DataV2, 8) => Field::Struct(Self::Statistics),
            (Self::Dictionary, 3) | (Self::DataV2, 7) | (Self::Statistics, 7 | 8) => Field::Truth,
            (Self::Statistics, 3 | 4) => Field::Long,
            (Self::Statistics, 1 | 2 | 5 | 6) => Field::Text,
            _ => Field::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind 2, 8 bytes, packed into 6, a checksum, and a dictionary of 3 values in encoding 0.
    const HEADER: [u8; 15] = [0x15, 4, 0x15, 16, 0x15, 12, 0x15, 2, 0x3c, 0x15, 6, 0x15, 0, 0, 0];

    #[test]
    fn a_header_is_read_to_its_end() {
        let bytes = [&HEADER[..], &[0xff]].concat();
        let mut cursor = Cursor(&bytes);
        assert_eq!(Page::read(&mut cursor), Some(Page { kind: 2, unpacked: 8, packed: 6, values: 3 }));
        assert_eq!(cursor.0, [0xff]);
    }

    #[test]
    fn headers_that_end_early_or_elsewhere_are_none() {
        assert_eq!(Page::read(&mut Cursor(&HEADER[..9])), None);
        let mut text_for_a_number = HEADER;
        text_for_a_number[9] = 0x18;
        assert_eq!(Page::read(&mut Cursor(&text_for_a_number)), None);
        // Field 15, a list of two billion truths, as a fuzzer found it.
        let list = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert_eq!(Page::read(&mut Cursor(&list)), None);
    }
}
