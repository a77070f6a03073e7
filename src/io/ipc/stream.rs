//! Arrow IPC streams, the form of the `.arrow` files that `datasets` keeps, to record batches.
//!
//! A stream has no footer. Opening it goes from one message's header to the next, so that any batch can be read later
//! without those before it.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::{MessageHeader, root_as_message};
use bytes::Bytes;

use super::decoder::{Decoder, Message};
use crate::error::{Error, Place, Result};
use crate::io::store::{Blob, Location};

/// Bytes that are fetched for the header of a message; most are smaller, and short messages share a window.
const WINDOW: u64 = 64 << 10;

/// An open Arrow IPC stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    place: Place,
    blob: Blob,
    schema: SchemaRef,
    dictionaries: Arc<Vec<Dictionary>>,
    batches: Arc<Vec<Batch>>,
}

#[derive(Debug)]
struct Dictionary {
    message: Message,
    id: i64,
    /// Whether its values come behind those that the dictionary has.
    is_delta: bool,
}

#[derive(Debug)]
struct Batch {
    message: Message,
    rows: u64,
    /// How many of the dictionaries lie before it.
    dictionaries: usize,
}

impl Stream {
    /// Reads the headers of all messages.
    pub(super) fn open(location: &Location) -> Result<Self> {
        let (place, blob) = (Place::file(location), location.open()?);
        let (mut dictionaries, mut batches, mut schema) = (Vec::new(), Vec::new(), None);
        let mut headers = Headers { blob: &blob, place: &place, start: 0, window: Bytes::new() };
        let wrong = |error: &dyn Display| Error::data(place.clone(), format!("not an Arrow IPC stream: {error}"));
        let mut at = 0;
        while let Some((message, bytes)) = headers.message(at)? {
            at = message.end;
            let header = root_as_message(&bytes).map_err(|error| wrong(&error))?;
            match header.header_type() {
                MessageHeader::Schema if schema.is_none() => {
                    let fields = header.header_as_schema().ok_or_else(|| wrong(&"it has no schema"))?;
                    if !fields.endianness().equals_to_target_endianness() {
                        return Err(Error::data(place, "big-endian numbers cannot be read"));
                    }
                    schema = Some(Arc::new(fb_to_schema(fields)));
                }
                MessageHeader::DictionaryBatch => {
                    let Some(batch) = header.header_as_dictionary_batch() else { continue };
                    dictionaries.push(Dictionary { message, id: batch.id(), is_delta: batch.isDelta() });
                }
                MessageHeader::RecordBatch => {
                    let rows = header.header_as_record_batch().map_or(0, |batch| batch.length());
                    let group = place.clone().row_group(batches.len());
                    let rows =
                        u64::try_from(rows).map_err(|_| Error::data(group, format!("a batch of {rows} rows")))?;
                    batches.push(Batch { message, rows, dictionaries: dictionaries.len() });
                }
                _ => {}
            }
        }
        let schema = schema.ok_or_else(|| wrong(&"it has no schema"))?;
        Ok(Self { schema, dictionaries: Arc::new(dictionaries), batches: Arc::new(batches), blob, place })
    }

    /// The stream's schema.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of every batch.
    pub(super) fn groups(&self) -> Vec<u64> {
        self.batches.iter().map(|batch| batch.rows).collect()
    }

    /// The batches `groups`, one after the other.
    pub(super) fn read(&self, groups: Range<usize>) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let stream = self.clone();
        let mut begun: Option<(Decoder, usize)> = None;
        groups.map(move |group| {
            let place = stream.place.clone().row_group(group);
            let end = stream.batches[group].dictionaries;
            let (mut decoder, new) = match begun.take() {
                None => (Decoder::new(&stream.blob, &stream.schema), stream.dictionaries_before(end)),
                Some((decoder, known)) => (decoder, (known..end).collect()),
            };
            for index in new {
                decoder.read(stream.dictionaries[index].message, &place)?;
            }
            let batch = decoder.read(stream.batches[group].message, &place)?;
            begun = Some((decoder, end));
            Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(stream.schema.clone())))
        })
    }

    /// Those of the first `end` dictionaries that still count: a dictionary replaces the one before it of the same id,
    /// unless it adds to it.
    fn dictionaries_before(&self, end: usize) -> Vec<usize> {
        let mut replaced = HashSet::new();
        let counts = |index: &usize| {
            let Dictionary { id, is_delta, .. } = &self.dictionaries[*index];
            if *is_delta { !replaced.contains(id) } else { replaced.insert(*id) }
        };
        let mut counted: Vec<usize> = (0..end).rev().filter(counts).collect();
        counted.reverse();
        counted
    }
}

/// Goes over the headers of a stream.
struct Headers<'a> {
    blob: &'a Blob,
    place: &'a Place,
    /// Where the window begins.
    start: u64,
    window: Bytes,
}

impl Headers<'_> {
    /// The message at `at` and its header; none at the end of the stream.
    fn message(&mut self, at: u64) -> Result<Option<(Message, Bytes)>> {
        /// Stands in front of a message's length since format version 5.
        const CONTINUES: u32 = u32::MAX;
        if at == self.blob.len() {
            return Ok(None);
        }
        let (length, from) = match self.word(at)? {
            CONTINUES => (self.word(at + 4)?, at + 8),
            length => (length, at + 4),
        };
        if length == 0 {
            return Ok(None);
        }
        let body = from + u64::from(length);
        let bytes = self.bytes(from, u64::from(length))?;
        let header = root_as_message(&bytes);
        let header =
            header.map_err(|error| Error::data(self.place.clone(), format!("not an Arrow IPC stream: {error}")))?;
        let end = u64::try_from(header.bodyLength()).ok().and_then(|length| body.checked_add(length));
        let end = end.filter(|end| *end <= self.blob.len()).ok_or_else(|| self.cut())?;
        Ok(Some((Message { start: at, body, end }, bytes)))
    }

    fn word(&mut self, at: u64) -> Result<u32> {
        let bytes = self.bytes(at, 4)?;
        Ok(u32::from_le_bytes(bytes[..].try_into().map_err(|_| self.cut())?))
    }

    fn bytes(&mut self, at: u64, length: u64) -> Result<Bytes> {
        let end = at.checked_add(length).filter(|end| *end <= self.blob.len()).ok_or_else(|| self.cut())?;
        if at < self.start || self.start + (self.window.len() as u64) < end {
            let fetched = length.max(WINDOW.min(self.blob.len() - at));
            self.window = self.blob.range(at, fetched as usize)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(self.window.slice(from..from + length as usize))
    }

    fn cut(&self) -> Error {
        let message = "not a whole Arrow IPC stream (cut short while it was written or copied?)";
        Error::data(self.place.clone(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, StringDictionaryBuilder};
    use arrow::datatypes::Int32Type;
    use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};

    fn batch(words: &[&str]) -> RecordBatch {
        let mut builder = StringDictionaryBuilder::<Int32Type>::new();
        words.iter().for_each(|word| builder.append_value(word));
        RecordBatch::try_from_iter([("word", Arc::new(builder.finish()) as ArrayRef)]).unwrap()
    }

    fn words(batch: &RecordBatch) -> String {
        let column = batch.column(0).as_dictionary::<Int32Type>();
        column.downcast_dict::<arrow::array::StringArray>().unwrap().into_iter().flatten().collect()
    }

    #[test]
    fn any_batches_can_be_read_with_their_dictionaries() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.arrow");
        let batches = [batch(&["a", "b"]), batch(&["c"]), batch(&["d", "c", "d"])];
        for handling in [DictionaryHandling::Resend, DictionaryHandling::Delta] {
            let options = IpcWriteOptions::default().with_dictionary_handling(handling);
            let file = std::fs::File::create(&path).unwrap();
            let mut writer = StreamWriter::try_new_with_options(file, &batches[0].schema(), options).unwrap();
            batches.iter().for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
            let stream = Stream::open(&Location::parse(path.to_str().unwrap()).unwrap()).unwrap();
            assert_eq!(stream.groups(), [2, 1, 3]);
            for (groups, expected) in [(2..3, "dcd"), (0..1, "ab"), (1..3, "c dcd"), (0..3, "ab c dcd")] {
                let read = stream.read(groups).map(|batch| words(&batch.unwrap()));
                assert_eq!(read.collect::<Vec<_>>().join(" "), expected);
            }
        }
    }

    #[test]
    fn a_stream_cut_short_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.arrow");
        let whole = batch(&["a", "b"]);
        let mut writer = StreamWriter::try_new(std::fs::File::create(&path).unwrap(), &whole.schema()).unwrap();
        writer.write(&whole).unwrap();
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 1..bytes.len() - 8 {
            std::fs::write(&path, &bytes[..length]).unwrap();
            match Stream::open(&Location::parse(path.to_str().unwrap()).unwrap()) {
                Ok(stream) => assert!(stream.groups().is_empty(), "{length}"),
                Err(error) => assert!(error.to_string().contains("x.arrow: not a"), "{error}"),
            }
        }
    }
}
