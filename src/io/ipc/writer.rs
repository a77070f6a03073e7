//! Record batches to an Arrow IPC file or stream.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::{FileWriter, StreamWriter};

use crate::error::{Error, Place, Result};
use crate::io::store::{Location, Upload};
use crate::io::{TableWriter, Written};

enum Form {
    File(FileWriter<Upload>),
    Stream(StreamWriter<Upload>),
}

/// Writes one Arrow IPC file or stream.
pub struct Writer {
    location: Location,
    form: Form,
    bytes: u64,
}

impl Writer {
    /// Begins a file at `location`, whose batches can be read in any order.
    ///
    /// # Errors
    /// A store that fails; a type that Arrow IPC does not have.
    pub fn file(location: &Location, schema: &SchemaRef) -> Result<Self> {
        Self::create(location, FileWriter::try_new(location.upload()?, schema).map(Form::File))
    }

    /// Begins a stream at `location`, whose batches are read one after the other.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn stream(location: &Location, schema: &SchemaRef) -> Result<Self> {
        Self::create(location, StreamWriter::try_new(location.upload()?, schema).map(Form::Stream))
    }

    fn create(location: &Location, form: Result<Form, ArrowError>) -> Result<Self> {
        let form = form.map_err(|error| Error::data(Place::file(location), error))?;
        Ok(Self { location: location.clone(), form, bytes: 0 })
    }
}

impl TableWriter for Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.bytes += batch.get_array_memory_size() as u64;
        let written = match &mut self.form {
            Form::File(writer) => writer.write(batch),
            Form::Stream(writer) => writer.write(batch),
        };
        written.map_err(|error| self.location.cause(Error::data(Place::file(&self.location), error)))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { location, form, .. } = *self;
        let upload = match form {
            Form::File(mut writer) => writer.finish().and_then(|()| writer.into_inner()),
            Form::Stream(mut writer) => writer.finish().and_then(|()| writer.into_inner()),
        };
        upload.map_err(|error| location.cause(Error::data(Place::file(&location), error)))?.finish()
    }
}
