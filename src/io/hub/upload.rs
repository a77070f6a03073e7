//! Files into a repository of the hub, in one commit: what is there, what of it changes, contents to the storage, the commit.
//!
//! ```text
//! writable --> Tree          the repository, made if asked, and the contents of its files
//! prepare --> Prepared       digests of our files, and how the hub takes each
//! send                       contents of large files that the hub does not hold
//! commit                     on condition that nobody else committed meanwhile
//! ```

use std::io::Read;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::address::{Address, Kind};
use super::client::{ATTEMPTS, Refusal, escape};
use super::outgoing::{Digested, Outgoing, base64, unreadable};
use super::send::Media;
use super::{Files, Hub, holds_credentials};
use crate::error::{Error, Result};
use crate::io::faults;
use crate::monitor::Monitor;

/// Files in one question how the hub takes them.
const AT_ONCE: usize = 256;
/// Most bytes of small files in one commit, which travel inside of it.
const INLINE: u64 = 256 << 20;

/// Who sees a repository that is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Its owner, and members of the organization.
    Private,
    /// Everybody.
    Public,
}

/// A repository that may be written to, as it is at one commit.
#[derive(Debug, Clone)]
pub struct Tree {
    commit: String,
    files: Files,
}

impl Tree {
    /// The commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The paths of its files, in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The digest of the file `path`, if it is there: sha256 of a large one, git's sha1 of a small one; empty where the hub
    /// gives none.
    pub fn digest(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(|content| content.as_ref().map_or("", |content| content.etag.as_str()))
    }
}

/// What a look for a repository found.
#[derive(Debug)]
pub enum Look {
    /// The repository.
    Found(Tree),
    /// The repository has no such branch.
    NoBranch,
    /// No such repository, or none that the token may see.
    NoRepository,
}

/// A file that the hub said how to take.
#[derive(Debug, Clone)]
pub struct Prepared {
    digested: Digested,
    is_large: bool,
}

impl Prepared {
    /// Its path in the repository.
    pub fn path(&self) -> &str {
        self.digested.file.path()
    }

    /// What [`Tree::digest`] will say of it.
    pub fn digest(&self) -> &str {
        if self.is_large { &self.digested.sha256 } else { &self.digested.git_sha1 }
    }
}

/// A change of a repository.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// The file is there, in place of one that may have been.
    Put(&'a Prepared),
    /// The file at this path is gone.
    Delete(&'a str),
}

impl Change<'_> {
    fn is_made(self, tree: &Tree) -> bool {
        match self {
            Self::Put(file) => tree.digest(file.path()) == Some(file.digest()),
            Self::Delete(path) => tree.digest(path).is_none(),
        }
    }
}

impl Hub {
    /// What keeps uploads from this machine, whatever the repository: no token, no network wanted.
    pub fn obstacle(&self) -> Option<&'static str> {
        match &self.settings {
            settings if holds_credentials(&settings.endpoint) => {
                Some("HF_ENDPOINT must not hold credentials; HF_TOKEN does")
            }
            settings if settings.offline => Some("HF_HUB_OFFLINE forbids to upload; unset it"),
            settings if settings.token.is_none() => {
                Some("an upload needs a token with the role `write`: give it in HF_TOKEN, or with `hf auth login`")
            }
            _ => None,
        }
    }

    /// The repository of `address` at its branch, as it is now.
    ///
    /// # Errors
    /// What the hub says, but that there is no such thing.
    pub fn look(&self, address: &Address) -> Result<Look> {
        if let Some(obstacle) = self.obstacle() {
            return Err(failed(address, obstacle));
        }
        let root = address.of("");
        match self.client.described(&root, ATTEMPTS) {
            Ok(info) => {
                let (commit, files) = self.contents(&root, &info, ATTEMPTS)?;
                Ok(Look::Found(Tree { commit, files }))
            }
            Err(refusal) if is_missing(&refusal) && refusal.code == "RevisionNotFound" => Ok(Look::NoBranch),
            Err(refusal) if is_missing(&refusal) => Ok(Look::NoRepository),
            Err(refusal) => Err(refusal.at(&root)),
        }
    }

    /// As [`Self::look`]; makes what is not there if `create` says so.
    ///
    /// # Errors
    /// What the hub says; a private repository that came out public.
    pub fn writable(&self, address: &Address, create: Option<Visibility>) -> Result<Tree> {
        let mut look = self.look(address)?;
        if let (Look::NoRepository, Some(visibility)) = (&look, create) {
            self.create(address, visibility)?;
            look = self.look(address)?;
        }
        if let (Look::NoBranch, Some(_)) = (&look, create) {
            let branch = escape(address.revision(), "");
            let url = format!("{}/branch/{branch}", self.api(address));
            self.made(address, self.client.post(&url, Media::Json, b"{}", address))?;
            look = self.look(address)?;
        }
        match look {
            Look::Found(tree) => Ok(tree),
            Look::NoBranch => Err(failed(address, &no_branch(address))),
            Look::NoRepository => Err(failed(address, NO_REPOSITORY)),
        }
    }

    fn create(&self, address: &Address, visibility: Visibility) -> Result<()> {
        let (organization, name) = address.repo.split_once('/').unwrap_or(("", &address.repo));
        let kind = match address.kind {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        };
        let body = json!({ "name": name, "organization": organization, "visibility": visibility, "type": kind });
        let url = format!("{}/api/repos/create", self.settings.endpoint);
        self.made(address, self.client.post(&url, Media::Json, body.to_string().as_bytes(), address))?;
        if visibility == Visibility::Public {
            return Ok(());
        }
        // A hub that does not know the setting would show everybody what comes next.
        let root = Address { revision: None, ..address.of("") };
        let info = self.client.info(&root, ATTEMPTS)?;
        if info["private"] == json!(true) {
            return Ok(());
        }
        let page = self.client.page(address);
        Err(failed(
            address,
            &format!("the repository was to be private and is not; look at {page}, nothing was uploaded"),
        ))
    }

    /// Takes what somebody else made meanwhile for made.
    fn made(&self, address: &Address, made: Result<Value, Refusal>) -> Result<()> {
        match made {
            Err(refusal) if refusal.status.is_some_and(|status| status.as_u16() == 409) => Ok(()),
            made => made.map(drop).map_err(|refusal| refusal.at(address)),
        }
    }

    /// Reads all of `files`, and asks how the hub takes each: inside of the commit, or as a large file.
    ///
    /// # Errors
    /// Files that cannot be read or that the repository ignores; what the hub says.
    pub fn prepare(&self, address: &Address, files: Vec<Outgoing>, monitor: &dyn Monitor) -> Result<Vec<Prepared>> {
        let files: Vec<Digested> = files.into_iter().map(|file| file.digested(monitor)).collect::<Result<_>>()?;
        let url = format!("{}/preupload/{}", self.api(address), escape(address.revision(), ""));
        let mut prepared = Vec::new();
        for files in files.chunks(AT_ONCE) {
            let question = |file: &Digested| {
                let (path, sample) = (file.file.path(), base64(&file.sample));
                json!({ "path": path, "sample": sample, "size": file.file.size() })
            };
            let questions: Vec<Value> = files.iter().map(question).collect();
            let body = json!({ "files": questions }).to_string();
            let answer = self.client.post(&url, Media::Json, body.as_bytes(), address);
            let answer = answer.map_err(|refusal| refusal.at(address))?;
            for file in files {
                let at = address.of(file.file.path());
                let of_file = |told: &&Value| told["path"] == file.file.path();
                let told = answer["files"].as_array().and_then(|told| told.iter().find(of_file));
                let told = told.ok_or_else(|| failed(&at, "the hub does not say how it takes the file"))?;
                if told["shouldIgnore"] == json!(true) {
                    return Err(failed(&at, "the repository's .gitignore leaves this file out; change it there"));
                }
                let is_large = match told["uploadMode"].as_str() {
                    // The storage takes no empty contents.
                    Some("lfs") => file.file.size() > 0,
                    Some("regular") => false,
                    _ => return Err(failed(&at, "the hub takes the file in a way that sepo does not know")),
                };
                prepared.push(Prepared { digested: file.clone(), is_large });
            }
        }
        Ok(prepared)
    }

    /// Brings the contents of the large files of `changes` to the hub's storage, as far as it does not hold them.
    ///
    /// # Errors
    /// What the hub or its storage says; a file that changed; the wish to stop, after which the same call sends the rest.
    pub fn send(&self, address: &Address, changes: &[Change], monitor: &dyn Monitor) -> Result<()> {
        let large = changes.iter().filter_map(|change| match change {
            Change::Put(file) if file.is_large => Some(&file.digested),
            Change::Put(_) | Change::Delete(_) => None,
        });
        let large: Vec<&Digested> = large.collect();
        if large.is_empty() {
            return Ok(());
        }
        let total = large.iter().map(|file| file.file.size()).sum();
        monitor.begin(&address.to_string(), Some(total), "bytes");
        let stored = self.store(address, &large, monitor);
        monitor.end();
        stored
    }

    /// Commits `changes` on top of `tree`. The new commit, or none where somebody else committed meanwhile.
    ///
    /// # Errors
    /// What the hub says.
    pub fn commit(&self, address: &Address, tree: &Tree, changes: &[Change], summary: &str) -> Result<Option<String>> {
        faults::pass(address).map_err(|error| failed(address, &error.to_string()))?;
        let body = self.lines(address, tree, changes, summary)?;
        let url = format!("{}/commit/{}", self.api(address), escape(address.revision(), ""));
        let mut attempt = 1;
        loop {
            let refusal = match self.client.post_once(&url, Media::Lines, &body, address) {
                Ok(answer) => {
                    let commit = answer["commitOid"].as_str().unwrap_or_default();
                    return Ok(Some(commit.to_owned()));
                }
                Err(refusal) => refusal,
            };
            let moved = refusal.status.is_some_and(|status| status.as_u16() == 412);
            if !moved && (!refusal.passes() || attempt >= ATTEMPTS) {
                return Err(refusal.at(address));
            }
            if !moved {
                self.client.wait(attempt);
            }
            // A try whose answer was lost may have made the commit.
            if let Look::Found(now) = self.look(address)?
                && now.commit != tree.commit
                && changes.iter().all(|change| change.is_made(&now))
            {
                return Ok(Some(now.commit));
            }
            if moved {
                return Ok(None);
            }
            attempt += 1;
        }
    }

    /// The commit as the hub takes it, one JSON value a line.
    fn lines(&self, address: &Address, tree: &Tree, changes: &[Change], summary: &str) -> Result<Vec<u8>> {
        let header = json!({ "summary": summary, "description": "", "parentCommit": tree.commit });
        let mut lines = vec![json!({ "key": "header", "value": header })];
        let mut inline = 0;
        for change in changes {
            lines.push(match change {
                Change::Put(file) if file.is_large => {
                    let (oid, size) = (&file.digested.sha256, file.digested.file.size());
                    let value = json!({ "path": file.path(), "algo": "sha256", "oid": oid, "size": size });
                    json!({ "key": "lfsFile", "value": value })
                }
                Change::Put(file) => {
                    inline += file.digested.file.size();
                    if inline > INLINE {
                        let message = format!("the hub wants more than {INLINE} bytes inside of one commit");
                        return Err(failed(address, &message));
                    }
                    let mut content = Vec::new();
                    let read = file.digested.file.reader(0).read_to_end(&mut content);
                    read.map_err(|error| unreadable(file.path(), &error))?;
                    let value = json!({ "content": base64(&content), "path": file.path(), "encoding": "base64" });
                    json!({ "key": "file", "value": value })
                }
                Change::Delete(path) => json!({ "key": "deletedFile", "value": { "path": path } }),
            });
        }
        Ok(lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect())
    }

    /// The address of the hub's interface to the repository.
    fn api(&self, address: &Address) -> String {
        format!("{}/api/{}/{}", self.settings.endpoint, address.kind.plural(), address.repo)
    }
}

/// What to say of a repository that is not there.
pub const NO_REPOSITORY: &str = "no such repository, or none that the token in use may see; `create: private` makes it";

/// What to say of a branch that is not there.
pub fn no_branch(address: &Address) -> String {
    format!("the repository has no branch `{}`; `create` makes it", address.revision())
}

fn is_missing(refusal: &Refusal) -> bool {
    // The hub answers 401 where it does not want to say that there is something.
    refusal
        .status
        .is_some_and(|status| status.as_u16() == 404 || status.as_u16() == 401 && refusal.code == "RepoNotFound")
}

fn failed(address: &Address, message: &str) -> Error {
    Error::Store { path: address.to_string(), message: message.to_owned(), retryable: false }
}
