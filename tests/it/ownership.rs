//! Nothing of the user's is replaced or removed: not in a workdir, not in the folders of outputs and models, not through a
//! link.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{Folder, repository};

/// Token rows as JSON Lines.
fn rows(count: usize) -> String {
    let row = |i: usize| {
        format!(
            "{{\"prompt_ids\": [{}], \"chosen_ids\": [{}, 4, 9], \"rejected_ids\": [5, {}]}}\n",
            i + 1,
            i % 90,
            i % 80
        )
    };
    (0..count).map(row).collect()
}

fn models() -> String {
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    format!("models: {{ a: {{ path: {} }}, b: {{ path: {} }} }}", fixture("llama-tied"), fixture("llama-untied"))
}

/// A pipeline that scores `from` and writes to `to`.
fn scoring(workdir: &str, from: &str, to: &str) -> String {
    format!(
        "workdir: {workdir}\n{}\nstages:\n  rows: {{ read: {{ from: {from} }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         out: {{ write: {{ input: scored, to: {to} }} }}\n",
        models()
    )
}

const TRAIN: &str =
    "  oracle: { train: { input: rows, model: a, objective: { sft: {} }, batch_size: 8, learning_rate: 1.0e-3 } }\n";

fn training() -> String {
    format!("workdir: run\n{}\nstages:\n  rows: {{ read: {{ from: in.jsonl }} }}\n{TRAIN}", models())
}

/// Everything in `folder`, with what it holds; of links, where they lead.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                found.insert(path.clone(), fs::read_link(&path).unwrap().display().to_string().into_bytes());
            } else if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn put(folder: &Folder, name: &str, text: &str) {
    fs::create_dir_all(folder.path(name).parent().unwrap()).unwrap();
    folder.write(name, text);
}

/// `check`, `run` and `run --fresh` refuse the pipeline with `message` and touch nothing.
fn refused(folder: &Folder, text: &str, message: &str) {
    let file = folder.write("p.yaml", text);
    let before = snapshot(&folder.path(""));
    for command in [&["check"][..], &["run"], &["run", "--fresh"]] {
        let said = folder.fails(&[command, &[file.to_str().unwrap()]].concat(), 78);
        assert!(said.contains(message), "{command:?}: {said}");
        assert_eq!(snapshot(&folder.path("")), before, "{command:?}");
    }
}

fn outputs(folder: &Folder, arguments: &[&str]) -> Value {
    serde_json::from_str(&folder.succeeds(arguments)).unwrap()
}

#[test]
fn a_folder_with_other_files_is_no_workdir() {
    let folder = Folder::new();
    put(&folder, "data/train.jsonl", &rows(5));
    put(&folder, "models/mine/model.safetensors", "weights");
    put(&folder, "results/table.csv", "a,b");
    refused(
        &folder,
        &scoring(".", "data/train.jsonl", "out"),
        "the folder holds `data`, `models`, `p.yaml`, `results`, which sepo did not make",
    );
}

#[test]
fn nothing_is_kept_or_removed_through_a_link() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    put(&folder, "precious/keep", "x");
    fs::create_dir(folder.path("run")).unwrap();
    std::os::unix::fs::symlink("../precious", folder.path("run/data")).unwrap();
    refused(&folder, &scoring("run", "in.jsonl", "out"), "the folder holds `data`, which sepo did not make");
    // The same in a folder that is a workdir already.
    fs::remove_file(folder.path("run/data")).unwrap();
    let file = folder.write("p.yaml", &scoring("run", "in.jsonl", "out"));
    folder.succeeds(&["run", file.to_str().unwrap()]);
    fs::rename(folder.path("run/data"), folder.path("precious/data")).unwrap();
    std::os::unix::fs::symlink("../precious/data", folder.path("run/data")).unwrap();
    refused(&folder, &scoring("run", "in.jsonl", "out"), "run/data: is a link");
    let said = folder.fails(&["runs", "gc", file.to_str().unwrap(), "--yes"], 78);
    assert!(said.contains("is a link"), "{said}");
    assert!(folder.path("precious/keep").is_file());
}

#[test]
fn a_workdir_behind_a_link_works() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    fs::create_dir(folder.path("disk")).unwrap();
    std::os::unix::fs::symlink("disk", folder.path("run")).unwrap();
    let file = folder.write("p.yaml", &scoring("run", "in.jsonl", "run/out"));
    folder.succeeds(&["run", file.to_str().unwrap()]);
    folder.succeeds(&["run", file.to_str().unwrap(), "--fresh"]);
    assert!(folder.path("disk/out/train-00000-of-00001.parquet").is_file());
}

#[test]
fn a_collection_leaves_what_it_has_no_record_of_and_what_others_use() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    let file = folder.write("p.yaml", &scoring("run", "in.jsonl", "out"));
    let other = folder.write(
        "other.yaml",
        &scoring("run", "in.jsonl", "out2").replace("oracle: a, reference: b", "oracle: b, reference: a"),
    );
    folder.succeeds(&["run", other.to_str().unwrap()]);
    folder.succeeds(&["run", file.to_str().unwrap()]);
    for name in [
        "data/train-v1/x.jsonl",
        "checkpoints/llama-7b/model.bin",
        "data/notes#1",
        "models/m-0123456789abcdef/x",
        ".train-1-2.draft",
    ] {
        put(&folder, &format!("run/{name}"), "mine");
    }
    let old = SystemTime::now() - Duration::from_secs(72 * 3600);
    for path in snapshot(&folder.path("run")).into_keys() {
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let before = snapshot(&folder.path(""));
    let said = folder.succeeds(&["runs", "gc", file.to_str().unwrap(), "--yes"]);
    assert!(said.starts_with("0 orphans"), "{said}");
    assert_eq!(snapshot(&folder.path("")), before);
    // Of its own rows with other settings it keeps nothing, but for a file that somebody put there.
    let edited = fs::read_to_string(&file).unwrap().replace("reference: b", "reference: b, batch_tokens: 64");
    fs::write(&file, edited).unwrap();
    let data = fs::read_dir(folder.path("run/data")).unwrap().map(|entry| entry.unwrap().path());
    let mut own = data.filter(|path| {
        path.join("sepo.json").is_file() && fs::read_to_string(path.join("sepo.json")).unwrap().contains("\"p.yaml#")
    });
    let own = own.next().unwrap();
    fs::write(own.join("NOTES.txt"), "mine").unwrap();
    let said = folder.succeeds(&["runs", "gc", file.to_str().unwrap(), "--yes"]);
    assert!(said.contains("NOTES.txt stays: sepo has no record of it") && said.contains("1 orphans"), "{said}");
    let left: Vec<PathBuf> = snapshot(&own).into_keys().collect();
    assert_eq!(left, [own.join("NOTES.txt")]);
}

#[test]
fn places_that_feed_on_one_another_are_found_before_the_run() {
    for (from, to, workdir, message) in [
        ("data", "data", "run", "the folder holds data/train-00000-of-00002.jsonl, which stage `rows` reads"),
        ("data", "data/scored", "run", "stage `rows` reads `data`, which includes this folder"),
        ("\"data/**/train-0*\"", "data/scored", "run", "reads `data/**/train-0*`, which includes this folder"),
        ("data/train-00000-of-00002.jsonl", "data", "run", "the folder holds data/train-00000-of-00002.jsonl"),
        ("data/train-00000-of-00002.jsonl", "link", "run", "the folder holds data/train-00000-of-00002.jsonl"),
        (".", "../elsewhere", "run", "reads `.`, which includes the workdir"),
        ("data", "run/data/scored-final", "run", "sepo keeps what is its own in `data` of the workdir"),
        ("data", "run/models", "./run/", "sepo keeps what is its own in `models` of the workdir"),
        ("data", "work/..", "work/run", "the folder is or holds the workdir"),
        ("data", "work/run", "work/run", "the folder is or holds the workdir"),
    ] {
        let folder = Folder::new();
        put(&folder, "here/data/train-00000-of-00002.jsonl", &rows(5));
        put(&folder, "here/data/train-notes-of-meeting.txt", "mine");
        fs::create_dir_all(folder.path("here/work")).unwrap();
        std::os::unix::fs::symlink("data", folder.path("here/link")).unwrap();
        let file = folder.write("p.yaml", &scoring(workdir, from, to));
        let before = snapshot(&folder.path(""));
        for command in ["check", "run"] {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_sepo"))
                .current_dir(folder.path("here"))
                .args([command, file.to_str().unwrap()])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{from} {to}: {said}");
            assert!(said.contains(message), "{from} {to}: {said}");
        }
        assert_eq!(snapshot(&folder.path("")), before);
    }
}

#[test]
fn places_that_are_apart_are_not_refused() {
    for (from, to, workdir) in [
        ("data/train.jsonl", "run/out", "run"),
        ("\"data/*.jsonl\"", "data/scored", "run"),
        ("data", "data_scored", "run"),
        ("data", "scored", "data/_run"),
    ] {
        let folder = Folder::new();
        put(&folder, "data/train.jsonl", &rows(5));
        let file = folder.write("p.yaml", &scoring(workdir, from, to));
        for _ in 0..3 {
            let report = outputs(&folder, &["run", file.to_str().unwrap(), "--json"]);
            assert_eq!(report["stages"]["scored"]["rows_in"], 5, "{from} {to}");
        }
    }
}

#[test]
fn models_are_no_places_for_outputs() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    fs::create_dir(folder.path("m")).unwrap();
    for entry in fs::read_dir(repository().join("tests/fixtures/llama-tied")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path("m").join(path.file_name().unwrap())).unwrap();
    }
    for to in ["m", "m/scored", "."] {
        let text = scoring("run", "in.jsonl", to);
        let start = text.find("a: { path: ").unwrap() + 11;
        let end = start + text[start..].find(' ').unwrap();
        let text = format!("{}m{}", &text[..start], &text[end..]);
        let file = folder.write("p.yaml", &text);
        let said = folder.fails(&["check", file.to_str().unwrap()], 78);
        assert!(said.contains("the folder is, contains or is inside `m` of model `a`"), "{to}: {said}");
    }
}

#[test]
fn files_of_the_hubs_names_beside_an_output_stay() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    for name in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "train-list-of-things.txt"] {
        put(&folder, &format!("out/{name}"), "mine");
    }
    let text = scoring("run", "in.jsonl", "out");
    refused(
        &folder,
        &text,
        "the folder holds `train-00000-of-00002.parquet`, `train-00001-of-00002.parquet`, `train-list-of-things.txt`",
    );
    put(&folder, "out/train-00000-of-00001.parquet", "mine, and to be replaced");
    let file = folder.write("p.yaml", &text.replace("to: out", "to: out, overwrite: true"));
    for _ in 0..2 {
        folder.succeeds(&["run", file.to_str().unwrap(), "--fresh"]);
        for name in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "train-list-of-things.txt"] {
            assert_eq!(fs::read_to_string(folder.path("out").join(name)).unwrap(), "mine");
        }
        assert!(fs::read(folder.path("out/train-00000-of-00001.parquet")).unwrap().starts_with(b"PAR1"));
    }
}

#[test]
fn a_smaller_dataset_takes_the_place_of_a_larger_one_and_an_edited_file_stays() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    let text = "workdir: run\nvars: { n: 5 }\nstages:\n  rows: { read: { from: in.jsonl, limit: \"${n}\" } }\n  out: { write: { input: rows, to: out } }\n";
    let file = folder.write("p.yaml", text);
    let file = file.to_str().unwrap();
    folder.succeeds(&["run", file]);
    folder.succeeds(&["run", file, "--var", "n=2"]);
    let out = folder.path("out/train-00000-of-00001.parquet");
    let two = fs::read(&out).unwrap();
    // A copy is the same file to it.
    fs::copy(&out, folder.path("copy")).unwrap();
    fs::rename(folder.path("copy"), &out).unwrap();
    assert_eq!(outputs(&folder, &["run", file, "--var", "n=2", "--json"])["outputs"].as_array().unwrap().len(), 1);
    for edited in [&b"mine"[..], &two[..two.len() - 1], &[&two[..], b"x"].concat()] {
        fs::write(&out, edited).unwrap();
        for n in ["n=2", "n=5"] {
            for option in ["--json", "--fresh", "--verify"] {
                let said = folder.sepo(&["run", file, "--var", n, option]);
                let code = said.status.code().unwrap();
                assert!([1, 78].contains(&code), "{n} {option}");
                let said = String::from_utf8_lossy(&said.stderr).into_owned();
                assert!(said.contains("train-00000-of-00001.parquet"), "{said}");
                assert_eq!(fs::read(&out).unwrap(), edited);
            }
        }
        fs::remove_file(&out).unwrap();
        folder.succeeds(&["run", file, "--var", "n=2"]);
        assert_eq!(fs::read(&out).unwrap(), two);
    }
}

#[test]
fn a_flipped_byte_is_found_where_it_is_used_and_by_verify() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(20));
    let text = training()
        + "  scored: { score: { input: rows, oracle: oracle, reference: a } }\n  out: { write: { input: scored, to: out } }\n";
    let file = folder.write("p.yaml", &text);
    let file = file.to_str().unwrap();
    folder.succeeds(&["run", file]);
    let flip = |name: &str| {
        let path = folder.path(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    for name in ["run/models/oracle/model.safetensors", "out/train-00000-of-00001.parquet"] {
        flip(name);
        let said = folder.fails(&["run", file, "--verify"], 1);
        assert!(said.contains(Path::new(name).file_name().unwrap().to_str().unwrap()), "{said}");
        if name.contains("models") {
            // Another stage would use it.
            let said = folder.fails(&["run", file, "--fresh", "--only", "scored"], 1);
            assert!(said.contains("model.safetensors"), "{said}");
        }
        flip(name);
        folder.succeeds(&["run", file, "--verify"]);
    }
}

#[test]
fn two_outputs_in_one_place_are_a_mistake() {
    for (other, clashes) in
        [("outq/", true), ("./outq", true), ("link", true), ("file://HERE/outq", true), ("outr", false)]
    {
        let folder = Folder::new();
        folder.write("in.jsonl", &rows(9));
        fs::create_dir(folder.path("outq")).unwrap();
        std::os::unix::fs::symlink("outq", folder.path("link")).unwrap();
        let other = other.replace("HERE", folder.path("").to_str().unwrap().trim_end_matches('/'));
        let text = format!(
            "workdir: run\nstages:\n  rows: {{ read: {{ from: in.jsonl, limit: 5 }} }}\n  more: {{ read: {{ from: in.jsonl }} }}\n  \
             out1: {{ write: {{ input: rows, to: outq }} }}\n  out2: {{ write: {{ input: more, to: \"{other}\" }} }}\n"
        );
        let file = folder.write("p.yaml", &text);
        if clashes {
            let said = folder.fails(&["check", file.to_str().unwrap()], 78);
            assert!(said.contains("stage `out1` writes files of the same names into this folder"), "{other}: {said}");
            // Two splits are two sets of files.
            let splits = text.replace(&format!("to: \"{other}\""), &format!("to: \"{other}\", split: test"));
            let file = folder.write("p.yaml", &splits);
            for _ in 0..2 {
                folder.succeeds(&["run", file.to_str().unwrap(), "--fresh"]);
            }
            assert_eq!(snapshot(&folder.path("outq")).len(), 2);
        } else {
            folder.succeeds(&["check", file.to_str().unwrap()]);
        }
    }
}

#[test]
fn variants_of_a_sweep_do_not_share_an_output() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(9));
    let text = "workdir: run\nvars: { n: 1 }\nsweep: { over: { n: [1, 2] } }\nstages:\n  rows: { read: { from: in.jsonl, limit: \"${n}\" } }\n  out: { write: { input: rows, to: out } }\n";
    let file = folder.write("p.yaml", text);
    let said = folder.fails(&["check", file.to_str().unwrap()], 78);
    assert!(said.contains("variants of the sweep that differ in these rows write them into one folder"), "{said}");
    let file = folder.write("p.yaml", &text.replace("to: out", "to: \"out/${n}\""));
    folder.succeeds(&["run", file.to_str().unwrap()]);
}

#[test]
fn a_model_of_the_user_in_the_workdir_stays() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(20));
    let file = folder.write("p.yaml", &training());
    folder.succeeds(&["run", file.to_str().unwrap(), "--only", "rows"]);
    put(&folder, "run/models/oracle/NOTES.txt", "mine");
    refused(&folder, &training(), "the folder holds `NOTES.txt`, which sepo did not make");
    let file = folder.write("p.yaml", &training().replace("batch_size: 8", "batch_size: 8, overwrite: true"));
    for _ in 0..2 {
        folder.succeeds(&["run", file.to_str().unwrap(), "--fresh"]);
        assert_eq!(fs::read_to_string(folder.path("run/models/oracle/NOTES.txt")).unwrap(), "mine");
        assert!(folder.path("run/models/oracle/model.safetensors").is_file());
    }
    // A model that is an input and a stage at once.
    let text = training().replace("a: { path: ", "c: { path: run/models/oracle }, a: { path: ");
    let file = folder.write("p.yaml", &text);
    let said = folder.fails(&["check", file.to_str().unwrap()], 78);
    assert!(said.contains("the stage would put its model in place of `run/models/oracle` of model `c`"), "{said}");
}

#[test]
fn a_model_with_an_edited_file_is_not_replaced() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(20));
    let file = folder.write("p.yaml", &training());
    folder.succeeds(&["run", file.to_str().unwrap()]);
    folder.write("run/models/oracle/README.md", "my own words about it");
    let file = folder.write("p.yaml", &training().replace("1.0e-3", "2.0e-3"));
    for option in ["--json", "--fresh"] {
        let output = folder.sepo(&["run", file.to_str().unwrap(), option]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("README.md"), "{said}");
    }
    assert_eq!(fs::read_to_string(folder.path("run/models/oracle/README.md")).unwrap(), "my own words about it");
}

#[test]
fn a_copy_of_a_workdir_and_another_workdir_keep_their_hands_off() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    let file = folder.write("p.yaml", &scoring("run", "in.jsonl", "out"));
    folder.succeeds(&["run", file.to_str().unwrap()]);
    let text = scoring("run2", "in.jsonl", "out");
    let before = fs::read(folder.path("out/train-00000-of-00001.parquet")).unwrap();
    refused(&folder, &text, "the folder holds `train-00000-of-00001.parquet`, which sepo did not make");
    assert_eq!(fs::read(folder.path("out/train-00000-of-00001.parquet")).unwrap(), before);
}

#[test]
fn a_file_in_place_of_a_record_stays() {
    let folder = Folder::new();
    folder.write("in.jsonl", &rows(5));
    let file = folder.write("p.yaml", &scoring("run", "in.jsonl", "out"));
    folder.succeeds(&["run", file.to_str().unwrap(), "--only", "scored"]);
    for mine in ["{\"mine\": 1}", "mine"] {
        put(&folder, "run/results/out.json", mine);
        let said = folder.fails(&["run", file.to_str().unwrap()], 1);
        assert!(said.contains("run/results/out.json: is damaged, or not a record of this workdir"), "{said}");
        assert_eq!(fs::read_to_string(folder.path("run/results/out.json")).unwrap(), mine);
    }
}
