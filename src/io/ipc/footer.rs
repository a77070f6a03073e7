//! The footer of an Arrow IPC file: its schema, and where its dictionaries and batches lie.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::{Block, root_as_footer, root_as_message};

use super::decoder::{Decoder, Message, after_prefix};
use crate::error::{Error, Place, Result};
use crate::io::store::Blob;

/// The end of a file that is read at once: mostly all of its footer.
const TAIL: u64 = 64 << 10;

/// The footer's length and the mark, with which a file ends.
const TRAILER: usize = 10;

/// An open Arrow IPC file.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    place: Place,
    blob: Blob,
    schema: SchemaRef,
    dictionaries: Arc<Vec<Message>>,
    batches: Arc<Vec<Message>>,
}

impl Footer {
    /// Reads the footer of the file `blob`.
    pub(super) fn open(blob: Blob, place: Place) -> Result<Self> {
        let wrong = |error: &dyn Display| {
            let hint = "not a whole Arrow IPC file (cut short while it was written or copied?)";
            Error::data(place.clone(), format!("{hint}: {error}"))
        };
        let tail = blob.range(blob.len().saturating_sub(TAIL), blob.len().min(TAIL) as usize)?;
        let trailer = tail.last_chunk::<TRAILER>().ok_or_else(|| wrong(&"it has no footer"))?;
        let length = read_footer_length(*trailer).map_err(|error| wrong(&error))? as u64;
        let end = blob.len() - TRAILER as u64;
        let start = end.checked_sub(length).ok_or_else(|| wrong(&format!("a footer of {length} bytes")))?;
        let bytes = match (tail.len() - TRAILER).checked_sub(length as usize) {
            Some(from) => tail.slice(from..tail.len() - TRAILER),
            None => blob.range(start, length as usize)?,
        };
        let footer = root_as_footer(&bytes).map_err(|error| wrong(&error))?;
        let fields = footer.schema().ok_or_else(|| wrong(&"it has no schema"))?;
        if !fields.endianness().equals_to_target_endianness() {
            return Err(Error::data(place, "big-endian numbers cannot be read"));
        }
        let unlike = || Error::data(place.clone(), "its footer lists batches outside of the file, or over each other");
        let dictionaries = footer.dictionaries().into_iter().flatten().map(|block| message(block, blob.len()));
        let dictionaries = dictionaries.collect::<Option<Vec<Message>>>().ok_or_else(unlike)?;
        let batches = footer.recordBatches().into_iter().flatten().map(|block| message(block, blob.len()));
        let batches = batches.collect::<Option<Vec<Message>>>().ok_or_else(unlike)?;
        // What is listed twice would be unpacked twice.
        let mut sizes = dictionaries.iter().chain(&batches).map(|message| message.end - message.start);
        if sizes.try_fold(0, u64::checked_add).is_none_or(|size| size > blob.len()) {
            return Err(unlike());
        }
        let schema = Arc::new(fb_to_schema(fields));
        Ok(Self { schema, dictionaries: dictionaries.into(), batches: batches.into(), blob, place })
    }

    /// The file's schema.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of every batch, as its header says.
    pub(super) fn groups(&self) -> Result<Vec<u64>> {
        let rows = |(group, message): (usize, &Message)| {
            let place = self.place.clone().row_group(group);
            let header = self.blob.range(message.start, (message.body - message.start) as usize)?;
            let header = root_as_message(after_prefix(&header)).map_err(|error| Error::data(place.clone(), error))?;
            let rows = header.header_as_record_batch().map_or(0, |batch| batch.length());
            u64::try_from(rows).map_err(|_| Error::data(place, format!("a batch of {rows} rows")))
        };
        self.batches.iter().enumerate().map(rows).collect()
    }

    /// The batches `groups`, one after the other.
    pub(super) fn read(
        &self,
        groups: Range<usize>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
        let file = self.clone();
        let mut decoder = Decoder::new(&self.blob, &self.schema);
        self.dictionaries.iter().try_for_each(|message| decoder.read(*message, &self.place).map(drop))?;
        Ok(groups.map(move |group| {
            let batch = decoder.read(file.batches[group], &file.place.clone().row_group(group))?;
            Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(file.schema.clone())))
        }))
    }
}

/// The message at `block`, if that lies inside of a file of `size` bytes.
fn message(block: &Block, size: u64) -> Option<Message> {
    let start = u64::try_from(block.offset()).ok()?;
    let body = start.checked_add(u64::try_from(block.metaDataLength()).ok()?)?;
    let end = body.checked_add(u64::try_from(block.bodyLength()).ok()?)?;
    (end <= size).then_some(Message { start, body, end })
}
