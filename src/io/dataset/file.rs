//! A file of a dataset, whatever its format, read by readers that may panic on what is broken.

use arrow::datatypes::SchemaRef;

use super::Chunk;
use crate::error::{Error, Place, Result, caught};
use crate::io::find::{KINDS, Kind};
use crate::io::store::Location;
use crate::io::{csv, ipc, jsonl, parquet};

/// An open file of any kind.
#[derive(Debug, Clone)]
pub(super) enum File {
    Parquet(parquet::File),
    Json(jsonl::File),
    Csv(csv::File),
    Ipc(ipc::File),
}

impl File {
    /// Opens the file at the pinned `location`.
    pub(super) fn open(location: &Location) -> Result<Self> {
        let place = Place::file(location);
        let open = || match Kind::of(location.name()) {
            Some(Kind::Parquet) => parquet::File::open(location).map(Self::Parquet),
            Some(Kind::JsonLines | Kind::Json) => jsonl::File::open(location).map(Self::Json),
            Some(Kind::Csv) => csv::File::open(location).map(Self::Csv),
            Some(Kind::Ipc) => ipc::File::open(location).map(Self::Ipc),
            None => Err(Error::data(place.clone(), format!("unknown kind of file; {KINDS}"))),
        };
        let file = caught(open).unwrap_or_else(|panic| Err(broken(&place, &panic)));
        file.map_err(|error| cause(location, error))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        match self {
            Self::Parquet(file) => file.schema(),
            Self::Json(file) => file.schema(),
            Self::Csv(file) => file.schema(),
            Self::Ipc(file) => file.schema(),
        }
    }

    /// Whether the column `name` holds no null, as far as the file says.
    pub(super) fn has_no_null(&self, name: &str) -> bool {
        match self {
            Self::Parquet(file) => file.has_no_null(name),
            // Their schemas say it; a field of CSV that is empty is null.
            Self::Json(_) | Self::Ipc(_) | Self::Csv(_) => false,
        }
    }

    /// Rows of every row group.
    pub(super) fn groups(&self) -> Vec<u64> {
        match self {
            Self::Parquet(file) => file.groups(),
            Self::Json(file) => vec![file.rows()],
            Self::Csv(file) => vec![file.rows()],
            Self::Ipc(file) => file.groups().to_vec(),
        }
    }
}

/// What is behind `error`, with which reading the file at the pinned `location` ended: what the store said, or a file on
/// this machine that was written to, of which the reader saw two versions as one.
pub(super) fn cause(location: &Location, error: Error) -> Error {
    match (location.cause(error), location.local()) {
        (broken @ Error::Data { .. }, Some(_)) => location.unchanged().err().unwrap_or(broken),
        (error, _) => error,
    }
}

/// Readers trust what a file says of itself; where it contradicts itself they may panic.
fn broken(place: &Place, panic: &str) -> Error {
    Error::data(place.clone(), format!("a broken file: {panic}"))
}

/// `chunks` up to a panic of their reader, which is an error.
pub(super) fn whole(
    chunks: Box<dyn Iterator<Item = Result<Chunk>> + Send>,
    place: Place,
) -> impl Iterator<Item = Result<Chunk>> + Send {
    let mut chunks = Some(chunks);
    std::iter::from_fn(move || {
        let reader = chunks.as_mut()?;
        caught(|| reader.next()).unwrap_or_else(|panic| {
            chunks = None;
            Some(Err(broken(&place, &panic)))
        })
    })
}
