//! Arrow IPC files (Feather V2) to record batches and back. What lacks an IPC file's mark at its start is read as a
//! stream.

mod claims;
mod decoder;
mod footer;
mod stream;
mod views;
mod writer;

use std::io::Read;
use std::ops::Range;

use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use self::footer::Footer;
use self::stream::Stream;
use super::Chunk;
use super::expansion::Expansion;
use super::limits::check_columns;
use super::store::Location;
use crate::error::{Error, Place, Result};
pub use writer::Writer;

/// What an IPC file begins with.
const MARK: &[u8; 6] = b"ARROW1";
const FEATHER_V1: &[u8] = b"FEA1";

/// An open Arrow IPC file or stream.
#[derive(Debug, Clone)]
pub struct File {
    content: Content,
    place: Place,
    size: u64,
    schema: SchemaRef,
    groups: Vec<u64>,
}

#[derive(Debug, Clone)]
enum Content {
    File(Footer),
    Stream(Stream),
}

impl File {
    /// Reads the footer and the header of every batch; of a stream the headers of all messages.
    ///
    /// # Errors
    /// A file that is not Arrow IPC, is cut, or claims more than its bytes can hold; a store that fails.
    pub fn open(location: &Location) -> Result<Self> {
        let (place, blob) = (Place::file(location), location.open()?);
        let (mut start, size) = ([0; MARK.len()], blob.len());
        let is_file = blob.reader(0).read_exact(&mut start).is_ok() && start == *MARK;
        if start.starts_with(FEATHER_V1) {
            let help = "write it again with `pyarrow.feather.write_feather(table, path)`, which writes V2";
            return Err(Error::data(place, format!("Feather V1 cannot be read; {help}")));
        }
        let (content, schema, groups) = if is_file {
            let footer = Footer::open(blob, place.clone())?;
            let (schema, groups) = (footer.schema().clone(), footer.groups()?);
            (Content::File(footer), schema, groups)
        } else {
            let stream = Stream::open(location)?;
            let (schema, groups) = (stream.schema().clone(), stream.groups());
            (Content::Stream(stream), schema, groups)
        };
        check_columns(schema.fields()).map_err(|wrong| Error::data(place.clone(), wrong))?;
        if groups.iter().try_fold(0, |rows: u64, group| rows.checked_add(*group)).is_none() {
            return Err(Error::data(place, "its batches would have more rows than can be counted"));
        }
        Ok(Self { content, place, size, schema, groups })
    }

    /// The file's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of every batch of the file.
    pub fn groups(&self) -> &[u64] {
        &self.groups
    }

    /// The rows of the file's batches `groups`, in batches of at most `batch_rows`.
    ///
    /// # Errors
    /// A batch that cannot be decoded; a store that fails.
    pub fn read(
        &self,
        groups: Range<usize>,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<Chunk>> + Send + use<>> {
        let mut row = self.groups[..groups.start].iter().sum::<u64>() + 1;
        let expected: Vec<u64> = self.groups[groups.clone()].to_vec();
        let (mut group, place) = (groups.start, self.place.clone());
        let checked = self.batches(groups)?.zip(expected).map(move |(batch, rows)| {
            let place = place.clone().row_group(group);
            group += 1;
            let batch = batch?;
            match batch.num_rows() as u64 {
                found if found == rows => Ok(batch),
                found => Err(Error::data(place, format!("holds {found} rows; its header says {rows}"))),
            }
        });
        let (mut expansion, file) = (Expansion::of(self.size), self.place.clone());
        let pieces = checked.flat_map(move |batch| {
            let first = row;
            row += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
            let (batch, failed) = match batch {
                Ok(batch) => (Some(batch), None),
                Err(error) => (None, Some(Err(error))),
            };
            let pieces = batch.into_iter().flat_map(move |batch: RecordBatch| {
                (0..batch.num_rows()).step_by(batch_rows).map(move |start| {
                    let rows = batch_rows.min(batch.num_rows() - start);
                    Ok(Chunk { first_row: first + start as u64, batch: batch.slice(start, rows) })
                })
            });
            failed.into_iter().chain(pieces)
        });
        Ok(pieces.map(move |chunk: Result<Chunk>| {
            let chunk = chunk?;
            let added = expansion.add(&chunk.batch);
            added.map_err(|why| Error::data(file.clone().row(chunk.first_row), why))?;
            Ok(chunk)
        }))
    }

    fn batches(&self, groups: Range<usize>) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>> + Send>> {
        match &self.content {
            Content::Stream(stream) => Ok(Box::new(stream.read(groups))),
            Content::File(footer) => Ok(Box::new(footer.read(groups)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::TableWriter;
    use arrow::array::Int64Array;
    use std::sync::Arc;

    #[test]
    fn any_range_of_batches_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::parse(folder.path().join("x.arrow").to_str().unwrap()).unwrap();
        let column = Arc::new(Int64Array::from_iter_values(0..50)) as _;
        let whole = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let mut writer = Box::new(Writer::file(&location, &whole.schema()).unwrap());
        for start in [0, 20, 40] {
            writer.write(&whole.slice(start, 20.min(50 - start))).unwrap();
        }
        writer.finish().unwrap();
        let file = File::open(&location).unwrap();
        assert_eq!(file.groups(), [20, 20, 10]);
        let chunks: Vec<Chunk> = file.read(1..3, 15).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.first_row).collect::<Vec<_>>(), [21, 36, 41]);
        assert_eq!(chunks.iter().map(|chunk| chunk.batch.num_rows()).sum::<usize>(), 30);
    }
}
