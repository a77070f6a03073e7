//! Stops that are asked for, and disks that are full: what is finished stays, and the same command goes on.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Folder, repository, small_model};
use crate::proxy::{Fault, Proxy};

/// Scores files of token ids, each of them one unit; the last has rows that take more room.
fn scoring(folder: &Folder, files: usize) -> String {
    std::fs::create_dir(folder.path("rows")).unwrap();
    for file in 0..files {
        let row = |row: usize| {
            let text: String = (0..6)
                .map(|part| blake3::hash(format!("{file} {row} {part}").as_bytes()).to_hex())
                .map(|hex| hex.to_string())
                .collect();
            let ids: Vec<String> = (0..60).map(|at| (6 + (row + at) % 40).to_string()).collect();
            format!(
                "{{\"text\": \"{text}\", \"prompt_ids\": [1], \"chosen_ids\": [{}], \"rejected_ids\": [5, 4]}}\n",
                ids.join(", ")
            )
        };
        let rows: String = (0..if file + 1 == files { 400 } else { 30 }).map(row).collect();
        folder.write(&format!("rows/{file:02}.jsonl"), &rows);
    }
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    let text = format!(
        "workdir: run\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: rows }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         out: {{ write: {{ input: scored, to: run/scored }} }}\n",
        fixture("llama-tied"),
        fixture("llama-untied")
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

/// Units that are finished.
fn notes(folder: &Folder) -> usize {
    let Some(data) = std::fs::read_dir(folder.path("run/data")).ok().and_then(|mut found| found.next()) else {
        return 0;
    };
    let names = std::fs::read_dir(data.unwrap().path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("part-") && name.ends_with(".json")).count()
}

/// Sends SIGTERM to a run of `file` once something of it is there; its exit code and how long it then took.
fn terminate(folder: &Folder, file: &str, ready: impl Fn() -> bool) -> (Option<i32>, Duration) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sepo"))
        .args(["run", file])
        .current_dir(folder.path(""))
        .stdout(Stdio::null())
        .stderr(File::create(folder.path("stderr")).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let asked = Instant::now();
    (child.wait().unwrap().code(), asked.elapsed())
}

#[test]
fn sigterm_stops_between_units_and_the_run_goes_on() {
    let folder = Folder::new();
    let file = scoring(&folder, 60);
    let (code, took) = terminate(&folder, &file, || notes(&folder) > 1);
    assert_eq!(code, Some(130));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!((2..60).contains(&notes(&folder)));
    let said = std::fs::read_to_string(folder.path("stderr")).unwrap();
    assert!(said.contains("\nstopping; what is done is kept\n"), "{said}");
    assert!(said.ends_with("error: stopped on request; run the same command again to resume\n"), "{said}");
    let report: serde_json::Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    assert_eq!(report["stages"]["scored"]["rows_out"], 59 * 30 + 400);
}

#[test]
fn sigterm_ends_a_run_that_waits_for_a_store() {
    let folder = Folder::new();
    let proxy = Proxy::before(1);
    proxy.plan(|_| Fault::Reset);
    let text = format!(
        "workdir: run\nstorage: {{ retry: {{ max_retries: 1000, timeout: 600 }} }}\nstages:\n  \
         pairs: {{ read: {{ from: \"http://127.0.0.1:{}/x.parquet\" }} }}\n",
        proxy.port
    );
    let file = folder.write("p.yaml", &text);
    let (code, took) = terminate(&folder, file.to_str().unwrap(), || proxy.broken() > 2);
    assert_eq!(code, Some(130));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let said = std::fs::read_to_string(folder.path("stderr")).unwrap();
    assert!(said.ends_with("error: stopped on request; run the same command again to resume\n"), "{said}");
}

/// Answers of a small model, judged by `judge.sh` in `folder`.
fn judging(folder: &Folder, judge: &str) -> String {
    let script = folder.write("judge.sh", judge);
    let text = format!(
        "workdir: run\n{}stages:\n  prompts: {{ read: {{ from: {}, format: prompts, limit: 4 }} }}\n  \
         answers: {{ generate: {{ input: prompts, model: base, max_tokens: 4, temperature: 1 }} }}\n  \
         report: {{ evaluate: {{ answers: {{ base: answers }}, judge: {{ command: {{ run: [sh, {}] }} }} }} }}\n",
        small_model(),
        repository().join("data/quickstart/test.parquet").display(),
        script.display()
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

/// The judge is a process, and what it waits for is another.
#[cfg(target_os = "linux")]
#[test]
fn sigterm_ends_a_run_that_waits_for_its_judge_and_the_judge() {
    let folder = Folder::new();
    for (name, judge) in [
        ("reads", "cat > /dev/null; echo $$ > id.part; mv id.part reads; sleep 1000"),
        ("polite", "trap 'exit 0' TERM; echo $$ > id.part; mv id.part polite; sleep 1000"),
        ("deaf", "trap '' TERM; echo $$ > id.part; mv id.part deaf; sleep 1000"),
    ] {
        let file = judging(&folder, judge);
        let (code, took) = terminate(&folder, &file, || folder.path(name).exists());
        let said = std::fs::read_to_string(folder.path("stderr")).unwrap();
        assert_eq!(code, Some(130), "{said}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(said.ends_with("error: stopped on request; run the same command again to resume\n"), "{said}");
        let judge = std::fs::read_to_string(folder.path(name)).unwrap();
        let group = format!("-{}", judge.trim());
        // A process that ended may wait a moment to be collected.
        let start = Instant::now();
        while Command::new("kill").args(["-0", "--", &group]).stderr(Stdio::null()).status().unwrap().success() {
            assert!(start.elapsed() < Duration::from_secs(5), "processes of {judge} are left");
            sleep(Duration::from_millis(20));
        }
    }
    let file = judging(&folder, "sed 's/.*/{\"score\": 1}/'");
    let report: serde_json::Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    assert_eq!(report["stages"]["report"]["metrics"]["base"]["score"], 1.0);
    assert!(report["stages"]["answers"]["reused"].is_number(), "{report}");
}

/// What takes time without rows to count is told before it happens.
#[test]
fn models_that_load_and_stages_that_are_done_are_told() {
    let folder = Folder::new();
    let file = scoring(&folder, 2);
    let said = |arguments: &[&str]| {
        let output = folder.sepo(arguments);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let first = said(&["run", &file]);
    for model in ["a", "b"] {
        let line = first.lines().find(|line| line.starts_with(&format!("scored: loads model `{model}`, ")));
        assert!(line.is_some_and(|line| line.ends_with(" KiB")), "{first}");
    }
    assert!(!first.contains("earlier run"), "{first}");
    let second = said(&["run", &file, "--json"]);
    for stage in ["scored", "out"] {
        assert!(second.contains(&format!("{stage}: done by an earlier run\n")), "{second}");
    }
    assert!(!second.contains("loads"), "{second}");
}

#[test]
fn a_full_disk_ends_the_run_and_keeps_what_is_finished() {
    let folder = Folder::new();
    let file = scoring(&folder, 8);
    // No file may grow beyond 64 blocks; the signal that would kill is ignored, so that writes fail as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" run \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_sepo"), &file])
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/part-00007-") && stderr.contains(".parquet: File too large"), "{stderr}");
    assert_eq!(notes(&folder), 7);
    let report: serde_json::Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    assert_eq!(report["stages"]["scored"]["rows_out"], 7 * 30 + 400);
}
