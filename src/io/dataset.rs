//! A dataset: files whose columns are merged by their names, in the versions that were there when it was opened, and the units of work that they
//! fall into.

mod file;
mod identity;
mod remembered;
mod said;
mod schema;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::at_once::{Cost, at_once};
use super::bounds::Bound;
use super::conform::{Lost, conform};
use super::extension::told;
pub use super::find::takes;
use super::find::{WILD, find};
use super::portion::Portion;
use super::store::{Location, Stores, shown};
use crate::error::{Error, Place, Result, nearest};
use crate::monitor::{Monitor, Silent};
use file::{File, whole};
use schema::common_schema;

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

/// Files of one schema.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Every location is pinned.
    files: Vec<(Location, File)>,
    /// What the files' contents are known by, once somebody asked.
    identities: Arc<OnceLock<Vec<String>>>,
    schema: SchemaRef,
    /// Row groups, by file and group, that are not read.
    pruned: BTreeSet<(usize, usize)>,
}

impl Dataset {
    /// Opens what `patterns` name: files, globs (`*`, `?`, `[…]`, `**`), or folders with everything below them that has
    /// a known extension and no leading `.` or `_` in its path; on this machine, in a store, or on the hub
    /// (`hf://datasets/…`).
    ///
    /// # Errors
    /// A pattern that matches no file; a file of an unknown or broken format; columns that do not fit together; a store
    /// that fails.
    pub fn open(patterns: &[String], stores: &Stores) -> Result<Self> {
        Self::open_watched(patterns, stores, &Silent)
    }

    /// As [`Self::open`]; `monitor` watches what is fetched from the hub.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_watched(patterns: &[String], stores: &Stores, monitor: &dyn Monitor) -> Result<Self> {
        let mut locations = Vec::new();
        for pattern in patterns {
            let found = find(pattern, stores, monitor)?;
            if found.is_empty() {
                return Err(Error::data(Place::file(shown(pattern)), missing(pattern)));
            }
            locations.extend(found);
        }
        Self::of(locations)
    }

    /// Opens files.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(locations: Vec<Location>) -> Result<Self> {
        let is_local = locations.iter().all(|location| location.local().is_some());
        let open = |location: &Location| {
            let location = location.pinned()?;
            let file = File::open(&location)?;
            Ok((location, file))
        };
        let files = at_once(&locations, Cost::of_blocks(is_local), open)?;
        let schema = common_schema(&files)?;
        Ok(Self { files, identities: Arc::default(), schema, pruned: BTreeSet::new() })
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
    ///
    /// # Errors
    /// A store that fails; later, in the batches, data that cannot be read, and a file that changed since it was
    /// opened.
    pub fn read(&self, unit: &Unit, batch_rows: usize) -> Result<Box<dyn Iterator<Item = Result<Chunk>> + Send>> {
        self.read_groups(unit.file, unit.groups.clone(), Portion::of_rows(batch_rows))
    }

    /// As [`Self::read`], any row groups of the file with index `file`, as much at a time as `portion` says.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_groups(
        &self,
        file: usize,
        groups: Range<usize>,
        portion: Portion,
    ) -> Result<Box<dyn Iterator<Item = Result<Chunk>> + Send>> {
        let (location, opened) = &self.files[file];
        let (schema, location) = (self.schema.clone(), location.clone());
        let cause = |error| file::cause(&location, error);
        let chunks: Box<dyn Iterator<Item = Result<Chunk>> + Send> = match opened {
            File::Parquet(file) => Box::new(file.read(groups, &self.schema, portion)),
            File::Json(file) => Box::new(file.read(&self.schema, portion.rows).map_err(cause)?),
            File::Csv(file) => Box::new(file.read(portion.rows).map_err(cause)?),
            File::Ipc(file) => Box::new(file.read(groups, portion.rows).map_err(cause)?),
        };
        let place = Place::file(&location);
        let told = told(opened.schema());
        let own: HashMap<&str, &FieldRef> = told.fields().iter().map(|field| (field.name().as_str(), field)).collect();
        let from: Vec<Option<FieldRef>> = schema
            .fields()
            .iter()
            .map(|field| own.get(field.name().as_str()).map(|own| FieldRef::clone(own)))
            .collect();
        Ok(Box::new(whole(chunks, place.clone()).map(move |chunk| {
            let Chunk { batch, first_row } = chunk.map_err(|error| file::cause(&location, error))?;
            let wrong = |error: ArrowError| Error::data(place.clone(), error);
            let held = batch.schema_ref().fields();
            let columns = schema.fields().iter().zip(&from).enumerate().map(|(index, (field, from))| {
                let Some(from) = from else { return Ok(new_null_array(field.data_type(), batch.num_rows())) };
                // Mostly the columns are the dataset's, one by one; with many of them a search for each takes long.
                let is_same = held.get(index).is_some_and(|held| held.name() == field.name());
                let column = if is_same { batch.columns().get(index) } else { batch.column_by_name(field.name()) };
                let column = column.ok_or_else(|| Error::data(place.clone(), "columns differ within the file"))?;
                conform(column, from, field).map_err(|Lost { path, message }| {
                    Error::data(place.clone().row(first_row).in_column(path.join(".")), message)
                })
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(wrong)?;
            Ok(Chunk { batch, first_row })
        })))
    }
}

/// What is said of `pattern`, which gives no file: on this machine with the nearest name in the same folder.
fn missing(pattern: &str) -> String {
    if pattern.contains(WILD) {
        return "no file matches".to_owned();
    }
    let path = Path::new(pattern);
    if path.is_dir() {
        return "the folder has no file of a known kind".to_owned();
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = beside.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let near = path.file_name().and_then(|name| nearest(name.to_str()?, &names));
    let near = near.map(|(_, name)| format!("; did you mean `{}`?", path.with_file_name(name).display()));
    format!("no such file or folder{}", near.unwrap_or_default())
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
        assert!(open("nothing").unwrap_err().to_string().ends_with("no such file or folder"));
        fs::write(folder.path().join("pairs.jsonl"), "").unwrap();
        assert!(open("pair.jsonl").unwrap_err().to_string().contains("/pairs.jsonl`?"));
        fs::create_dir(folder.path().join("empty")).unwrap();
        assert!(open("empty").unwrap_err().to_string().ends_with("the folder has no file of a known kind"));

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
