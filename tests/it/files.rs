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
        "pyarrow_v2.parquet",
        "pyarrow_views.parquet",
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
    let all = [
        "pyarrow.parquet",
        "pyarrow_large.parquet",
        "duckdb.parquet",
        "zstd.feather",
        "no_rows.parquet",
        "stream.arrow",
    ];
    let all = all.map(|name| format!("\"{}\"", fixtures.join(name).display())).join(", ");
    assert_eq!(read_in(&Folder::new(), &format!("from: [{all}]")).pairs().len(), 10);
}

fn fixture(name: &str) -> String {
    format!("from: \"{}\"", repository().join("tests/fixtures/formats").join(name).display())
}

#[test]
fn files_without_rows_and_messages_with_holes_are_read() {
    let read = read_in(&Folder::new(), &fixture("no_rows.parquet"));
    assert_eq!((read.rows.len(), read.set_aside()), (0, Vec::new()));
    let read = read_in(&Folder::new(), &fixture("nested_nulls.parquet"));
    assert_eq!(read.rows.len(), 1);
    assert_eq!(read.set_aside(), [("a message has no content", 1), ("a message has no role", 1)]);
}

#[test]
fn one_huge_row_group_with_dictionaries_is_read_and_its_types_have_names() {
    let folder = Folder::new();
    let read = read_in(&folder, &format!("{}, where: \"kind = 'list' AND year > 2003\"", fixture("one_group.parquet")));
    // Of 20,000 rows, every third is a list; their years go round in sevens, of which three are later than 2003.
    let expected = (0..20_000).filter(|row| row % 3 == 1 && row % 7 > 3).count();
    assert_eq!(read.rows.len(), expected);
    assert!(read.rows.iter().all(|row| row["kind"] == "list" && row["tags"] == json!(["a", "b"])));
    let written = folder.path("run/out").to_str().unwrap().to_owned();
    let dataset = sepo::io::Dataset::open(&[written], &sepo::io::Stores::default()).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&dataset.schema().metadata()["huggingface"]).unwrap();
    let dtype = |name: &str| metadata["info"]["features"][name].clone();
    // What `datasets` 5.2 reads back, as these types.
    assert_eq!(dtype("kind"), json!({"dtype": "string", "_type": "Value"}));
    assert_eq!(dtype("year"), json!({"dtype": "int64", "_type": "Value"}));
    assert_eq!(dtype("tags"), json!({"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}));
    assert_eq!(dtype("when"), json!({"dtype": "timestamp[us, tz=UTC]", "_type": "Value"}));
}

#[test]
fn scored_rows_that_another_tool_wrote_back_can_be_selected() {
    let folder = Folder::new();
    let text = format!(
        "workdir: run\nstages:\n  rows: {{ read: {{ {} }} }}\n  keyed: {{ select: {{ input: rows, chosen: {{ top: 0.5 }} }} }}\n  \
         out: {{ write: {{ input: keyed, to: run/out }} }}\n",
        fixture("scored_by_others.parquet")
    );
    let file = folder.write("p.yaml", &text);
    let report = folder.succeeds(&["run", file.to_str().unwrap(), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["stages"]["rows"]["set_aside"], json!({"reward, log-probability or mask is null": 1}));
    assert_eq!(report["stages"]["keyed"]["metrics"]["key_tokens"], 2);
}

#[test]
fn columns_that_are_not_selected_are_left_out() {
    let folder = Folder::new();
    folder.write(
        "rows.jsonl",
        "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\", \"kind\": \"sum\", \"score\": 3, \"more\": [1]}\n",
    );
    let names = |options: &str| {
        let read = read_in(&folder, &format!("from: rows.jsonl{options}"));
        let mut names: Vec<String> = read.rows[0].as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(
        names(", select: [score], where: \"kind = 'sum'\""),
        ["chosen", "prompt", "rejected", "row_id", "score"]
    );
    assert_eq!(names(", select: []"), ["chosen", "prompt", "rejected", "row_id"]);
    let file = folder.write("p.yaml", "workdir: run\nstages: { rows: { read: { from: rows.jsonl, select: [m] } } }\n");
    let stderr = folder.fails(&["check", file.to_str().unwrap()], 78);
    assert!(stderr.contains("no column `m`; there are prompt, chosen, rejected, kind, score, more"), "{stderr}");
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

#[test]
fn paths_may_lead_upwards() {
    let folder = Folder::new();
    folder.write("rows.jsonl", "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    std::fs::create_dir_all(folder.path("there/deep")).unwrap();
    std::os::unix::fs::symlink(folder.path("there/deep"), folder.path("link")).unwrap();
    std::fs::rename(folder.path("rows.jsonl"), folder.path("there/rows.jsonl")).unwrap();
    let text = "workdir: there/../run\nstages:\n  rows: { read: { from: link/../rows.jsonl } }\n  \
                out: { write: { input: rows, to: there/deep/../../out } }\n";
    folder.succeeds(&["run", folder.write("p.yaml", text).to_str().unwrap()]);
    assert!(folder.path("out/train-00000-of-00001.parquet").is_file());
    let missing = text.replace("link/..", "nowhere/..");
    let stderr = folder.fails(&["run", folder.write("p.yaml", &missing).to_str().unwrap()], 1);
    assert!(stderr.contains("nowhere/../rows.jsonl"), "{stderr}");
}
