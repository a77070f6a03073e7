//! CSV with a header, plain or compressed, to record batches. Every column is text: what looks like a number may be an
//! answer whose zeros count. An empty field is null.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Decoder, Format};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Chunk;
use super::csv_rows::{Row, rows};
use super::limits::{BATCH, COLUMNS, VALUES};
use super::store::Location;
use crate::error::{Error, Place, Result};

/// An open CSV file.
#[derive(Debug, Clone)]
pub struct File {
    location: Location,
    schema: SchemaRef,
    rows: u64,
}

impl File {
    /// Reads the file once for its header and its number of rows.
    ///
    /// # Errors
    /// A row with other fields than the header, a row that is too long, by its number below the header.
    pub fn open(location: &Location) -> Result<Self> {
        let wrong = |error: &dyn Display| Error::data(Place::file(location), error);
        let mut rows = rows(location)?;
        let header = rows.next().transpose()?.unwrap_or_default();
        if header.fields > COLUMNS {
            return Err(wrong(&format!("{} columns; the most is {COLUMNS}", header.fields)));
        }
        let names = Format::default().with_header(true).infer_schema(header.text.as_bytes(), Some(0));
        let (names, _) = names.map_err(|error| wrong(&error))?;
        let mut seen = HashSet::new();
        if let Some(twice) = names.fields().iter().find(|field| !seen.insert(field.name())) {
            return Err(wrong(&format!("two columns are called `{}`", twice.name())));
        }
        let texts: Vec<Field> =
            names.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true)).collect();
        let mut file = Self { location: location.clone(), schema: Arc::new(Schema::new(texts)), rows: 0 };
        for row in rows {
            file.check(&row?)?;
            file.rows += 1;
        }
        Ok(file)
    }

    fn check(&self, row: &Row) -> Result<()> {
        let columns = self.schema.fields().len();
        if row.fields == columns {
            return Ok(());
        }
        let message = format!("{} fields; the header has {columns}", row.fields);
        Err(Error::data(Place::file(&self.location).row(row.number), message))
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
    ///
    /// # Errors
    /// A store that fails; later, in the batches, rows that are not CSV or do not fit the schema.
    pub fn read(&self, batch_rows: usize) -> Result<impl Iterator<Item = Result<Chunk>> + Send + use<>> {
        let file = self.clone();
        let batch_rows = batch_rows.min((VALUES as usize / self.schema.fields().len().max(1)).max(1));
        let mut rows = rows(&self.location)?;
        let builder = ReaderBuilder::new(self.schema.clone()).with_header(true).with_batch_size(batch_rows);
        let mut decoder = builder.build_decoder();
        if let Some(header) = rows.next().transpose()? {
            let decoded = decoder.decode(header.text.as_bytes());
            decoded.map_err(|error| Error::data(Place::file(&self.location), error))?;
        }
        Ok(std::iter::from_fn(move || file.batch(&mut rows, &mut decoder, batch_rows).transpose()))
    }

    /// The next batch; none at the end.
    fn batch(
        &self,
        rows: &mut impl Iterator<Item = Result<Row>>,
        decoder: &mut Decoder,
        batch_rows: usize,
    ) -> Result<Option<Chunk>> {
        let (mut first_row, mut taken, mut bytes) = (0, 0, 0);
        while taken < batch_rows && bytes < BATCH {
            let Some(row) = rows.next().transpose()? else { break };
            self.check(&row)?;
            let decoded = decoder.decode(row.text.as_bytes());
            decoded.map_err(|error| Error::data(Place::file(&self.location).row(row.number), error))?;
            if taken == 0 {
                first_row = row.number;
            }
            taken += 1;
            bytes += row.text.len();
        }
        let wrong = |error: &dyn Display| Error::data(Place::file(&self.location).row(first_row), error);
        let batch = decoder.flush().map_err(|error| wrong(&error))?;
        let found = batch.as_ref().map_or(0, RecordBatch::num_rows);
        if found != taken {
            return Err(wrong(&format!("{taken} rows that read as {found}")));
        }
        Ok(batch.map(|batch| Chunk { batch, first_row }))
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

    /// Only the first bytes of a file are a mark.
    #[test]
    fn a_byte_order_mark_in_a_field_stays() {
        let (_folder, file) = file("a\n\u{feff}x\n");
        let chunks: Vec<Chunk> = file.unwrap().read(2).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(chunks[0].batch.column(0).as_string::<i32>().value(0), "\u{feff}x");
    }

    #[test]
    fn a_broken_file_is_named() {
        let (_folder, broken) = file("a,b\n1\n");
        let error = broken.unwrap_err().to_string();
        assert!(error.contains("x.csv, row 1: 1 fields; the header has 2"), "{error}");
        let (_folder, broken) = file("a,a\n1,2\n");
        assert!(broken.unwrap_err().to_string().contains("x.csv: two columns are called `a`"));
    }
}
