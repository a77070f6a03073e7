//! Names and texts that want more than they may: to leave the workdir, or to give orders to a terminal.

use crate::harness::{Folder, repository};

/// What a terminal obeys: clear the screen, the same in one character of the second set, a bell, text turned around.
const ORDERS: [&str; 4] = ["\u{1b}[2J", "\u{9b}2J", "\u{7}", "\u{202e}"];

fn said(folder: &Folder, arguments: &[&str]) -> String {
    let output = folder.sepo(arguments);
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

fn assert_harmless(text: &str) {
    for order in ORDERS {
        assert!(!text.contains(order), "{text:?}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn a_dataset_gives_no_orders_to_a_terminal() {
    let folder = Folder::new();
    let all = ORDERS.concat();
    let row = serde_json::json!({
        "prompt": format!("q{all}"), "chosen": format!("a{all}"), "rejected": "b", format!("column{all}"): all, "n": 1
    });
    // Other orders in names of files are refused by `object_store`.
    let name = format!("rows{}", ORDERS[3]);
    std::fs::create_dir(folder.path(&name)).unwrap();
    folder.write(&format!("{name}/x.jsonl"), &format!("{row}\n"));
    let pipeline = |more: &str| {
        let text = format!(
            "workdir: run\nstages:\n  rows: {{ read: {{ from: \"rows*/x.jsonl\"{more} }} }}\n  \
             out: {{ write: {{ input: rows, to: run/out }} }}\n"
        );
        folder.write("p.yaml", &text).to_str().unwrap().to_owned()
    };
    let file = pipeline("");
    for arguments in [&["check", &file][..], &["plan", &file], &["run", &file], &["run", &file, "--json"]] {
        assert_harmless(&said(&folder, arguments));
    }
    for arguments in [&["inspect", "run/out"][..], &["inspect", "run/out", "--json"]] {
        let shown = said(&folder, arguments);
        assert_harmless(&shown);
        assert!(shown.contains("column\\u"), "{shown}");
    }
    // Errors quote names of columns and files.
    let listed = said(&folder, &["check", &pipeline(", columns: { prompt: nothing }")]);
    assert_harmless(&listed);
    assert!(listed.contains("there are") && listed.contains("\\u{1b}[2J"), "{listed}");
    folder.write(&format!("{name}/x.jsonl"), "not json\n");
    let broken = said(&folder, &["run", &file]);
    assert_harmless(&broken);
    assert!(broken.contains("rows\\u{202e}/x.jsonl, row 1: not JSON"), "{broken}");
    std::fs::create_dir(folder.path(ORDERS[0])).unwrap();
    let text = std::fs::read_to_string(&file).unwrap().replace("rows*", "*");
    std::fs::write(folder.path(ORDERS[0]).join("x.jsonl"), "").unwrap();
    let refused = said(&folder, &["run", folder.write("p.yaml", &text).to_str().unwrap()]);
    assert_harmless(&refused);
    assert!(refused.contains("\\u{1b}[2J"), "{refused}");
}

#[test]
fn tokens_give_no_orders_either() {
    let folder = Folder::new();
    let data = repository().join("data/quickstart");
    let row = serde_json::json!({"prompt": "q", "chosen": format!("a{}b", ORDERS.concat()), "rejected": "b"});
    folder.write("rows.jsonl", &format!("{row}\n"));
    let models = crate::harness::small_model();
    let text = format!(
        "workdir: run\n{models}stages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
         tokens: {{ tokenize: {{ input: rows, tokenizer: base }} }}\n  \
         oracle: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, learning_rate: 0.01 }} }}\n  \
         scored: {{ score: {{ input: tokens, oracle: oracle, reference: base }} }}\n  \
         out: {{ write: {{ input: scored, to: run/out }} }}\n"
    );
    folder.succeeds(&["run", folder.write("p.yaml", &text).to_str().unwrap()]);
    let tokenizer = data.join("tokenizer").display().to_string();
    let shown = said(&folder, &["inspect", "run/out", "--row", "1", "--tokenizer", &tokenizer]);
    // Into a pipe it sends no colours of its own either.
    assert!(shown.contains("\\u{1b}") && shown.contains("\\u{202e}"), "{shown:?}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n') && !shown.contains('\u{202e}'), "{shown:?}");
}

#[test]
fn names_that_would_leave_the_workdir_are_refused() {
    let folder = Folder::new();
    folder.write("rows.jsonl", "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    let check = |id: &str, split: &str| {
        let text = format!(
            "workdir: run\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
             \"{id}\": {{ write: {{ input: rows, to: run/out, split: \"{split}\" }} }}\n"
        );
        let file = folder.write("p.yaml", &text);
        folder.sepo(&["run", file.to_str().unwrap()])
    };
    for id in ["../../out", "a/b", "..", ".hidden", "a\\\\b", "a b", "scored.v2", ""] {
        let output = check(id, "train");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{id}: {stderr}");
        assert!(stderr.contains("is not a valid stage id: ids name files"), "{id}: {stderr}");
    }
    for split in ["../train", "a/b", ".train", ""] {
        let output = check("out", split);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{split}: {stderr}");
        assert!(stderr.contains("begins no file name"), "{split}: {stderr}");
    }
    assert!(check("out-b_2", "test_1.a").status.success());
}
