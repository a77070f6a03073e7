//! A CSV file, plain or packed: where rows and fields end, quotes, the header. What was read, written as CSV again, must be read
//! as the same. The first byte picks the kind of file and how many rows are read at a time.

#![no_main]

use arrow::array::{Array, AsArray};
use libfuzzer_sys::fuzz_target;
use sepo::io::{Dataset, Stores};
use sepo_fuzz::file;

const NAMES: [&str; 3] = ["x.csv", "x.csv.gz", "x.csv.zst"];

/// The header and the rows of a file; an empty field is none.
type Table = Vec<Vec<Option<String>>>;

fn read(name: &str, content: &[u8], batch_rows: usize) -> Option<Table> {
    let path = file(name, content).display().to_string();
    let dataset = Dataset::open(&[path], &Stores::default()).ok()?;
    let mut rows: Table = vec![dataset.schema().fields().iter().map(|field| Some(field.name().clone())).collect()];
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, batch_rows).expect("an open file") {
            let chunk = chunk.expect("rows that were counted");
            assert_eq!(chunk.first_row, rows.len() as u64, "rows are out of order");
            for row in 0..chunk.batch.num_rows() {
                let field = |column: &arrow::array::ArrayRef| {
                    let texts = column.as_string::<i32>();
                    texts.is_valid(row).then(|| texts.value(row).to_owned())
                };
                rows.push(chunk.batch.columns().iter().map(field).collect());
            }
        }
    }
    assert_eq!(rows.len() as u64 - 1, dataset.rows(), "rows are lost or invented");
    Some(rows)
}

fuzz_target!(|input: &[u8]| {
    let [settings, content @ ..] = input else { return };
    let name = NAMES[usize::from(settings & 3) % NAMES.len()];
    let Some(table) = read(name, content, usize::from(settings >> 2) + 1) else { return };
    let quoted = |field: &Option<String>| format!("\"{}\"", field.as_deref().unwrap_or_default().replace('"', "\"\""));
    let line = |row: &Vec<Option<String>>| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n";
    let text: String = table.iter().map(line).collect();
    assert_eq!(read("y.csv", text.as_bytes(), 7).as_ref(), Some(&table), "written again, it is read otherwise");
});
