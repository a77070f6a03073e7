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
fn shares_that_read_other_content_say_so() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    let rows = std::fs::read_to_string(folder.path("rows/3.jsonl")).unwrap();
    folder.write("rows/3.jsonl", &rows.replace("[5, 1]", "[6, 1]"));
    let said = folder.fails(&["run", &file, "--units", "2/2"], 1);
    assert!(said.contains("unfinished work of the same settings on other content of rows/3.jsonl"), "{said}");
    // The same content under another inode and time is the same input.
    folder.write("rows/new", &rows);
    std::fs::rename(folder.path("rows/new"), folder.path("rows/3.jsonl")).unwrap();
    let last = report(&folder.succeeds(&["run", &file, "--units", "2/2", "--json"]));
    assert!(last["waiting"].is_null(), "{last}");
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

/// The file of the scored rows whose name begins with `name`; a part's goes on with the mark of who made it.
fn part(folder: &Folder, name: &str) -> std::path::PathBuf {
    let data = std::fs::read_dir(folder.path("run/data")).unwrap().next().unwrap().unwrap().path();
    let mut files = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(name);
    files.find(is_it).unwrap_or_else(|| data.join(name))
}

fn flip_a_byte(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn stderr(folder: &Folder, arguments: &[&str]) -> String {
    let output = folder.sepo(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    stderr
}

#[test]
fn merge_commits_what_shares_did_and_says_what_is_missing() {
    let folder = Folder::new();
    let file = scoring(&folder);
    let whole = report(&folder.succeeds(&["run", &file, "--var", "out=whole", "--json"]));
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    let said = folder.fails(&["merge", &file], 1);
    let missing =
        "stage `scored`: 2 of 4 units are not there: part-00001 (rows/1.jsonl, row groups 0 to 0), part-00003";
    assert!(said.contains(missing), "{said}");
    // The other share, killed just before it would have committed.
    folder.succeeds(&["run", &file, "--units", "2/2", "--only", "scored"]);
    std::fs::remove_file(part(&folder, "manifest.json")).unwrap();
    let merged = report(&folder.succeeds(&["merge", &file, "--json"]));
    let counts = |report: &Value| report["stages"]["scored"]["metrics"].clone();
    assert_eq!(counts(&merged), counts(&whole));
    assert_eq!(merged["stages"]["scored"]["load_seconds"], 0.0, "no model is needed");
    let shown = |path: &str| folder.succeeds(&["inspect", path, "--json"]);
    assert_eq!(shown("run/scored"), shown("whole/scored"));
}

#[test]
fn a_damaged_part_is_made_again() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file, "--var", "out=whole"]);
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    flip_a_byte(&part(&folder, "part-00002-"));
    let note = part(&folder, "part-00000.json");
    let text = std::fs::read(&note).unwrap();
    std::fs::write(&note, &text[..text.len() / 2]).unwrap();
    let said = stderr(&folder, &["run", &file]);
    for made_again in ["part-00000.json", "part-00002-"] {
        let says = |line: &str| {
            line.contains(made_again) && line.contains("is damaged, truncated or missing; it is computed again")
        };
        assert!(said.lines().any(says), "{said}");
    }
    let shown = |path: &str| folder.succeeds(&["inspect", path, "--json"]);
    assert_eq!(shown("run/scored"), shown("whole/scored"));
}

#[test]
fn a_part_that_was_damaged_after_its_commit_is_named_and_made_again_by_the_next_run() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file, "--var", "out=whole"]);
    folder.succeeds(&["run", &file, "--only", "scored"]);
    for damage in [flip_a_byte, |path: &std::path::Path| std::fs::remove_file(path).unwrap()] {
        damage(&part(&folder, "part-00001-"));
        let said = folder.fails(&["run", &file], 1);
        assert!(said.contains(".parquet is damaged, truncated or missing; run the same command again"), "{said}");
        assert!(said.contains("/part-00001-"), "{said}");
        folder.succeeds(&["run", &file, "--only", "scored"]);
    }
    folder.succeeds(&["run", &file]);
    let shown = |path: &str| folder.succeeds(&["inspect", path, "--json"]);
    assert_eq!(shown("run/scored"), shown("whole/scored"));
}

#[test]
fn counts_that_do_not_add_up_are_never_committed() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    let note = part(&folder, "part-00002.json");
    let text = std::fs::read_to_string(&note).unwrap();
    assert!(text.contains("\"rows_out\": 3,"), "{text}");
    std::fs::write(&note, text.replace("\"rows_out\": 3,", "\"rows_out\": 2,")).unwrap();
    let said = folder.fails(&["run", &file], 1);
    assert!(said.contains("the rows do not add up: 10 came in, 9 went on and 0 were set aside"), "{said}");
    assert!(!part(&folder, "manifest.json").exists() && !folder.path("run/scored").exists());
}

#[test]
fn workers_without_shares_give_the_rows_of_one() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file, "--var", "out=whole"]);
    let worker = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sepo"));
        command.args(["run", &file]).current_dir(folder.path("")).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let workers: Vec<_> = (0..3).map(|_| worker()).collect();
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let shown = |path: &str| folder.succeeds(&["inspect", path, "--json"]);
    assert_eq!(shown("run/scored"), shown("whole/scored"));
}

#[test]
fn what_workers_tell_one_another_is_a_hint_and_no_more() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file, "--var", "out=whole"]);
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    // Bits that say of all four units that they are finished, and of another number of units.
    let known = part(&folder, "part-00000.json").with_file_name("known.bits");
    for bits in [&[0b1111_u8][..], &[0xff; 9]] {
        std::fs::write(&known, bits).unwrap();
        folder.succeeds(&["run", &file]);
        let shown = |path: &str| folder.succeeds(&["inspect", path, "--json"]);
        assert_eq!(shown("run/scored"), shown("whole/scored"));
        for name in ["manifest.json", "part-00001.json"] {
            std::fs::remove_file(part(&folder, name)).unwrap();
        }
    }
}

#[test]
fn what_a_workdir_keeps_is_listed_and_what_nothing_uses_can_go() {
    let folder = Folder::new();
    let file = scoring(&folder);
    folder.succeeds(&["run", &file]);
    let swapped = std::fs::read_to_string(&file).unwrap().replace("oracle: a, reference: b", "oracle: b, reference: a");
    std::fs::write(&file, swapped).unwrap();
    folder.succeeds(&["run", &file, "--units", "1/2"]);
    // What two killed runs left, one of them just now; and files that no run of this workdir made.
    let (killed, now, foreign) = ("0123456789abcdef", "00000000000000aa", "fedcba9876543210");
    for mark in [killed, now] {
        let session = format!("{{\"mark\": \"{mark}\", \"pipeline\": \"p.yaml\", \"folders\": [\"run/scored\"]}}");
        folder.write(&format!("run/sessions/{mark}.json"), &session);
        folder.write(&format!("run/scored/.sepo-{mark}-0"), "unfinished");
    }
    std::fs::create_dir_all(folder.path(&format!("run/models/.sepo-{killed}-1"))).unwrap();
    folder.write(&format!("run/models/.sepo-{killed}-1/config.json"), "unfinished");
    let data = std::fs::read_dir(folder.path("run/data")).unwrap().map(|entry| entry.unwrap().path());
    let current = data.into_iter().find(|path| !path.join("manifest.json").is_file()).unwrap();
    std::fs::write(current.join(format!("part-00001-{killed}.parquet")), "unfinished").unwrap();
    for name in [format!("run/scored/.sepo-{foreign}-0"), "run/data/part-00000.parquet#1".to_owned()] {
        folder.write(&name, "mine");
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    let mut folders = vec![folder.path("run")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.display().to_string().contains(now) {
                std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
            }
        }
    }
    let list = folder.succeeds(&["runs", "list", &file]);
    let shows = |words: [&str; 3]| list.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(shows(["scored", "stale", "finished"]) && shows(["scored", "current", "2 units done"]), "{list}");

    let dry = folder.succeeds(&["runs", "gc", &file]);
    assert!(dry.contains("5 orphans") && dry.contains("nothing was removed"), "{dry}");
    let orphans = [
        "run/data/scored-",
        "run/scored/.sepo-0123456789abcdef-0",
        "run/models/.sepo-0123456789abcdef-1",
        "/part-00001-0123456789abcdef.parquet",
        "run/sessions/0123456789abcdef.json",
    ];
    for orphan in orphans {
        assert!(dry.contains(orphan), "{orphan}: {dry}");
    }
    assert_eq!(dry, folder.succeeds(&["runs", "gc", &file]));
    let removed = folder.succeeds(&["runs", "gc", &file, "--yes"]);
    assert!(removed.contains("5 orphans") && removed.contains(": removed"), "{removed}");
    assert!(!folder.path(&format!("run/models/.sepo-{killed}-1")).exists());
    let kept: Value = serde_json::from_str(&folder.succeeds(&["runs", "list", &file, "--json"])).unwrap();
    assert_eq!(kept["kept"].as_array().unwrap().len(), 1, "{kept}");
    assert_eq!((&kept["kept"][0]["current"], &kept["kept"][0]["units"]), (&true.into(), &2.into()));
    // What was written, what may be at work, and what no record names stays.
    let stays = [
        "run/scored/train-00000-of-00001.parquet".to_owned(),
        format!("run/scored/.sepo-{now}-0"),
        format!("run/scored/.sepo-{foreign}-0"),
        "run/data/part-00000.parquet#1".to_owned(),
    ];
    for name in stays {
        assert!(folder.path(&name).is_file(), "{name}");
    }
    let last = report(&folder.succeeds(&["run", &file, "--json"]));
    assert_eq!(last["stages"]["scored"]["rows_out"], 10);
}
