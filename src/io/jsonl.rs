//! JSON Lines, or one JSON array of objects, plain or compressed, to record batches. The schema is what all rows have
//! in common.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use serde_json::Value;

use super::Chunk;
use super::json_rows::{Row, rows};
use super::json_schema::{Columns, Extent, has_json, write_json};
use super::limits::{BATCH, VALUES, leaves};
use super::store::Location;
use crate::error::{Error, Place, Result};

/// An open JSON file.
#[derive(Debug, Clone)]
pub struct File {
    location: Location,
    schema: SchemaRef,
    rows: u64,
    fullest: Fullest,
}

/// The row with most objects, any of which may have all of the schema's columns.
#[derive(Debug, Clone, Default)]
struct Fullest {
    objects: u64,
    row: u64,
}

impl File {
    /// Reads the file once for its schema and its number of rows.
    ///
    /// # Errors
    /// A row that is not a JSON object, by line or place in the array.
    pub fn open(location: &Location) -> Result<Self> {
        let (mut columns, mut extent) = (Columns::default(), Extent::default());
        let (mut count, mut fullest) = (0, Fullest::default());
        for row in rows(location)? {
            let row = row?;
            let wrong = |message: &dyn Display| Error::data(Place::file(location).row(row.number), message);
            if values(&row.text) > VALUES {
                return Err(wrong(&format!("a row of more than {VALUES} values")));
            }
            extent.objects = 0;
            match serde_json::from_str(&row.text) {
                Ok(Value::Object(map)) => columns.add(&map, &mut extent).map_err(|column| wrong(&column))?,
                Ok(_) => return Err(wrong(&"not a JSON object; a row looks like {\"prompt\": …}")),
                Err(error) => return Err(wrong(&format!("not JSON: {error}{}", hint(location)))),
            }
            count += 1;
            if extent.objects > fullest.objects {
                fullest = Fullest { objects: extent.objects, row: row.number };
            }
        }
        let file = Self { location: location.clone(), schema: Arc::new(columns.schema()), rows: count, fullest };
        file.values(&file.schema)?;
        Ok(file)
    }

    /// Values that a row takes at most under `schema`.
    fn values(&self, schema: &SchemaRef) -> Result<u64> {
        let (Fullest { objects, row }, columns) = (&self.fullest, leaves(schema.fields()));
        let values = objects.saturating_mul(columns);
        if values > VALUES {
            let message =
                format!("{objects} objects, any of which may have {columns} columns; the most is {VALUES} values");
            return Err(Error::data(Place::file(&self.location).row(*row), message));
        }
        Ok(values.max(1))
    }

    /// The columns that occur.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows; empty lines are none.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// All rows in batches under `schema`, which is wide enough for them.
    ///
    /// # Errors
    /// A store that fails; later, in the batches, lines that are not JSON or do not fit the schema.
    pub fn read(
        &self,
        schema: &SchemaRef,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<Chunk>> + Send + use<>> {
        let (location, schema) = (self.location.clone(), schema.clone());
        let batch_rows = batch_rows.min((VALUES / self.values(&schema)?) as usize);
        let mut rows = rows(&location)?;
        Ok(std::iter::from_fn(move || {
            let (mut block, mut bytes) = (Vec::new(), 0);
            while block.len() < batch_rows && bytes < BATCH {
                match rows.next() {
                    Some(Ok(row)) => {
                        bytes += row.text.len();
                        block.push(row);
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => break,
                }
            }
            let first_row = block.first()?.number;
            let batch = decode(&schema, &block);
            let batch = batch.map_err(|error| Error::data(Place::file(&location).row(first_row), error));
            Some(batch.map(|batch| Chunk { batch, first_row }))
        }))
    }
}

/// The most values that the row `text` may have: each of them has one of these marks before it. Short rows are not counted.
fn values(text: &str) -> u64 {
    let is_mark = |byte: &&u8| matches!(byte, b',' | b':' | b'[' | b'{');
    if text.len() as u64 > VALUES { text.as_bytes().iter().filter(is_mark).count() as u64 } else { 0 }
}

fn decode(schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let builder = ReaderBuilder::new(schema.clone()).with_coerce_primitive(true);
    let mut decoder = builder.with_batch_size(rows.len()).build_decoder()?;
    let mixed: Vec<&Field> = schema.fields().iter().map(AsRef::as_ref).filter(|field| has_json(field)).collect();
    for row in rows {
        let text = match mixed.is_empty() {
            true => without_surrogates(&row.text),
            false => with_json(&row.text, &mixed),
        };
        decoder.decode(text.as_bytes())?;
        decoder.decode(b"\n")?;
    }
    let batch = decoder.flush()?;
    Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}

/// The same row with texts in the columns of JSON among `fields`.
fn with_json<'a>(text: &'a str, fields: &[&Field]) -> Cow<'a, str> {
    let Ok(mut row) = serde_json::from_str::<Value>(text) else { return Cow::Borrowed(text) };
    for field in fields {
        row.get_mut(field.name()).into_iter().for_each(|value| write_json(value, field));
    }
    Cow::Owned(row.to_string())
}

/// The same JSON with characters in place of escaped pairs of surrogates, which arrow-json 59 joins wrongly from
/// U+20000 on.
fn without_surrogates(text: &str) -> Cow<'_, str> {
    let escaped = text.contains("\\ud") || text.contains("\\uD");
    let value = escaped.then(|| serde_json::from_str::<Value>(text).ok()).flatten();
    value.map_or(Cow::Borrowed(text), |value| Cow::Owned(value.to_string()))
}

/// What a file named `.json` must be, where its rows do not say so.
fn hint(location: &Location) -> &'static str {
    match location.name().contains(".jsonl") || location.name().contains(".ndjson") {
        true => "",
        false => " (a .json file holds one array of objects, or one object in every line)",
    }
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
        let chunks: Vec<Chunk> = file.read(file.schema(), 2).unwrap().collect::<Result<_>>().unwrap();
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
        let (_folder, location) = file("x.jsonl.gz", b"{\"a\": 1}\n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("x.jsonl.gz, row 1: "), "{error}");
    }

    fn texts(file: &File) -> Vec<String> {
        let chunks = file.read(file.schema(), 2).unwrap().map(Result::unwrap);
        let texts = chunks.map(|chunk| chunk.batch.column_by_name("a").unwrap().as_string::<i32>().clone());
        texts.flat_map(|texts| texts.iter().map(|text| text.unwrap().to_owned()).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn an_array_is_read_like_lines() {
        let text =
            "\u{feff}\n[\n  {\"a\": \"x]\\\", {\",\n \"b\": {\"c\": [1, 2.5]}},{\"a\": \"\\\\\"} , {\"a\":7}\n]\n";
        let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for (name, bytes) in [("x.json", text.as_bytes()), ("x.json.zst", &zst[..])] {
            let (_folder, location) = file(name, bytes);
            let file = File::open(&location).unwrap();
            assert_eq!(file.rows(), 3);
            assert_eq!(texts(&file), ["x]\", {", "\\", "7"]);
        }
        let (_folder, location) = file("x.json", b" [ ] ");
        assert_eq!(File::open(&location).unwrap().rows(), 0);
    }

    #[test]
    fn a_broken_array_is_named() {
        let error = |text: &str| {
            let (_folder, location) = file("x.json", text.as_bytes());
            File::open(&location).unwrap_err().to_string()
        };
        for (text, expected) in [
            ("[{\"a\": 1}, {\"a\": ", "x.json, row 2: the array has no end"),
            ("[{\"a\": 1}] {}", "x.json, row 1: text behind the end of the array"),
            ("[{\"a\": 1}, ]", "x.json, row 2: not JSON: "),
            ("[{\"a\": 1}, 2]", "x.json, row 2: not a JSON object"),
            ("{\n\"a\": 1\n}", "x.json, row 1: not JSON: EOF while parsing an object at line 1 column 1 (a .json file"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_without_a_form_in_common_are_read_as_json() {
        let (_folder, location) =
            file("x.jsonl", b"{\"a\": \"\\ud83d\\ude80\"}\n{\"a\": [1]}\n{\"a\": {\"b\": null}}\n");
        assert_eq!(texts(&File::open(&location).unwrap()), ["\"\u{1f680}\"", "[1]", "{\"b\":null}"]);
    }

    #[test]
    fn every_plane_of_unicode_survives() {
        let text = "\u{0}é\u{5d0}\u{5d1}\u{4e2d}\u{1f9d1}\u{200d}\u{1f680}\u{20000}\u{10ffff}";
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let plain = serde_json::json!({"a": text}).to_string();
        let (_folder, location) = file("x.jsonl", format!("{{\"a\": \"{escaped}\"}}\n{plain}").as_bytes());
        assert_eq!(texts(&File::open(&location).unwrap()), [text, text]);
    }
}
