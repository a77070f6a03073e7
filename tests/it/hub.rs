//! Models and datasets from a hub on this machine: what is fetched and what is not, connections that break, contents that
//! are not what they should be, no network, and refusals.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sepo::Error;
use sepo::io::hub::{Address, Hub, Settings, Snapshot};
use sepo::monitor::{Monitor, Silent};

use crate::harness::{Folder, repository};
use crate::hub_server::{Fault, HubServer, Repository, etag};

const CONFIG: &[u8] = b"{\"model_type\": \"llama\"}";

/// A hub with one model, `org/model`, and a cache of its own.
struct Place {
    server: HubServer,
    folder: Folder,
    weights: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let server = HubServer::start();
        let weights: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let files: [(&str, &[u8]); 7] = [
            ("README.md", b"# A model"),
            ("config.json", CONFIG),
            ("tokenizer.json", b"{}"),
            ("model.safetensors", &weights),
            ("consolidated.safetensors", &weights),
            ("pytorch_model.bin", b"no"),
            ("nested folder/config.json", b"{ }"),
        ];
        server.add("models/org/model", &files);
        Self { server, folder: Folder::new(), weights }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.server.endpoint.clone(),
            cache: self.folder.path("hub"),
            token: Some("secret".into()),
            offline: false,
            pause: Duration::from_millis(1),
        }
    }

    fn open(&self, address: &str) -> sepo::Result<(Hub, Snapshot)> {
        let hub = Hub::new(self.settings());
        let snapshot = hub.open(&Address::parse(address).unwrap().unwrap())?;
        Ok((hub, snapshot))
    }

    /// Fetches description and weights.
    fn fetch(&self, address: &str, monitor: &dyn Monitor) -> sepo::Result<Snapshot> {
        let (hub, snapshot) = self.open(address)?;
        hub.fetch(&snapshot, &snapshot.model_description(), monitor)?;
        hub.fetch(&snapshot, &snapshot.model_weights(), monitor)?;
        Ok(snapshot)
    }

    fn error(&self, address: &str) -> String {
        self.fetch(address, &Silent).unwrap_err().to_string()
    }

    fn cached(&self, path: &str) -> std::path::PathBuf {
        self.folder.path("hub/models--org--model").join(path)
    }

    /// `sepo` with this hub and cache.
    fn sepo(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sepo"));
        for variable in
            ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "HF_HOME", "HTTP_PROXY", "http_proxy"]
        {
            command.env_remove(variable);
        }
        let hub = self.folder.path("hub");
        let command =
            command.env("HF_ENDPOINT", &self.server.endpoint).env("HF_HUB_CACHE", hub).env("HF_TOKEN", "secret");
        command.current_dir(self.folder.path("")).args(arguments).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> (String, String) {
        let Output { status, stdout, stderr } = self.sepo(arguments);
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(status.success(), "{arguments:?}: {stderr}");
        (stdout, stderr)
    }
}

#[test]
fn a_model_is_fetched_once_and_lies_where_python_looks() {
    let place = Place::new();
    let snapshot = place.fetch("hf://org/model", &Silent).unwrap();
    let commit = "a".repeat(40);
    assert_eq!(fs::read_to_string(place.cached("refs/main")).unwrap(), commit);
    let folder = place.cached("snapshots").join(&commit);
    assert_eq!(snapshot.model_folder(), folder);
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    let link = fs::read_link(folder.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(etag(&place.weights)));
    let link = fs::read_link(folder.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(etag(CONFIG)));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), place.weights);
    let blobs = fs::read_dir(place.cached("blobs")).unwrap().count();
    assert_eq!(blobs, 3);

    let requests = place.server.requests();
    assert!(requests.iter().any(|request| request.contents), "{requests:?}");
    for request in requests {
        let expected = (!request.contents).then_some("secret");
        assert_eq!(request.token.as_deref(), expected, "the token is the hub's alone: {request:?}");
    }
    place.fetch("hf://org/model", &Silent).unwrap();
    let paths: Vec<String> = place.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/api/models/org/model/revision/main?blobs=true"]);

    // A new commit with one new file: what did not change is not fetched again.
    place.server.change("models/org/model", |model| {
        model.commit = "b".repeat(40);
        model.files.insert("config.json".into(), b"{\"model_type\": \"qwen2\"}".to_vec());
    });
    let snapshot = place.fetch("hf://org/model", &Silent).unwrap();
    assert_eq!(fs::read(snapshot.local("model.safetensors")).unwrap(), place.weights);
    let paths: Vec<String> = place.server.requests().into_iter().skip(1).map(|request| request.path).collect();
    assert_eq!(paths, [format!("/org/model/resolve/{}/config.json", "b".repeat(40))]);
}

#[test]
fn folders_revisions_and_new_names() {
    let place = Place::new();
    let commit = "a".repeat(40);
    let snapshot = place.fetch(&format!("hf://org/model@{commit}/nested folder"), &Silent).unwrap();
    assert_eq!(fs::read_to_string(snapshot.model_folder().join("config.json")).unwrap(), "{ }");
    assert!(fs::read_link(snapshot.model_folder().join("config.json")).unwrap().starts_with("../../../blobs"));
    place.server.put("models/old/name", Repository { moved: Some("org/model".into()), ..Repository::default() });
    place.server.requests();
    let snapshot = place.fetch("hf://old/name", &Silent).unwrap();
    assert_eq!(fs::read(snapshot.local("config.json")).unwrap(), CONFIG);
    assert!(place.server.requests().iter().all(|request| request.contents || request.token.is_some()));
    // A server that only lists names, so that digests come with the contents.
    place.server.change("models/org/model", |model| model.names_only = true);
    fs::remove_dir_all(place.folder.path("hub")).unwrap();
    place.fetch("hf://org/model", &Silent).unwrap();
    assert!(place.cached("blobs").join(etag(&place.weights)).is_file());
}

#[test]
fn shards_are_those_that_the_index_names() {
    let place = Place::new();
    place.server.change("models/org/model", |model| {
        let index =
            r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        let files = [
            ("model.safetensors.index.json", index),
            ("model-00001-of-00002.safetensors", "1"),
            ("model-00002-of-00002.safetensors", "2"),
        ];
        model.files.extend(files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())));
    });
    let (hub, snapshot) = place.open("hf://org/model").unwrap();
    hub.fetch(&snapshot, &snapshot.model_description(), &Silent).unwrap();
    assert_eq!(snapshot.model_weights(), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
}

#[test]
fn what_python_fetched_is_found_without_a_network() {
    let place = Place::new();
    let commit = "c".repeat(40);
    // As huggingface_hub lays it out, with the commit of a branch and one file in a folder.
    for (path, content) in [("config.json", CONFIG), ("sub/tokenizer.json", b"{}")] {
        let file = place.cached("snapshots").join(&commit).join(path);
        let blob = place.cached("blobs").join(etag(content));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, content).unwrap();
        let up = if path.contains('/') { "../../.." } else { "../.." };
        std::os::unix::fs::symlink(Path::new(up).join("blobs").join(etag(content)), file).unwrap();
    }
    fs::create_dir_all(place.cached("refs")).unwrap();
    fs::write(place.cached("refs/v1"), &commit).unwrap();
    let hub = Hub::new(Settings { offline: true, ..place.settings() });
    for revision in ["v1", commit.as_str()] {
        let address = Address::parse(&format!("hf://org/model@{revision}")).unwrap().unwrap();
        let snapshot = hub.open(&address).unwrap();
        assert_eq!(snapshot.files().collect::<Vec<_>>(), ["config.json", "sub/tokenizer.json"]);
        hub.fetch(&snapshot, &snapshot.model_description(), &Silent).unwrap();
        assert_eq!(snapshot.model_folder(), place.cached("snapshots").join(&commit));
    }
    let error = hub.open(&Address::parse("hf://org/other").unwrap().unwrap()).unwrap_err().to_string();
    assert!(error.contains("hf://org/other: not in ") && error.contains("HF_HUB_OFFLINE forbids"), "{error}");
    assert!(place.server.requests().is_empty());
    // A hub that cannot be reached is no obstacle either.
    let hub = Hub::new(Settings { endpoint: "http://127.0.0.1:9".into(), ..place.settings() });
    assert!(hub.open(&Address::parse("hf://org/model@v1").unwrap().unwrap()).is_ok());
    let error = hub.open(&Address::parse("hf://org/model").unwrap().unwrap()).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1 cannot be reached: ") && error.exit_code() == 75, "{error}");
}

#[test]
fn broken_connections_go_on_where_they_broke() {
    let place = Place::new();
    place.server.fail(&[
        Fault::Whole,
        Fault::Whole,
        Fault::Cut(100_000),
        Fault::Unavailable,
        Fault::Cut(50_000),
        Fault::Cut(0),
    ]);
    place.fetch("hf://org/model", &Silent).unwrap();
    let asked: Vec<_> =
        place.server.requests().into_iter().filter(|request| request.contents).map(|r| r.range).collect();
    let at = |bytes: &str| Some(bytes.to_owned());
    assert_eq!(asked, [None, at("bytes=100000-"), at("bytes=100000-"), at("bytes=150000-"), at("bytes=150000-")]);
    assert_eq!(fs::read(place.cached("blobs").join(etag(&place.weights))).unwrap(), place.weights);

    // A server that ignores the range begins again.
    fs::remove_dir_all(place.folder.path("hub")).unwrap();
    place.server.fail(&[Fault::Whole, Fault::Whole, Fault::Cut(100_000), Fault::Whole]);
    place.fetch("hf://org/model", &Silent).unwrap();
    assert_eq!(fs::read(place.cached("blobs").join(etag(&place.weights))).unwrap(), place.weights);
}

#[test]
fn a_connection_that_keeps_breaking_is_an_error_and_its_part_is_kept() {
    let place = Place::new();
    let faults = [vec![Fault::Whole, Fault::Whole, Fault::Cut(70_000)], vec![Fault::Cut(0); 5]].concat();
    place.server.fail(&faults);
    let error = place.fetch("hf://org/model", &Silent).unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert!(error.to_string().starts_with("hf://org/model/model.safetensors: the connection "), "{error}");
    let part = place.cached("blobs").join(format!("{}.incomplete", etag(&place.weights)));
    assert_eq!(fs::metadata(&part).unwrap().len(), 70_000);
    place.server.requests();
    place.fetch("hf://org/model", &Silent).unwrap();
    let asked = place.server.requests().into_iter().find(|request| request.contents).unwrap();
    assert_eq!(asked.range.as_deref(), Some("bytes=70000-"));
    assert!(!part.exists());
}

#[test]
fn a_content_that_is_not_the_hub_s_is_never_used() {
    let place = Place::new();
    place.server.fail(&[Fault::Whole, Fault::Whole, Fault::Damaged]);
    let error = place.error("hf://org/model");
    let expected = "hf://org/model/model.safetensors: the content's digest is ";
    assert!(error.starts_with(expected) && error.contains(&format!(", not {}", etag(&place.weights))), "{error}");
    assert!(!place.cached("snapshots").join("a".repeat(40)).join("model.safetensors").exists());
    assert_eq!(fs::read_dir(place.cached("blobs")).unwrap().count(), 2);
    // A damaged start from an earlier run is fetched anew.
    let part = place.cached("blobs").join(format!("{}.incomplete", etag(&place.weights)));
    fs::write(&part, vec![0; 5000]).unwrap();
    place.fetch("hf://org/model", &Silent).unwrap();
    place.server.fail(&[Fault::Damaged]);
    fs::remove_dir_all(place.folder.path("hub")).unwrap();
    let error = place.error("hf://org/model");
    assert!(error.starts_with("hf://org/model/config.json: the content's digest is "), "{error}");
}

/// Counts bytes; asks for a stop from the first on.
#[derive(Default)]
struct Counter {
    total: AtomicU64,
    done: AtomicU64,
    stop: bool,
}

impl Monitor for Counter {
    fn begin(&self, _: &str, total: Option<u64>, unit: &'static str) {
        assert_eq!(unit, "bytes");
        self.total.fetch_add(total.unwrap(), Ordering::Relaxed);
    }
    fn advance(&self, n: u64, _: &str) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }
    fn skip(&self, _: u64) {}
    fn end(&self) {}
    fn stopping(&self) -> bool {
        self.stop && self.done.load(Ordering::Relaxed) > 0
    }
}

#[test]
fn progress_is_told_in_bytes_and_a_stop_keeps_what_came() {
    let place = Place::new();
    let stop = Counter { stop: true, ..Counter::default() };
    assert!(matches!(place.fetch("hf://org/model", &stop), Err(Error::Interrupted)));
    fs::remove_dir_all(place.folder.path("hub")).unwrap();
    let counter = Counter::default();
    place.fetch("hf://org/model", &counter).unwrap();
    let size = (CONFIG.len() + 2 + place.weights.len()) as u64;
    assert_eq!((counter.total.into_inner(), counter.done.into_inner()), (size, size));
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    let with = |token: Option<&str>, address: &str| {
        let hub = Hub::new(Settings { token: token.map(str::to_owned), ..place.settings() });
        let snapshot = hub.open(&Address::parse(address).unwrap().unwrap());
        snapshot.and_then(|snapshot| hub.fetch(&snapshot, &snapshot.model_description(), &Silent)).unwrap_err()
    };
    place.server.change("models/org/model", |model| model.private = Some("secret".into()));
    let error = with(None, "hf://org/model");
    let page = format!("{}/org/model", place.server.endpoint);
    assert!(error.to_string().contains(&format!("a private one: look at {page}; ")), "{error}");
    assert!(error.to_string().contains("HF_TOKEN") && error.exit_code() == 1, "{error}");
    let error = with(Some("other"), "hf://org/model").to_string();
    assert!(error.contains("the token in use may not read it") && !error.contains("other"), "{error}");
    let error = with(Some("secret"), "hf://org/nothing").to_string();
    assert!(error.contains("not found: look at "), "{error}");
    let error = with(Some("secret"), "hf://org/model@v9").to_string();
    assert!(error.starts_with("hf://org/model@v9: no revision `v9`"), "{error}");
    place.server.change("models/org/model", |model| model.gated = true);
    let error = with(Some("secret"), "hf://org/model").to_string();
    assert!(error.contains(&format!("access is granted on request: ask for it at {page}")), "{error}");
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let place = Place::new();
    for name in ["../../outside", "/etc/outside", "a/../../outside"] {
        place.server.add("models/org/evil", &[(name, b"x"), ("config.json", b"{}")]);
        let error = place.error("hf://org/evil");
        assert!(error.contains(&format!("a file `{name}`, which would lie outside")), "{error}");
    }
    let before = fs::read_dir(place.folder.path("")).unwrap().count();
    place.server.change("models/org/evil", |model| {
        model.commit = "../../../commit".into();
        model.files.clear();
    });
    assert!(place.error("hf://org/evil").contains("names no commit"));
    assert_eq!(fs::read_dir(place.folder.path("")).unwrap().count(), before);
}

#[test]
fn datasets_are_files_folders_and_patterns() {
    let place = Place::new();
    let data = fs::read(repository().join("data/quickstart/test.parquet")).unwrap();
    let lines = b"{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n";
    let files: [(&str, &[u8]); 6] = [
        ("README.md", b"# Pairs"),
        ("dataset_infos.json", b"{}"),
        ("data/test-00000-of-00001.parquet", &data),
        ("data/train-00000-of-00002.parquet", &data),
        ("data/train-00001-of-00002.parquet", &data),
        ("plain/rows.jsonl", lines),
    ];
    place.server.add("datasets/org/pairs", &files);
    let rows = |path: &str| {
        let (text, _) = place.succeeds(&["inspect", &format!("hf://datasets/org/pairs{path}"), "--json"]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["rows"].as_u64().unwrap()
    };
    let one = rows("/data/test-00000-of-00001.parquet");
    let contents = |requests: Vec<crate::hub_server::Request>| {
        requests
            .into_iter()
            .filter(|request| request.path.contains("/resolve/"))
            .map(|request| request.path)
            .collect::<Vec<_>>()
    };
    let fetched = contents(place.server.requests());
    assert!(fetched.len() == 1 && fetched[0].ends_with("data/test-00000-of-00001.parquet"), "{fetched:?}");
    assert_eq!(rows("/data/train-*.parquet"), 2 * one);
    assert_eq!(rows("@main/data"), 3 * one);
    assert_eq!(rows("/**/*.jsonl"), 1);
    // The same content is fetched once, whatever it is called.
    let fetched = contents(place.server.requests());
    assert!(fetched.len() == 1 && fetched[0].ends_with("rows.jsonl"), "{fetched:?}");
    let failed = place.sepo(&["inspect", "hf://datasets/org/pairs/data/x-*.parquet"]);
    let stderr = String::from_utf8(failed.stderr).unwrap();
    assert!(stderr.contains("hf://datasets/org/pairs/data/x-*.parquet: no file matches"), "{stderr}");
    place.server.change("datasets/org/pairs", |pairs| pairs.names_only = true);
    fs::remove_dir_all(place.folder.path("hub")).unwrap();
    assert_eq!(rows("/data"), 3 * one);
}

#[test]
fn a_pipeline_takes_its_model_and_its_data_from_the_hub() {
    let place = Place::new();
    let quickstart = repository().join("data/quickstart");
    let init = "{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, \
                num_attention_heads: 2, max_position_embeddings: 256, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }";
    let tokenizer = quickstart.join("tokenizer").display().to_string();
    let train = fs::read(quickstart.join("train.parquet")).unwrap();
    place.server.add("datasets/org/pairs", &[("data/train.parquet", &train)]);
    let first = format!(
        "\
workdir: first
models: {{ base: {{ tokenizer: {tokenizer}, init: {init} }} }}
stages:
  pairs: {{ read: {{ from: \"hf://datasets/org/pairs/data/*.parquet\", limit: 8 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  small: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, batch_size: 8 }} }}
"
    );
    place.folder.write("first.yaml", &first);
    place.succeeds(&["run", "first.yaml"]);
    let model = place.folder.path("first/models/small");
    let read = |name: &str| fs::read(model.join(name)).unwrap();
    let names: Vec<String> =
        fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let files: Vec<(String, Vec<u8>)> = names.into_iter().map(|name| (name.clone(), read(&name))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    place.server.add("models/org/small", &files);

    place.folder.write(
        "second.yaml",
        "\
workdir: second
models: { small: { path: hf://org/small@main } }
stages:
  pairs: { read: { from: hf://datasets/org/pairs/data/train.parquet, limit: 8 } }
  tokens: { tokenize: { input: pairs, tokenizer: small } }
  scored: { score: { input: tokens, reference: small } }
",
    );
    let weights = |requests: Vec<crate::hub_server::Request>| {
        requests.iter().filter(|request| request.path.ends_with("model.safetensors") && request.method == "GET").count()
    };
    place.server.requests();
    place.succeeds(&["check", "second.yaml"]);
    let (plan, _) = place.succeeds(&["plan", "second.yaml"]);
    assert!(plan.contains("scored"), "{plan}");
    assert_eq!(weights(place.server.requests()), 0, "planning needs no weights");
    let (report, stderr) = place.succeeds(&["run", "second.yaml", "--json"]);
    assert!(report.contains("\"rows_out\":8") && stderr.contains("hf://org/small@main: "), "{report}\n{stderr}");
    assert_eq!(weights(place.server.requests()), 1);
    // Running again asks what `main` means, and nothing else.
    let (again, _) = place.succeeds(&["run", "second.yaml", "--json"]);
    assert_eq!(crate::harness::report(&report), crate::harness::report(&again));
    assert!(place.server.requests().iter().all(|request| request.path.starts_with("/api/")));

    place.folder.write(
        "third.yaml",
        &first.replace("tokenizer: /", "tokenizer: hf://org/none/").replace("pairs/data", "none/data"),
    );
    let failed = place.sepo(&["check", "third.yaml"]);
    let stderr = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("third.yaml:2:") && stderr.contains("third.yaml:4:"), "{stderr}");
}
