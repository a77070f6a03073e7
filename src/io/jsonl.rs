//! JSON Lines, or one JSON array of objects, plain or compressed, to record batches. The schema is what all rows have
//! in common.

use std::fmt::Display;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use super::Chunk;
use super::json_columns;
use super::json_rows::{Row, rows};
use super::json_schema::{Columns, Extent};
use super::json_value::{Json, parse};
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
            match parse(&row.text) {
                Ok(Json::Object(fields)) => columns.add(&fields, &mut extent).map_err(|too_many| wrong(&too_many))?,
                Ok(_) => return Err(wrong(&"not a JSON object; a row looks like {\"prompt\": …}")),
                Err(broken) => {
                    let place = Place::file(location).row(row.number);
                    let column = broken.path.join(".");
                    let place = if column.is_empty() { place } else { place.in_column(column) };
                    return Err(Error::data(place, format!("not JSON: {broken}{}", hint(location))));
                }
            }
            count += 1;
            if extent.objects > fullest.objects {
                fullest = Fullest { objects: extent.objects, row: row.number };
            }
        }
        let file = Self { location: location.clone(), schema: Arc::new(columns.schema(count)), rows: count, fullest };
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

    /// The columns of all rows that `schema`, the dataset's, has too, in batches.
    ///
    /// # Errors
    /// A store that fails; later, in the batches, lines that are not JSON or do not fit the schema.
    pub fn read(
        &self,
        schema: &SchemaRef,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<Chunk>> + Send + use<>> {
        let location = self.location.clone();
        let batch_rows = batch_rows.min((VALUES / self.values(schema)?) as usize);
        let own = self.schema.fields().iter().filter(|field| schema.field_with_name(field.name()).is_ok());
        let own = Arc::new(Schema::new(own.cloned().collect::<Vec<_>>()));
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
            let batch = decode(&own, &block);
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

fn decode(schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, String> {
    let rows: Vec<Json<'_>> =
        rows.iter().map(|row| parse(&row.text)).collect::<Result<_, _>>().map_err(|broken| broken.to_string())?;
    json_columns::batch(schema, &rows).map_err(|error| error.to_string())
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
    use arrow::datatypes::DataType;
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
        assert!(error.contains("x.jsonl, row 2, column `a`: not JSON: the text ends where a value belongs"), "{error}");
        let (_folder, location) = file("x.jsonl", b"[1]\n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("row 1: not a JSON object"), "{error}");
        let (_folder, location) = file("x.jsonl", b"{\"a\": 1}\n{\"a\": {\"b\": \"cut \\ud83d\"}}\n");
        let error = File::open(&location).unwrap_err().to_string();
        assert!(error.contains("x.jsonl, row 2, column `a.b`: not JSON: `\\ud83d` is a lone surrogate"), "{error}");
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
            (
                "{\n\"a\": 1\n}",
                "x.json, row 1: not JSON: the text ends where a key in quotes belongs, at character 2 (a .json file",
            ),
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
    fn numbers_are_what_they_are_written_as() {
        let rows = "{\"a\": 12297829382473034411, \"b\": 9007199254740993, \"c\": NaN, \"d\": 7, \"e\": NaN}\n\
                    {\"a\": 12297829382473034410, \"b\": 0.50, \"c\": -Infinity, \"d\": true, \"e\": \"x\"}\n";
        let (_folder, location) = file("x.jsonl", rows.as_bytes());
        let file = File::open(&location).unwrap();
        let chunk = file.read(file.schema(), 9).unwrap().next().unwrap().unwrap();
        let text = |name: &str| {
            let column = arrow::compute::cast(chunk.batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
            column.as_string::<i32>().iter().map(|text| text.unwrap_or("null").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(text("a"), ["12297829382473034411", "12297829382473034410"]);
        assert_eq!(text("b"), ["9007199254740993", "0.50"]);
        assert_eq!(text("c"), ["NaN", "-inf"]);
        assert_eq!(text("d"), ["7", "true"]);
        assert_eq!(text("e"), ["null", "x"]);
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
