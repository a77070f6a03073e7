//! A server that speaks as much of the hub's API as downloads and uploads need, and a second one where large contents lie, as
//! on the hub. Both can be told to misbehave.

mod upload;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::{Value, json};
pub(crate) use upload::{PART, PARTS_FROM, Trouble, Uploads};

/// Contents from this size on lie on the second server.
const LARGE: usize = 1000;
/// Entries on a page of a folder's list.
const PAGE: usize = 2;

/// What goes wrong with the next content that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the content.
    Cut(usize),
    /// The server is not well.
    Unavailable,
    /// One bit is another.
    Damaged,
    /// The range asked for is ignored.
    Whole,
    /// So many bytes follow the content, whose length is not announced.
    Longer(usize),
}

/// How the list of a dataset's files goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Listing {
    /// Page by page, to its end.
    #[default]
    Ends,
    /// The first page, again and again, each time under another address.
    Repeats,
    /// With files that there never were.
    Invents,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) range: Option<String>,
    /// Whether it went to the second server.
    pub(crate) contents: bool,
    pub(crate) body: Vec<u8>,
}

/// A repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repository {
    /// Its commit, under the name `main`.
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The token without which it is not there.
    pub(crate) private: Option<String>,
    /// Made as one that only its owner sees.
    pub(crate) closed: bool,
    /// Access is given on request only.
    pub(crate) gated: bool,
    /// The name that it goes under now.
    pub(crate) moved: Option<String>,
    /// The server lists names alone, as old ones did.
    pub(crate) names_only: bool,
    pub(crate) listing: Listing,
    /// What its list says of the size of every file.
    pub(crate) claimed: Option<u64>,
    /// Bytes that the server's answers about it have beside what matters.
    pub(crate) padding: usize,
}

#[derive(Default)]
struct State {
    /// By `models/org/name` or `datasets/org/name`, with `@branch` for a branch other than `main`.
    repositories: BTreeMap<String, Repository>,
    faults: VecDeque<Fault>,
    requests: Vec<Request>,
    uploads: Uploads,
}

/// Both servers.
pub(crate) struct HubServer {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl HubServer {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let contents = serve(state.clone(), None);
        let endpoint = serve(state.clone(), Some(contents));
        Self { endpoint, state }
    }

    /// Makes `name`, such as `models/org/name`, of these files.
    pub(crate) fn add(&self, name: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect();
        let commit = "a".repeat(40);
        self.put(name, Repository { commit, files, ..Repository::default() });
    }

    pub(crate) fn put(&self, name: &str, repository: Repository) {
        self.state.lock().unwrap().repositories.insert(name.to_owned(), repository);
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Repository)) {
        change(self.state.lock().unwrap().repositories.get_mut(name).unwrap());
    }

    /// What goes wrong with the next contents, one after the other.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults = faults.iter().copied().collect();
    }

    /// The repository `name`, if there is one.
    pub(crate) fn repository(&self, name: &str) -> Option<Repository> {
        self.state.lock().unwrap().repositories.get(name).cloned()
    }

    /// What was uploaded.
    pub(crate) fn uploads<T>(&self, look: impl FnOnce(&mut Uploads) -> T) -> T {
        look(&mut self.state.lock().unwrap().uploads)
    }

    /// What goes wrong with the next uploads, one after the other.
    pub(crate) fn trouble(&self, troubles: &[(&'static str, Trouble)]) {
        self.uploads(|uploads| uploads.troubles = troubles.iter().cloned().collect());
    }

    /// The requests since the last time.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

/// The hub's digest of a content: sha256 of large ones, git's of small ones.
pub(crate) fn etag(content: &[u8]) -> String {
    let mut context = Context::new(if content.len() < LARGE { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 });
    if content.len() < LARGE {
        context.update(format!("blob {}\0", content.len()).as_bytes());
    }
    context.update(content);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Listens on a port of its own; with the second server's address it is the hub, without it the second server.
fn serve(state: Arc<Mutex<State>>, contents: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let own = endpoint.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (state, contents, own) = (state.clone(), contents.clone(), own.clone());
            thread::spawn(move || answer(stream.unwrap(), &state, contents.as_deref(), &own));
        }
    });
    endpoint
}

struct Reply {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are really sent.
    sent: usize,
    /// Whether the body's length stands in the headers.
    measured: bool,
}

impl Reply {
    fn new(status: &'static str, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        Self { status, headers, sent: body.len(), body, measured: true }
    }

    fn refused(status: &'static str, code: &str) -> Self {
        Self::new(status, vec![("X-Error-Code", code.to_owned())], Vec::new())
    }

    fn json(value: &Value) -> Self {
        Self::new("200 OK", Vec::new(), value.to_string().into_bytes())
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, contents: Option<&str>, own: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let found =
            headers.iter().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.to_owned())
    };
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let token = header("authorization").map(|value| value.trim_start_matches("Bearer ").to_owned());
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let request = Request { method, path, token, range: header("range"), contents: contents.is_none(), body };
    let reply = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        match contents {
            _ if matches!(request.method.as_str(), "POST" | "PUT") => match state.upload(&request, contents, own) {
                Some(reply) => reply,
                None => return,
            },
            Some(contents) => state.hub(&request, contents, own),
            None => state.content(&request, &request.path[1..]),
        }
    };
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", reply.status);
    if reply.measured {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&reply.body[..reply.sent]);
    }
}

impl State {
    fn hub(&mut self, request: &Request, contents: &str, own: &str) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<&str> = path.trim_start_matches("/api").trim_start_matches('/').split('/').collect();
        let (kind, parts) = match parts[0] {
            kind @ ("models" | "datasets") => (kind, &parts[1..]),
            _ => ("models", &parts[..]),
        };
        let [org, repo, what, revision, rest @ ..] = parts else { return Reply::refused("404 Not Found", "") };
        let mut name = format!("{kind}/{org}/{repo}");
        let is_main = |found: &Repository| *revision == "main" || found.commit == **revision;
        if !self.repositories.get(&name).is_some_and(is_main) {
            let branch = format!("{name}@{}", revision.replace("%2F", "/"));
            let of_branch = |(key, found): &(&String, &Repository)| {
                **key == branch || key.starts_with(&format!("{name}@")) && found.commit == **revision
            };
            if let Some((key, _)) = self.repositories.iter().find(of_branch) {
                name.clone_from(key);
            }
        }
        let Some(found) = self.repositories.get(&name).cloned() else {
            let status = if request.token.is_some() { "404 Not Found" } else { "401 Unauthorized" };
            return Reply::refused(status, "RepoNotFound");
        };
        if let Some(moved) = &found.moved {
            let to = request.path.replace(&format!("{org}/{repo}"), moved);
            return Reply::new("307 Temporary Redirect", vec![("Location", to)], Vec::new());
        }
        if found.private.is_some() && found.private != request.token {
            return Reply::refused("401 Unauthorized", "RepoNotFound");
        }
        if found.gated && *what == "resolve" {
            return Reply::refused("403 Forbidden", "GatedRepo");
        }
        if *revision != "main" && *revision != found.commit && !name.contains('@') {
            return Reply::refused("404 Not Found", "RevisionNotFound");
        }
        let rest = rest.join("/").replace("%20", " ");
        match *what {
            "revision" => {
                let details = query.contains("blobs=true") && !found.names_only;
                let file = |(path, content): (&String, &Vec<u8>)| match details {
                    true if content.len() < LARGE => {
                        json!({"rfilename": path, "size": content.len(), "blobId": etag(content)})
                    }
                    true => json!({
                        "rfilename": path, "size": content.len(), "blobId": "0".repeat(40),
                        "lfs": {"sha256": etag(content), "size": content.len(), "pointerSize": 134},
                    }),
                    false => json!({"rfilename": path}),
                };
                let siblings: Vec<Value> = found.files.iter().map(file).collect();
                Reply::json(
                    &json!({"sha": found.commit, "siblings": siblings, "private": found.closed, "card": "x".repeat(found.padding)}),
                )
            }
            "tree" if !found.names_only => list(&found, &rest, query, own, path),
            "resolve" => match found.files.get(&rest) {
                None => Reply::refused("404 Not Found", "EntryNotFound"),
                Some(content) if content.len() < LARGE => self.content(request, &format!("{name}/{rest}")),
                Some(content) => {
                    let to = format!("{contents}/{name}/{rest}?signature=secret");
                    let headers = vec![
                        ("Location", to),
                        ("X-Linked-Etag", format!("\"{}\"", etag(content))),
                        ("X-Linked-Size", content.len().to_string()),
                        ("X-Repo-Commit", found.commit),
                    ];
                    Reply::new("302 Found", headers, b"elsewhere".to_vec())
                }
            },
            _ => Reply::refused("404 Not Found", ""),
        }
    }

    /// The content under `models/org/name/path`.
    fn content(&mut self, request: &Request, path: &str) -> Reply {
        let path = path.split('?').next().unwrap();
        let content = self
            .repositories
            .iter()
            .find_map(|(name, repository)| repository.files.get(path.strip_prefix(name.as_str())?.strip_prefix('/')?));
        let Some(content) = content.cloned() else { return Reply::refused("404 Not Found", "EntryNotFound") };
        let fault = if request.method == "GET" { self.faults.pop_front() } else { None };
        let from = request.range.as_ref().filter(|_| fault != Some(Fault::Whole));
        let from = from.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
        let mut body = content[from.unwrap_or(0)..].to_vec();
        let mut headers = vec![("ETag", format!("\"{}\"", etag(&content)))];
        if let Some(from) = from {
            headers.push(("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())));
        }
        if fault == Some(Fault::Damaged) {
            body[0] ^= 1;
        }
        let mut reply = Reply::new(if from.is_some() { "206 Partial Content" } else { "200 OK" }, headers, body);
        match fault {
            Some(Fault::Cut(bytes)) => reply.sent = bytes.min(reply.sent),
            Some(Fault::Longer(bytes)) => {
                reply.body.resize(reply.body.len() + bytes, 0);
                (reply.sent, reply.measured) = (reply.body.len(), false);
            }
            Some(Fault::Unavailable) => reply = Reply::refused("503 Service Unavailable", ""),
            _ => {}
        }
        reply
    }
}

/// A page of what lies below a folder.
fn list(found: &Repository, folder: &str, query: &str, own: &str, path: &str) -> Reply {
    let inside = |file: &str| folder.is_empty() || file.starts_with(&format!("{folder}/"));
    let files: Vec<_> = found.files.iter().filter(|(file, _)| inside(file)).collect();
    if files.is_empty() {
        return Reply::refused("404 Not Found", "EntryNotFound");
    }
    let start = query.split_once("cursor=").map_or(0, |(_, cursor)| cursor.parse().unwrap());
    let mut page = vec![json!({"type": "directory", "path": "data", "oid": "0".repeat(40), "size": 0})];
    let skipped = if found.listing == Listing::Repeats { 0 } else { start };
    for (path, content) in files.iter().skip(skipped).take(PAGE) {
        let size = found.claimed.unwrap_or(content.len() as u64);
        let mut entry = json!({"type": "file", "path": path, "size": size, "oid": etag(content)});
        if content.len() >= LARGE {
            entry["oid"] = json!("0".repeat(40));
            entry["lfs"] = json!({"oid": etag(content), "size": content.len(), "pointerSize": 134});
        }
        page.push(entry);
    }
    if found.listing == Listing::Invents {
        page.push(json!({"type": "file", "path": format!("invented-{start}.jsonl"), "size": 1, "oid": "0".repeat(40)}));
    }
    let mut reply = Reply::json(&json!(page));
    if start + PAGE < files.len() || found.listing != Listing::Ends {
        let next = format!("<{own}{path}?recursive=true&cursor={}>; rel=\"next\"", start + PAGE);
        reply.headers.push(("Link", next));
    }
    reply
}
