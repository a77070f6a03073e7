//! What every data format and every stage of rows keeps: the columns of the plan are those of the output, rows in are rows
//! out and rows set aside, and units in any cut, or taken up again, give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use arrow::datatypes::{Field, Fields};
use sepo::io::{Dataset, Stores};
use sepo::pipeline::{Plan, Spec};
use serde_json::{Value, json};

use crate::formats::rows_of;
use crate::harness::{Folder, repository, small_model};

/// Files of each input, each of them a unit.
const FILES: usize = 3;

/// The formats by the extension of their files.
const FORMATS: [&str; 7] = ["parquet", "arrow", "jsonl", "jsonl.gz", "jsonl.zst", "json", "csv"];

/// Pairs of the quickstart with a key of their own, and one pair in each file that no model can use.
fn rows(file: usize) -> Vec<Value> {
    let quickstart = repository().join("data/quickstart/test.parquet");
    let pairs = rows_of(&quickstart);
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let pair = |index: usize| {
        let row = &pairs[index];
        let rejected = if index % 8 == 5 { text(row, "chosen") } else { text(row, "rejected") };
        json!({ "key": format!("k{index}"), "prompt": text(row, "prompt"), "chosen": text(row, "chosen"), "rejected": rejected })
    };
    (8 * file..8 * file + 8).map(pair).collect()
}

/// Trains the models and writes the input in the formats that sepo writes.
fn prepare(folder: &Folder) {
    for file in 0..FILES {
        fs::create_dir_all(folder.path(&format!("jsonl/{file}"))).unwrap();
        let lines: String = rows(file).iter().map(|row| format!("{row}\n")).collect();
        folder.write(&format!("jsonl/{file}/rows.jsonl"), &lines);
    }
    let parts: String = (0..FILES)
        .map(|file| {
            let written = ["parquet", "arrow"].map(|format| {
                format!(
                    "  {format}{file}: {{ write: {{ input: r{file}, to: made/{format}/{file}, format: {format} }} }}\n"
                )
            });
            format!("  r{file}: {{ read: {{ from: jsonl/{file}, columns: {{ row_id: key }} }} }}\n{}", written.concat())
        })
        .collect();
    let text = format!(
        "workdir: prepared\n{}stages:\n{parts}  \
         pairs: {{ read: {{ from: jsonl, columns: {{ row_id: key }} }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 256 }} }}\n  \
         a: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, max_steps: 1, batch_size: 2 }} }}\n  \
         b: {{ train: {{ input: tokens, model: a, objective: {{ sft: {{}} }}, max_steps: 1, batch_size: 2 }} }}\n",
        small_model()
    );
    folder.succeeds(&["run", folder.write("prepare.yaml", &text).to_str().unwrap()]);
}

/// The input in `format`, in files of a folder whose name comes back.
fn input(folder: &Folder, format: &str) -> String {
    let name = format!("in-{format}");
    fs::create_dir_all(folder.path(&name)).unwrap();
    for file in 0..FILES {
        let to = folder.path(&format!("{name}/{file}.{format}"));
        let lines = fs::read(folder.path(&format!("jsonl/{file}/rows.jsonl"))).unwrap();
        match format {
            "jsonl" => fs::write(to, lines).unwrap(),
            "jsonl.gz" => {
                let mut writer =
                    flate2::write::GzEncoder::new(fs::File::create(to).unwrap(), flate2::Compression::fast());
                std::io::Write::write_all(&mut writer, &lines).unwrap();
                writer.finish().unwrap();
            }
            "jsonl.zst" => fs::write(to, zstd::encode_all(&lines[..], 1).unwrap()).unwrap(),
            "json" => fs::write(to, json!(rows(file)).to_string()).unwrap(),
            "csv" => {
                let cell = |text: &Value| format!("\"{}\"", text.as_str().unwrap().replace('"', "\"\""));
                let line =
                    |row: &Value| ["key", "prompt", "chosen", "rejected"].map(|name| cell(&row[name])).join(",") + "\n";
                let text: String = rows(file).iter().map(line).collect();
                fs::write(to, "key,prompt,chosen,rejected\n".to_owned() + &text).unwrap();
            }
            made => {
                let from = folder.path(&format!("made/{made}/{file}"));
                let mut files = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
                let is_it = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == made);
                fs::copy(files.find(is_it).unwrap(), to).unwrap();
            }
        }
    }
    name
}

/// A pipeline of every stage that makes rows, over the folder `from`; `out` is its workdir.
fn every_stage(folder: &Folder, from: &str) -> String {
    let key = if from.ends_with("parquet") || from.ends_with("arrow") { "" } else { ", columns: { row_id: key }" };
    let text = format!(
        "vars: {{ out: whole }}\nworkdir: \"${{out}}\"\n\
         models: {{ a: {{ path: prepared/models/a }}, b: {{ path: prepared/models/b }} }}\nstages:\n  \
         rows: {{ read: {{ from: {from}{key} }} }}\n  \
         tokens: {{ tokenize: {{ input: rows, tokenizer: a, max_length: 256 }} }}\n  \
         scored: {{ score: {{ input: tokens, oracle: b, reference: a }} }}\n  \
         keyed: {{ select: {{ input: scored }} }}\n  \
         answered: {{ generate: {{ input: keyed, model: a, max_tokens: 4 }} }}\n  \
         pairs: {{ write: {{ input: keyed, to: \"${{out}}/pairs\" }} }}\n  \
         answers: {{ write: {{ input: answered, to: \"${{out}}/answers\" }} }}\n"
    );
    folder.write(&format!("{from}.yaml"), &text).to_str().unwrap().to_owned()
}

/// The files of `folder` and what they hold.
fn files(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    let found = fs::read_dir(folder.path(name)).unwrap().map(|entry| entry.unwrap().path());
    let parquet = found.filter(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    parquet.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

fn outputs(folder: &Folder, run: &str) -> Vec<BTreeMap<String, Vec<u8>>> {
    ["pairs", "answers"].map(|name| files(folder, &format!("{run}/{name}"))).into()
}

/// Rows in are rows out and rows set aside, in every stage; what comes out of one comes into the next.
fn balances(report: &Value, read: u64) {
    let stage = |name: &str| &report["stages"][name];
    let count = |name: &str, what: &str| stage(name)[what].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    for name in ["rows", "tokens", "scored", "keyed", "answered"] {
        let aside: u64 =
            stage(name)["set_aside"].as_object().map_or(0, |reasons| reasons.values().filter_map(Value::as_u64).sum());
        assert_eq!(count(name, "rows_in"), count(name, "rows_out") + aside, "{name}: {report}");
    }
    for (before, after) in [("rows", "tokens"), ("tokens", "scored"), ("scored", "keyed"), ("keyed", "answered")] {
        assert_eq!(count(before, "rows_out"), count(after, "rows_in"), "{before} to {after}");
    }
    assert_eq!((count("rows", "rows_in"), count("keyed", "rows_out")), (read, 21));
}

/// The columns of the plan are those of the output.
fn keeps_its_plan(folder: &Folder, file: &str) {
    let text = fs::read_to_string(file).unwrap().replace("prepared", folder.path("prepared").to_str().unwrap());
    let text = text.replace("from: in-", &format!("from: {}/in-", folder.path("").display()));
    let plan = Plan::new(&Spec::parse(&text, file, &[]).unwrap()).unwrap();
    for (stage, output) in [("keyed", "pairs"), ("answered", "answers")] {
        let made = Dataset::open(&[folder.path(&format!("whole/{output}")).display().to_string()], &Stores::default())
            .unwrap();
        let (promised, made) = (plan.node(stage).unwrap().columns.fields(), made.schema().fields());
        // A column that may hold nulls and holds none is read back as one that holds none.
        let narrowed = promised.iter().zip(made).map(|(promised, made)| {
            Arc::new(Field::clone(promised).with_nullable(promised.is_nullable() && made.is_nullable()))
        });
        assert_eq!(narrowed.collect::<Fields>(), *made, "{stage} of {file}");
        assert_eq!(promised.len(), made.len(), "{stage} of {file}");
    }
}

#[test]
fn every_format_and_stage_keeps_what_is_promised() {
    let folder = Folder::new();
    prepare(&folder);
    let mut pairs: Option<Vec<Value>> = None;
    for format in FORMATS {
        let file = every_stage(&folder, &input(&folder, format));
        let report = folder.succeeds(&["run", &file, "--json", "--fresh"]);
        // What sepo wrote has lost the pairs that nothing can use.
        let read = if ["parquet", "arrow"].contains(&format) { 21 } else { 24 };
        balances(&serde_json::from_str(&report).unwrap(), read);
        keeps_its_plan(&folder, &file);
        let whole = outputs(&folder, "whole");
        assert!(whole.iter().all(|files| !files.is_empty()));
        // Another cut, in another order. A share waits for the others where a stage needs all rows of the one before it.
        let cut = format!("out=cut-{format}");
        for _ in ["tokens", "scored", "answered"] {
            for share in ["3/3", "1/3", "2/3"] {
                folder.succeeds(&["run", &file, "--var", &cut, "--units", share]);
            }
        }
        folder.succeeds(&["merge", &file, "--var", &cut]);
        assert!(outputs(&folder, &cut[4..]) == whole, "{format}: shares of the units gave other bytes");
        // Some units are there when a whole run takes up the work.
        let again = format!("out=again-{format}");
        folder.succeeds(&["run", &file, "--var", &again, "--units", "2/2"]);
        folder.succeeds(&["run", &file, "--var", &again]);
        assert!(outputs(&folder, &again[4..]) == whole, "{format}: a run that went on gave other bytes");
        let rows = rows_of(&folder.path("whole/pairs"));
        let pairs = pairs.get_or_insert_with(|| rows.clone());
        assert_eq!(*pairs, rows, "{format}: other rows than those of {}", FORMATS[0]);
    }
}
