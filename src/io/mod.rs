//! Record batches in and out of files. Everything that is exposed here blocks; nothing here knows a column by name.
//!
//! ```text
//! Stores --locate--> Location --open--> Dataset --units--> Unit --read--> Chunk { batch, place }
//! RecordBatch --> TableWriter --finish--> a file that appears whole
//! ```

mod at_once;
pub mod bounds;
mod conform;
pub mod csv;
mod csv_rows;
pub mod csv_writer;
pub mod dataset;
mod expansion;
pub mod extension;
pub mod faults;
mod find;
#[cfg(feature = "flight")]
pub mod flight;
mod footer;
pub mod hub;
pub mod ipc;
pub mod json_array;
mod json_columns;
mod json_rows;
mod json_schema;
mod json_value;
pub mod jsonl;
pub mod lease;
mod limits;
pub mod mirror;
mod nonce;
pub mod owned;
pub mod parquet;
pub mod portion;
pub mod prefetch;
pub mod program;
pub mod session;
mod stamps;
pub mod storage;
pub mod store;
mod text;
mod unify;
mod windows;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;

pub(crate) use at_once::{Cost, at_once};
pub use bounds::Bound;
pub use dataset::{Chunk, Dataset, Unit};
pub use lease::Lease;
pub use mirror::Mirror;
pub use nonce::{nonce, random};
pub use owned::{Claim, Owned, Owner};
pub use portion::Portion;
pub use prefetch::prefetch;
pub use program::Program;
pub use stamps::Stamps;
pub use storage::Storage;
pub use store::{Canonical, Found, Listed, Location, Stores};
pub use unify::{list_element, list_field};

/// The file format of an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Parquet with zstd, small row groups and a page index.
    #[default]
    Parquet,
    /// Arrow IPC files.
    Arrow,
    /// Arrow IPC streams, which `datasets` keeps in its own folders.
    ArrowStream,
    /// One JSON array of objects.
    Json,
    /// CSV with a header.
    Csv,
}

impl FileFormat {
    /// The extension of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow | Self::ArrowStream => "arrow",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }

    /// Begins a file at `location`; it appears there when the writer is finished, and not before.
    ///
    /// # Errors
    /// A store that fails; a type that the format does not have.
    pub fn create(self, location: &Location, schema: &SchemaRef) -> Result<Box<dyn TableWriter>> {
        match self {
            Self::Parquet => Ok(Box::new(parquet::Writer::create(location, schema)?)),
            Self::Arrow => Ok(Box::new(ipc::Writer::file(location, schema)?)),
            Self::ArrowStream => Ok(Box::new(ipc::Writer::stream(location, schema)?)),
            Self::Json => Ok(Box::new(json_array::Writer::create(location)?)),
            Self::Csv => Ok(Box::new(csv_writer::Writer::create(location)?)),
        }
    }
}

/// A file that was written: what to know it by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its size.
    pub bytes: u64,
    /// blake3 of its bytes, hexadecimal.
    pub blake3: String,
}

impl Written {
    /// Bytes up to which reading a file takes hardly longer than waiting for a store's answer.
    const SMALL: u64 = 512 << 10;

    /// Whether the file is small beside the answers of a store.
    pub fn is_small(&self) -> bool {
        self.bytes <= Self::SMALL
    }
}

/// A file of record batches being written. Dropped before `finish`, it leaves nothing behind.
pub trait TableWriter: Send {
    /// Appends the rows of `batch`, which has the schema that the file was created with.
    ///
    /// # Errors
    /// A store that fails; a value that the format cannot hold.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
    /// Bytes so far, those still in memory estimated.
    fn bytes(&self) -> u64;
    /// Publishes the file.
    ///
    /// # Errors
    /// A store that fails.
    fn finish(self: Box<Self>) -> Result<Written>;
}
