//! Requests to the hub: the token goes to the hub alone, answers that pass are asked for again, and refusals say what to
//! do.

use std::io::Read;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::Settings;
use super::address::{Address, Kind};
use crate::error::{Error, Place, Result};

/// Redirects in a row.
pub(super) const HOPS: usize = 10;
/// Failures in a row, without a byte in between, before giving up.
pub(super) const ATTEMPTS: u32 = 5;
/// Most bytes of one answer that describes a repository, and of all pages of its list of files together.
const ANSWER: u64 = 64 << 20;
const LISTING: u64 = 1 << 30;
/// Most pages of a list of files, which have a thousand files each, and most files.
const PAGES: usize = 2_000;
const FILES: usize = 1_000_000;
/// What to do where a download finds no network.
const NETWORK: &str = "is the network there? HF_HUB_OFFLINE=1 uses what is already downloaded";
/// Longest that an answer may take to arrive.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why a request did not do.
#[derive(Debug)]
pub(super) struct Refusal {
    message: String,
    cause: Cause,
    /// What the server answered, if it did.
    pub(super) status: Option<StatusCode>,
    /// The hub's word for the reason; empty where it gives none.
    pub(super) code: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The same request may do later.
    Passing,
    /// The server knows no such thing.
    Absent,
    /// It will not do.
    Lasting,
}

/// An answer with the headers of the hub's own, which come first when contents lie elsewhere.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) hub: HeaderMap,
}

/// What the hub says of a repository.
struct Described {
    value: Value,
    headers: HeaderMap,
    /// Bytes of the answer.
    size: u64,
}

/// What an entry of a list of files is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    New,
    /// Named before, or no file.
    Known,
}

pub(super) struct Client {
    pub(super) agent: Agent,
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    pause: Duration,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sepo/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(seconds(10))
            .timeout_recv_response(seconds(30))
            .timeout_per_read(seconds(30))
            .timeout_per_write(seconds(30));
        if let Some(certificates) = certificates() {
            let roots = RootCerts::new_with_certs(&certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        Self { agent: config.build().new_agent(), endpoint, token, pause: settings.pause }
    }

    /// The hub's description of the repository at a revision.
    pub(super) fn info(&self, address: &Address, attempts: u32) -> Result<Value> {
        self.described(address, attempts).map_err(|refusal| refusal.at(address))
    }

    /// As [`Self::info`], with the hub's own reason where there is no such repository or revision.
    pub(super) fn described(&self, address: &Address, attempts: u32) -> Result<Value, Refusal> {
        let (kind, revision) = (address.kind, escape(address.revision(), ""));
        // With sizes and digests; datasets may have too many files for that.
        let query = if kind == Kind::Model { "?blobs=true" } else { "" };
        let url = format!("{}/api/{}/{}/revision/{revision}{query}", self.endpoint, kind.plural(), address.repo);
        self.attempt(attempts, || self.json(address, &url).map(|answer| answer.value))
    }

    /// Everything below `folder` of the repository at `commit`, each entry given to `take`, which says whether it was new.
    /// False where there is no such folder, or the server does not list folders.
    ///
    /// # Errors
    /// A list without end, beside what the hub and `take` say.
    pub(super) fn tree(
        &self,
        address: &Address,
        commit: &str,
        attempts: u32,
        mut take: impl FnMut(&Value) -> Result<Entry>,
    ) -> Result<bool> {
        let (kind, repo, folder) = (address.kind.plural(), &address.repo, folder_of(&address.path));
        let folder = if folder.is_empty() { String::new() } else { format!("/{}", escape(folder, "/")) };
        let mut next = Some(format!("{}/api/{kind}/{repo}/tree/{commit}{folder}?recursive=true", self.endpoint));
        let endless =
            |what: String| Refusal::lasting(format!("the list of its files does not end: {what}")).at(address);
        let (mut pages, mut files, mut bytes) = (0, 0, 0);
        while let Some(url) = next.take() {
            let page = self.patiently(address, attempts, || match self.json(address, &url) {
                Err(Refusal { cause: Cause::Absent, .. }) => Ok(None),
                page => page.map(Some),
            })?;
            let Some(Described { value: Value::Array(page), headers, size }) = page else { return Ok(false) };
            let mut new = 0;
            for entry in &page {
                new += usize::from(take(entry)? == Entry::New);
            }
            next =
                headers.get(header::LINK).and_then(|link| next_page(link.to_str().ok()?)).filter(|next| *next != url);
            (pages, files, bytes) = (pages + 1, files + new, bytes + size);
            if files > FILES || bytes > LISTING {
                return Err(endless(format!("more than {FILES} files, or {LISTING} bytes")));
            }
            if next.is_some() && pages >= PAGES {
                return Err(endless(format!("more than {PAGES} pages")));
            }
            if next.is_some() && new == 0 && !page.is_empty() {
                return Err(endless(format!("page {pages} names only what was named before")));
            }
        }
        Ok(true)
    }

    /// Where the file of the repository at `commit` is had.
    pub(super) fn file_url(&self, address: &Address, commit: &str) -> String {
        let (prefix, repo) = (address.kind.prefix(), &address.repo);
        format!("{}/{prefix}{repo}/resolve/{commit}/{}", self.endpoint, escape(&address.path, "/"))
    }

    fn json(&self, address: &Address, url: &str) -> Result<Described, Refusal> {
        let mut answer = self.request(&Method::GET, url, None, address)?;
        let text = whole(answer.response.body_mut(), url)?;
        let value = serde_json::from_slice(&text);
        let value = value.map_err(|error| Refusal::lasting(format!("{} answers no JSON: {error}", host(url))))?;
        Ok(Described { value, headers: answer.response.headers().clone(), size: text.len() as u64 })
    }

    /// Tries again what may pass, up to `attempts` times, with growing pauses.
    pub(super) fn patiently<T>(
        &self,
        address: &Address,
        attempts: u32,
        act: impl FnMut() -> Result<T, Refusal>,
    ) -> Result<T> {
        self.attempt(attempts, act).map_err(|refusal| refusal.at(address))
    }

    /// As [`Self::patiently`], with the last refusal as it is.
    pub(super) fn attempt<T>(&self, attempts: u32, mut act: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut attempt = 1;
        loop {
            match act() {
                Err(refusal) if refusal.passes() && attempt < attempts => self.wait(attempt),
                result => return result,
            }
            attempt += 1;
        }
    }

    /// The pause after the failure number `attempt`.
    pub(super) fn wait(&self, attempt: u32) {
        sleep(self.pause * 2_u32.saturating_pow(attempt - 1));
    }

    /// Asks for `url`, from byte `from` on, and goes where it is sent.
    pub(super) fn request(
        &self,
        method: &Method,
        url: &str,
        from: Option<u64>,
        address: &Address,
    ) -> Result<Answer, Refusal> {
        let mut url = url.to_owned();
        let mut hub: Option<HeaderMap> = None;
        for _ in 0..HOPS {
            let mut request = ureq::http::Request::builder().method(method).uri(&url);
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&url, &self.endpoint)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|error| Refusal::lasting(error.to_string()))?;
            let response = self.agent.run(request).map_err(|error| transport(&error, &url, NETWORK))?;
            let headers = response.headers().clone();
            let known = hub.get_or_insert_with(|| headers.clone());
            let to = headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
            let status = response.status();
            if let Some(to) = to.filter(|_| status.is_redirection()) {
                let elsewhere = resolve(&url, to).filter(|to| !(url.starts_with("https:") && to.starts_with("http:")));
                let Some(to) = elsewhere else {
                    return Err(Refusal::lasting(format!("{} sends elsewhere, to no safe address", host(&url))));
                };
                if method == Method::HEAD && !same_origin(&to, &self.endpoint) {
                    return Ok(Answer { hub: known.clone(), response });
                }
                if same_origin(&to, &self.endpoint) {
                    // A repository under a new name: what counts is said there.
                    hub = None;
                }
                url = to;
                continue;
            }
            if status.is_success() {
                return Ok(Answer { hub: known.clone(), response });
            }
            return Err(self.refusal(status, &headers, address, &url));
        }
        Err(Refusal::lasting(format!("sent elsewhere {HOPS} times in a row")))
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, address: &Address, url: &str) -> Refusal {
        let code = code_of(headers);
        let page = self.page(address);
        let token = "HF_TOKEN, or with `hf auth login`";
        let message = match (status.as_u16(), code.as_str()) {
            _ if !same_origin(url, &self.endpoint) => format!("{} answers {status}", host(url)),
            (401 | 403, "GatedRepo") => {
                format!("access is granted on request: ask for it at {page}, then give your token in {token}")
            }
            (401, _) if self.token.is_none() => {
                format!(
                    "no such repository, or a private one: look at {page}; for a private one give your token in {token}"
                )
            }
            (401 | 403, _) => {
                format!("the token in use may not read it: check access at {page} and the token in {token}")
            }
            (404, "RevisionNotFound") => format!("no revision `{}`: see {page}/tree/main", address.revision()),
            (404, "EntryNotFound") => format!("no such file: see {page}/tree/{}", address.revision()),
            (404, _) => format!("not found: look at {page}; private repositories need a token in {token}"),
            (429, _) => format!("the hub says too many requests; wait, or give a token in {token}"),
            _ => format!("{} answers {status}", host(url)),
        };
        Refusal::answered(status, code, message)
    }

    /// The repository's page for people.
    pub(super) fn page(&self, address: &Address) -> String {
        format!("{}/{}{}", self.endpoint, address.kind.prefix(), address.repo)
    }
}

/// All of an answer's body, within bounds of size and time.
pub(super) fn whole(body: &mut Body, url: &str) -> Result<Vec<u8>, Refusal> {
    let (begin, mut text, mut block) = (Instant::now(), Vec::new(), vec![0; 64 << 10]);
    let mut reader = body.as_reader();
    loop {
        let read = reader.read(&mut block);
        let read = read.map_err(|error| Refusal::passing(format!("the connection broke: {error}")))?;
        if read == 0 {
            return Ok(text);
        }
        text.extend_from_slice(&block[..read]);
        if text.len() as u64 > ANSWER {
            return Err(Refusal::lasting(format!("{} answers with more than {ANSWER} bytes", host(url))));
        }
        if begin.elapsed() > PATIENCE {
            let message = format!("{} takes more than {} s for an answer", host(url), PATIENCE.as_secs());
            return Err(Refusal::passing(message));
        }
    }
}

impl Refusal {
    pub(super) fn passing(message: String) -> Self {
        Self { message, cause: Cause::Passing, status: None, code: String::new() }
    }

    pub(super) fn lasting(message: String) -> Self {
        Self { message, cause: Cause::Lasting, status: None, code: String::new() }
    }

    /// What an answer with `status` means.
    pub(super) fn answered(status: StatusCode, code: String, message: String) -> Self {
        let cause = match status.as_u16() {
            408 | 429 | 500.. => Cause::Passing,
            404 | 405 => Cause::Absent,
            _ => Cause::Lasting,
        };
        Self { message, cause, status: Some(status), code }
    }

    pub(super) fn passes(&self) -> bool {
        self.cause == Cause::Passing
    }

    /// What is not there is a wrong address; everything else is the hub's own affair.
    pub(super) fn at(self, address: &Address) -> Error {
        if self.cause == Cause::Absent {
            return Error::data(Place::file(address), self.message);
        }
        Error::Store { path: address.to_string(), retryable: self.passes(), message: self.message }
    }
}

/// What kept a request from `url`, with `hint` at what to do where the network may be gone.
pub(super) fn transport(error: &ureq::Error, url: &str, hint: &str) -> Refusal {
    let text = error.to_string();
    // rustls reports it from inside of an I/O error.
    let untrusted = text.contains("certificate");
    let hint = if untrusted { "SSL_CERT_FILE names a file with the certificates to trust" } else { hint };
    let message = format!("{} cannot be reached: {text}; {hint}", host(url));
    let lasting = untrusted || matches!(error, ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl);
    if lasting { Refusal::lasting(message) } else { Refusal::passing(message) }
}

/// The hub's word for the reason of a refusal.
pub(super) fn code_of(headers: &HeaderMap) -> String {
    headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default().to_owned()
}

/// Certificates of `SSL_CERT_FILE` (or `REQUESTS_CA_BUNDLE`, as in Python), where one is set; else Mozilla's.
fn certificates() -> Option<Vec<Certificate<'static>>> {
    let file = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].iter().find_map(std::env::var_os)?;
    let text = std::fs::read(file).ok()?;
    let found = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Some(found.collect::<Vec<_>>()).filter(|found| !found.is_empty())
}

pub(super) fn same_origin(a: &str, b: &str) -> bool {
    let origin = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        Some((uri.scheme_str()?.to_owned(), uri.authority()?.to_string()))
    };
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

/// The host of `url`. Paths and queries may hold signatures, which nobody should read in a log.
pub(super) fn host(url: &str) -> String {
    url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_else(|| "the server".to_owned())
}

/// `to` as seen from `url`.
pub(super) fn resolve(url: &str, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.to_owned());
    }
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    match (to.strip_prefix("//"), to.starts_with('/')) {
        (Some(rest), _) => Some(format!("{scheme}://{rest}")),
        (None, true) => Some(format!("{scheme}://{authority}{to}")),
        (None, false) => {
            let folder = &uri.path()[..uri.path().rfind('/')? + 1];
            Some(format!("{scheme}://{authority}{folder}{to}"))
        }
    }
}

/// The address under `rel="next"` in a `Link` header.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// The folder in which everything lies that a path or pattern may mean.
fn folder_of(path: &str) -> &str {
    let plain = path.find(['*', '?', '[']).map_or(path, |wild| &path[..wild]);
    plain.rfind('/').map_or("", |end| &plain[..end])
}

/// `text` as part of a URL; characters of `keep` stay.
pub(super) fn escape(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) {
            out.push(c);
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_origins_told_apart() {
        let from = "https://hub.example:8443/a/b?c";
        assert_eq!(resolve(from, "/x?y").unwrap(), "https://hub.example:8443/x?y");
        assert_eq!(resolve(from, "//cdn.example/x").unwrap(), "https://cdn.example/x");
        assert_eq!(resolve(from, "x").unwrap(), "https://hub.example:8443/a/x");
        assert_eq!(resolve(from, "https://cdn.example/x").unwrap(), "https://cdn.example/x");
        assert!(same_origin(from, "https://hub.example:8443"));
        for other in ["http://hub.example:8443", "https://hub.example", "https://hub.example.evil:8443", "nothing"] {
            assert!(!same_origin(from, other), "{other}");
        }
    }

    #[test]
    fn the_folder_that_a_pattern_lies_in() {
        for (path, folder) in
            [("", ""), ("data", ""), ("a/b.parquet", "a"), ("a/*/c", "a"), ("*.json", ""), ("a/b/x-?.gz", "a/b")]
        {
            assert_eq!(folder_of(path), folder, "{path}");
        }
    }

    #[test]
    fn names_are_escaped_and_pages_followed() {
        assert_eq!(escape("a b/ü#?.json", "/"), "a%20b/%C3%BC%23%3F.json");
        assert_eq!(escape("refs/pr/1", ""), "refs%2Fpr%2F1");
        let link = "<https://h/x?cursor=1>; rel=\"prev\", <https://h/x?cursor=2>; rel=\"next\"";
        assert_eq!(next_page(link).unwrap(), "https://h/x?cursor=2");
        assert!(next_page("<https://h>; rel=\"last\"").is_none());
    }
}
