//! Text files that claim more than there is room for: fields, rows, lines and columns without end, in a few bytes when they
//! are packed.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::harness::Folder;

/// Address space in which every one of these ends with an error, in KiB.
const SPACE: u64 = 3_000_000;

/// `count` times `text` behind `start`, packed with Zstandard.
fn packed(start: &str, text: &str, count: usize) -> Vec<u8> {
    let block = text.repeat((1 << 20) / text.len());
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(start.as_bytes()).unwrap();
    for _ in 0..count * text.len() / block.len() {
        encoder.write_all(block.as_bytes()).unwrap();
    }
    encoder.finish().unwrap()
}

/// What `sepo inspect` says of a file `name` with `content`.
fn refused(name: &str, content: &[u8]) -> String {
    let folder = Folder::new();
    std::fs::write(folder.path(name), content).unwrap();
    folder.fails_within(SPACE, &["inspect", name])
}

#[test]
fn a_field_without_end_is_refused() {
    let error = refused("x.csv.zst", &packed("a,b\n1,\"", "x", 400 << 20));
    assert!(error.contains("x.csv.zst, row 1: a row of more than 268435456 bytes"), "{error}");
    // The header is row 0.
    let error = refused("x.csv.zst", &packed("a,", "x", 400 << 20));
    assert!(error.contains("x.csv.zst, row 0: a row of more than 268435456 bytes"), "{error}");
}

#[test]
fn empty_lines_without_end_are_refused() {
    let start = Instant::now();
    for (name, row) in [("x.jsonl.zst", "{\"a\": 1}\n"), ("x.csv.zst", "a\n1\n")] {
        for line in ["\n", "\r\n"] {
            let error = refused(name, &packed(row, line, 400 << 20));
            assert!(error.contains(name) && error.contains("more than 268435456 bytes of empty lines"), "{error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_file_unpacks_to_a_thousand_times_its_size() {
    let row = format!("{{\"a\": \"{}\"}}\n", "x".repeat(1 << 19));
    let error = refused("x.jsonl.zst", &packed("", &row, 2100));
    assert!(
        error.contains("x.jsonl.zst, row 20") && error.contains("unpacks to more than 1073741824 bytes"),
        "{error}"
    );
}

#[test]
fn columns_without_end_are_refused() {
    let row = |first: usize| {
        let keys: Vec<String> = (first..first + 50).map(|key| format!("\"k{key}\": 1")).collect();
        format!("{{{}}}\n", keys.join(", "))
    };
    let rows: String = (0..2000).map(|index| row(50 * index)).collect();
    let start = Instant::now();
    let error = refused("x.jsonl", rows.as_bytes());
    assert!(
        error.contains("x.jsonl, row 201: column `k10000` is one more than the 10000 that a file may have"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let header: Vec<String> = (0..10_001).map(|column| format!("c{column}")).collect();
    let error = refused("x.csv", (header.join(",") + "\n").as_bytes());
    assert!(error.contains("x.csv: 10001 columns; the most is 10000"), "{error}");
}

/// As many columns as there may be are read, and soon.
#[test]
fn ten_thousand_columns_are_read() {
    let folder = Folder::new();
    let row = |first: usize| {
        let keys: Vec<String> = (first..first + 50).map(|key| format!("\"k{key}\": 1")).collect();
        format!("{{{}}}\n", keys.join(", "))
    };
    folder.write("x.jsonl", &(0..2000).map(|index| row(50 * (index % 200))).collect::<String>());
    let start = Instant::now();
    let output = folder.within(SPACE, &["inspect", "x.jsonl"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// A list of objects takes room for every key of any of them.
#[test]
fn objects_times_columns_have_a_bound() {
    let keys: Vec<String> = (0..5000).map(|key| format!("\"k{key}\": 1")).collect();
    let objects = format!("{{\"l\": [{}]}}\n{{\"l\": [{{{}}}]}}\n", vec!["{}"; 10_000].join(","), keys.join(","));
    let error = refused("x.jsonl", objects.as_bytes());
    assert!(error.contains("x.jsonl, row 1: 10001 objects, any of which may have 5000 columns"), "{error}");
    let error = refused("x.jsonl.zst", &packed("{\"l\": [0", ",0", 20 << 20));
    assert!(error.contains("x.jsonl.zst, row 1: a row of more than 16777216 values"), "{error}");
}
