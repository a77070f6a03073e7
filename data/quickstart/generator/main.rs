//! Writes `data/quickstart`: `cargo run --release --example quickstart-data`.

mod content;

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use content::rows::{Answer, Row};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/quickstart");
    let tokenizer = folder.join("tokenizer");
    fs::create_dir_all(&tokenizer)?;
    let (train, test) = content::rows::rows();
    write(&folder.join("train.parquet"), &train)?;
    write(&folder.join("test.parquet"), &test)?;
    let json = content::bpe::tokenizer_json(&train).map_err(|error| error.to_string())?;
    fs::write(tokenizer.join("tokenizer.json"), json + "\n")?;
    fs::write(tokenizer.join("tokenizer_config.json"), content::TOKENIZER_CONFIG)?;
    fs::write(tokenizer.join("chat_template.jinja"), content::CHAT_TEMPLATE)?;
    Ok(())
}

fn write(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let texts = |text: fn(&Row) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(text))) };
    let batch = RecordBatch::try_from_iter([
        ("prompt", texts(|row| &row.prompt)),
        ("chosen", texts(|row| &row.chosen.text)),
        ("rejected", texts(|row| &row.rejected.text)),
        ("chosen_planted", spans(rows.iter().map(|row| &row.chosen))),
        ("rejected_planted", spans(rows.iter().map(|row| &row.rejected))),
        ("kind", texts(|row| row.kind)),
    ])?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(12)?))
        .set_max_row_group_row_count(Some(1024))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}

/// `list<struct<start: int32, end: int32>>`.
fn spans<'a>(answers: impl Iterator<Item = &'a Answer> + Clone) -> ArrayRef {
    let lengths = OffsetBuffer::from_lengths(answers.clone().map(|answer| answer.planted.len()));
    let all = answers.flat_map(|answer| answer.planted.iter());
    let (start, end): (Vec<i32>, Vec<i32>) = all.copied().unzip();
    let fields: Fields = ["start", "end"].map(|name| Field::new(name, DataType::Int32, false)).to_vec().into();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(start)), Arc::new(Int32Array::from(end))];
    let element = Arc::new(Field::new("element", DataType::Struct(fields.clone()), false));
    Arc::new(ListArray::new(element, lengths, Arc::new(StructArray::new(fields, columns, None)), None))
}
