//! Models and datasets of the Hugging Face hub: `hf://` addresses to files on this machine.
//!
//! The hub's HTTP API lists a repository; files go into the cache that Python's `huggingface_hub` keeps, so that nothing
//! is fetched twice, whoever fetched it first. Without a network what is there is used.

mod address;
mod cache;
mod client;
mod download;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tracing::warn;

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use address::is_inside;
pub use address::{Address, Kind, SCHEME};
use cache::Repo;
use client::Client;
use download::{Content, Download};

/// Where the hub is and where its files go.
#[derive(Clone)]
pub struct Settings {
    /// The hub, without a slash at the end.
    pub endpoint: String,
    /// The folder of `models--…` and `datasets--…`.
    pub cache: PathBuf,
    /// Who asks.
    pub token: Option<String>,
    /// Ask nobody: use what is there.
    pub offline: bool,
    /// Between the first attempt and the second; it doubles from there.
    pub pause: Duration,
}

impl Settings {
    /// From `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_HUB_OFFLINE` as Python reads
    /// them; `variable` gives their values.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let user = PathBuf::from(variable("HOME").or_else(|| variable("USERPROFILE")).unwrap_or_default());
        let path = |text: String| match text.strip_prefix("~/") {
            Some(below) => user.join(below),
            None => PathBuf::from(text),
        };
        let caches = variable("XDG_CACHE_HOME").map_or_else(|| user.join(".cache"), path);
        let home = variable("HF_HOME").map_or_else(|| caches.join("huggingface"), path);
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let is_set = |name: &str| {
            variable(name).is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let file = || fs::read_to_string(variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path)).ok();
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(file).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.map_or_else(|| home.join("hub"), path),
            token: token.filter(|_| !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            pause: Duration::from_secs(1),
        }
    }
}

/// The hub and its cache.
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// A repository at one commit.
#[derive(Debug, Clone)]
pub struct Snapshot {
    address: Address,
    commit: String,
    repo: Repo,
    files: BTreeMap<String, Option<Content>>,
}

impl Snapshot {
    /// The files of the repository, as paths inside of it, in order. Below the address's folder they are complete.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Where `path` lies on this machine once it was fetched.
    pub fn local(&self, path: &str) -> PathBuf {
        self.repo.snapshot(&self.commit).join(path)
    }

    /// The address of `path`.
    pub fn address(&self, path: &str) -> Address {
        self.address.of(path)
    }

    /// The name of a fetched file's content, which changes when the content does.
    pub fn etag(&self, path: &str) -> Option<String> {
        let content = fs::read_link(self.local(path)).ok()?;
        content.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// A model's folder on this machine.
    pub fn model_folder(&self) -> PathBuf {
        if self.address.path.is_empty() { self.repo.snapshot(&self.commit) } else { self.local(&self.address.path) }
    }

    /// The files that tell what a model is: configurations, tokenizer, chat template.
    pub fn model_description(&self) -> Vec<String> {
        let describes = |name: &str| [".json", ".jinja", ".txt"].iter().any(|ending| name.ends_with(ending));
        self.in_model_folder().filter(|(_, name)| describes(name)).map(|(path, _)| path.to_owned()).collect()
    }

    /// The files with a model's weights: the shards that its index names, or else all safetensors. Call it when the
    /// description was fetched.
    pub fn model_weights(&self) -> Vec<String> {
        let index = fs::read(self.model_folder().join("model.safetensors.index.json")).ok();
        let index: Option<Value> = index.and_then(|text| serde_json::from_slice(&text).ok());
        let shards = index.as_ref().and_then(|index| index["weight_map"].as_object());
        let wanted = |name: &str| match shards {
            Some(shards) => shards.values().any(|shard| shard == name),
            // Some repositories hold the same weights twice.
            None => name.ends_with(".safetensors") && !name.starts_with("consolidated"),
        };
        self.in_model_folder().filter(|(_, name)| wanted(name)).map(|(path, _)| path.to_owned()).collect()
    }

    /// Paths and names of the files of the model's folder itself.
    fn in_model_folder(&self) -> impl Iterator<Item = (&str, &str)> {
        let folder = &self.address.path;
        self.files().filter_map(move |path| {
            let below = path.strip_prefix(folder.as_str())?;
            let name = if folder.is_empty() { below } else { below.strip_prefix('/')? };
            (!name.contains('/')).then_some((path, name))
        })
    }
}

impl Hub {
    /// The hub of `settings`.
    pub fn new(settings: Settings) -> Self {
        let client = Client::new(&settings);
        Self { settings, client }
    }

    /// The hub of the process's environment.
    pub fn from_env() -> Self {
        Self::new(Settings::new(|name| std::env::var(name).ok()))
    }

    /// Finds out what commit the address means and which files it has. Where the hub cannot be asked, what was fetched
    /// before counts.
    ///
    /// # Errors
    /// What the hub says, where nothing was fetched before.
    pub fn open(&self, address: &Address) -> Result<Snapshot> {
        let repo = Repo::new(&self.settings.cache, address);
        if self.settings.offline {
            return self.cached(address, &repo)?.ok_or_else(|| {
                let message = format!(
                    "not in {}, and HF_HUB_OFFLINE forbids to fetch it; unset that, or run once where there is a network",
                    self.settings.cache.display()
                );
                Error::Store { path: address.to_string(), message, retryable: false }
            });
        }
        match self.listed(address, &repo) {
            Ok(snapshot) => Ok(snapshot),
            Err(error) => match self.cached(address, &repo)? {
                Some(snapshot) => {
                    warn!("{error}; going on with what was fetched before");
                    Ok(snapshot)
                }
                None => Err(error),
            },
        }
    }

    fn cached(&self, address: &Address, repo: &Repo) -> Result<Option<Snapshot>> {
        let Some(commit) = repo.commit(address.revision()) else { return Ok(None) };
        let files = repo.files(&commit).map_err(|error| Error::Store {
            path: repo.snapshot(&commit).display().to_string(),
            message: error.to_string(),
            retryable: false,
        })?;
        let files = files.into_iter().map(|path| (path, None)).collect();
        Ok(Some(Snapshot { address: address.clone(), commit, repo: repo.clone(), files }))
    }

    fn listed(&self, address: &Address, repo: &Repo) -> Result<Snapshot> {
        let wrong = |message: String| Error::Store { path: address.to_string(), message, retryable: false };
        let info = self.client.info(address)?;
        let commit = info["sha"].as_str().filter(|commit| is_inside(commit) && !commit.contains('/'));
        let commit = commit.ok_or_else(|| wrong("the hub's answer names no commit".into()))?.to_owned();
        let entries = match address.kind {
            Kind::Model => None,
            Kind::Dataset => self.client.tree(address, &commit, folder_of(&address.path))?,
        };
        let siblings = || info["siblings"].as_array().cloned().unwrap_or_default();
        let mut files = BTreeMap::new();
        for entry in entries.unwrap_or_else(siblings) {
            let Some(path) = entry["rfilename"].as_str().or_else(|| entry["path"].as_str()) else { continue };
            if entry["type"] == "directory" {
                continue;
            }
            if !is_inside(path) {
                return Err(wrong(format!(
                    "the repository has a file `{path}`, which would lie outside of its folder"
                )));
            }
            files.insert(path.to_owned(), content(&entry));
        }
        // A cache that cannot be written to may still hold everything.
        if let Err(error) = repo.note(address.revision(), &commit) {
            warn!("{address}: the cache cannot be written: {error}");
        }
        Ok(Snapshot { address: address.clone(), commit, repo: repo.clone(), files })
    }

    /// Fetches those of `paths` that are not here yet.
    ///
    /// # Errors
    /// What the hub or the disk says, with the file; [`Error::Interrupted`] when asked to stop, after which the same call
    /// goes on where it stopped.
    pub fn fetch(&self, snapshot: &Snapshot, paths: &[String], monitor: &dyn Monitor) -> Result<()> {
        let missing: Vec<&String> = paths.iter().filter(|path| !snapshot.local(path).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let Snapshot { address, commit, repo, files } = snapshot;
        let addresses: Vec<Address> = missing.iter().map(|path| address.of(path)).collect();
        let download = |address| Download { client: &self.client, repo, address, commit, monitor };
        let known = |path: &str| files.get(path).cloned().flatten();
        let contents =
            addresses.iter().map(|address| known(&address.path).map_or_else(|| download(address).content(), Ok));
        let contents: Vec<Content> = contents.collect::<Result<_>>()?;
        let total = contents.iter().map(|content| content.size).sum();
        monitor.begin(&address.of("").to_string(), total, "bytes");
        let fetched = addresses.iter().zip(&contents).try_for_each(|(address, content)| download(address).run(content));
        monitor.end();
        fetched
    }
}

/// What a list of files says of a file's content.
fn content(entry: &Value) -> Option<Content> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let large = &entry["lfs"];
    let etag = text(&large["sha256"]).or_else(|| text(&large["oid"]));
    let etag = etag.or_else(|| text(&entry["blobId"])).or_else(|| text(&entry["oid"]))?;
    let size = large["size"].as_u64().or_else(|| entry["size"].as_u64());
    Some(Content { etag, size }).filter(Content::is_sound)
}

/// The folder in which everything lies that a path or pattern may mean.
fn folder_of(path: &str) -> &str {
    let plain = path.find(['*', '?', '[']).map_or(path, |wild| &path[..wild]);
    plain.rfind('/').map_or("", |end| &plain[..end])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::new(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_is_read_as_python_reads_it() {
        let plain = settings(&[("HOME", "/home/me")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert!(plain.token.is_none() && !plain.offline);
        assert_eq!(settings(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(settings(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).cache, Path::new("/h/hf/hub"));
        let all = settings(&[
            ("HF_HOME", "/hf"),
            ("HF_HUB_CACHE", "/cache"),
            ("HF_ENDPOINT", "http://h:1/"),
            ("HF_TOKEN", "t\n"),
        ]);
        assert_eq!((all.cache.as_path(), all.endpoint.as_str()), (Path::new("/cache"), "http://h:1"));
        assert_eq!(all.token.as_deref(), Some("t"));
        assert!(settings(&[("HF_HUB_OFFLINE", "yes")]).offline && settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline);

        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "own")]).token.as_deref(), Some("own"));
        assert!(settings(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token.is_none());
    }

    #[test]
    fn the_folder_that_a_pattern_lies_in() {
        for (path, folder) in
            [("", ""), ("data", ""), ("a/b.parquet", "a"), ("a/*/c", "a"), ("*.json", ""), ("a/b/x-?.gz", "a/b")]
        {
            assert_eq!(folder_of(path), folder, "{path}");
        }
    }
}
