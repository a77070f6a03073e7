//! Kinds of files through `read`: the same rows come out of each, whoever wrote them.

use std::io::Write;

use serde_json::json;

use crate::formats::read_in;
use crate::harness::{Folder, repository};

const LINES: &str = "\
{\"prompt\": \"What,\\n is \\\"2\\\"+2? שלום 🧮\", \"chosen\": \"Four.\", \"rejected\": \"007\"}
{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"\"}
";
const CSV: &str = "prompt,chosen,rejected\n\"What,\n is \"\"2\"\"+2? שלום 🧮\",Four.,007\nq,a,\n";

#[test]
fn text_files_of_every_kind_give_the_same_rows() {
    let array = format!("[{}]", LINES.trim_end().replace("}\n{", "},\n{"));
    let gzip = |text: &str| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        gz.finish().unwrap()
    };
    let zst = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    let files: [(&str, Vec<u8>); 10] = [
        ("x.jsonl", LINES.into()),
        ("x.ndjson", LINES.replace('\n', "\r\n\r\n").into()),
        ("x.jsonl.gz", gzip(LINES)),
        ("x.jsonl.zst", zst(LINES)),
        ("x.json", array.clone().into()),
        ("lines.json", LINES.into()),
        ("x.json.gz", gzip(&array)),
        ("x.csv", CSV.into()),
        ("mark.csv", format!("\u{feff}{CSV}").into()),
        ("x.csv.zst", zst(CSV)),
    ];
    for (name, bytes) in files {
        let folder = Folder::new();
        std::fs::write(folder.path(name), bytes).unwrap();
        let read = read_in(&folder, &format!("from: {name}"));
        let expected = ["user: What,\n is \"2\"+2? שלום 🧮", "assistant: Four.", "assistant: 007"].map(str::to_owned);
        assert_eq!(read.pairs(), [expected], "{name}");
        assert_eq!(read.set_aside(), [("empty answer", 1)], "{name}");
    }
}

#[test]
fn files_of_other_writers_give_the_same_rows() {
    let fixtures = repository().join("tests/fixtures/formats");
    let expected = ["user: What is 2+2? שלום 🧮", "assistant: Four. 𠀀", "assistant: Five."].map(str::to_owned);
    for name in [
        "pyarrow.parquet",
        "pyarrow_large.parquet",
        "pyarrow_dictionary.parquet",
        "polars.parquet",
        "polars_views.arrow",
        "pandas.parquet",
        "duckdb.parquet",
        "lz4.feather",
        "zstd.feather",
        "stream.arrow",
    ] {
        let read = read_in(&Folder::new(), &format!("from: \"{}\"", fixtures.join(name).display()));
        assert_eq!(read.pairs(), [expected.clone(), expected.clone()], "{name}");
        assert_eq!(read.set_aside(), [("empty answer", 1)], "{name}");
    }
    // One dataset of files whose encodings differ.
    let all = ["pyarrow.parquet", "pyarrow_large.parquet", "duckdb.parquet", "zstd.feather", "stream.arrow"];
    let all = all.map(|name| format!("\"{}\"", fixtures.join(name).display())).join(", ");
    assert_eq!(read_in(&Folder::new(), &format!("from: [{all}]")).pairs().len(), 10);
}

#[test]
fn columns_widen_over_rows_and_files() {
    let folder = Folder::new();
    let talk =
        |answer: &str| json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": answer, "tokens": 1}]);
    let rows = [
        json!({"prompt": [], "chosen": [], "rejected": [], "n": 1, "extra": {}}),
        json!({"chosen": talk("a"), "rejected": talk("b"), "n": 0.5}),
    ];
    folder.write("a.jsonl", &rows.map(|row| format!("{row}\n")).concat());
    folder.write("b.jsonl", "{\"chosen\": null, \"rejected\": null, \"late\": true}\n");
    let read = read_in(&folder, "from: \"*.jsonl\", where: \"n < 1 OR n IS NULL\"");
    assert_eq!(read.pairs(), [["user: q", "assistant: a", "assistant: b"].map(str::to_owned)]);
    assert_eq!(read.rows[0]["n"], 0.5);
    assert_eq!(read.set_aside(), [("empty answer", 1)]);
}
