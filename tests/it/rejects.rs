//! Rows set aside: a run that loses most of its rows is stopped early, and says which rows and why.

use serde_json::Value;

use crate::harness::Folder;

/// `rows` rows of token ids, of which those that `bad` picks have identical answers, in files of 600; and a pipeline that
/// writes them, with `more` in its head.
fn pipeline(folder: &Folder, rows: usize, bad: impl Fn(usize) -> bool, more: &str) -> String {
    std::fs::create_dir_all(folder.path("rows")).unwrap();
    let row = |row: usize| {
        let rejected = if bad(row) { 4 } else { 5 };
        format!("{{\"row_id\": {row}, \"prompt_ids\": [1], \"chosen_ids\": [4], \"rejected_ids\": [{rejected}]}}\n")
    };
    for start in (0..rows).step_by(600) {
        let text: String = (start..rows.min(start + 600)).map(row).collect();
        folder.write(&format!("rows/{start:05}.jsonl"), &text);
    }
    let text = format!(
        "workdir: run\n{more}stages:\n  rows: {{ read: {{ from: rows }} }}\n  \
         out: {{ write: {{ input: rows, to: run/out }} }}\n"
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

fn shown(folder: &Folder, path: &str) -> Value {
    serde_json::from_str(&folder.succeeds(&["inspect", path, "--json"])).unwrap()
}

#[test]
fn a_run_that_sets_most_of_its_rows_aside_is_stopped_early() {
    let folder = Folder::new();
    let file = pipeline(&folder, 6000, |row| row % 4 > 0, "");
    let said = folder.fails(&["run", &file], 1);
    // The first file has 600 rows; of the second, batches of 256 are read until 1000 are full.
    let expected = "stage `rows`: 834 of the first 1112 rows were set aside (834 identical answers), more than \
                    `max_reject_share: 0.5` permits; the rows are in run/rejects/out-";
    assert!(said.contains(expected), "{said}");
    assert!(!folder.path("run/out/train-00000-of-00001.parquet").exists());
    let aside = shown(&folder, "run/rejects")["rows"].as_u64().unwrap();
    assert!(aside == 834, "{aside}");

    let text = std::fs::read_to_string(&file).unwrap();
    folder.write("p.yaml", &text.replace("workdir: run\n", "workdir: run\nmax_reject_share: 0.75\n"));
    folder.succeeds(&["run", &file]);
    assert_eq!(shown(&folder, "run/out")["rows"], 1500);
    assert_eq!(shown(&folder, "run/rejects")["rows"], 4500);
}

#[test]
fn few_rows_and_few_rejects_stop_nothing() {
    let folder = Folder::new();
    let file = pipeline(&folder, 900, |row| row > 0, "");
    folder.succeeds(&["run", &file]);
    assert_eq!(shown(&folder, "run/out")["rows"], 1);
    let folder = Folder::new();
    // Bad rows in a row, after many good ones.
    let file = pipeline(&folder, 6000, |row| row >= 4000, "max_reject_share: 0.4\n");
    folder.succeeds(&["run", &file]);
    assert_eq!(shown(&folder, "run/out")["rows"], 4000);
}

#[test]
fn a_run_without_a_row_fails_unless_that_is_meant() {
    let folder = Folder::new();
    let file = pipeline(&folder, 900, |_| true, "");
    let said = folder.fails(&["run", &file], 1);
    let expected = "stage `rows`: all 900 rows that came in were set aside (900 identical answers); they are in \
                    run/rejects/out-";
    assert!(said.contains(expected) && said.contains("`allow_empty: true`"), "{said}");
    assert!(!folder.path("run/out").exists());
    assert_eq!(shown(&folder, "run/rejects")["rows"], 900);

    let allowed = pipeline(&folder, 900, |_| true, "allow_empty: true\n");
    folder.succeeds(&["run", &allowed]);
    assert_eq!(shown(&folder, "run/out")["rows"], 0);
    // What was written then is no result of a run that may not be empty.
    let said = folder.fails(&["run", &pipeline(&folder, 900, |_| true, "")], 1);
    assert!(said.contains("all 900 rows that came in were set aside"), "{said}");
}

#[test]
fn rows_that_nothing_leaves_and_files_without_rows_are_errors() {
    let folder = Folder::new();
    let file = pipeline(&folder, 10, |_| false, "");
    let text = std::fs::read_to_string(&file).unwrap();
    let filtered = folder.write("p.yaml", &text.replace("from: rows ", "from: rows, where: 'row_id > 99' "));
    let said = folder.fails(&["run", filtered.to_str().unwrap()], 1);
    assert!(said.contains("stage `rows`: no row came in: its files hold none, or `where`"), "{said}");
    let said = folder
        .fails(&["check", folder.write("p.yaml", &text.replace("rows ", "rows, limit: 0 ")).to_str().unwrap()], 78);
    assert!(said.contains("p.yaml:3:") && said.contains("limit is 0, which takes no row"), "{said}");

    std::fs::create_dir(folder.path("none")).unwrap();
    folder.write("none/empty.csv", "prompt,chosen,rejected\n");
    let none = text.replace("from: rows ", "from: none ");
    let said = folder.fails(&["check", folder.write("p.yaml", &none).to_str().unwrap()], 78);
    assert!(said.contains("p.yaml:3:19: no file here has a row") && said.contains("`allow_empty: true`"), "{said}");
    let allowed = none.replace("workdir: run\n", "workdir: run\nallow_empty: true\n");
    folder.succeeds(&["run", folder.write("p.yaml", &allowed).to_str().unwrap()]);

    // An empty file of many is worth a warning, one that is named an error.
    folder.write("rows/more.jsonl", "");
    let output = folder.sepo(&["run", folder.write("p.yaml", &text).to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 of the files contain no rows, the first is rows/more.jsonl"),
        "{said}"
    );
    let both = text.replace("from: rows ", "from: [rows/00000.jsonl, rows/more.jsonl] ");
    let said = folder.fails(&["check", folder.write("p.yaml", &both).to_str().unwrap()], 78);
    assert!(said.contains("p.yaml:3:19: rows/more.jsonl has no row"), "{said}");
}

#[test]
fn a_share_is_between_none_and_all() {
    let folder = Folder::new();
    let file = pipeline(&folder, 10, |_| false, "max_reject_share: 1.5\n");
    let said = folder.fails(&["check", &file], 78);
    assert!(said.contains("p.yaml:2:1") && said.contains("max_reject_share is 1.5; it must be in [0, 1]"), "{said}");
}
