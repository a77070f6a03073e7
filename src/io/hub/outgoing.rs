//! Files on their way to the hub: what they hold, as the hub names contents.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::address::is_inside;
use crate::error::{Error, Result};
use crate::io::Location;
use crate::io::store::Blob;
use crate::monitor::Monitor;

/// Bytes of its start by which the hub tells text from other contents.
const SAMPLE: usize = 512;
/// Read at a time.
const BLOCK: usize = 1 << 20;

/// A file that is to be in a repository.
#[derive(Debug, Clone)]
pub struct Outgoing {
    path: String,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// One version of a file: when it changes meanwhile, reading it fails.
    File(Blob),
    Text(Bytes),
}

impl Outgoing {
    /// The file at `location`, as `path` of the repository.
    ///
    /// # Errors
    /// No such file; a store that fails; a path that leaves the repository.
    pub fn file(path: impl Into<String>, location: &Location) -> Result<Self> {
        let (path, content) = (path.into(), Content::File(location.open()?));
        if !is_inside(&path) {
            let message = format!("`{path}` is no path inside a repository");
            return Err(Error::Store { path: location.to_string(), message, retryable: false });
        }
        Ok(Self { path, content })
    }

    /// A file `path` that holds `text`.
    pub fn text(path: impl Into<String>, text: impl Into<Bytes>) -> Self {
        Self { path: path.into(), content: Content::Text(text.into()) }
    }

    /// Its path in the repository.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn size(&self) -> u64 {
        match &self.content {
            Content::File(blob) => blob.size(),
            Content::Text(text) => text.len() as u64,
        }
    }

    /// Its bytes from `start` on.
    pub(super) fn reader(&self, start: u64) -> Box<dyn Read> {
        match &self.content {
            Content::File(blob) => Box::new(blob.reader(start)),
            Content::Text(text) => Box::new(text.slice((start as usize).min(text.len())..).reader()),
        }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// A file that cannot be read or changed, and the wish to stop.
    pub(super) fn digested(self, monitor: &dyn Monitor) -> Result<Digested> {
        let size = self.size();
        let (mut large, mut small) = (Context::new(&SHA256), Context::new(&SHA1_FOR_LEGACY_USE_ONLY));
        small.update(format!("blob {size}\0").as_bytes());
        let (mut reader, mut block, mut sample, mut bytes) = (self.reader(0), vec![0; BLOCK], Vec::new(), 0);
        loop {
            if monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let read = reader.read(&mut block).map_err(|error| unreadable(&self.path, &error))?;
            if read == 0 {
                break;
            }
            large.update(&block[..read]);
            small.update(&block[..read]);
            sample.extend_from_slice(&block[..read.min(SAMPLE - sample.len())]);
            bytes += read as u64;
        }
        debug_assert_eq!(bytes, size, "a pinned file has its size");
        Ok(Digested {
            file: self,
            sample,
            sha256: hexadecimal(&large.finish()),
            git_sha1: hexadecimal(&small.finish()),
        })
    }
}

/// A file with its digests.
#[derive(Debug, Clone)]
pub(super) struct Digested {
    pub(super) file: Outgoing,
    /// Its first bytes.
    pub(super) sample: Vec<u8>,
    /// Of the content: the name of a large file.
    pub(super) sha256: String,
    /// Git's digest of a blob with the content: the name of a small file.
    pub(super) git_sha1: String,
}

/// What a read that failed means for the file `path`.
pub(super) fn unreadable(path: &str, error: &io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    inner.unwrap_or_else(|| Error::Store { path: path.to_owned(), message: error.to_string(), retryable: false })
}

fn hexadecimal(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 4648's base64, padded.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let three = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            out.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[index]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    // The test vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, expected) in vectors.into_iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), expected);
        }
    }

    // `printf 'hello\n' | sha256sum`, `printf 'hello\n' | git hash-object --stdin`
    #[test]
    fn digests_are_those_of_the_hub() {
        let digested = Outgoing::text("a.txt", "hello\n").digested(&Silent).unwrap();
        assert_eq!(digested.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(digested.git_sha1, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(digested.sample, b"hello\n");
    }
}
