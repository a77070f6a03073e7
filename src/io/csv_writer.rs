//! Record batches to one CSV file with a header. A field is quoted where it holds a comma, a quote or the end of a line, as
//! Python's `csv` writes it by default.

use arrow::array::RecordBatch;
use arrow::csv::{Writer as CsvWriter, WriterBuilder};

use super::store::{Location, Upload};
use super::{TableWriter, Written};
use crate::error::{Error, Place, Result};

/// Writes one CSV file.
pub struct Writer {
    location: Location,
    writer: CsvWriter<Upload>,
    bytes: u64,
}

impl Writer {
    /// Begins a file at `location`.
    ///
    /// # Errors
    /// A store that fails.
    pub fn create(location: &Location) -> Result<Self> {
        let writer = WriterBuilder::new().with_header(true).build(location.upload()?);
        Ok(Self { location: location.clone(), writer, bytes: 0 })
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

    fn finish(self: Box<Self>) -> Result<Written> {
        self.writer.into_inner().finish()
    }
}
