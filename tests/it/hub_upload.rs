//! Datasets and models onto a hub on this machine: one commit, what is not sent again, files of others, tokens, cards.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Folder, repository};
use crate::hub_server::{HubServer, Repository, etag};

const FILE: &str = "train-00000-of-00001.parquet";

/// A hub, and a folder with pipelines.
pub(crate) struct Place {
    pub(crate) server: HubServer,
    folder: Folder,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { server: HubServer::start(), folder: Folder::new() }
    }

    pub(crate) fn pairs(&self, count: u32) {
        let row = |index: u32| {
            // Text that does not compress to nothing.
            let noise: String =
                (0..40_u32).map(|at| format!("{:x}", (index * 40 + at).wrapping_mul(2_654_435_761))).collect();
            let (prompt, chosen) = (format!("Question {index}?"), format!("Good {noise}"));
            format!("{}\n", json!({ "prompt": prompt, "chosen": chosen, "rejected": format!("Bad {index}") }))
        };
        self.folder.write("pairs.jsonl", &(0..count).map(row).collect::<String>());
    }

    /// A pipeline `name` with these settings of `write`.
    pub(crate) fn writes(&self, name: &str, settings: &str) {
        let read = "pairs: { read: { from: pairs.jsonl } }";
        let text = format!("workdir: run\nstages:\n  {read}\n  out: {{ write: {{ input: pairs, {settings} }} }}\n");
        self.folder.write(name, &text);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sepo"));
        for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(variable);
        }
        let hub = self.folder.path("hub");
        command.env("HF_ENDPOINT", &self.server.endpoint).env("HF_HOME", hub).env("HF_TOKEN", "secret");
        command.current_dir(self.folder.path("")).args(arguments);
        command
    }

    fn ends(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    pub(crate) fn runs(&self, arguments: &[&str]) -> String {
        let (code, said) = self.ends(arguments);
        assert_eq!(code, Some(0), "{said}");
        said
    }

    fn fails(&self, expected: i32, arguments: &[&str], message: &str) {
        let (code, said) = self.ends(arguments);
        assert!(code == Some(expected) && said.contains(message), "{code:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }

    pub(crate) fn commits(&self) -> Vec<(String, Vec<Value>)> {
        self.server.uploads(|uploads| uploads.commits.clone())
    }

    fn file(&self, name: &str, path: &str) -> Vec<u8> {
        self.server.repository(name).unwrap().files[path].clone()
    }

    fn card(&self, name: &str) -> String {
        String::from_utf8(self.file(name, "README.md")).unwrap()
    }
}

/// What the lines of a commit are, and of which file.
fn keys(commit: &[Value]) -> Vec<(&str, &str)> {
    fn key(line: &Value) -> (&str, &str) {
        (line["key"].as_str().unwrap(), line["value"]["path"].as_str().unwrap_or_default())
    }
    commit.iter().map(key).collect()
}

#[test]
fn rows_go_up_in_one_commit_with_a_card_and_once() {
    let place = Place::new();
    place.pairs(20);
    place.writes("up.yaml", "to: hf://datasets/org/scored, create: private");
    place.runs(&["check", "up.yaml"]);
    assert!(place.server.repository("datasets/org/scored").is_none(), "a check makes nothing");
    place.server.requests();
    let said = place.runs(&["run", "up.yaml"]);
    assert!(said.contains(&format!("wrote hf://datasets/org/scored/{FILE}")), "{said}");
    let commits = place.commits();
    assert_eq!(commits.len(), 1);
    let (name, lines) = &commits[0];
    assert_eq!(name, "datasets/org/scored");
    assert_eq!(keys(lines), [("header", ""), ("lfsFile", FILE), ("lfsFile", "README.md")]);
    let made = place.server.repository(name).unwrap();
    assert!(made.closed && made.files.contains_key(".gitattributes"));
    let requests = place.server.requests();
    assert!(requests.iter().any(|request| request.contents && request.method == "PUT"));
    for request in &requests {
        let expected = (!request.contents).then_some("secret");
        assert_eq!(
            request.token.as_deref(),
            expected,
            "the token is the hub's alone: {} {}",
            request.method,
            request.path
        );
    }
    // What was made on the way is gone, and nothing in the repository names a place of this machine.
    assert_eq!(fs::read_dir(place.folder.path("run/uploads")).unwrap().count(), 0);
    let card = place.card(name);
    let machine = place.folder.path("").canonicalize().unwrap();
    for part in [
        "config_name: \"default\"",
        "split: \"train\"",
        "num_examples: 20",
        "{\"name\":\"chosen\",\"list\":[{\"name\":\"role\"",
        "`pairs.jsonl`",
        "| `pairs` | 20 | 20 | 0 |",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    for content in [&card.clone().into_bytes(), &made.files[FILE]] {
        assert!(!String::from_utf8_lossy(content).contains(machine.to_str().unwrap()));
    }
    assert_eq!(card.matches("\n- sepo\n").count(), 1);

    // The same command again asks what is there, and nothing else; so does a run that computes all of it again.
    let again = place.runs(&["run", "up.yaml"]);
    assert!(again.contains(FILE), "{again}");
    assert!(place.server.requests().iter().all(|request| request.method == "GET"));
    place.runs(&["run", "up.yaml", "--fresh"]);
    assert!(place.server.requests().iter().all(|request| request.method != "PUT"));
    assert_eq!(place.commits().len(), 1);
    // Another workdir does not know the files; it may take them for its own if it is told to, and they are the same.
    let other = |settings: &str| {
        place.writes("other.yaml", settings);
        let text =
            fs::read_to_string(place.folder.path("other.yaml")).unwrap().replace("workdir: run", "workdir: other");
        place.folder.write("other.yaml", &text);
    };
    other("to: hf://datasets/org/scored");
    place.fails(
        78,
        &["run", "other.yaml"],
        &format!("hf://datasets/org/scored holds `{FILE}`, which sepo did not upload"),
    );
    other("to: hf://datasets/org/scored, overwrite: true");
    place.server.change("datasets/org/scored", |repository| drop(repository.files.remove("README.md")));
    place.runs(&["run", "other.yaml"]);
    let (_, lines) = place.commits().remove(1);
    assert_eq!(keys(&lines), [("header", ""), ("lfsFile", "README.md")], "only what was not there");
}

#[test]
fn new_rows_replace_the_old_ones_and_files_that_are_no_more_go() {
    let place = Place::new();
    place.pairs(20);
    place.writes("up.yaml", "to: hf://datasets/org/scored, create: public");
    place.runs(&["run", "up.yaml"]);
    assert!(!place.server.repository("datasets/org/scored").unwrap().closed);
    let first = place.file("datasets/org/scored", FILE);
    place.pairs(30);
    place.runs(&["run", "up.yaml"]);
    assert_ne!(place.file("datasets/org/scored", FILE), first);
    place.writes("up.yaml", "to: hf://datasets/org/scored, split: dev");
    place.runs(&["run", "up.yaml"]);
    let dev = FILE.replace("train", "dev");
    let (_, lines) = place.commits().pop().unwrap();
    assert_eq!(
        keys(&lines),
        [("header", ""), ("lfsFile", dev.as_str()), ("lfsFile", "README.md"), ("deletedFile", FILE)]
    );
    let put = place.server.requests().into_iter().filter(|request| request.method == "PUT").count();
    assert_eq!(
        put,
        2 + 3,
        "two contents of rows and three cards: rows that are there under another name are not sent again"
    );
    let card = place.card("datasets/org/scored");
    assert!(card.contains("split: \"dev\"") && !card.contains("split: \"train\""), "{card}");
    // A file that somebody changed on the hub is not ours any more.
    place
        .server
        .change("datasets/org/scored", |repository| drop(repository.files.insert(dev.clone(), b"theirs".to_vec())));
    place.fails(
        78,
        &["run", "up.yaml"],
        &format!("holds `{dev}`, which sepo did not upload from this workdir or which changed"),
    );
    place.writes("up.yaml", "to: hf://datasets/org/scored, split: dev, overwrite: true");
    place.runs(&["run", "up.yaml"]);
    assert_ne!(place.file("datasets/org/scored", &dev), b"theirs");
}

#[test]
fn splits_and_folders_of_several_stages_are_in_one_card() {
    let place = Place::new();
    place.pairs(20);
    let card = b"---\nlicense: cc-by-4.0\n---\n# Theirs".to_vec();
    let rows = fs::read(place.folder.path("pairs.jsonl")).unwrap();
    place.server.add("datasets/org/source", &[("README.md", &card), ("data/rows.jsonl", &rows)]);
    let write =
        |to: &str, split: &str| format!("{{ write: {{ input: pairs, to: {to}, split: {split}, create: private }} }}");
    let to = "hf://datasets/org/scored@runs%2Ffirst";
    let text = format!(
        "workdir: run\nstages:\n  pairs: {{ read: {{ from: hf://datasets/org/source/data/rows.jsonl }} }}\n  a: {}\n  b: {}\n  c: {}\n",
        write(to, "train"),
        write(to, "test"),
        write(&format!("{to}/sub/folder"), "train"),
    );
    place.folder.write("up.yaml", &text);
    let said = place.runs(&["run", "up.yaml"]);
    assert!(said.contains(&format!("wrote {to}/sub/folder/{FILE}")), "{said}");
    let name = "datasets/org/scored@runs/first";
    let names: Vec<String> = place.server.repository(name).unwrap().files.into_keys().collect();
    let test = FILE.replace("train", "test");
    let below = format!("sub/folder/{FILE}");
    assert_eq!(names, [".gitattributes", "README.md", below.as_str(), test.as_str(), FILE]);
    let card = place.card(name);
    for part in [
        "license: \"cc-by-4.0\"",
        "path: \"sub/folder/train-*.parquet\"",
        "config_name: \"sub-folder\"",
        "split: \"test\"",
        "license of `hf://datasets/org/source` | cc-by-4.0",
        "`hf://datasets/org/source/data/rows.jsonl`",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    // A card that somebody wrote stays, whatever else changes.
    place.server.requests();
    place.server.change(name, |repository| drop(repository.files.insert("README.md".into(), b"# Edited".to_vec())));
    place.runs(&["run", "up.yaml"]);
    assert!(place.server.requests().iter().all(|request| request.method == "GET"));
    place.folder.write("up.yaml", &text.replace("split: test", "split: dev"));
    let said = place.runs(&["run", "up.yaml"]);
    assert!(said.contains("somebody else wrote the README.md of hf://datasets/org/scored"), "{said}");
    assert_eq!(place.card(name), "# Edited");
    place.folder.write("up.yaml", &text.replace("split: test", "split: train"));
    place.fails(78, &["check", "up.yaml"], "stage `a` uploads files of the same names into this folder");
}

#[test]
fn what_a_check_can_find_it_finds() {
    let place = Place::new();
    place.pairs(2);
    let check = |settings: &str, message: &str| {
        place.writes("up.yaml", settings);
        place.fails(78, &["check", "up.yaml"], message);
    };
    check(
        "to: hf://datasets/org/none",
        "no such repository, or none that the token in use may see; `create: private` makes it",
    );
    check("to: hf://org/model", "is not the address of a dataset");
    check("to: hf://datasets/name, create: private", "does not say whose repository it is");
    check("to: hf://datasets/a b/c", "the form is hf://org/name");
    check("to: out, create: private", "only a repository of the hub is made");
    place.server.add("datasets/org/theirs", &[("README.md", b"# Theirs"), ("data.parquet", b"theirs")]);
    check("to: hf://datasets/org/theirs", "holds `data.parquet`, which sepo did not upload");
    check("to: hf://datasets/org/theirs@v2", "no branch `v2`");
    place.writes("up.yaml", "to: hf://datasets/org/none, create: private");
    place.runs(&["check", "up.yaml"]);
    for (variable, value, message) in [
        ("HF_TOKEN", "", "an upload needs a token with the role `write`"),
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE forbids to upload"),
    ] {
        let output = place.command(&["check", "up.yaml"]).env(variable, value).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(78) && stderr.contains(message), "{stderr}");
    }
    let pairs = "pairs: { read: { from: hf://datasets/org/theirs } }";
    place.folder.write(
        "up.yaml",
        &format!(
            "workdir: run\nstages:\n  {pairs}\n  out: {{ write: {{ input: pairs, to: hf://datasets/org/theirs/x }} }}\n"
        ),
    );
    place.server.add(
        "datasets/org/theirs",
        &[("rows.jsonl", b"{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n")],
    );
    place.fails(78, &["check", "up.yaml"], "the next run would read what this one uploads");
}

#[test]
fn a_repository_that_comes_out_public_gets_nothing() {
    let place = Place::new();
    place.pairs(2);
    place.server.uploads(|uploads| uploads.all_public = true);
    place.writes("up.yaml", "to: hf://datasets/org/scored, create: private");
    place.fails(1, &["run", "up.yaml"], "the repository was to be private and is not");
    assert!(place.commits().is_empty() && place.server.uploads(|uploads| uploads.stored.is_empty()));
    // Somebody with another token may look, and not write.
    place.server.uploads(|uploads| uploads.all_public = false);
    let output = place.command(&["run", "up.yaml"]).env("HF_TOKEN", "reader").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("the token may not write to"), "{stderr}");
    assert!(!stderr.contains("reader"), "{stderr}");
}

#[test]
fn a_model_goes_up_after_its_training_and_its_card_names_no_folder() {
    let place = Place::new();
    let quickstart = repository().join("data/quickstart");
    let (data, tokenizer) = (quickstart.join("train.parquet"), quickstart.join("tokenizer"));
    let init = "{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, \
                num_attention_heads: 2, max_position_embeddings: 256, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }";
    let pipeline = |to: &str| {
        let machine = place.folder.path("").canonicalize().unwrap().display().to_string();
        let text = format!(
            "workdir: {machine}/run\nmodels: {{ base: {{ tokenizer: {}, init: {init} }} }}\nstages:\n  \
             pairs: {{ read: {{ from: {}, limit: 8 }} }}\n  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n  \
             whole: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, batch_size: 8, {to} }} }}\n  \
             small: {{ train: {{ input: tokens, model: whole, objective: {{ sft: {{}} }}, lora: {{ r: 2 }}, batch_size: 8, \
             to: hf://org/small/adapters/first, create: private }} }}\n",
            tokenizer.display(),
            data.display(),
        );
        place.folder.write("train.yaml", &text);
        machine
    };
    let machine = pipeline("log_every: 1");
    place.runs(&["run", "train.yaml", "--only", "whole"]);
    let trained = fs::read(Path::new(&machine).join("run/models/whole/model.safetensors")).unwrap();
    // Where a model goes is no part of what it is: it is not trained again.
    pipeline("to: hf://org/whole, create: private");
    let said = place.runs(&["run", "train.yaml"]);
    assert!(said.contains("wrote hf://org/whole/model.safetensors"), "{said}");
    assert_eq!(place.commits().len(), 2);
    assert_eq!(place.file("models/org/whole", "model.safetensors"), trained);
    let whole = place.server.repository("models/org/whole").unwrap().files;
    let small = place.server.repository("models/org/small").unwrap().files;
    assert!(whole.contains_key("tokenizer.json") && small.contains_key("adapters/first/adapter_model.safetensors"));
    for (path, content) in whole.iter().chain(&small) {
        let text = String::from_utf8_lossy(content);
        assert!(
            !path.ends_with("sepo.json") && !text.contains(&machine) && !text.contains("/data/quickstart"),
            "{path}: {text}"
        );
    }
    let config: Value = serde_json::from_slice(&small["adapters/first/adapter_config.json"]).unwrap();
    assert!(config["base_model_name_or_path"].is_null(), "{config}");
    for card in [&whole["README.md"], &small["adapters/first/README.md"]] {
        let card = String::from_utf8(card.clone()).unwrap();
        let tags: Vec<&str> = card.lines().filter(|line| line.starts_with("- ")).collect();
        assert!(tags == ["- sepo", "- sft"] && !card.contains("base_model"), "{card}");
    }
    place.server.requests();
    place.runs(&["run", "train.yaml"]);
    assert!(place.server.requests().iter().all(|request| request.method == "GET"));
    // A file of the model that somebody replaced on the hub.
    place.server.change("models/org/whole", |model| drop(model.files.insert("config.json".into(), b"{}".to_vec())));
    place.fails(
        78,
        &["run", "train.yaml"],
        "holds `config.json`, which sepo did not upload from this workdir or which changed",
    );
    assert_eq!(etag(&place.file("models/org/whole", "config.json")), etag(b"{}"));
    place.server.put("models/org/whole", Repository { commit: "c".repeat(40), ..Repository::default() });
    place.runs(&["run", "train.yaml"]);
    assert_eq!(place.file("models/org/whole", "model.safetensors"), trained);
}
