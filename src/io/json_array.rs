//! Record batches to one JSON array of objects.

use arrow::array::RecordBatch;
use arrow::json::ArrayWriter;

use super::store::{Location, Upload};
use super::{TableWriter, Written};
use crate::error::{Error, Place, Result};

/// Writes one JSON array.
pub struct Writer {
    location: Location,
    writer: ArrayWriter<Upload>,
    bytes: u64,
}

impl Writer {
    /// Begins a file at `location`.
    ///
    /// # Errors
    /// A store that fails.
    pub fn create(location: &Location) -> Result<Self> {
        Ok(Self { location: location.clone(), writer: ArrayWriter::new(location.upload()?), bytes: 0 })
    }
}

impl TableWriter for Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.bytes += batch.get_array_memory_size() as u64;
        let written = self.writer.write(batch);
        written.map_err(|error| self.location.cause(Error::data(Place::file(&self.location), error)))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        let finished = self.writer.finish();
        finished.map_err(|error| self.location.cause(Error::data(Place::file(&self.location), error)))?;
        self.writer.into_inner().finish()
    }
}
