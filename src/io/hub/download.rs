//! One file from the hub into the cache: resumed where it broke off, and checked against the hub's digest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use ureq::http::{HeaderMap, Method, StatusCode, header};

use super::address::{Address, is_inside};
use super::cache::Repo;
use super::client::{ATTEMPTS, Client, Refusal};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Read at a time.
const BLOCK: usize = 1 << 20;

/// Most bytes of a file; the hub itself takes files of half this size.
const LARGEST: u64 = 1 << 40;
/// Most bytes of a file whose size the server does not say.
const UNKNOWN: u64 = 1 << 30;

/// What is known of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// sha256 of large files, git's sha1 of small ones; the name in the cache.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: Option<u64>,
}

impl Content {
    /// From the headers of an answer of the hub's own.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = get("x-linked-etag").or_else(|| get("etag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // Behind a redirect the length is the redirect's own.
        let size =
            get("x-linked-size").or_else(|| get("content-length").filter(|_| !headers.contains_key(header::LOCATION)));
        Some(Self { etag, size: size.and_then(|size| size.parse().ok()) }).filter(Self::is_sound)
    }

    /// What is wrong with a server that sends more than this.
    fn exceeded(&self) -> String {
        let what = match self.size {
            Some(size) => format!("the server sends more than the {size} bytes that it says the file has"),
            None => format!("the server does not say how large the file is, and sends more than {UNKNOWN} bytes"),
        };
        format!("{what}; nothing of it was kept")
    }

    /// Whether the etag can be a file's name.
    pub(super) fn is_sound(&self) -> bool {
        self.etag.len() <= 128 && is_inside(&self.etag) && !self.etag.contains('/')
    }
}

/// One file on its way.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) repo: &'a Repo,
    /// The file, for messages.
    pub(super) address: &'a Address,
    pub(super) commit: &'a str,
    pub(super) monitor: &'a dyn Monitor,
}

impl Download<'_> {
    /// What the hub says of the content.
    pub(super) fn content(&self) -> Result<Content> {
        let url = self.client.file_url(self.address, self.commit);
        let ask = || self.client.request(&Method::HEAD, &url, None, self.address);
        let answer = self.client.patiently(self.address, ATTEMPTS, ask)?;
        Content::of(&answer.hub).ok_or_else(|| self.error("the server names no etag, so that nothing can be checked"))
    }

    /// Brings the content here and links it.
    pub(super) fn run(&self, content: &Content) -> Result<()> {
        if let Some(size) = content.size.filter(|size| *size > LARGEST) {
            return Err(self.error(&format!("a file of {size} bytes; the most is {LARGEST}")));
        }
        let wrong = |error: io::Error| self.error(&format!("the cache cannot be written: {error}"));
        let _lock = self.repo.lock(&content.etag).map_err(wrong)?;
        let blob = self.repo.blob(&content.etag);
        if !blob.is_file() {
            let part = blob.with_added_extension("incomplete");
            let resumed = fs::metadata(&part).is_ok_and(|part| part.len() > 0);
            self.receive(content, &part)?;
            let mut check = check(&part, content).map_err(wrong)?;
            if check.is_some() && resumed {
                // What was there before may have been the wrong part.
                fs::remove_file(&part).map_err(wrong)?;
                self.receive(content, &part)?;
                check = self::check(&part, content).map_err(wrong)?;
            }
            if let Some(difference) = check {
                fs::remove_file(&part).map_err(wrong)?;
                let way = "the download was damaged, or the server is not the hub; nothing of it was kept, try again";
                return Err(Error::Store {
                    path: self.address.to_string(),
                    message: format!("{difference}: {way}"),
                    retryable: true,
                });
            }
            fs::rename(&part, &blob).map_err(wrong)?;
        }
        self.repo.link(self.commit, &self.address.path, &content.etag).map_err(wrong)
    }

    /// Fills `part` up to the content's size, however often the connection breaks.
    fn receive(&self, content: &Content, part: &Path) -> Result<()> {
        let wrong = |error: io::Error| self.error(&format!("{}: {error}", part.display()));
        let mut file = OpenOptions::new().append(true).create(true).open(part).map_err(wrong)?;
        let mut have = file.metadata().map_err(wrong)?.len();
        if content.size.is_none_or(|size| have > size) {
            // Without a size nobody can tell how much of it is left.
            file.set_len(0).map_err(wrong)?;
            have = 0;
        }
        self.monitor.advance(have, "");
        let mut failures = 0;
        while content.size != Some(have) {
            let before = have;
            let result = self.piece(content, &mut file, &mut have);
            failures = if have > before { 0 } else { failures + 1 };
            match result {
                Ok(()) if content.size.is_none_or(|size| have >= size) => break,
                Err(Stop::Asked) => return Err(Error::Interrupted),
                Err(Stop::Refused(refusal)) if !refusal.passes() || failures >= ATTEMPTS => {
                    return Err(refusal.at(self.address));
                }
                Ok(()) if failures >= ATTEMPTS => {
                    let message =
                        format!("the connection keeps breaking after {have} bytes; run again to go on from there");
                    return Err(Error::Store { path: self.address.to_string(), message, retryable: true });
                }
                Ok(()) | Err(Stop::Refused(_)) => self.client.wait(failures.max(1)),
            }
        }
        Ok(())
    }

    /// Appends what one connection brings, but no more than the content has.
    fn piece(&self, content: &Content, file: &mut File, have: &mut u64) -> Result<(), Stop> {
        let broken = |error: io::Error| Stop::Refused(Refusal::passing(format!("the connection broke: {error}")));
        let full = |error: io::Error| Stop::Refused(Refusal::lasting(format!("the cache cannot be written: {error}")));
        let url = self.client.file_url(self.address, self.commit);
        let from = (*have > 0).then_some(*have);
        let mut answer = self.client.request(&Method::GET, &url, from, self.address).map_err(Stop::Refused)?;
        if from.is_some() && !continues(&answer.response, *have) {
            // The server does not know ranges: from the start.
            file.set_len(0).map_err(full)?;
            *have = 0;
        }
        let mut reader = answer.response.body_mut().as_reader();
        let mut block = vec![0; BLOCK];
        loop {
            if self.monitor.stopping() {
                return Err(Stop::Asked);
            }
            let read = reader.read(&mut block).map_err(broken)?;
            if read == 0 {
                return Ok(());
            }
            if *have + read as u64 > content.size.unwrap_or(UNKNOWN) {
                file.set_len(0).map_err(full)?;
                *have = 0;
                return Err(Stop::Refused(Refusal::lasting(content.exceeded())));
            }
            file.write_all(&block[..read]).map_err(full)?;
            *have += read as u64;
            self.monitor.advance(read as u64, "");
        }
    }

    fn error(&self, message: &str) -> Error {
        Error::Store { path: self.address.to_string(), message: message.to_owned(), retryable: false }
    }
}

enum Stop {
    /// The user wants to.
    Asked,
    Refused(Refusal),
}

fn continues<T>(response: &ureq::http::Response<T>, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let starts = |range: &str| range.strip_prefix("bytes ").is_some_and(|range| range.starts_with(&format!("{from}-")));
    response.status() == StatusCode::PARTIAL_CONTENT && range.is_none_or(starts)
}

/// How the file departs from what the hub says of it.
fn check(file: &Path, content: &Content) -> io::Result<Option<String>> {
    let size = fs::metadata(file)?.len();
    if let Some(expected) = content.size.filter(|expected| *expected != size) {
        return Ok(Some(format!("{size} bytes arrived, not {expected}")));
    }
    let hexadecimal = content.etag.chars().all(|c| c.is_ascii_hexdigit());
    let mut context = match content.etag.len() {
        64 if hexadecimal => Context::new(&SHA256),
        40 if hexadecimal => {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {size}\0").as_bytes());
            context
        }
        // Another server's etag, of which only the size can be checked.
        _ => return Ok(None),
    };
    let mut file = File::open(file)?;
    let mut block = vec![0; BLOCK];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        context.update(&block[..read]);
    }
    let digest: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((digest != content.etag).then(|| format!("the content's digest is {digest}, not {}", content.etag)))
}
