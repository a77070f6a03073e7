//! Row groups to record batches and back.
//!
//! Written files suit token columns (measured in the design's research): `f32` lists are byte-stream-split without a
//! dictionary, ids keep theirs, row groups are capped in rows and in bytes, pages are content-defined and indexed. The
//! schema's metadata becomes the footer's key-value pairs. All but the key of the format at either end has a checksum.

mod checksums;
mod group;
mod headers;
mod lists;
mod logical;
mod many;
mod moved;
mod pages;
mod schema;
mod seal;
mod thrift;

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::properties::{CdcOptions, WriterProperties};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;

use super::bounds::Bound;
use super::expansion::Expansion;
use super::limits::check_columns;
use super::portion::Portion;
use super::store::{Blob, Location, Upload};
use super::windows::{HEADER, WINDOW, Windows};
use super::{Chunk, TableWriter, Written};
use crate::error::{Error, Place, Result};
use checksums::Pages;
use group::{Columns, Group};
use seal::Sealed;

/// Caps of a written row group: it is the unit of resuming, of sharing work, and of what a viewer scans.
const GROUP_ROWS: usize = 4096;
const GROUP_BYTES: usize = 32 << 20;

/// Bytes of a column's texts in a batch, as far as they may come out of a dictionary.
const TEXTS: u64 = 1 << 29;

/// What is read at once of pages whose headers alone are looked at: little where pages are long, many headers where they
/// are short.
const HEADERS: u64 = 4 * HEADER;

/// The end of a file that is read at once: mostly all of its footer.
const TAIL: u64 = 64 << 10;

/// An open Parquet file: its footer, and where its rows are.
#[derive(Debug, Clone)]
pub struct File {
    place: Place,
    blob: Blob,
    footer: ArrowReaderMetadata,
    schema: SchemaRef,
    /// Of every row group the rows that are read; empty where all are.
    left: Arc<Vec<Vec<Range<usize>>>>,
    sealed: Option<Sealed>,
}

impl File {
    /// Reads the footer.
    ///
    /// # Errors
    /// A file that is not Parquet, is encrypted, cut, damaged, or nested too deeply; a store that fails.
    pub fn open(location: &Location) -> Result<Self> {
        let place = Place::file(location);
        let blob = location.open()?;
        let tail = Windows::new(blob.clone(), std::iter::once(blob.len().saturating_sub(TAIL)..blob.len()), WINDOW);
        let end = |length: u64| tail.get_bytes(blob.len().checked_sub(length)?, length as usize).ok();
        let length = end(8).and_then(|trailer| Some(u64::from(u32::from_le_bytes(*trailer.first_chunk()?))));
        let wrong = |wrong| Error::data(place.clone(), wrong);
        let (mut sealed, mut many) = (None, None);
        if let Some((length, footer)) = length.and_then(|length| Some((length + 8, end(length + 8)?))) {
            let end = end(length + seal::BYTES as u64).unwrap_or_default();
            sealed = Sealed::read(&end, blob.len()).map_err(wrong)?;
            schema::check(&footer).map_err(wrong)?;
            many = many::read(&footer);
        }
        let footer = match many {
            Some(many) => many.and_then(|many| ArrowReaderMetadata::try_new(Arc::new(many), ArrowReaderOptions::new())),
            None => ArrowReaderMetadata::load(&tail, ArrowReaderOptions::new()),
        };
        let footer = footer.map_err(|error| {
            wrong(format!("not a whole Parquet file (cut short while it was written or copied?): {error}"))
        })?;
        let checked = super::footer::check(footer.metadata(), blob.len());
        let checked = checked.and_then(|()| check_columns(footer.schema().fields()));
        checked.map_err(wrong)?;
        let schema = Arc::new(logical::marked(footer.schema(), footer.metadata().file_metadata().schema_descr()));
        Ok(Self { place, blob, footer, schema, left: Arc::default(), sealed })
    }

    /// The file's schema, its footer's key-value pairs as metadata.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether every row group says that the column `name`, which has no columns inside, holds no null.
    pub fn has_no_null(&self, name: &str) -> bool {
        let metadata = self.footer.metadata();
        let leaves = metadata.file_metadata().schema_descr().columns();
        let Some(leaf) = leaves.iter().position(|leaf| leaf.path().parts() == [name]) else { return false };
        metadata.row_groups().iter().all(|group| {
            let statistics = group.column(leaf).statistics();
            statistics.and_then(|statistics| statistics.null_count_opt()) == Some(0)
        })
    }

    /// Rows of every row group.
    pub fn groups(&self) -> Vec<u64> {
        self.footer.metadata().row_groups().iter().map(|group| group.num_rows() as u64).collect()
    }

    /// Row groups of which no row can fulfil all of `bounds`, which fit the columns' types.
    pub fn without(&self, bounds: &[Bound]) -> Vec<usize> {
        let groups = self.footer.metadata().row_groups().iter().enumerate();
        let excluded = groups.filter(|(_, group)| bounds.iter().any(|bound| !bound.may_hold(group)));
        excluded.map(|(index, _)| index).collect()
    }

    /// Leaves out pages of which no row can fulfil all of `bounds`, if the file has an index of them.
    ///
    /// # Errors
    /// An index of pages that cannot be read, or is damaged.
    pub fn narrow(&mut self, bounds: &[Bound]) -> Result<()> {
        let groups = self.footer.metadata().row_groups();
        let indexed = |bound: &Bound| {
            let leaf = groups.first().and_then(|group| Some((group, bound.leaf(group)?)));
            leaf.is_some_and(|(group, leaf)| group.column(leaf).column_index_offset().is_some())
        };
        let bounds: Vec<&Bound> = bounds.iter().filter(|bound| indexed(bound)).collect();
        if bounds.is_empty() {
            return Ok(());
        }
        let wrong = |wrong| Error::data(self.place.clone(), wrong);
        if let Some(sealed) = &self.sealed {
            let Range { start, end } = sealed.indexes();
            sealed.check(&self.blob.range(start, (end - start) as usize)?).map_err(wrong)?;
        }
        let with_indexes = || {
            let reader = ParquetMetaDataReader::new_with_metadata(self.footer.metadata().as_ref().clone());
            let mut reader = reader.with_page_index_policy(PageIndexPolicy::Optional);
            reader.read_page_indexes(&self.blob)?;
            ArrowReaderMetadata::try_new(Arc::new(reader.finish()?), ArrowReaderOptions::new())
        };
        let footer = with_indexes().map_err(|error| Error::data(self.place.clone(), error))?;
        pages::check(footer.metadata(), self.blob.len()).map_err(wrong)?;
        let left = (0..groups.len()).map(|group| pages::rows_left(footer.metadata(), group, &bounds)).collect();
        self.left = Arc::new(left);
        self.footer = footer;
        Ok(())
    }

    /// The columns `columns` of the rows of `groups`, in batches; rows of pages that were left out are not among them.
    pub fn read(
        &self,
        groups: Range<usize>,
        columns: &Schema,
        portion: Portion,
    ) -> impl Iterator<Item = Result<Chunk>> + Send + use<> {
        let file = self.clone();
        let is_wanted = |field: &FieldRef| columns.field_with_name(field.name()).is_ok();
        let roots = self.schema().fields().iter().enumerate().filter(|(_, field)| is_wanted(field));
        let parquet = self.footer.metadata().file_metadata().schema_descr();
        let columns = Columns::new(self.footer.schema(), parquet, roots.map(|(index, _)| index).collect());
        let mut expansion = Expansion::of(self.blob.len());
        let failed_at = self.place.clone();
        let mut behind: u64 = self.groups()[..groups.start].iter().sum();
        let chunks = groups.flat_map(move |group| {
            let place = file.place.clone().row_group(group);
            let before = behind;
            behind += file.footer.metadata().row_group(group).num_rows() as u64;
            let (reader, failed) = match file.reader(group, &columns, portion) {
                Ok(reader) => (Some(reader), None),
                Err(error) => (None, Some(Err(unreadable(place.clone(), &error)))),
            };
            let left = file.rows_left(group);
            let (mut rows, end): (usize, usize) = (0, left.iter().map(Range::len).sum());
            let mut left = left.into_iter();
            let mut piece = 0..0;
            let mut done = reader.is_none();
            let mut batches = reader.into_iter().flatten();
            let chunks = iter::from_fn(move || {
                if done {
                    return None;
                }
                let Some(batch) = batches.next() else {
                    done = true;
                    let message = format!("holds {rows} rows; the footer says {end}");
                    return (rows != end).then(|| vec![Err(Error::data(place.clone(), message))]);
                };
                let batch = match batch {
                    Ok(batch) => batch,
                    Err(error) => {
                        done = true;
                        return Some(vec![Err(unreadable(place.clone(), &error))]);
                    }
                };
                rows += batch.num_rows();
                let (mut chunks, mut at) = (Vec::new(), 0);
                while at < batch.num_rows() {
                    if piece.is_empty() {
                        piece = left.next().unwrap_or(0..usize::MAX);
                    }
                    let taken = piece.len().min(batch.num_rows() - at);
                    let first_row = before + piece.start as u64 + 1;
                    chunks.push(Ok(Chunk { first_row, batch: batch.slice(at, taken) }));
                    piece.start += taken;
                    at += taken;
                }
                Some(chunks)
            });
            failed.into_iter().chain(chunks.flatten())
        });
        chunks.map(move |chunk| {
            let chunk = chunk?;
            let added = expansion.add(&chunk.batch);
            added.map_err(|why| Error::data(failed_at.clone().row(chunk.first_row), why))?;
            Ok(chunk)
        })
    }

    /// The batches of `group`.
    fn reader(&self, group: usize, columns: &Columns, portion: Portion) -> Result<Group, ParquetError> {
        let (metadata, mask) = (self.footer.metadata(), &columns.mask);
        let content = metadata.row_group(group);
        let left = self.rows_left(group);
        let spans = pages::spans(metadata, group, mask, &left);
        let windows = Windows::new(self.blob.clone(), spans.clone(), portion.window(self.blob.is_local()));
        let dictionary = if self.blob.is_local() {
            let whole = pages::columns(content, mask);
            headers::check(&Windows::new(self.blob.clone(), whole.clone(), HEADERS), &whole, content, u64::MAX)?
        } else {
            headers::check(&windows, &spans, content, WINDOW)?
        };
        let batch_rows = portion.batch_rows(content, mask).min((TEXTS / dictionary.max(1)).max(1) as usize);
        let rows = content.num_rows() as usize;
        let is_whole = matches!(left.as_slice(), [all] if *all == (0..rows));
        let (lists, others) = if is_whole { columns.split() } else { (&[][..], &columns.mask) };
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(windows.clone(), self.footer.clone());
        let builder = builder.with_row_groups(vec![group]).with_batch_size(batch_rows).with_projection(others.clone());
        let others = if is_whole {
            builder.build()?
        } else {
            builder
                .with_row_selection(RowSelection::from_consecutive_ranges(left.into_iter(), rows))
                .with_row_selection_policy(RowSelectionPolicy::Selectors)
                .build()?
        };
        let lists = lists.iter().map(|list| Ok((list.index, list.open(&windows, content)?)));
        Ok(Group::new(columns.schema.clone(), lists.collect::<Result<_, ParquetError>>()?, others))
    }

    /// The rows of `group`, from 0, that are read.
    fn rows_left(&self, group: usize) -> Vec<Range<usize>> {
        let all = || std::iter::once(0..self.footer.metadata().row_group(group).num_rows() as usize).collect();
        self.left.get(group).cloned().unwrap_or_else(all)
    }
}

/// What is said of `error` in the pages at `place`. The reader has a word of its own for a checksum that is wrong.
fn unreadable(place: Place, error: &ParquetError) -> Error {
    let message = error.to_string();
    let is_damaged = message.contains("CRC checksum mismatch");
    Error::data(place, if is_damaged { seal::damaged("a page") } else { message })
}

/// Writes one Parquet file.
pub struct Writer {
    location: Location,
    writer: ArrowWriter<Pages<Upload>>,
}

impl Writer {
    /// Begins a file at `location`.
    ///
    /// # Errors
    /// A store that fails; a type that Parquet does not have.
    pub fn create(location: &Location, schema: &SchemaRef) -> Result<Self> {
        let place = Place::file(location);
        let wrong = |error: ParquetError| Error::data(place.clone(), error);
        let properties = properties(schema).map_err(wrong)?;
        let writer =
            ArrowWriter::try_new(Pages::new(location.upload()?), schema.clone(), Some(properties)).map_err(wrong)?;
        Ok(Self { location: location.clone(), writer })
    }

    fn failed(&self, error: ParquetError) -> Error {
        self.location.cause(Error::data(Place::file(&self.location), error))
    }
}

impl TableWriter for Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let written = self.writer.write(batch);
        written.map_err(|error| self.failed(error))
    }

    fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { location, mut writer } = *self;
        let mut finish = || {
            writer.flush()?;
            writer.sync()?;
            let pages = writer.inner_mut().take();
            pages.finish(writer.finish()?)
        };
        let failed = |error| location.cause(Error::data(Place::file(&location), error));
        finish().map_err(failed)?.finish()
    }
}

fn properties(schema: &SchemaRef) -> Result<WriterProperties, ParquetError> {
    let pairs = schema.metadata().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let mut pairs: Vec<KeyValue> = pairs.filter(|pair| pair.key != "ARROW:schema").collect();
    pairs.sort_by(|a, b| a.key.cmp(&b.key));
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .set_content_defined_chunking(Some(CdcOptions::default()))
        .set_key_value_metadata(Some(pairs));
    for field in schema.fields() {
        for (path, leaf) in leaves(field, Vec::new()) {
            let column = ColumnPath::new(path);
            properties = match leaf {
                DataType::Float32 => properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column, Encoding::BYTE_STREAM_SPLIT),
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                    properties.set_column_dictionary_enabled(column, false)
                }
                _ => properties,
            };
        }
    }
    Ok(properties.build())
}

/// Leaf columns below `field`, by the paths that Parquet gives them.
fn leaves(field: &FieldRef, mut path: Vec<String>) -> Vec<(Vec<String>, DataType)> {
    path.push(field.name().clone());
    match field.data_type() {
        DataType::List(element) | DataType::LargeList(element) => {
            path.push("list".into());
            leaves(element, path)
        }
        DataType::Struct(fields) => fields.iter().flat_map(|field| leaves(field, path.clone())).collect(),
        leaf => vec![(path, leaf.clone())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::lists::{from_masks, from_rows};
    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::{Field, Float32Type, Int32Type};

    fn batch(rows: usize) -> RecordBatch {
        let ids = (0..rows).map(|row| vec![row as i32; row % 5]);
        let rewards = (0..rows).map(|row| vec![row as f32 / 7.0; row % 5]);
        let masks = (0..rows).map(|row| vec![row % 2 == 0; row % 5]);
        let texts = (0..rows).map(|row| format!("row {row}"));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from_iter_values(texts))),
            ("ids", from_rows::<Int32Type>(ids)),
            ("rewards", from_rows::<Float32Type>(rewards)),
            ("mask", from_masks(masks)),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), false)).collect();
        let metadata = [("sepo".to_owned(), "{}".to_owned())].into();
        let schema = Schema::new_with_metadata(fields, metadata);
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    #[test]
    fn rows_metadata_and_encodings_survive() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::parse(folder.path().join("x.parquet").to_str().unwrap()).unwrap();
        let whole = batch(10_000);
        let mut writer = Box::new(Writer::create(&location, &whole.schema()).unwrap());
        writer.write(&whole.slice(0, 6000)).unwrap();
        writer.write(&whole.slice(6000, 4000)).unwrap();
        writer.finish().unwrap();

        let file = File::open(&location).unwrap();
        assert_eq!(file.groups(), [4096, 4096, 1808]);
        assert_eq!(file.schema().metadata()["sepo"], "{}");
        let chunks: Vec<Chunk> = file.read(1..3, file.schema(), Portion::of_rows(1000)).collect::<Result<_>>().unwrap();
        assert_eq!(chunks[0].first_row, 4097);
        let batches: Vec<&RecordBatch> = chunks.iter().map(|chunk| &chunk.batch).collect();
        let read = arrow::compute::concat_batches(&batches[0].schema(), batches).unwrap();
        assert_eq!(read.columns(), whole.slice(4096, 10_000 - 4096).columns());

        let group = file.footer.metadata().row_group(0);
        let rewards = group.columns().iter().find(|c| c.column_path().string() == "rewards.list.element").unwrap();
        let encodings: Vec<Encoding> = rewards.encodings().collect();
        assert!(encodings.contains(&Encoding::BYTE_STREAM_SPLIT), "{encodings:?}");
        assert!(rewards.dictionary_page_offset().is_none());
        let ids = group.columns().iter().find(|c| c.column_path().string() == "ids.list.element").unwrap();
        assert!(ids.dictionary_page_offset().is_some());
    }

    /// The short way of `lists` and the general one give the same, over the ends of pages and batches.
    #[test]
    fn lists_of_numbers_are_those_that_arrow_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let location = Location::parse(path.to_str().unwrap()).unwrap();
        let lengths: Vec<usize> = (0..3000).map(|row: usize| (row * row + row / 7) % 1200).collect();
        let ids = lengths.iter().map(|length| (0..*length).map(|at| (at * 7919 % 50_000) as i32).collect::<Vec<_>>());
        let rewards = lengths.iter().map(|length| (0..*length / 3).map(|at| (at as f32).sin()).collect::<Vec<_>>());
        let numbers = (0..lengths.len()).map(|row| row as i32);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("ids", from_rows::<Int32Type>(ids)),
            ("number", Arc::new(arrow::array::Int32Array::from_iter_values(numbers))),
            ("rewards", from_rows::<Float32Type>(rewards)),
        ];
        let whole = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = Box::new(Writer::create(&location, &whole.schema()).unwrap());
        writer.write(&whole).unwrap();
        writer.finish().unwrap();
        let file = File::open(&location).unwrap();
        let expected = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
        let expected: Vec<RecordBatch> = expected.build().unwrap().collect::<Result<_, _>>().unwrap();
        let expected = arrow::compute::concat_batches(&expected[0].schema(), &expected).unwrap();
        assert_eq!(expected.columns(), whole.columns());
        let small = Portion { rows: 700, bytes: 1 << 18, window: 1 << 14, store_window: 1 << 14 };
        for (portion, names) in [
            (Portion::of_rows(256), &["ids", "number", "rewards"][..]),
            (small, &["ids", "number", "rewards"]),
            (small, &["rewards"]),
            (small, &["number", "ids"]),
        ] {
            let roots: Vec<usize> =
                (0..3).filter(|index| names.contains(&expected.schema_ref().field(*index).name().as_str())).collect();
            let expected = expected.project(&roots).unwrap();
            let columns = Columns::new(
                file.footer.schema(),
                file.footer.metadata().file_metadata().schema_descr(),
                roots.clone(),
            );
            assert_eq!(columns.split().0.len(), roots.iter().filter(|index| **index != 1).count());
            let chunks = file.read(0..file.groups().len(), expected.schema_ref(), portion);
            let batches: Vec<RecordBatch> = chunks.map(|chunk| chunk.unwrap().batch).collect();
            let read = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
            assert_eq!(read.columns(), expected.columns());
        }
    }

    #[test]
    fn a_file_cut_short_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let location = Location::parse(path.to_str().unwrap()).unwrap();
        let whole = batch(100);
        let mut writer = Box::new(Writer::create(&location, &whole.schema()).unwrap());
        writer.write(&whole).unwrap();
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("x.parquet: not a whole Parquet file"), "{error}");
    }
}
