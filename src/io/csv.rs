//! CSV with a header, plain or compressed, to record batches. Every column is text: what looks like a number may be an
//! answer whose zeros count. An empty field is null.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{BufReader, Format};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Chunk;
use super::store::Location;
use super::text;
use crate::error::{Error, Place, Result};

/// Rows that are decoded at a time while they are counted.
const COUNTED_ROWS: usize = 4096;

/// An open CSV file.
#[derive(Debug, Clone)]
pub struct File {
    location: Location,
    schema: SchemaRef,
    rows: u64,
}

impl File {
    /// Reads the file once for its header and its number of rows.
    pub fn open(location: &Location) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| Error::data(Place::file(location), error);
        let header = Format::default().with_header(true).infer_schema(text::reader(location)?, Some(0));
        let (header, _) = header.map_err(|error| wrong(&error))?;
        let mut seen = HashSet::new();
        if let Some(twice) = header.fields().iter().find(|field| !seen.insert(field.name())) {
            return Err(wrong(&format!("two columns are called `{}`", twice.name())));
        }
        let texts: Vec<Field> =
            header.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true)).collect();
        let mut file = Self { location: location.clone(), schema: Arc::new(Schema::new(texts)), rows: 0 };
        for chunk in file.read(COUNTED_ROWS)? {
            file.rows += chunk?.batch.num_rows() as u64;
        }
        Ok(file)
    }

    /// The header's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows below the header.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// All rows in batches.
    pub fn read(&self, batch_rows: usize) -> Result<impl Iterator<Item = Result<Chunk>> + Send + use<>> {
        let place = Place::file(&self.location);
        let builder = ReaderBuilder::new(self.schema.clone()).with_header(true).with_batch_size(batch_rows);
        let reader: BufReader<_> =
            builder.build_buffered(text::reader(&self.location)?).map_err(|error| Error::data(place.clone(), error))?;
        let mut row = 1;
        Ok(reader.map(move |batch| {
            let batch = batch.map_err(|error| Error::data(place.clone().row(row), error))?;
            let first_row = row;
            row += batch.num_rows() as u64;
            Ok(Chunk { batch, first_row })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};

    fn file(text: &str) -> (tempfile::TempDir, Result<File>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        std::fs::write(&path, text).unwrap();
        let file = File::open(&Location::parse(path.to_str().unwrap()).unwrap());
        (folder, file)
    }

    #[test]
    fn quoted_newlines_commas_and_zeros_survive() {
        let (_folder, file) = file("\u{feff}a,b\r\n\"x,\n\"\"y\"\"\",007\r\n,1.0\r\nü🙂,\r\n");
        let file = file.unwrap();
        assert_eq!(file.rows(), 3);
        let chunks: Vec<Chunk> = file.read(2).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.first_row).collect::<Vec<_>>(), [1, 3]);
        let [a, b] = ["a", "b"].map(|name| chunks[0].batch.column_by_name(name).unwrap().as_string::<i32>().clone());
        assert_eq!((a.value(0), b.value(0), a.is_null(1), b.value(1)), ("x,\n\"y\"", "007", true, "1.0"));
    }

    #[test]
    fn a_broken_file_is_named() {
        let (_folder, broken) = file("a,b\n1\n");
        let error = broken.unwrap_err().to_string();
        assert!(error.contains("x.csv, row 1: ") && error.contains("line 2"), "{error}");
        let (_folder, broken) = file("a,a\n1,2\n");
        assert!(broken.unwrap_err().to_string().contains("x.csv: two columns are called `a`"));
    }
}
