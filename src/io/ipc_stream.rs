//! Arrow IPC streams, the form of the `.arrow` files that `datasets` keeps, to record batches.
//!
//! A stream has no footer. Opening it goes from one message's header to the next, so that any batch can be read later
//! without those before it.

use std::io::{Cursor, Read};
use std::ops::Range;

use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{MessageHeader, root_as_message};

use super::store::{Blob, Location};
use crate::error::{Error, Place, Result};

/// An open Arrow IPC stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    place: Place,
    blob: Blob,
    schema: SchemaRef,
    /// The messages with the schema and the dictionaries.
    heads: Vec<Range<u64>>,
    batches: Vec<Batch>,
}

#[derive(Debug, Clone)]
struct Batch {
    message: Range<u64>,
    rows: u64,
    /// How many of the heads lie before it.
    heads: usize,
}

impl Stream {
    /// Reads the headers of all messages.
    pub(super) fn open(location: &Location) -> Result<Self> {
        let (place, blob) = (Place::file(location), location.open()?);
        let (mut heads, mut batches) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(Message { kind, rows, end }) = message(&blob, at, &place)? {
            match kind {
                MessageHeader::Schema | MessageHeader::DictionaryBatch => heads.push(at..end),
                MessageHeader::RecordBatch => batches.push(Batch { message: at..end, rows, heads: heads.len() }),
                _ => {}
            }
            at = end;
        }
        let schema = reader(&blob, &heads, 0..0, &place)?.schema();
        Ok(Self { place, blob, schema, heads, batches })
    }

    /// The stream's schema.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of every batch.
    pub(super) fn groups(&self) -> Vec<u64> {
        self.batches.iter().map(|batch| batch.rows).collect()
    }

    /// Batch `group`.
    pub(super) fn batch(&self, group: usize) -> Result<RecordBatch> {
        let place = self.place.clone().row_group(group);
        let Batch { message, heads, .. } = self.batches[group].clone();
        let batch = reader(&self.blob, &self.heads[..heads], message, &place)?.next();
        let batch = batch.unwrap_or_else(|| Ok(RecordBatch::new_empty(self.schema.clone())));
        batch.map_err(|error| Error::data(place, error))
    }
}

type Messages = std::io::Chain<Cursor<Vec<u8>>, std::io::Take<super::store::BlobReader>>;

/// A reader of `heads` and then of the message at `batch`.
fn reader(blob: &Blob, heads: &[Range<u64>], batch: Range<u64>, place: &Place) -> Result<StreamReader<Messages>> {
    let mut bytes = Vec::new();
    for head in heads {
        bytes.extend_from_slice(&blob.range(head.start, (head.end - head.start) as usize)?);
    }
    let messages = Cursor::new(bytes).chain(blob.reader(batch.start).take(batch.end - batch.start));
    StreamReader::try_new(messages, None)
        .map_err(|error| Error::data(place.clone(), format!("not an Arrow IPC stream: {error}")))
}

struct Message {
    kind: MessageHeader,
    /// Of a record batch.
    rows: u64,
    end: u64,
}

/// What the message at `at` is; none at the end of the stream.
fn message(blob: &Blob, at: u64, place: &Place) -> Result<Option<Message>> {
    /// Stands in front of a message's length since format version 5.
    const CONTINUES: u32 = u32::MAX;
    let cut = || Error::data(place.clone(), "not a whole Arrow IPC stream (cut short while it was written or copied?)");
    let left = blob.len() - at;
    let word = |at: u64| -> Result<u32> {
        let bytes = blob.range(at, 4)?;
        Ok(u32::from_le_bytes(bytes[..].try_into().map_err(|_| cut())?))
    };
    if left == 0 {
        return Ok(None);
    }
    if left < 8 {
        return Err(cut());
    }
    let (length, from) = match word(at)? {
        CONTINUES => (word(at + 4)?, at + 8),
        length => (length, at + 4),
    };
    if length == 0 {
        return Ok(None);
    }
    let body = from + u64::from(length);
    if body > blob.len() {
        return Err(cut());
    }
    let header = blob.range(from, length as usize)?;
    let wrong = |error| Error::data(place.clone(), format!("not an Arrow IPC stream: {error}"));
    let header = root_as_message(&header).map_err(wrong)?;
    let end = u64::try_from(header.bodyLength()).ok().and_then(|length| body.checked_add(length)).ok_or_else(cut)?;
    if end > blob.len() {
        return Err(cut());
    }
    let rows = header.header_as_record_batch().map_or(0, |batch| batch.length().max(0) as u64);
    Ok(Some(Message { kind: header.header_type(), rows, end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, ArrayRef, AsArray, StringDictionaryBuilder};
    use arrow::datatypes::Int32Type;
    use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};
    use std::sync::Arc;

    fn batch(words: &[&str]) -> RecordBatch {
        let mut builder = StringDictionaryBuilder::<Int32Type>::new();
        words.iter().for_each(|word| builder.append_value(word));
        RecordBatch::try_from_iter([("word", Arc::new(builder.finish()) as ArrayRef)]).unwrap()
    }

    #[test]
    fn any_batch_can_be_read_with_its_dictionary() {
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
            for (group, expected) in [(2, "dcd"), (0, "ab"), (1, "c")] {
                let column = stream.batch(group).unwrap().column(0).clone();
                let words = column.as_dictionary::<Int32Type>().downcast_dict::<arrow::array::StringArray>().unwrap();
                assert_eq!(words.into_iter().flatten().collect::<String>(), expected);
                assert_eq!(column.len(), expected.len());
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
