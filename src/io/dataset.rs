//! A dataset: files of one schema, and the units of work that they fall into.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};

use super::store::Location;
use super::{ipc, jsonl, parquet};
use crate::error::{Error, Place, Result};

/// Small row groups are taken together up to this many rows.
const UNIT_ROWS: u64 = 2048;

/// Consecutive rows of one file.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The rows.
    pub batch: RecordBatch,
    /// Number of the first row in the file, from 1 (JSON Lines: its line).
    pub first_row: u64,
}

/// A piece of work: consecutive row groups of one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unit {
    /// Index of the file in the dataset.
    pub file: usize,
    /// Row groups; for JSON Lines the whole file is one.
    pub groups: Range<usize>,
    /// Rows of these groups.
    pub rows: u64,
}

/// Files of one schema.
#[derive(Debug, Clone)]
pub struct Dataset {
    files: Vec<(Location, File)>,
    schema: SchemaRef,
}

#[derive(Debug, Clone)]
enum File {
    Parquet(parquet::File),
    Jsonl(jsonl::File),
    Ipc(ipc::File),
}

impl File {
    fn open(location: &Location) -> Result<Self> {
        match extension(location.name()) {
            Some(Kind::Parquet) => Ok(Self::Parquet(parquet::File::open(location)?)),
            Some(Kind::Jsonl) => Ok(Self::Jsonl(jsonl::File::open(location)?)),
            Some(Kind::Ipc) => Ok(Self::Ipc(ipc::File::open(location)?)),
            None => Err(Error::data(Place::file(location), format!("unknown kind of file; {KINDS}"))),
        }
    }

    fn schema(&self) -> &SchemaRef {
        match self {
            Self::Parquet(file) => file.schema(),
            Self::Jsonl(file) => file.schema(),
            Self::Ipc(file) => file.schema(),
        }
    }

    fn groups(&self) -> Vec<u64> {
        match self {
            Self::Parquet(file) => file.groups(),
            Self::Jsonl(file) => vec![file.rows()],
            Self::Ipc(file) => file.groups().to_vec(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Parquet,
    Jsonl,
    Ipc,
}

const KINDS: &str = "known are .parquet, .jsonl, .jsonl.gz, .arrow, .feather, .ipc";

fn extension(name: &str) -> Option<Kind> {
    let name = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".parquet"]) {
        Some(Kind::Parquet)
    } else if ends(&[".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"]) {
        Some(Kind::Jsonl)
    } else {
        ends(&[".arrow", ".feather", ".ipc"]).then_some(Kind::Ipc)
    }
}

impl Dataset {
    /// Opens what `patterns` name: files, globs (`*`, `?`, `[…]`, `**`), or folders with everything below them that has
    /// a known extension and no leading `.` or `_` in its path.
    pub fn open(patterns: &[String]) -> Result<Self> {
        let mut locations = Vec::new();
        for pattern in patterns {
            let found = find(pattern)?;
            if found.is_empty() {
                let what = if pattern.contains(WILD) { "no file matches" } else { "no such file or folder" };
                return Err(Error::data(Place::file(pattern), what));
            }
            locations.extend(found);
        }
        let mut files: Vec<(Location, File)> = Vec::with_capacity(locations.len());
        for location in locations {
            let file = File::open(&location)?;
            files.push((location, file));
        }
        let Some((_, first)) = files.first() else {
            return Err(Error::data(Place::default(), "a dataset needs at least one file"));
        };
        let schema = first.schema().clone();
        for (location, file) in &files[1..] {
            if let Some(difference) = difference(&schema, file.schema()) {
                let message = format!("another schema than {}: {difference}", files[0].0);
                return Err(Error::data(Place::file(location), message));
            }
        }
        Ok(Self { files, schema })
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The files in order.
    pub fn files(&self) -> impl Iterator<Item = &Location> {
        self.files.iter().map(|(location, _)| location)
    }

    /// The file that `unit` lies in.
    pub fn file(&self, unit: &Unit) -> &Location {
        &self.files[unit.file].0
    }

    /// Rows in all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().flat_map(|(_, file)| file.groups()).sum()
    }

    /// The units in order; together they hold every row once.
    pub fn units(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        for (file, (_, content)) in self.files.iter().enumerate() {
            for (group, rows) in content.groups().into_iter().enumerate() {
                match units.last_mut() {
                    Some(unit) if unit.file == file && unit.rows + rows <= UNIT_ROWS => {
                        unit.groups.end = group + 1;
                        unit.rows += rows;
                    }
                    _ => units.push(Unit { file, groups: group..group + 1, rows }),
                }
            }
        }
        units
    }

    /// The rows of `unit` in batches of at most `batch_rows`, under the dataset's schema.
    pub fn read(&self, unit: &Unit, batch_rows: usize) -> Result<Box<dyn Iterator<Item = Result<Chunk>> + Send>> {
        let chunks: Box<dyn Iterator<Item = Result<Chunk>> + Send> = match &self.files[unit.file].1 {
            File::Parquet(file) => Box::new(file.read(unit.groups.clone(), batch_rows)),
            File::Jsonl(file) => Box::new(file.read(batch_rows)?),
            File::Ipc(file) => Box::new(file.read(unit.groups.clone(), batch_rows)?),
        };
        let (schema, place) = (self.schema.clone(), Place::file(self.file(unit)));
        Ok(Box::new(chunks.map(move |chunk| {
            let Chunk { batch, first_row } = chunk?;
            let columns: Option<Vec<_>> =
                schema.fields().iter().map(|field| batch.column_by_name(field.name()).cloned()).collect();
            let missing = || Error::data(place.clone(), "columns differ within the file");
            let batch = RecordBatch::try_new(schema.clone(), columns.ok_or_else(missing)?);
            Ok(Chunk { batch: batch.map_err(|error| Error::data(place.clone(), error))?, first_row })
        })))
    }

    /// What changes when a file is added, removed, replaced or renamed.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (location, _) in &self.files {
            for part in [location.to_string(), location.version()?] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// How `other` departs from `schema`, apart from metadata, nullability and the order of columns.
fn difference(schema: &Arc<Schema>, other: &Arc<Schema>) -> Option<String> {
    for field in schema.fields() {
        match other.field_with_name(field.name()) {
            Err(_) => return Some(format!("column `{}` is missing", field.name())),
            Ok(found) if !found.data_type().equals_datatype(field.data_type()) => {
                return Some(format!("column `{}` is {}, not {}", field.name(), found.data_type(), field.data_type()));
            }
            Ok(_) => {}
        }
    }
    None
}

const WILD: [char; 3] = ['*', '?', '['];

fn find(pattern: &str) -> Result<Vec<Location>> {
    let whole = Location::parse(pattern)?;
    let Some(wild) = pattern.find(WILD).filter(|_| whole.open().is_err()) else {
        if whole.local().is_some_and(|path| path.is_file()) {
            return Ok(vec![whole]);
        }
        let visible = |below: &Location| {
            let path = below.to_string();
            let hidden = |part: &str| part.starts_with(['.', '_']);
            extension(below.name()).is_some() && !path[whole.to_string().len()..].split('/').any(hidden)
        };
        return Ok(whole.list()?.into_iter().filter(visible).collect());
    };
    let folder = match pattern[..wild].rfind('/') {
        Some(0) => "/",
        Some(at) => &pattern[..at],
        None => ".",
    };
    let relative = pattern[..wild].rfind('/').map_or(pattern, |at| &pattern[at + 1..]);
    let options =
        MatchOptions { require_literal_separator: true, require_literal_leading_dot: true, case_sensitive: true };
    let compiled = Pattern::new(relative).map_err(|error| Error::data(Place::file(pattern), error))?;
    let root = Location::parse(folder)?;
    let prefix = root.to_string().len() + 1;
    let matches = |below: &Location| compiled.matches_with(&below.to_string()[prefix..], options);
    Ok(root.list()?.into_iter().filter(matches).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::FileFormat;
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    fn write(path: &std::path::Path, column: ArrayRef) {
        let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let location = Location::parse(path.to_str().unwrap()).unwrap();
        let mut writer = FileFormat::Parquet.create(&location, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn files_globs_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, rows) in [("a-0.parquet", 5000), ("a-1.parquet", 3), ("sub/b.parquet", 2), ("_hidden/c.parquet", 9)]
        {
            write(&at(name), Arc::new(Int64Array::from_iter_values(0..rows)));
        }
        let open = |pattern: &str| Dataset::open(&[at(pattern).to_str().unwrap().to_owned()]);
        assert_eq!(open("a-0.parquet").unwrap().rows(), 5000);
        assert_eq!(open("a-*.parquet").unwrap().rows(), 5003);
        assert_eq!(open("**/*.parquet").unwrap().rows(), 5014);
        assert_eq!(open("").unwrap().rows(), 5005);
        let dataset = open("a-?.parquet").unwrap();
        let units = dataset.units();
        assert_eq!(units.iter().map(|unit| unit.rows).collect::<Vec<_>>(), [4096, 904, 3]);
        let chunks: Vec<Chunk> = dataset.read(&units[1], 500).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.first_row).collect::<Vec<_>>(), [4097, 4597]);
        assert!(open("b*").unwrap_err().to_string().contains("no file matches"));
        assert!(open("nothing").unwrap_err().to_string().contains("no such file or folder"));

        write(&at("a-2.parquet"), Arc::new(StringArray::from(vec!["x"])));
        let error = open("a-*.parquet").unwrap_err().to_string();
        assert!(
            error.contains("a-2.parquet: another schema than ") && error.contains("`x` is Utf8, not Int64"),
            "{error}"
        );
    }
}
