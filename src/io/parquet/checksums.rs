//! Checksums of a file that is written: `ArrowWriter` makes none, so that a bit that flips in a list of numbers would be
//! another number.
//!
//! Every page gets the CRC32 that parquet.thrift has a field for, and that every reader may check. `seal.rs` has those of
//! the rest.

use std::io::{self, Write};

use flate2::Crc;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::headers::Page;
use super::moved::{Moved, end};
use super::seal;
use super::thrift::{Cursor, I32};

/// What a file begins with, before the first page.
const MAGIC: u64 = 4;

/// By so many bytes a checksum makes a header longer: the field's kind, and a number of 5 bytes, however small it is.
pub(super) const LONGER: u64 = 6;

/// CRC32 as of gzip.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The pages of a file on their way from `ArrowWriter` to `file`, where they get checksums. What the writer says of them
/// counts without, until [`Pages::finish`].
pub(super) struct Pages<W> {
    /// None once the last page has passed: what `ArrowWriter` then writes is its footer, which is not true.
    file: Option<W>,
    /// A page that is not complete.
    held: Vec<u8>,
    /// Where pages begin, as the writer counts.
    starts: Vec<u64>,
    /// Bytes that passed, as the writer counts.
    passed: u64,
}

impl<W: Write> Pages<W> {
    pub(super) fn new(file: W) -> Self {
        Self { file: Some(file), held: Vec::new(), starts: Vec::new(), passed: 0 }
    }

    /// All that passed, to be finished; what comes from now on is left out.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self { file: None, held: Vec::new(), starts: Vec::new(), passed: 0 })
    }

    /// The file with indexes, seal and footer, as `metadata` has them for pages without checksums.
    ///
    /// # Errors
    /// Pages that could not be followed; a file that cannot be written.
    pub(super) fn finish(self, metadata: ParquetMetaData) -> Result<W, ParquetError> {
        let Self { file: Some(mut file), held, starts, passed } = self else {
            return Err(ParquetError::General("a file is finished once".to_owned()));
        };
        if !held.is_empty() {
            let message = format!("the page at byte {passed} was written with a header that cannot be followed");
            return Err(ParquetError::General(message));
        }
        let begin = passed + LONGER * starts.len() as u64;
        let (indexes, footer) = end(&Moved(starts), metadata, begin)?;
        file.write_all(&[&indexes[..], &seal::of(&indexes, &footer), &footer].concat())?;
        Ok(file)
    }
}

impl<W: Write> Write for Pages<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(bytes.len()) };
        self.held.extend_from_slice(bytes);
        let mut left = &self.held[..];
        if self.passed == 0 && left.len() >= MAGIC as usize {
            let (magic, rest) = left.split_at(MAGIC as usize);
            file.write_all(magic)?;
            (left, self.passed) = (rest, MAGIC);
        }
        while self.passed > 0
            && let Some((header, content, rest)) = split(left)
        {
            file.write_all(&with_checksum(header, checksum(content))?)?;
            file.write_all(content)?;
            self.starts.push(self.passed);
            self.passed += (left.len() - rest.len()) as u64;
            left = rest;
        }
        let done = self.held.len() - left.len();
        self.held.drain(..done);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// The header and the content of the page that `bytes` begin with, and what is behind; none if it is not complete.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut cursor = Cursor(bytes);
    let page = Page::read(&mut cursor)?;
    let (header, rest) = bytes.split_at(bytes.len() - cursor.0.len());
    let (content, rest) = rest.split_at_checked(usize::try_from(page.packed).ok()?)?;
    Some((header, content, rest))
}

/// `header`, whose first fields are the three numbers that it must have, with the fourth.
fn with_checksum(header: &[u8], checksum: u32) -> io::Result<Vec<u8>> {
    let mut cursor = Cursor(header);
    let mut field = 0;
    let numbers = (1..=3)
        .all(|number| cursor.field(&mut field) == Some(Some(I32)) && field == number && cursor.zigzag().is_some());
    let (before, behind) = header.split_at(header.len() - cursor.0.len());
    // The distance to the next field is in its upper half; it becomes one less.
    match behind {
        [next, behind @ ..] if numbers && (0x20..0xf0).contains(next) => {
            let zigzag = (checksum << 1) ^ ((checksum as i32) >> 31) as u32;
            let low = [0, 7, 14, 21].map(|shift| (zigzag >> shift) as u8 | 0x80);
            Ok([before, &[0x10 | I32], &low, &[(zigzag >> 28) as u8, next - 0x10], behind].concat())
        }
        _ => Err(io::Error::other("a page was written with a header that has no room for a checksum")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

    use arrow::array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Float32Type, Int32Type};

    use super::{Cursor, Page, split};
    use crate::columns::lists::from_rows;
    use crate::io::bounds::{Bound, Compare, Value};
    use crate::io::parquet::Writer;
    use crate::io::{Dataset, Location, TableWriter};

    /// Rows with columns that go the short way and the general one; `number` goes up.
    fn rows(count: usize) -> RecordBatch {
        let texts = (0..3 * count).map(|at| format!("text {}", at * at % 17));
        let content: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let messages = StructArray::try_from(vec![("content", content)]).unwrap();
        let lengths = (0..count).map(|row| if row % 2 == 0 { 2 } else { 4 });
        let message = Arc::new(Field::new("item", messages.data_type().clone(), true));
        let messages = ListArray::new(message, OffsetBuffer::from_lengths(lengths), Arc::new(messages), None);
        let ids = (0..count).map(|row| (0..row as i32 % 7).map(|at| at * 7919 % 90).collect::<Vec<_>>());
        let columns: [(&str, ArrayRef); 4] = [
            ("number", Arc::new(Int64Array::from_iter_values(0..count as i64))),
            ("ids", from_rows::<Int32Type>(ids)),
            ("rewards", from_rows::<Float32Type>((0..count).map(|row| vec![(row as f32).sin(); row % 7]))),
            ("messages", Arc::new(messages)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn write(path: &Path, rows: &RecordBatch) -> Location {
        let location = Location::parse(path.to_str().unwrap()).unwrap();
        let mut writer = Box::new(Writer::create(&location, &rows.schema()).unwrap());
        writer.write(rows).unwrap();
        writer.finish().unwrap();
        location
    }

    /// All rows of the file, and those of pages in which a number may be below 10.
    fn read(location: &Location) -> crate::Result<[Vec<RecordBatch>; 2]> {
        let mut dataset = Dataset::of(vec![location.clone()])?;
        let read = |dataset: &Dataset| {
            let units = dataset.units();
            let chunks = units.iter().map(|unit| dataset.read(unit, 1000)).collect::<crate::Result<Vec<_>>>()?;
            chunks.into_iter().flatten().map(|chunk| chunk.map(|chunk| chunk.batch)).collect::<crate::Result<Vec<_>>>()
        };
        let all = read(&dataset)?;
        dataset.prune(&[Bound { column: "number".to_owned(), compare: Compare::Less, value: Value::Integer(10) }])?;
        Ok([all, read(&dataset)?])
    }

    /// Some bits say nothing: those of the format's key and of the seal's mark, and some of headers.
    #[test]
    fn a_bit_that_flips_anywhere_changes_no_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let location = write(&path, &rows(30));
        let expected = read(&location).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let mut silent = 0;
        for bit in 0..8 * bytes.len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            match read(&location) {
                Ok(found) => {
                    assert!(found == expected, "bit {bit}: {found:?}");
                    silent += 1;
                }
                Err(error) => assert!(error.to_string().contains("x.parquet"), "{error}"),
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(silent < 8 * bytes.len() / 50, "{silent} bits of {} bytes", bytes.len());
    }

    #[test]
    fn pages_lie_where_the_footer_and_the_indexes_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write(&path, &rows(10_000));
        let bytes = Bytes::from(std::fs::read(&path).unwrap());
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = reader.parse_and_finish(&bytes).unwrap();
        assert_eq!(metadata.num_row_groups(), 3);
        let mut behind = super::MAGIC;
        for (group, indexes) in metadata.row_groups().iter().zip(metadata.offset_index().unwrap()) {
            assert_eq!(group.file_offset(), Some(behind as i64));
            assert_eq!(
                group.total_byte_size(),
                group.columns().iter().map(|column| column.uncompressed_size()).sum::<i64>()
            );
            for (column, index) in group.columns().iter().zip(indexes) {
                let (start, length) = column.byte_range();
                assert_eq!(start, behind);
                let mut left = &bytes[start as usize..(start + length) as usize];
                let mut pages = Vec::new();
                let (mut at, mut unpacked) = (start as i64, 0);
                while let Some((header, content, rest)) = split(left) {
                    pages.push((at, (header.len() + content.len()) as i32));
                    at += i64::from(pages.last().unwrap().1);
                    unpacked += header.len() as i64 + i64::from(Page::read(&mut Cursor(header)).unwrap().unpacked);
                    left = rest;
                }
                assert!(left.is_empty());
                assert_eq!(unpacked, column.uncompressed_size());
                if let Some(dictionary) = column.dictionary_page_offset() {
                    assert_eq!(pages.remove(0).0, dictionary);
                }
                assert_eq!(pages[0].0, column.data_page_offset());
                let locations = index.page_locations().iter().map(|page| (page.offset, page.compressed_page_size));
                assert_eq!(pages, locations.collect::<Vec<_>>());
                behind = at as u64;
            }
        }
    }
}
