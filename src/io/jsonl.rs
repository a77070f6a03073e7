//! JSON Lines, plain or gzipped, to record batches. The schema is what all lines have in common.

use std::io::{BufRead, BufReader, Read};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::sync::Arc;

use super::Chunk;
use super::store::Location;
use crate::error::{Error, Place, Result};

/// An open JSON Lines file.
#[derive(Debug, Clone)]
pub struct File {
    location: Location,
    schema: SchemaRef,
    rows: u64,
}

impl File {
    /// Reads the file once for its schema and its number of rows.
    ///
    /// # Errors
    /// A line that is not a JSON object, or a column that has two types, by line.
    pub fn open(location: &Location) -> Result<Self> {
        let mut rows = 0;
        let mut failed = None;
        let values = lines(location)?.map_while(|line| {
            let value = line.and_then(|line| {
                let place = Place::file(location).row(line.number);
                let value: Value = serde_json::from_str(&line.text)
                    .map_err(|error| Error::data(place.clone(), format!("not JSON: {error}")))?;
                match value.is_object() {
                    true => Ok((line.number, value)),
                    false => Err(Error::data(place, "not a JSON object; a row looks like {\"prompt\": …}")),
                }
            });
            match value {
                Ok((number, value)) => {
                    rows = number;
                    Some(Ok::<Value, ArrowError>(value))
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        let schema = infer_json_schema_from_iterator(values);
        if let Some(error) = failed {
            return Err(error);
        }
        let schema = schema.map_err(|error| Error::data(Place::file(location).row(rows), error))?;
        let rows = lines(location)?.count() as u64;
        Ok(Self { location: location.clone(), schema: Arc::new(schema), rows })
    }

    /// The columns that occur.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows; empty lines are none.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// All rows in batches.
    pub fn read(&self, batch_rows: usize) -> Result<impl Iterator<Item = Result<Chunk>> + Send + use<>> {
        let (location, schema) = (self.location.clone(), self.schema.clone());
        let mut lines = lines(&location)?;
        Ok(std::iter::from_fn(move || {
            let mut block = String::new();
            let (mut first, mut count) = (0, 0);
            for line in lines.by_ref().take(batch_rows) {
                match line {
                    Err(error) => return Some(Err(error)),
                    Ok(line) => {
                        first = if count == 0 { line.number } else { first };
                        count += 1;
                        block += &line.text;
                        block.push('\n');
                    }
                }
            }
            (count > 0).then(|| {
                let batch = decode(&schema, &block, count);
                let batch = batch.map_err(|error| Error::data(Place::file(&location).row(first), error))?;
                Ok(Chunk { batch, first_row: first })
            })
        }))
    }
}

fn decode(schema: &SchemaRef, block: &str, rows: usize) -> Result<RecordBatch, ArrowError> {
    let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(rows).build_decoder()?;
    decoder.decode(block.as_bytes())?;
    let batch = decoder.flush()?;
    Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}

struct Line {
    /// From 1, empty lines counted.
    number: u64,
    text: String,
}

/// The lines that are not empty.
fn lines(location: &Location) -> Result<impl Iterator<Item = Result<Line>> + Send + use<>> {
    let reader = location.open()?.reader(0);
    let gzipped = location.name().ends_with(".gz");
    let reader: Box<dyn Read + Send> = if gzipped { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let mut reader = BufReader::with_capacity(1 << 20, reader);
    let (location, mut number) = (location.clone(), 0);
    Ok(std::iter::from_fn(move || {
        loop {
            number += 1;
            let mut text = String::new();
            match reader.read_line(&mut text) {
                Ok(0) => return None,
                Ok(_) if text.trim().is_empty() => continue,
                Ok(_) => {
                    text.truncate(text.trim_end().len());
                    return Some(Ok(Line { number, text }));
                }
                Err(error) => return Some(Err(Error::data(Place::file(&location).row(number), error))),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use std::io::Write;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, Location) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let location = Location::parse(path.to_str().unwrap()).unwrap();
        (folder, location)
    }

    #[test]
    fn rows_keep_their_line_numbers() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"{\"a\": \"x\"}\n\n{\"a\": \"y\", \"b\": [1]}\n{\"a\": null}\n").unwrap();
        let (_folder, location) = file("x.jsonl.gz", &gz.finish().unwrap());
        let file = File::open(&location).unwrap();
        assert_eq!(file.rows(), 3);
        let chunks: Vec<Chunk> = file.read(2).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(chunks.iter().map(|chunk| chunk.first_row).collect::<Vec<_>>(), [1, 4]);
        let texts = chunks[0].batch.column_by_name("a").unwrap().as_string::<i32>();
        assert_eq!((texts.value(0), texts.value(1)), ("x", "y"));
    }

    #[test]
    fn a_broken_line_is_named() {
        let (_folder, location) = file("x.jsonl", b"{\"a\": 1}\n{\"a\": \n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("x.jsonl, row 2: not JSON: "), "{error}");
        let (_folder, location) = file("x.jsonl", b"[1]\n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("row 1: not a JSON object"), "{error}");
        let (_folder, location) = file("x.jsonl", b"{\"a\": 1}\n{\"a\": {\"b\": 1}}\n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("x.jsonl, row 2: "), "{error}");
        let (_folder, location) = file("x.jsonl.gz", b"{\"a\": 1}\n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("x.jsonl.gz, row 1: "), "{error}");
    }
}
