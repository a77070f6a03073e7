//! What uploads ask of the hub: repositories, branches, how files are taken, Git LFS in one part or in several, commits.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::{LARGE, Reply, Repository, Request, State, etag};

/// Contents from this size on are taken in parts.
pub(crate) const PARTS_FROM: usize = 100_000;
/// Bytes of a part.
pub(crate) const PART: usize = 60_000;
/// The token that may write.
const WRITER: &str = "secret";

/// What goes wrong with the next request whose path contains a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// This status, and nothing is done.
    Status(&'static str),
    /// Done, but nobody hears of it.
    Lost,
    /// Sent on to this address.
    Elsewhere(String),
    /// Somebody else commits first.
    Overtaken,
}

/// What uploads left.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    pub(crate) troubles: VecDeque<(&'static str, Trouble)>,
    /// Contents in the storage, by sha256.
    pub(crate) stored: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<(String, usize), Vec<u8>>,
    /// The commits, each with the repository and what it consists of.
    pub(crate) commits: Vec<(String, Vec<Value>)>,
    /// The hub does not know private repositories.
    pub(crate) all_public: bool,
    /// A transfer that it chooses although nobody offered it.
    pub(crate) transfer: Option<&'static str>,
}

impl State {
    /// Answers an upload's request; `contents` is the storage's address, `own` the hub's.
    pub(super) fn upload(&mut self, request: &Request, contents: Option<&str>, own: &str) -> Option<Reply> {
        let reaction = self.uploads.troubles.front().filter(|(word, _)| request.path.contains(word)).cloned();
        if reaction.is_some() {
            self.uploads.troubles.pop_front();
        }
        match reaction.map(|(_, trouble)| trouble) {
            Some(Trouble::Status(status)) => return Some(Reply::new(status, Vec::new(), b"{}".to_vec())),
            Some(Trouble::Elsewhere(to)) => {
                return Some(Reply::new("307 Temporary Redirect", vec![("Location", to)], Vec::new()));
            }
            Some(Trouble::Lost) => {
                drop(self.act(request, contents, own));
                return None;
            }
            Some(Trouble::Overtaken) => {
                for repository in self.repositories.values_mut() {
                    repository.commit = "f".repeat(40);
                }
            }
            None => {}
        }
        Some(self.act(request, contents, own))
    }

    fn act(&mut self, request: &Request, contents: Option<&str>, own: &str) -> Reply {
        let path = request.path.split('?').next().unwrap().to_owned();
        let Some(contents) = contents else { return self.put(&path, &request.body) };
        if request.token.as_deref() != Some(WRITER) {
            return Reply::refused("401 Unauthorized", "");
        }
        let body = || serde_json::from_slice::<Value>(&request.body).unwrap();
        if let Some(place) = path.strip_prefix("/lfs/") {
            return self.told(place, &body());
        }
        if path == "/api/repos/create" {
            return self.create(&body());
        }
        if let Some(repo) = path.strip_suffix(".git/info/lfs/objects/batch") {
            let repo = repo.trim_start_matches('/');
            let name = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
            assert!(self.repositories.contains_key(&name), "{name}");
            return self.batch(&body(), contents, own);
        }
        let parts: Vec<&str> = path.trim_start_matches("/api/").splitn(5, '/').collect();
        let [kind, org, repo, what, revision] = parts[..] else { return Reply::refused("404 Not Found", "") };
        let (repo, revision) = (format!("{kind}/{org}/{repo}"), revision.replace("%2F", "/"));
        let name = if revision == "main" { repo.clone() } else { format!("{repo}@{revision}") };
        match what {
            "branch" => {
                let main = self.repositories[&repo].clone();
                self.repositories.insert(name, main);
                Reply::json(&json!({}))
            }
            "preupload" => {
                let mode = |file: &Value| {
                    let is_large = file["size"].as_u64().unwrap() >= LARGE as u64;
                    let mode = if is_large { "lfs" } else { "regular" };
                    json!({ "path": file["path"], "uploadMode": mode, "shouldIgnore": file["path"] == "ignored.txt" })
                };
                let files: Vec<Value> = body()["files"].as_array().unwrap().iter().map(mode).collect();
                Reply::json(&json!({ "files": files }))
            }
            "commit" => self.commit(&name, &request.body),
            _ => Reply::refused("404 Not Found", ""),
        }
    }

    fn create(&mut self, wanted: &Value) -> Reply {
        let text = |key: &str| wanted[key].as_str().unwrap();
        let name = format!("{}s/{}/{}", text("type"), text("organization"), text("name"));
        if self.repositories.contains_key(&name) {
            return Reply::refused("409 Conflict", "");
        }
        let closed = text("visibility") == "private" && !self.uploads.all_public;
        let files = [(".gitattributes".to_owned(), b"*.parquet filter=lfs".to_vec())].into();
        let commit = "a".repeat(40);
        self.repositories.insert(name, Repository { commit, files, closed, ..Repository::default() });
        Reply::json(&json!({ "url": "somewhere" }))
    }

    fn batch(&self, question: &Value, contents: &str, own: &str) -> Reply {
        assert_eq!(question["transfers"], json!(["basic", "multipart"]));
        let object = |object: &Value| {
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            let mut answer = json!({ "oid": oid, "size": size });
            if self.uploads.stored.contains_key(oid) {
                return answer;
            }
            let upload = if size < PARTS_FROM {
                json!({ "href": format!("{contents}/put/{oid}?signature=secret") })
            } else {
                let place = |part: usize| format!("{contents}/put/{oid}/{part}?signature=secret");
                let mut header = json!({ "chunk_size": PART.to_string() });
                for part in 1..=size.div_ceil(PART) {
                    header[part.to_string()] = json!(place(part));
                }
                json!({ "href": format!("{own}/lfs/complete/{oid}"), "header": header })
            };
            answer["actions"] = json!({ "upload": upload, "verify": { "href": format!("{own}/lfs/verify") } });
            answer
        };
        let objects: Vec<Value> = question["objects"].as_array().unwrap().iter().map(object).collect();
        let transfer = self.uploads.transfer.unwrap_or("basic");
        Reply::json(&json!({ "transfer": transfer, "objects": objects }))
    }

    /// A content, or a part of one, for the storage.
    fn put(&mut self, path: &str, body: &[u8]) -> Reply {
        let mut names = path.trim_start_matches("/put/").split('/');
        let oid = names.next().unwrap().to_owned();
        match names.next() {
            Some(part) => drop(self.uploads.parts.insert((oid, part.parse().unwrap()), body.to_vec())),
            None => drop(self.uploads.stored.insert(oid, body.to_vec())),
        }
        Reply::new("200 OK", vec![("ETag", format!("\"{}\"", body.len()))], Vec::new())
    }

    /// The hub hears that all parts of a content are there, or that a content is.
    fn told(&mut self, place: &str, body: &Value) -> Reply {
        let oid = body["oid"].as_str().unwrap().to_owned();
        if place == "verify" {
            let size = self.uploads.stored.get(&oid).map(Vec::len);
            let holds = size == body["size"].as_u64().map(|size| size as usize) && size.is_some();
            return if holds { Reply::json(&json!({})) } else { Reply::refused("404 Not Found", "") };
        }
        let mut whole = Vec::new();
        for (index, part) in body["parts"].as_array().unwrap().iter().enumerate() {
            assert_eq!(part["partNumber"], json!(index + 1));
            let content = &self.uploads.parts[&(oid.clone(), index + 1)];
            assert_eq!(part["etag"], json!(format!("\"{}\"", content.len())));
            whole.extend(content);
        }
        self.uploads.stored.insert(oid, whole);
        Reply::json(&json!({}))
    }

    fn commit(&mut self, name: &str, lines: &[u8]) -> Reply {
        let lines = String::from_utf8(lines.to_vec()).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let Some(repository) = self.repositories.get_mut(name) else {
            return Reply::refused("404 Not Found", "RepoNotFound");
        };
        assert_eq!(lines[0]["key"], "header");
        if lines[0]["value"]["parentCommit"] != json!(repository.commit) {
            return Reply::refused("412 Precondition Failed", "");
        }
        for line in &lines[1..] {
            let value = &line["value"];
            let path = value["path"].as_str().unwrap().to_owned();
            match line["key"].as_str().unwrap() {
                "file" => drop(repository.files.insert(path, base64(value["content"].as_str().unwrap()))),
                "lfsFile" => {
                    let content = &self.uploads.stored[value["oid"].as_str().unwrap()];
                    assert_eq!(etag(content), value["oid"].as_str().unwrap());
                    repository.files.insert(path, content.clone());
                }
                "deletedFile" => assert!(repository.files.remove(&path).is_some(), "{path}"),
                other => panic!("{other}"),
            }
        }
        self.uploads.commits.push((name.to_owned(), lines));
        repository.commit = format!("{:040x}", self.uploads.commits.len());
        Reply::json(&json!({ "commitOid": repository.commit, "commitUrl": "somewhere" }))
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in text.chars().take_while(|digit| *digit != '=') {
        bits = bits << 6 | DIGITS.find(digit).unwrap() as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
