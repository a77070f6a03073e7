//! Requests with a body: to the hub with its token, to the storage that it names without.

use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;
use ureq::SendBody;
use ureq::http::{HeaderMap, Request, StatusCode, header};

use super::address::Address;
use super::client::{ATTEMPTS, Client, HOPS, Refusal, code_of, host, resolve, same_origin, transport, whole};
use crate::error::{Error, Result};
use crate::monitor::Monitor;

/// Most characters of what the hub says that a message repeats.
const SAID: usize = 300;
/// Longest that the hub may take for an answer: it looks at all files of a commit, and the storage joins parts.
const ANSWER: Duration = Duration::from_secs(300);
/// What to do where an upload finds no network.
const NETWORK: &str = "is the network there? Run the same command again to go on";

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    /// JSON of Git LFS.
    Lfs,
    /// One JSON value a line.
    Lines,
}

impl Media {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lfs => "application/vnd.git-lfs+json",
            Self::Lines => "application/x-ndjson",
        }
    }
}

/// Bytes on their way out, which ends when the monitor says so.
pub(super) struct Outflow<'a> {
    from: Box<dyn Read + 'a>,
    monitor: &'a dyn Monitor,
    sent: u64,
    /// Bytes that the monitor knows of: those of an earlier try count once.
    told: &'a mut u64,
    /// Why the bytes ended early.
    failure: Option<Error>,
}

impl<'a> Outflow<'a> {
    pub(super) fn new(from: Box<dyn Read + 'a>, monitor: &'a dyn Monitor, told: &'a mut u64) -> Self {
        Self { from, monitor, sent: 0, told, failure: None }
    }
}

impl Read for Outflow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.monitor.stopping() {
            self.failure = Some(Error::Interrupted);
            // Not of the kind `Interrupted`, after which readers try again.
            return Err(io::Error::other("stopped"));
        }
        let read = self.from.read(out).inspect_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            let unknown = || Error::Store { path: "upload".into(), message: error.to_string(), retryable: false };
            self.failure = Some(inner.cloned().unwrap_or_else(unknown));
        })?;
        self.sent += read as u64;
        if let Some(new) = self.sent.checked_sub(*self.told).filter(|new| *new > 0) {
            self.monitor.advance(new, "");
            *self.told = self.sent;
        }
        Ok(read)
    }
}

impl Client {
    /// Posts `body` to `url`, tried again while it fails in a way that may pass. The answer, or null where that is no JSON.
    pub(super) fn post(&self, url: &str, media: Media, body: &[u8], address: &Address) -> Result<Value, Refusal> {
        self.attempt(ATTEMPTS, || self.post_once(url, media, body, address))
    }

    /// One try of [`Self::post`]. The token goes to the hub alone, and so does what the body says: a redirect to another
    /// server is refused, one to a repository's new name is followed.
    pub(super) fn post_once(&self, url: &str, media: Media, body: &[u8], address: &Address) -> Result<Value, Refusal> {
        let mut url = url.to_owned();
        for _ in 0..HOPS {
            let mut request = Request::post(&url).header(header::CONTENT_TYPE, media.name());
            if media == Media::Lfs {
                request = request.header(header::ACCEPT, media.name());
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&url, &self.endpoint)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(body).map_err(|error| Refusal::lasting(error.to_string()))?;
            let request = self.agent.configure_request(request);
            let request = request.timeout_recv_response(Some(ANSWER)).timeout_per_read(Some(ANSWER)).build();
            let mut response = self.agent.run(request).map_err(|error| transport(&error, &url, NETWORK))?;
            let status = response.status();
            if status.is_redirection() {
                let to = response.headers().get(header::LOCATION).and_then(|to| resolve(&url, to.to_str().ok()?));
                match to.filter(|to| same_origin(to, &url)) {
                    Some(to) => url = to,
                    None => {
                        let message = format!("{} sends an upload on to another server, which is refused", host(&url));
                        return Err(Refusal::lasting(message));
                    }
                }
                continue;
            }
            let text = whole(response.body_mut(), &url)?;
            if status.is_success() {
                return Ok(serde_json::from_slice(&text).unwrap_or_default());
            }
            return Err(self.refused(status, response.headers(), &text, address, &url));
        }
        Err(Refusal::lasting(format!("sent elsewhere {HOPS} times in a row")))
    }

    /// Puts `length` bytes of `open` to `url`, a storage that the hub named, tried again while that fails in a way that may
    /// pass. Returns the storage's headers.
    ///
    /// # Errors
    /// Bytes that cannot be read, and the wish to stop; inside, what the storage says.
    pub(super) fn put<'a>(
        &self,
        url: &str,
        length: u64,
        open: &dyn Fn() -> Box<dyn Read + 'a>,
        monitor: &dyn Monitor,
    ) -> Result<Result<HeaderMap, Refusal>> {
        let (mut told, mut attempt) = (0, 1);
        loop {
            let (refusal, failure) = match self.put_once(url, length, open, monitor, &mut told) {
                (Ok(headers), _) => return Ok(Ok(headers)),
                (Err(refusal), failure) => (refusal, failure),
            };
            if let Some(error) = failure {
                return Err(error);
            }
            if !refusal.passes() || attempt >= ATTEMPTS {
                return Ok(Err(refusal));
            }
            self.wait(attempt);
            attempt += 1;
        }
    }

    /// One try of [`Self::put`], and why the bytes ended early if they did. The token is not sent, whoever asks for it.
    fn put_once<'a>(
        &self,
        url: &str,
        length: u64,
        open: &dyn Fn() -> Box<dyn Read + 'a>,
        monitor: &dyn Monitor,
        told: &mut u64,
    ) -> (Result<HeaderMap, Refusal>, Option<Error>) {
        let mut url = url.to_owned();
        for _ in 0..HOPS {
            let mut body = Outflow::new(open(), monitor, told);
            let request = Request::put(&url).header(header::CONTENT_LENGTH, length);
            let request = match request.body(SendBody::from_reader(&mut body)) {
                Ok(request) => request,
                Err(error) => return (Err(Refusal::lasting(error.to_string())), None),
            };
            let response = match self.agent.run(request) {
                Ok(response) => response,
                Err(error) => return (Err(transport(&error, &url, NETWORK)), body.failure),
            };
            let (status, headers) = (response.status(), response.headers());
            if status.is_success() {
                return (Ok(headers.clone()), None);
            }
            let to = headers.get(header::LOCATION).filter(|_| status.is_redirection());
            let to = to.and_then(|to| resolve(&url, to.to_str().ok()?)).filter(|to| is_as_safe(&url, to));
            match to {
                Some(to) => url = to,
                None => {
                    let message = format!("{} answers {status}", host(&url));
                    return (Err(Refusal::answered(status, code_of(headers), message)), None);
                }
            }
        }
        (Err(Refusal::lasting(format!("sent elsewhere {HOPS} times in a row"))), None)
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, text: &[u8], address: &Address, url: &str) -> Refusal {
        let (code, page) = (code_of(headers), self.page(address));
        let said = || self.said(text).map(|said| format!(": {said}")).unwrap_or_default();
        let message = match status.as_u16() {
            _ if !same_origin(url, &self.endpoint) => format!("{} answers {status}", host(url)),
            401 | 403 => format!(
                "the token may not write to {page}: it needs the role `write`, and whoever it belongs to the right to write \
                 there; give another one in HF_TOKEN, or with `hf auth login`"
            ),
            404 if code == "RevisionNotFound" => {
                format!("no branch `{}`; `create` makes it, or name another one", address.revision())
            }
            404 => format!("no such repository as {page}; `create` makes it"),
            429 => "the hub says too many requests; wait".to_owned(),
            _ => format!("{} answers {status}{}", host(url), said()),
        };
        Refusal::answered(status, code, message)
    }

    /// What an answer of the hub's own says went wrong, unless that repeats the token.
    fn said(&self, text: &[u8]) -> Option<String> {
        let answer: Value = serde_json::from_slice(text).ok()?;
        let said = answer["error"].as_str()?;
        let is_secret = self.token.as_ref().is_some_and(|token| said.contains(token.as_str()));
        let plain = said.chars().map(|c| if c.is_control() { ' ' } else { c });
        (!is_secret).then(|| plain.take(SAID).collect())
    }
}

/// Whether `to` hides what is sent as well as `from` does.
pub(super) fn is_as_safe(from: &str, to: &str) -> bool {
    to.starts_with("https://") || from.starts_with("http://") && to.starts_with("http://")
}
