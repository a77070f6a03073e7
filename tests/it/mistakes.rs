//! One run of `check` reports all mistakes of a file that can be known, whatever their kind.

use crate::harness::{Folder, repository};

/// Positions and words of what `check` says of `text`.
fn refused(folder: &Folder, text: &str) -> String {
    folder.write("p.yaml", text);
    folder.fails(&["check", "p.yaml"], 78)
}

#[test]
fn mistakes_of_all_kinds_are_reported_by_one_check() {
    let folder = Folder::new();
    folder.write("rows.jsonl", "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n");
    std::fs::create_dir(folder.path("theirs")).unwrap();
    folder.write("theirs/train-00000-of-00001.parquet", "of somebody else");
    let model = repository().join("tests/fixtures/llama-tied");
    let said = refused(
        &folder,
        &format!(
            "workdir: run
models:
  a: {{ path: {model} }}
  gone: {{ path: no/such/folder }}
  misspelt: {{ pth: {model} }}
stages:
  rows: {{ read: {{ from: rows.jsonl, sample: 2.0 }} }}
  shape: {{ read: {{ from: rows.jsonl, limt: 3 }} }}
  of_shape: {{ write: {{ input: shape, to: out, shard_mib: 0 }} }}
  variable: {{ read: {{ from: \"${{nobody}}\" }} }}
  absent: {{ read: {{ from: absent.jsonl, limit: 0 }} }}
  of_absent: {{ tokenize: {{ input: absent, tokenizer: a, max_length: 1 }} }}
  oracle: {{ train: {{ input: of_absent, model: misspelt, objective: {{ dpo: {{}} }}, epochs: 0 }} }}
  sound: {{ read: {{ from: rows.jsonl }} }}
  theirs: {{ write: {{ input: sound, to: theirs }} }}
  unknown: {{ write: {{ input: sond, to: other }} }}
",
            model = model.display(),
        ),
    );
    let wanted = [
        "p.yaml:4:11: the folder `no/such/folder` does not exist",
        "p.yaml:5:15: unknown key `pth`",
        "p.yaml:7:37: sample is 2; it must be in (0, 1]",
        "p.yaml:8:38: unknown key `limt`",
        "p.yaml:9:47: shard_mib is 0; it must be 1 or more",
        "p.yaml:10:29: unknown variable `nobody`",
        "p.yaml:11:21: ",
        "absent.jsonl",
        "p.yaml:11:41: limit is 0, which takes no row",
        "p.yaml:12:57: max_length must be at least 2",
        "p.yaml:13:81: epochs must be above 0",
        "p.yaml:15:36: the folder holds `train-00000-of-00001.parquet`",
        "p.yaml:16:23: no stage `sond`",
    ];
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted}\nin\n{said}");
    }
    assert_eq!(said.matches("p.yaml:").count(), wanted.len() - 1, "{said}");
}

/// What is missing because of a mistake is not reported as missing.
#[test]
fn what_follows_from_a_mistake_is_not_one() {
    let folder = Folder::new();
    folder.write("rows.jsonl", "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n");
    let said = refused(
        &folder,
        "models: { a: { pth: x } }
stages:
  rows: { read: { from: rows.jsonl, limt: 3 } }
  ids: { tokenize: { input: rows, tokenizer: a } }
  scored: { score: { input: ids, reference: a } }
  out: { write: { input: scored, to: out } }
",
    );
    let wanted =
        ["p.yaml:1:1: `workdir` is missing", "p.yaml:1:16: unknown key `pth`", "p.yaml:3:37: unknown key `limt`"];
    assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{said}");
    assert_eq!(said.matches("p.yaml:").count(), wanted.len(), "{said}");
}

#[test]
fn mistakes_in_all_files_of_a_suite_and_all_variants_of_a_sweep_are_reported() {
    let folder = Folder::new();
    let stage =
        |settings: &str| format!("workdir: run\nstages:\n  rows: {{ read: {{ from: absent.jsonl{settings} }} }}\n");
    folder.write("one.yaml", &stage(", limt: 1"));
    folder.write("two.yaml", &stage(", limit: 0"));
    let swept = format!(
        "vars: {{ share: 0.5 }}\nsweep: {{ over: {{ share: [2.0, 0.5, 3.0] }} }}\n{}",
        stage(", sample: \"${share}\"")
    );
    folder.write("three.yaml", &swept);
    folder.write("all.yaml", "pipelines: [one.yaml, two.yaml, three.yaml]\n");
    for command in ["check", "run"] {
        let said = folder.fails(&[command, "all.yaml"], 78);
        let wanted = ["one.yaml:3:39: unknown key `limt`", "two.yaml:3:39: limit is 0", "sample is 2;", "sample is 3;"];
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{command}: {said}");
        assert_eq!(said.matches("three.yaml:5:19: ").count(), 1, "{said}");
    }
    // A file that cannot be read hides no mistake, and is told once there is none.
    folder.write("some.yaml", "pipelines: [none.yaml, two.yaml]\n");
    assert!(folder.fails(&["check", "some.yaml"], 78).contains("two.yaml:3:39: limit is 0"));
    folder.write("some.yaml", "pipelines: [none.yaml]\n");
    assert!(folder.fails(&["check", "some.yaml"], 1).contains("none.yaml"));
}

/// What config.json would say: the model would be built hours later.
#[test]
fn a_model_that_cannot_be_built_is_a_mistake() {
    let folder = Folder::new();
    for (init, wanted) in [("zzz", "model_type `zzz` is not supported"), ("llama", "missing field `hidden_size`")] {
        folder.write(
            "p.yaml",
            &format!(
                "workdir: run\nmodels: {{ new: {{ init: {{ model_type: {init} }} }} }}\nstages:\n  rows: {{ read: {{ from: x.jsonl }} }}\n  \
                 tuned: {{ train: {{ input: rows, model: new, objective: {{ dpo: {{}} }} }} }}\n"
            ),
        );
        let said = folder.fails(&["check", "p.yaml"], 78);
        assert!(said.contains("p.yaml:2:") && said.contains(wanted), "{said}");
    }
}
