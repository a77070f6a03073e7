//! Models and datasets of the Hugging Face hub: `hf://` addresses to files on this machine.
//!
//! The hub's HTTP API lists a repository; files go into the cache that Python's `huggingface_hub` keeps, so that nothing
//! is fetched twice, whoever fetched it first. Without a network what is there is used. Uploads go the other way, in one commit
//! (`upload`).

mod address;
mod cache;
mod client;
mod download;
mod lfs;
mod outgoing;
mod send;
mod settings;
mod upload;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tracing::warn;

use super::storage::holds_credentials;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use address::is_inside;
pub use address::{Address, Kind, SCHEME};
use cache::Repo;
use client::{ATTEMPTS, Client, Entry};
use download::{Content, Download};
pub use outgoing::Outgoing;
pub use settings::Settings;
pub use upload::{Change, Look, NO_REPOSITORY, Prepared, Tree, Visibility, no_branch};

/// Longest path of a file in a repository, in bytes.
const LONGEST_PATH: usize = 1024;

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
    files: Files,
}

/// Files of a repository by path, with what is known of their contents.
type Files = BTreeMap<String, Option<Content>>;

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
        if holds_credentials(&self.settings.endpoint) {
            let message = "HF_ENDPOINT must not hold credentials; HF_TOKEN does".to_owned();
            return Err(Error::Store { path: address.to_string(), message, retryable: false });
        }
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
        let Some(cached) = self.cached(address, &repo)? else { return self.listed(address, &repo, ATTEMPTS) };
        // Not worth waiting for.
        Ok(self.listed(address, &repo, 1).unwrap_or_else(|error| {
            warn!("{error}; going on with what was fetched before");
            cached
        }))
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

    fn listed(&self, address: &Address, repo: &Repo, attempts: u32) -> Result<Snapshot> {
        let info = self.client.info(address, attempts)?;
        let (commit, files) = self.contents(address, &info, attempts)?;
        // A cache that cannot be written to may still hold everything.
        if let Err(error) = repo.note(address.revision(), &commit) {
            warn!("{address}: the cache cannot be written: {error}");
        }
        Ok(Snapshot { address: address.clone(), commit, repo: repo.clone(), files })
    }

    /// The commit that `info` describes, and the files that the repository has there.
    fn contents(&self, address: &Address, info: &Value, attempts: u32) -> Result<(String, Files)> {
        let wrong = |message: String| Error::Store { path: address.to_string(), message, retryable: false };
        let commit = info["sha"].as_str().filter(|commit| is_inside(commit) && !commit.contains('/'));
        let commit = commit.ok_or_else(|| wrong("the hub's answer names no commit".into()))?.to_owned();
        let mut files = BTreeMap::new();
        let mut take = |entry: &Value| {
            let path = entry["rfilename"].as_str().or_else(|| entry["path"].as_str());
            let Some(path) = path.filter(|_| entry["type"] != "directory") else { return Ok(Entry::Known) };
            if !is_inside(path) {
                return Err(wrong(format!(
                    "the repository has a file `{path}`, which would lie outside of its folder"
                )));
            }
            if path.len() > LONGEST_PATH {
                let start: String = path.chars().take(100).collect();
                return Err(wrong(format!(
                    "the repository has a file `{start}…`, whose path has more than {LONGEST_PATH} bytes"
                )));
            }
            let known = files.insert(path.to_owned(), content(entry)).is_some();
            Ok(if known { Entry::Known } else { Entry::New })
        };
        let listed = match address.kind {
            Kind::Model => false,
            Kind::Dataset => self.client.tree(address, &commit, attempts, &mut take)?,
        };
        if !listed {
            info["siblings"].as_array().into_iter().flatten().try_for_each(|entry| take(entry).map(drop))?;
        }
        Ok((commit, files))
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
        let total = contents.iter().try_fold(0_u64, |total, content| total.checked_add(content.size?));
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
