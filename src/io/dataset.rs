//! A dataset: files of one schema, and the units of work that they fall into.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::bounds::Bound;
use super::find::{KINDS, Kind, WILD, find};
use super::store::{Location, Stores, shown};
use super::unify::unify;
use super::{csv, ipc, jsonl, parquet};
use crate::error::{Error, Place, Result, caught};
use crate::monitor::{Monitor, Silent};

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
    /// Row groups; the whole of a JSON or CSV file is one.
    pub groups: Range<usize>,
    /// Rows of these groups.
    pub rows: u64,
}

/// Files that are opened at the same time where every one of them costs several answers of a store.
const OPENED_AT_ONCE: usize = 16;

/// Files of one schema.
#[derive(Debug, Clone)]
pub struct Dataset {
    files: Vec<(Location, File)>,
    versions: Vec<String>,
    schema: SchemaRef,
    /// Row groups, by file and group, that are not read.
    pruned: BTreeSet<(usize, usize)>,
}

#[derive(Debug, Clone)]
enum File {
    Parquet(parquet::File),
    Json(jsonl::File),
    Csv(csv::File),
    Ipc(ipc::File),
}

impl File {
    fn open(location: &Location) -> Result<Self> {
        let place = Place::file(location);
        let open = || match Kind::of(location.name()) {
            Some(Kind::Parquet) => parquet::File::open(location).map(Self::Parquet),
            Some(Kind::JsonLines | Kind::Json) => jsonl::File::open(location).map(Self::Json),
            Some(Kind::Csv) => csv::File::open(location).map(Self::Csv),
            Some(Kind::Ipc) => ipc::File::open(location).map(Self::Ipc),
            None => Err(Error::data(place.clone(), format!("unknown kind of file; {KINDS}"))),
        };
        let file = caught(open).unwrap_or_else(|panic| Err(broken(&place, &panic)));
        file.map_err(|error| location.cause(error))
    }

    fn schema(&self) -> &SchemaRef {
        match self {
            Self::Parquet(file) => file.schema(),
            Self::Json(file) => file.schema(),
            Self::Csv(file) => file.schema(),
            Self::Ipc(file) => file.schema(),
        }
    }

    /// Whether a row may lack a column, which is then null.
    fn may_lack_columns(&self) -> bool {
        matches!(self, Self::Json(_))
    }

    fn groups(&self) -> Vec<u64> {
        match self {
            Self::Parquet(file) => file.groups(),
            Self::Json(file) => vec![file.rows()],
            Self::Csv(file) => vec![file.rows()],
            Self::Ipc(file) => file.groups().to_vec(),
        }
    }
}

impl Dataset {
    /// Opens what `patterns` name: files, globs (`*`, `?`, `[…]`, `**`), or folders with everything below them that has
    /// a known extension and no leading `.` or `_` in its path; on this machine, in a store, or on the hub
    /// (`hf://datasets/…`).
    pub fn open(patterns: &[String], stores: &Stores) -> Result<Self> {
        Self::open_watched(patterns, stores, &Silent)
    }

    /// As [`Self::open`]; `monitor` watches what is fetched from the hub.
    pub fn open_watched(patterns: &[String], stores: &Stores, monitor: &dyn Monitor) -> Result<Self> {
        let mut locations = Vec::new();
        for pattern in patterns {
            let found = find(pattern, stores, monitor)?;
            if found.is_empty() {
                let what = if pattern.contains(WILD) { "no file matches" } else { "no such file or folder" };
                return Err(Error::data(Place::file(shown(pattern)), what));
            }
            locations.extend(found);
        }
        Self::of(locations)
    }

    /// Opens files.
    pub fn of(locations: Vec<Location>) -> Result<Self> {
        let opened = open_all(&locations)?;
        let (files, versions): (Vec<_>, _) = opened.into_iter().unzip();
        let files: Vec<(Location, File)> = locations.into_iter().zip(files).collect();
        let schema = common_schema(&files)?;
        Ok(Self { files, versions, schema, pruned: BTreeSet::new() })
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

    /// Leaves out row groups and pages of which no row can fulfil all of `bounds`.
    ///
    /// # Errors
    /// An index of pages that cannot be read.
    pub fn prune(&mut self, bounds: &[Bound]) -> Result<()> {
        // A column that is read as another type may compare in another way.
        let schema = self.schema.clone();
        let fits = |bound: &&Bound, schema: &Schema| {
            schema.field_with_name(&bound.column).is_ok_and(|field| bound.fits(field.data_type()))
        };
        for (index, (location, file)) in self.files.iter_mut().enumerate() {
            if let File::Parquet(file) = file {
                let own = file.schema().clone();
                let bounds: Vec<Bound> =
                    bounds.iter().filter(|bound| fits(bound, &schema) && fits(bound, &own)).cloned().collect();
                let pruned = file.without(&bounds);
                if pruned.len() < file.groups().len() {
                    file.narrow(&bounds).map_err(|error| location.cause(error))?;
                }
                self.pruned.extend(pruned.into_iter().map(|group| (index, group)));
            }
        }
        Ok(())
    }

    /// Leaves out all columns but those named `wanted`; of Parquet files they are not even fetched.
    pub fn project(&mut self, wanted: &BTreeSet<String>) {
        let fields = self.schema.fields().iter().filter(|field| wanted.contains(field.name())).cloned();
        let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), self.schema.metadata().clone());
        self.schema = Arc::new(schema);
    }

    /// Rows in all units.
    pub fn rows(&self) -> u64 {
        self.units().iter().map(|unit| unit.rows).sum()
    }

    /// The units in order; together they hold every row once, but for those of groups that were pruned.
    pub fn units(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        for (file, (_, content)) in self.files.iter().enumerate() {
            for (group, rows) in content.groups().into_iter().enumerate() {
                if self.pruned.contains(&(file, group)) {
                    continue;
                }
                match units.last_mut() {
                    Some(unit) if unit.file == file && unit.groups.end == group && unit.rows + rows <= UNIT_ROWS => {
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
        let (schema, location) = (self.schema.clone(), self.file(unit).clone());
        let cause = |error| location.cause(error);
        let chunks: Box<dyn Iterator<Item = Result<Chunk>> + Send> = match &self.files[unit.file].1 {
            File::Parquet(file) => Box::new(file.read(unit.groups.clone(), &self.schema, batch_rows)),
            File::Json(file) => Box::new(file.read(&self.schema, batch_rows).map_err(cause)?),
            File::Csv(file) => Box::new(file.read(batch_rows).map_err(cause)?),
            File::Ipc(file) => Box::new(file.read(unit.groups.clone(), batch_rows).map_err(cause)?),
        };
        let place = Place::file(&location);
        Ok(Box::new(whole(chunks, place.clone()).map(move |chunk| {
            let Chunk { batch, first_row } = chunk.map_err(|error| location.cause(error))?;
            let wrong = |error: ArrowError| Error::data(place.clone(), error);
            let own = batch.schema_ref().fields();
            let columns = schema.fields().iter().enumerate().map(|(index, field)| {
                let missing = || Error::data(place.clone(), "columns differ within the file");
                // Mostly the columns are the dataset's, one by one; with many of them a search for each takes long.
                let is_same = own.get(index).is_some_and(|own| own.name() == field.name());
                let column = if is_same { batch.columns().get(index) } else { batch.column_by_name(field.name()) };
                cast(column.ok_or_else(missing)?, field.data_type()).map_err(wrong)
            });
            let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<_>>()?).map_err(wrong)?;
            Ok(Chunk { batch, first_row })
        })))
    }

    /// What changes when a file is added, removed, replaced or renamed.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for ((location, _), version) in self.files.iter().zip(&self.versions) {
            for part in [&location.to_string(), version] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Readers trust what a file says of itself; where it contradicts itself they may panic.
fn broken(place: &Place, panic: &str) -> Error {
    Error::data(place.clone(), format!("a broken file: {panic}"))
}

/// `chunks` up to a panic of their reader, which is an error.
fn whole(
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

/// The files at `locations` with their versions, several at a time unless they are local.
fn open_all(locations: &[Location]) -> Result<Vec<(File, String)>> {
    let open = |location: &Location| Ok((File::open(location)?, location.version()?));
    if locations.iter().all(|location| location.local().is_some()) {
        return locations.iter().map(open).collect();
    }
    let next = AtomicUsize::new(0);
    let opened: Vec<OnceLock<Result<(File, String)>>> = locations.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..OPENED_AT_ONCE.min(locations.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(location) = locations.get(index) else { break };
                    opened[index].get_or_init(|| open(location));
                }
            });
        }
    });
    opened.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// The columns that all files have: those of the first, as wide as the others need them. Where rows may lack columns,
/// also the others' own.
fn common_schema(files: &[(Location, File)]) -> Result<SchemaRef> {
    let Some(((first, file), rest)) = files.split_first() else {
        return Err(Error::data(Place::default(), "a dataset needs at least one file"));
    };
    let lacking = files.iter().all(|(_, file)| file.may_lack_columns());
    let mut fields: Vec<Field> = file.schema().fields().iter().map(|field| Field::clone(field)).collect();
    for (location, file) in rest {
        let differs = |how: String| Error::data(Place::file(location), format!("another schema than {first}: {how}"));
        for field in &mut fields {
            match file.schema().field_with_name(field.name()) {
                Err(_) if file.may_lack_columns() => field.set_nullable(true),
                Err(_) => return Err(differs(format!("column `{}` is missing", field.name()))),
                Ok(found) => {
                    let (known, own) = (field.data_type(), found.data_type());
                    let readable = |common: &DataType| {
                        file.may_lack_columns() || can_cast_types(own, common) && can_cast_types(known, common)
                    };
                    let common = unify(known, own).filter(readable);
                    let how = || differs(format!("column `{}` is {own}, not {known}", field.name()));
                    let common = common.ok_or_else(how)?;
                    *field =
                        field.clone().with_data_type(common).with_nullable(field.is_nullable() || found.is_nullable());
                }
            }
        }
        if lacking {
            let known = |name: &str| fields.iter().any(|field| field.name() == name);
            let own: Vec<Field> = file.schema().fields().iter().map(|field| Field::clone(field)).collect();
            let new: Vec<Field> = own.into_iter().filter(|field| !known(field.name())).collect();
            fields.extend(new);
        }
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, file.schema().metadata().clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::FileFormat;
    use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Float64Type;

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
        let open = |pattern: &str| Dataset::open(&[at(pattern).to_str().unwrap().to_owned()], &Stores::default());
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

    #[test]
    fn json_files_are_read_under_the_columns_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.jsonl", "{\"n\": 1, \"turns\": []}\n");
        write("b.jsonl", "{\"n\": 0.5, \"turns\": [{\"role\": \"user\", \"content\": \"x\"}], \"late\": \"y\"}\n");
        write("c.json", "[{\"late\": \"z\", \"turns\": [{\"content\": \"x\", \"name\": \"n\"}]}]");
        let open = |names: &[&str]| {
            let paths = names.iter().map(|name| folder.path().join(name).to_str().unwrap().to_owned());
            Dataset::open(&paths.collect::<Vec<_>>(), &Stores::default())
        };
        let dataset = open(&["a.jsonl", "b.jsonl", "c.json"]).unwrap();
        let names: Vec<&str> = dataset.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["n", "turns", "late"]);
        let units = dataset.units();
        let batches = units.iter().flat_map(|unit| dataset.read(unit, 10).unwrap()).map(|chunk| chunk.unwrap().batch);
        let whole = arrow::compute::concat_batches(dataset.schema(), &batches.collect::<Vec<_>>()).unwrap();
        let numbers = whole.column(0).as_primitive::<Float64Type>();
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [Some(1.0), Some(0.5), None]);
        assert!(whole.column(2).is_null(0) && whole.column(2).is_valid(2));

        // Notes about data are no data.
        write("dataset_info.json", "{\"features\": {}}");
        assert_eq!(open(&[""]).unwrap().rows(), 2);
    }

    #[test]
    fn groups_that_cannot_pass_are_not_read() {
        use crate::io::bounds::{Compare, Value};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write(&path, Arc::new(Int64Array::from_iter_values(0..10_000)));
        let open = || Dataset::open(&[path.to_str().unwrap().to_owned()], &Stores::default()).unwrap();
        let rows = |compare, value| {
            let mut dataset = open();
            dataset.prune(&[Bound { column: "x".into(), compare, value }]).unwrap();
            let units = dataset.units();
            let firsts = units.iter().map(|unit| {
                let chunk = dataset.read(unit, 10).unwrap().next().unwrap().unwrap();
                (chunk.first_row, unit.rows)
            });
            firsts.collect::<Vec<_>>()
        };
        let all = [(1, 4096), (4097, 4096), (8193, 1808)];
        assert_eq!(rows(Compare::Less, Value::Integer(4096)), all[..1]);
        assert_eq!(rows(Compare::LessOrEqual, Value::Integer(4096)), all[..2]);
        assert_eq!(rows(Compare::Equal, Value::Integer(5000)), all[1..2]);
        assert_eq!(rows(Compare::GreaterOrEqual, Value::Integer(8191)), all[1..]);
        assert_eq!(rows(Compare::Greater, Value::Integer(8191)), all[2..]);
        assert_eq!(rows(Compare::Greater, Value::Integer(9999)), []);
        assert_eq!(rows(Compare::Equal, Value::Text("x".into())), all);
    }
}
