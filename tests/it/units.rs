//! Units of work: shared out to several processes, or done one after the other, they give the same rows and counts.

use serde_json::Value;

use crate::harness::{Folder, repository};

/// Scores four files of token ids, each of them one unit.
fn scoring(folder: &Folder) -> String {
    std::fs::create_dir(folder.path("rows")).unwrap();
    for file in 0..4 {
        let row = |row: i32| {
            format!("{{\"prompt_ids\": [{}], \"chosen_ids\": [{row}, 4], \"rejected_ids\": [5, {row}]}}\n", file + 1)
        };
        let rows: String = (0..=file).map(row).collect();
        folder.write(&format!("rows/{file}.jsonl"), &rows);
    }
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    let text = format!(
        "vars: {{ out: run }}\nworkdir: ${{out}}\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: rows }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         keyed: {{ select: {{ input: scored }} }}\n  out: {{ write: {{ input: keyed, to: \"${{out}}/scored\" }} }}\n",
        fixture("llama-tied"),
        fixture("llama-untied")
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn shares_of_the_units_add_up_to_a_whole_run() {
    let folder = Folder::new();
    let file = scoring(&folder);
    let whole = report(&folder.succeeds(&["run", &file, "--var", "out=whole", "--json"]));

    let first = report(&folder.succeeds(&["run", &file, "--units", "2/3", "--json"]));
    assert_eq!(first["stages"]["scored"]["rows_in"], 2);
    let waiting = first["waiting"].as_str().unwrap();
    assert!(waiting.contains("stage `scored`: 3 of 4 units belong to other shares"), "{waiting}");
    assert!(first["outputs"].as_array().unwrap().is_empty());
    folder.succeeds(&["run", &file, "--units", "1/3"]);
    let last = report(&folder.succeeds(&["run", &file, "--units", "3/3", "--json"]));

    assert!(last["waiting"].is_null());
    for stage in ["rows", "scored", "keyed"] {
        let counts = |report: &Value| {
            let stage = &report["stages"][stage];
            (stage["rows_in"].clone(), stage["rows_out"].clone(), stage["metrics"].clone())
        };
        assert_eq!(counts(&last), counts(&whole), "{stage}");
    }
    assert_eq!(last["stages"]["scored"]["metrics"]["pairs"], 10);
    let shown = |path: &str| folder.succeeds(&["inspect", path, "--json"]);
    assert_eq!(shown("run/scored"), shown("whole/scored"));
}

#[test]
fn a_share_is_some_of_all() {
    let folder = Folder::new();
    let file = scoring(&folder);
    for wrong in ["0/3", "4/3", "3", "a/b"] {
        let stderr = folder.fails(&["run", &file, "--units", wrong], 2);
        assert!(stderr.contains("give i/n with 1 <= i <= n"), "{stderr}");
    }
}
