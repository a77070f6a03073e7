//! The messages that Arrow IPC files and streams are made of, to record batches: a header, then the buffers of a batch or of a
//! dictionary that batches refer to.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::{MessageHeader, root_as_message};

use super::{claims, views};
use crate::error::{Error, Place, Result};
use crate::io::store::Blob;

/// Where in a file a message lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) start: u64,
    /// Where its header ends and its buffers begin.
    pub(super) body: u64,
    pub(super) end: u64,
}

/// The header of a message, a flatbuffer, without what stands before it: a mark and its length, or in old files the length
/// alone.
pub(super) fn after_prefix(header: &[u8]) -> &[u8] {
    let prefix = if header.starts_with(&[0xff; 4]) { 8 } else { 4 };
    header.get(prefix..).unwrap_or_default()
}

/// Decodes messages of one schema.
pub(super) struct Decoder {
    blob: Blob,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
}

impl Decoder {
    pub(super) fn new(blob: &Blob, schema: &SchemaRef) -> Self {
        Self { blob: blob.clone(), schema: schema.clone(), dictionaries: HashMap::new() }
    }

    /// The batch in `message`; of a dictionary, which is kept for later batches, none.
    pub(super) fn read(&mut self, message: Message, place: &Place) -> Result<Option<RecordBatch>> {
        let wrong = |error: &dyn Display| Error::data(place.clone(), error);
        let Message { start, body, end } = message;
        claims::room(end - start).map_err(|error| wrong(&error))?;
        let bytes = Buffer::from(self.blob.range(start, (end - start) as usize)?);
        let (header, body) =
            (bytes.slice_with_length(0, (body - start) as usize), bytes.slice((body - start) as usize));
        let header = root_as_message(after_prefix(&header)).map_err(|error| wrong(&error))?;
        claims::check(header, &body).map_err(|error| wrong(&error))?;
        let (schema, version) = (self.schema.clone(), header.version());
        match header.header_type() {
            MessageHeader::RecordBatch => {
                let batch = header.header_as_record_batch().ok_or_else(|| wrong(&"a batch without a header"))?;
                views::check(schema.fields(), batch, version, &body).map_err(|error| wrong(&error))?;
                let read = read_record_batch(&body, batch, schema, &self.dictionaries, None, &version);
                read.map(Some).map_err(|error| wrong(&error))
            }
            MessageHeader::DictionaryBatch => {
                let batch = header.header_as_dictionary_batch();
                let batch = batch.ok_or_else(|| wrong(&"a dictionary without a header"))?;
                if let Some(values) = batch.data() {
                    let fields = values_of(&schema, batch.id());
                    views::check(&fields, values, version, &body).map_err(|error| wrong(&error))?;
                }
                let read = read_dictionary(&body, batch, &schema, &mut self.dictionaries, &version);
                read.map(|()| None).map_err(|error| wrong(&error))
            }
            _ => Ok(None),
        }
    }
}

/// What the dictionary `id` of `schema` holds, as a column.
fn values_of(schema: &Schema, id: i64) -> Vec<FieldRef> {
    #[allow(deprecated, reason = "the ids of dictionaries have no other way out of a schema")]
    let field = schema.fields_with_dict_id(id).into_iter().next();
    match field.map(Field::data_type) {
        Some(DataType::Dictionary(_, values)) => vec![Arc::new(Field::new("values", DataType::clone(values), true))],
        _ => Vec::new(),
    }
}
