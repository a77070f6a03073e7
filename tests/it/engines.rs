//! Other engines read what `write` wrote. Needs Python with polars, duckdb and pandas; skipped with a word where they are
//! missing (`SEPO_TEST_PYTHON` names the interpreter).

use std::process::Command;

use crate::harness::{Folder, repository, small_model};

const COUNT: &str = "
import sys, polars, duckdb, pandas
files = sys.argv[1] + '/*.parquet'
print(polars.read_parquet(files)['chosen_key_mask'].list.sum().sum())
print(duckdb.sql(f\"select sum(len(list_filter(chosen_key_mask, lambda x: x))) from '{files}'\").fetchall()[0][0])
print(sum(int(sum(mask)) for mask in pandas.read_parquet(sys.argv[1])['chosen_key_mask']))
";

/// A Python with the engines.
fn python() -> Option<String> {
    let python = std::env::var("SEPO_TEST_PYTHON").unwrap_or("python3".into());
    let found = Command::new(&python).args(["-c", "import polars, duckdb, pandas, pyarrow"]).output();
    let has_engines = found.is_ok_and(|output| output.status.success());
    if !has_engines {
        println!("skipped: {python} has no polars, duckdb, pandas and pyarrow");
    }
    has_engines.then_some(python)
}

#[test]
fn questions_of_the_documentation_have_one_answer_in_every_engine() {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    let rows = repository().join("data/quickstart/train.parquet").display().to_string();
    let text = format!(
        "workdir: run\n{}stages:\n  pairs: {{ read: {{ from: \"{rows}\", limit: 200 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n  \
         oracle: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, learning_rate: 0.01 }} }}\n  \
         scored: {{ score: {{ input: tokens, oracle: oracle, reference: base }} }}\n  \
         keyed: {{ select: {{ input: scored, also: {{ random: {{ rule: random }} }} }} }}\n  \
         out: {{ write: {{ input: keyed, to: run/scored, tokens: true }} }}\n",
        small_model()
    );
    folder.succeeds(&["run", folder.write("p.yaml", &text).to_str().unwrap()]);
    let program = repository().join("tests/peers/analysis.py");
    let output = Command::new(python).arg(program).arg(folder.path("run/scored")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.matches("agree ").count() >= 12, "{said}");
}

#[test]
fn polars_duckdb_and_pandas_count_the_same_masks() {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    let fixtures = repository().join("tests/fixtures").display().to_string();
    let rows = "{\"prompt_ids\": [1, 2], \"chosen_ids\": [3, 4, 5, 6, 7, 8, 9], \"rejected_ids\": [9, 8]}\n";
    folder.write(
        "rows.jsonl",
        &(rows.to_owned() + "{\"prompt_ids\": [4], \"chosen_ids\": [5], \"rejected_ids\": [6]}\n"),
    );
    let file = folder.write(
        "p.yaml",
        &format!(
            "workdir: run\nmodels: {{ a: {{ path: \"{fixtures}/llama-untied\" }}, b: {{ path: \"{fixtures}/llama-tied\" }} }}\n\
             stages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
             scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  keyed: {{ select: {{ input: scored }} }}\n  \
             out: {{ write: {{ input: keyed, to: run/out }} }}\n"
        ),
    );
    folder.succeeds(&["run", file.to_str().unwrap()]);
    let output = Command::new(&python).args(["-c", COUNT]).arg(folder.path("run/out")).output().unwrap();
    // 30 % of 7 tokens is 2, of 1 token 1.
    let counts = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(counts.split_whitespace().collect::<Vec<_>>(), ["3"; 3], "{}", String::from_utf8_lossy(&output.stderr));
}
