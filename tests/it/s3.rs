//! Runs on an object store: killed, raced and hindered, they end with the rows of an unbroken local run, each once.

use std::process::{Child, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sepo::io::{Dataset, Stores};

use crate::harness::{Folder, repository};
use crate::proxy::{Fault, Proxy};
use crate::seaweed::{Server, server};

const UNITS: usize = 44;

/// The files of a scoring run: every one is a unit.
pub(crate) fn sources() -> impl Iterator<Item = (String, String)> {
    (0..UNITS).map(|file| {
        let row = |row: usize| {
            let (chosen, rejected) = (file + row + 6, (file * row) % 50 + 6);
            format!(
                "{{\"row_id\": \"{file}-{row}\", \"prompt_ids\": [1, {}], \"chosen_ids\": [{chosen}, 4], \
                 \"rejected_ids\": [5, {rejected}]}}\n",
                row + 2
            )
        };
        (format!("{file:02}.jsonl"), (0..3 + file % 3).map(row).collect())
    })
}

/// A pipeline that scores the rows in `from` into `out`, where an endpoint is given on its store.
pub(crate) fn pipeline(folder: &Folder, name: &str, from: &str, out: &str, port: Option<u16>) -> String {
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    let storage = port.map_or(String::new(), |port| {
        format!(
            "storage: {{ endpoint: \"http://127.0.0.1:{port}\", allow_http: true, path_style: true, region: us-east-1, \
             retry: {{ max_retries: 8, timeout: 30 }}, timeouts: {{ request: 20 }} }}\n"
        )
    });
    let text = format!(
        "workdir: {out}\n{storage}models: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: \"{from}\" }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         keyed: {{ select: {{ input: scored }} }}\n  out: {{ write: {{ input: keyed, to: \"{out}/scored\" }} }}\n",
        fixture("llama-tied"),
        fixture("llama-untied")
    );
    folder.write(&format!("{name}.yaml"), &text).to_str().unwrap().to_owned()
}

/// The rows of a written dataset, in one batch.
pub(crate) fn rows(path: String) -> RecordBatch {
    let dataset = Dataset::open(&[path], &Stores::default()).unwrap();
    let units = dataset.units();
    let chunks = units.iter().flat_map(|unit| dataset.read(unit, 1000).unwrap());
    let batches: Vec<RecordBatch> = chunks.map(|chunk| chunk.unwrap().batch).collect();
    arrow::compute::concat_batches(dataset.schema(), &batches).unwrap()
}

/// A bucket with the sources, and the rows that an unbroken local run gives.
fn prepare(server: &Server, folder: &Folder, bucket: &str) -> RecordBatch {
    std::fs::create_dir(folder.path("rows")).unwrap();
    for (name, text) in sources() {
        folder.write(&format!("rows/{name}"), &text);
        assert!(server.put(&format!("{bucket}/rows/{name}"), text.as_bytes()));
    }
    folder.succeeds(&["run", &pipeline(folder, "local", "rows", "local", None)]);
    let whole = rows(folder.path("local/scored").to_str().unwrap().to_owned());
    let mut ids: Vec<&str> = whole.column_by_name("row_id").unwrap().as_string::<i32>().iter().flatten().collect();
    assert!(ids.len() > 2 * UNITS);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), whole.num_rows());
    whole
}

fn written(server: &Server, bucket: &str) -> RecordBatch {
    rows(server.open_url(&format!("{bucket}/run/scored/train-00000-of-00001.parquet")))
}

pub(crate) fn assert_same(found: &RecordBatch, expected: &RecordBatch) {
    assert_eq!(found.num_rows(), expected.num_rows());
    for (field, column) in expected.schema().fields().iter().zip(expected.columns()) {
        assert_eq!(found.column_by_name(field.name()).unwrap(), column, "{}", field.name());
    }
}

pub(crate) fn finish(child: Child, code: i32) -> String {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{stderr}");
    stderr
}

/// Every request takes this much longer, so that there is something to break.
const LATE: Duration = Duration::from_millis(8);

fn slow(server: &Server) -> Proxy {
    let proxy = Proxy::before(server.s3);
    proxy.plan(|_| Fault::Late(LATE));
    proxy
}

#[test]
fn killed_at_25_random_instants_it_ends_with_the_same_rows() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    let expected = prepare(server, &folder, "killed");
    let proxy = slow(server);
    let file = pipeline(&folder, "p", "s3://killed/rows", "s3://killed/run", Some(proxy.port));
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut unfinished = 0;
    for _ in 0..25 {
        let mut child = server.sepo(&folder, &file).spawn().unwrap();
        sleep(Duration::from_millis(100 + u64::from(random.next_u32() % 500)));
        unfinished += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(unfinished >= 10, "{unfinished}");
    finish(server.sepo(&folder, &file).spawn().unwrap(), 0);
    assert_same(&written(server, "killed"), &expected);
}

#[test]
fn four_workers_on_one_workdir_two_of_them_killed_give_the_same_rows() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    let expected = prepare(server, &folder, "raced");
    let proxy = slow(server);
    let file = pipeline(&folder, "p", "s3://raced/rows", "s3://raced/run", Some(proxy.port));
    let mut workers: Vec<Child> = (0..4).map(|_| server.sepo(&folder, &file).spawn().unwrap()).collect();
    for after in [400, 500] {
        sleep(Duration::from_millis(after));
        let mut worker = workers.pop().unwrap();
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    for worker in workers {
        finish(worker, 0);
    }
    assert_same(&written(server, "raced"), &expected);
    finish(server.sepo(&folder, &file).spawn().unwrap(), 0);
    assert_same(&written(server, "raced"), &expected);
}

#[test]
fn through_a_network_that_breaks_requests_it_ends_with_the_same_rows() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    let expected = prepare(server, &folder, "hindered");
    let proxy = Proxy::before(server.s3);
    let mut random = ChaCha8Rng::seed_from_u64(11);
    proxy.plan(move |_| match random.next_u32() % 200 {
        0..5 => Fault::Reset,
        5..10 => Fault::Lost,
        10..13 => Fault::Status(500),
        13..17 => Fault::Status(503),
        17..20 => Fault::Status(429),
        20..22 => Fault::Truncated,
        22..24 => Fault::Slow,
        _ => Fault::None,
    });
    let file = pipeline(&folder, "p", "s3://hindered/rows", "s3://hindered/run", Some(proxy.port));
    finish(server.sepo(&folder, &file).spawn().unwrap(), 0);
    assert!(proxy.broken() > 20, "{}", proxy.broken());
    assert_same(&written(server, "hindered"), &expected);
}

#[test]
fn a_store_that_is_gone_ends_the_run_with_75_and_it_goes_on_when_the_store_is_back() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    let expected = prepare(server, &folder, "gone");
    let proxy = Proxy::before(server.s3);
    let mut gone = false;
    proxy.plan(move |request| {
        gone |= request.number >= 300 && request.path.contains("/run/");
        if gone { Fault::Reset } else { Fault::None }
    });
    let file = pipeline(&folder, "p", "s3://gone/rows", "s3://gone/run", Some(proxy.port));
    let start = Instant::now();
    let stderr = finish(server.sepo(&folder, &file).spawn().unwrap(), 75);
    assert!(start.elapsed() < Duration::from_secs(35));
    assert!(stderr.contains("s3://gone/run/") && stderr.contains("run the same command again later"), "{stderr}");
    let stderr = finish(server.sepo(&folder, &file).spawn().unwrap(), 75);
    assert!(stderr.contains("stage `rows`: s3://gone/rows"), "{stderr}");

    let mut scored = 0;
    proxy.plan(move |request| {
        scored += u64::from(request.method == "PUT" && request.path.contains("/part-00000.parquet"));
        assert_eq!(scored, 0, "a finished unit is not done again");
        Fault::None
    });
    finish(server.sepo(&folder, &file).spawn().unwrap(), 0);
    assert_same(&written(server, "gone"), &expected);
}

#[test]
fn permission_lost_in_mid_run_ends_it_and_keeps_what_is_finished() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    let expected = prepare(server, &folder, "denied");
    let proxy = Proxy::before(server.s3);
    let mut puts = 0;
    proxy.plan(move |request| {
        puts += u32::from(request.method == "PUT");
        if request.method == "PUT" && puts > 20 { Fault::Status(403) } else { Fault::None }
    });
    let file = pipeline(&folder, "p", "s3://denied/rows", "s3://denied/run", Some(proxy.port));
    let stderr = finish(server.sepo(&folder, &file).spawn().unwrap(), 1);
    assert!(stderr.contains("permission denied") && stderr.contains("check the credentials"), "{stderr}");
    proxy.plan(|request| {
        assert!(!(request.method == "PUT" && request.path.contains("/part-00003.parquet")), "it is there");
        Fault::None
    });
    finish(server.sepo(&folder, &file).spawn().unwrap(), 0);
    assert_same(&written(server, "denied"), &expected);
}

#[test]
fn an_object_replaced_in_mid_run_ends_it_and_the_next_run_takes_the_new_one() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    prepare(server, &folder, "replaced");
    let (name, old) = sources().last().unwrap();
    let new = old.replace("[5, ", "[6, ");
    assert!(new != old && new.len() == old.len());
    let proxy = Proxy::before(server.s3);
    let text = new.clone();
    proxy.plan(move |request| {
        if request.method == "PUT" && request.path.contains("/part-00000.json") {
            assert!(server.put(&format!("replaced/rows/{name}"), text.as_bytes()));
        }
        Fault::None
    });
    let file = pipeline(&folder, "p", "s3://replaced/rows", "s3://replaced/run", Some(proxy.port));
    let stderr = finish(server.sepo(&folder, &file).spawn().unwrap(), 1);
    let expected = "s3://replaced/rows/43.jsonl: the file changed since this run opened it: ";
    assert!(stderr.contains(expected) && stderr.contains("its ETag is another"), "{stderr}");
    proxy.plan(|_| Fault::None);
    finish(server.sepo(&folder, &file).spawn().unwrap(), 0);
    folder.write("rows/43.jsonl", &new);
    folder.succeeds(&["run", &pipeline(&folder, "again", "rows", "again", None)]);
    let expected = rows(folder.path("again/scored").to_str().unwrap().to_owned());
    assert_same(&written(server, "replaced"), &expected);
}

#[test]
fn what_a_store_refuses_is_said_without_keys() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    prepare(server, &folder, "refused");
    let file = pipeline(&folder, "p", "s3://refused/rows", "s3://refused/run", Some(server.s3));
    let said = |keys: [&str; 2], file: &str| {
        let mut command = server.sepo(&folder, file);
        command.env("AWS_ACCESS_KEY_ID", keys[0]).env("AWS_SECRET_ACCESS_KEY", keys[1]);
        let stderr = finish(command.spawn().unwrap(), 1);
        for secret in [keys[0], keys[1], "testsecret", "Signature"] {
            assert!(!stderr.contains(secret), "{stderr}");
        }
        stderr
    };
    for keys in [["rokey", "rosecret"], ["testkey", "wrongsecret"], ["nobodyskey", "wrongsecret"]] {
        assert!(said(keys, &file).contains("permission denied (403 Forbidden"));
    }
    let file = pipeline(&folder, "q", "s3://refused/rows", "s3://nowhere/run", Some(server.s3));
    assert!(said(["testkey", "testsecret"], &file).contains("no such bucket"));
}

#[test]
fn a_file_of_several_parts_comes_through_the_same_network() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    assert!(server.put("parts/x", b""));
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let row = |row: usize| {
        let mut bytes = vec![0; 8000];
        random.fill_bytes(&mut bytes);
        let text: String = bytes.iter().map(|byte| char::from(35 + byte % 57)).collect();
        format!("{{\"row_id\": {row}, \"prompt\": \"{text}\", \"chosen\": \"a\", \"rejected\": \"b\"}}\n")
    };
    let rows_in: String = (0..4000).map(row).collect();
    let source = folder.write("rows.jsonl", &rows_in.replace('\\', "/"));
    let proxy = Proxy::before(server.s3);
    proxy.plan(|request| match (request.method.as_str(), request.number % 5) {
        ("PUT" | "POST", 0) => Fault::Reset,
        ("PUT" | "POST", 2) => Fault::Lost,
        ("PUT" | "POST", 4) => Fault::Status(503),
        _ => Fault::None,
    });
    let text = format!(
        "workdir: run\nstorage: {{ endpoint: \"http://127.0.0.1:{}\", allow_http: true }}\nstages:\n  \
         pairs: {{ read: {{ from: {} }} }}\n  out: {{ write: {{ input: pairs, to: \"s3://parts/out\" }} }}\n",
        proxy.port,
        source.display()
    );
    let file = folder.write("p.yaml", &text);
    finish(server.sepo(&folder, file.to_str().unwrap()).spawn().unwrap(), 0);
    assert!(proxy.broken() > 2, "{}", proxy.broken());
    let read = rows(server.open_url("parts/out/train-00000-of-00001.parquet"));
    let ids = read.column_by_name("row_id").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
    assert_eq!(ids.values().to_vec(), (0..4000).collect::<Vec<i64>>());
}

/// A training of 12 steps with a checkpoint after every other step, and a second pipeline that uses its model.
fn training(folder: &Folder, name: &str, out: &str, port: u16) -> [String; 2] {
    let data = repository().join("data/quickstart");
    let data = data.display();
    let head = format!(
        "storage: {{ endpoint: \"http://127.0.0.1:{port}\", allow_http: true }}\nstages:\n  \
         pairs: {{ read: {{ from: {data}/train.parquet, limit: 30 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n"
    );
    let train = format!(
        "workdir: {out}\nmodels:\n  base:\n    tokenizer: {data}/tokenizer\n    init:\n      \
         {{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, \
         num_attention_heads: 2, max_position_embeddings: 256, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }}\n\
         {head}  tuned:\n    train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, epochs: 3, \
         batch_size: 8, learning_rate: 0.01, checkpoint: {{ every: 2, keep: 1 }}, log_every: 1 }}\n"
    );
    let apply = format!(
        "workdir: {out}-applied\nmodels: {{ base: {{ path: \"{out}/models/tuned\" }} }}\n{head}  \
         scored: {{ score: {{ input: tokens, reference: base }} }}\n"
    );
    [
        folder.write(&format!("{name}.yaml"), &train).to_str().unwrap().to_owned(),
        folder.write(&format!("{name}-applied.yaml"), &apply).to_str().unwrap().to_owned(),
    ]
}

#[test]
fn a_training_in_a_store_goes_on_from_its_checkpoint_and_its_model_is_used_from_there() {
    let Some(server) = server() else { return };
    let folder = Folder::new();
    assert!(server.put("trained/x", b""));
    let [local, _] = training(&folder, "local", "local", server.s3);
    folder.succeeds(&["run", &local]);
    let proxy = slow(server);
    let [train, apply] = training(&folder, "remote", "s3://trained/run", proxy.port);
    for milliseconds in [250, 350, 450] {
        let mut child = server.sepo(&folder, &train).spawn().unwrap();
        sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    finish(server.sepo(&folder, &train).spawn().unwrap(), 0);
    // Another machine: nothing of the training is here.
    std::fs::remove_dir_all(folder.path("cache")).unwrap();
    finish(server.sepo(&folder, &apply).spawn().unwrap(), 0);
    let copies = std::fs::read_dir(folder.path("cache/models")).unwrap();
    let copy = copies.map(|entry| entry.unwrap().path()).find(|path| path.join("config.json").is_file()).unwrap();
    let weights = |path: std::path::PathBuf| std::fs::read(path.join("model.safetensors")).unwrap();
    assert_eq!(weights(copy.clone()), weights(folder.path("local/models/tuned")));
    let card = std::fs::read_to_string(copy.join("README.md")).unwrap();
    assert!(!card.contains("cache"), "{card}");

    let metrics = |text: String| {
        let steps = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["step"].clone(), line["loss"].clone())
        });
        steps.collect::<Vec<_>>()
    };
    let url = server.open_url("trained/run/logs/tuned/metrics.jsonl");
    let bytes = sepo::io::Location::parse(&url).unwrap().read().unwrap().unwrap();
    let local = std::fs::read_to_string(folder.path("local/logs/tuned/metrics.jsonl")).unwrap();
    assert_eq!(metrics(String::from_utf8(bytes.to_vec()).unwrap()), metrics(local));
}
