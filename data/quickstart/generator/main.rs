//! Writes `data/quickstart`: `cargo run --release --example quickstart-data`.

mod content;

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use content::rows::{Answer, Labelled, Row};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/quickstart");
    let tokenizer = folder.join("tokenizer");
    fs::create_dir_all(&tokenizer)?;
    let (train, test) = content::rows::rows();
    write(&folder.join("train.parquet"), &pairs(&train)?)?;
    write(&folder.join("test.parquet"), &pairs(&test)?)?;
    write(&folder.join("noisy.parquet"), &noisy(&content::rows::noisy())?)?;
    write(&folder.join("sft.parquet"), &demonstrations(&content::rows::demonstrations())?)?;
    let json = content::bpe::tokenizer_json(&train).map_err(|error| error.to_string())?;
    fs::write(folder.join("rules.json"), content::rules::rules_json())?;
    fs::write(tokenizer.join("tokenizer.json"), json + "\n")?;
    fs::write(tokenizer.join("tokenizer_config.json"), content::TOKENIZER_CONFIG)?;
    fs::write(tokenizer.join("chat_template.jinja"), content::CHAT_TEMPLATE)?;
    Ok(())
}

fn pairs(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter(columns(rows, [answers(rows, Row::chosen), answers(rows, Row::rejected)]))
}

fn noisy(pairs: &[Labelled]) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<Row> = pairs.iter().map(|pair| pair.row.clone()).collect();
    let sides = [|pair: &Labelled| pair.chosen.clone(), |pair: &Labelled| pair.rejected.clone()];
    let mut columns = columns(&rows, sides.map(|side| pairs.iter().map(side).collect()));
    let flipped: BooleanArray = pairs.iter().map(|pair| Some(pair.flipped)).collect();
    columns.push(("flipped", Arc::new(flipped)));
    RecordBatch::try_from_iter(columns)
}

fn columns(rows: &[Row], [chosen, rejected]: [Vec<Answer>; 2]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("prompt", texts(rows.iter().map(|row| row.prompt.as_str()))),
        ("chosen", texts(chosen.iter().map(|answer| answer.text.as_str()))),
        ("rejected", texts(rejected.iter().map(|answer| answer.text.as_str()))),
        ("chosen_planted", spans(&chosen)),
        ("rejected_planted", spans(&rejected)),
        ("kind", texts(rows.iter().map(|row| row.kind))),
    ]
}

fn demonstrations(rows: &[(Row, [Answer; 2])]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter([
        ("prompt", texts(rows.iter().map(|(row, _)| row.prompt.as_str()))),
        ("answer", texts(rows.iter().map(|(_, [answer, _])| answer.text.as_str()))),
        ("other", texts(rows.iter().map(|(_, [_, other])| other.text.as_str()))),
    ])
}

fn answers(rows: &[Row], side: fn(&Row) -> Answer) -> Vec<Answer> {
    rows.iter().map(side).collect()
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn write(path: &Path, batch: &RecordBatch) -> Result<(), Box<dyn Error>> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(12)?))
        .set_max_row_group_row_count(Some(1024))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(())
}

/// `list<struct<start: int32, end: int32>>`.
fn spans(answers: &[Answer]) -> ArrayRef {
    let lengths = OffsetBuffer::from_lengths(answers.iter().map(|answer| answer.planted.len()));
    let all = answers.iter().flat_map(|answer| answer.planted.iter());
    let (start, end): (Vec<i32>, Vec<i32>) = all.copied().unzip();
    let fields: Fields = ["start", "end"].map(|name| Field::new(name, DataType::Int32, false)).to_vec().into();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(start)), Arc::new(Int32Array::from(end))];
    let element = Arc::new(Field::new("element", DataType::Struct(fields.clone()), false));
    Arc::new(ListArray::new(element, lengths, Arc::new(StructArray::new(fields, columns, None)), None))
}
