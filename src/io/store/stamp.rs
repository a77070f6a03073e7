//! Which version of a file is read. A file that is replaced, cut or written to while a run reads it would give rows of two
//! versions. So what the file system or the store says about it when it is opened is kept, and every later read of it is
//! compared with that: a read gives bytes of the version that was opened, or an error that says what changed.

use std::fs::{File, Metadata};
use std::io;
use std::time::UNIX_EPOCH;

use chrono::{DateTime, Utc};
use object_store::{GetResult, GetResultPayload, ObjectMeta};

use super::{Location, failed};
use crate::error::{Error, Result};

/// What distinguishes versions of a file without its content being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamp {
    /// A file on this machine.
    Local(Inode),
    /// A file in a store or on a web server.
    Remote(Answer),
}

/// What the file system says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// The file system (0 where it has no number).
    pub device: u64,
    /// The file's number there (0 where it has none).
    pub number: u64,
    /// Its size.
    pub bytes: u64,
    /// When its content was written last, in nanoseconds since 1970.
    pub modified: i128,
    /// When its content, its permissions or its links changed last, in nanoseconds since 1970. Nobody can set it back.
    pub changed: i128,
}

/// What a store or a web server says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its size.
    pub bytes: u64,
    /// The `ETag`.
    pub tag: Option<String>,
    /// The version or generation, in buckets that keep them.
    pub version: Option<String>,
    /// `Last-Modified`.
    pub modified: Option<DateTime<Utc>>,
}

/// What has become of a pinned file that still has the content it was opened with, as far as its stamp tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    /// Nothing.
    Whole,
    /// Permissions or links changed, or it was written to and its time was set back: only its content can tell.
    Touched,
}

impl Inode {
    /// Of an open file.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok();
        let modified = modified.map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        });
        #[cfg(unix)]
        let (device, number, changed) = {
            use std::os::unix::fs::MetadataExt;
            let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
            (metadata.dev(), metadata.ino(), changed)
        };
        #[cfg(not(unix))]
        let (device, number, changed) = (0, 0, modified);
        Self { device, number, bytes: metadata.len(), modified, changed }
    }

    fn difference(&self, now: &Self) -> Option<String> {
        if (self.device, self.number) != (now.device, now.number) {
            return Some("another file has taken its place".to_owned());
        }
        let written = || (self.modified != now.modified).then(|| "it was written to, at the same size".to_owned());
        other_size(self.bytes, now.bytes).or_else(written)
    }
}

impl Answer {
    fn of(meta: &ObjectMeta) -> Self {
        Self {
            bytes: meta.size,
            tag: meta.e_tag.clone(),
            version: meta.version.clone(),
            // What a server does not say is given as the year 1970.
            modified: Some(meta.last_modified).filter(|time| time.timestamp() != 0),
        }
    }

    fn difference(&self, now: &Self) -> Option<String> {
        fn differ<T: PartialEq>(before: Option<&T>, now: Option<&T>) -> Option<bool> {
            before.zip(now).map(|(before, now)| before != now)
        }
        let tag = differ(self.tag.as_ref(), now.tag.as_ref());
        let version = differ(self.version.as_ref(), now.version.as_ref());
        // Where there is a tag it alone decides: some servers give the time of the answer.
        let modified = differ(self.modified.as_ref(), now.modified.as_ref()).filter(|_| tag.or(version).is_none());
        let says = [(tag, "ETag"), (version, "version"), (modified, "Last-Modified")];
        let written = || says.iter().find(|(differs, _)| *differs == Some(true));
        other_size(self.bytes, now.bytes)
            .or_else(|| written().map(|(_, what)| format!("it was written again, its {what} is another")))
    }
}

fn other_size(before: u64, now: u64) -> Option<String> {
    (before != now).then(|| format!("it had {before} bytes and has {now}"))
}

impl Stamp {
    /// What came with an answer to a request for the file's bytes.
    pub(super) fn of(found: &GetResult) -> io::Result<Self> {
        match &found.payload {
            GetResultPayload::File(file, _) => Ok(Self::Local(Inode::of(&file.metadata()?))),
            GetResultPayload::Stream(_) => Ok(Self::Remote(Answer::of(&found.meta))),
        }
    }

    /// The file's size.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Local(inode) => inode.bytes,
            Self::Remote(answer) => answer.bytes,
        }
    }

    /// What `If-Match` may ask for. Weak tags never match there, and what has no quotes is no tag by the book.
    pub(super) fn condition(&self) -> Option<String> {
        match self {
            Self::Local(_) => None,
            Self::Remote(answer) => answer.tag.clone().filter(|tag| tag.starts_with('"')),
        }
    }

    /// What shows that the file is another one now, if anything does.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        match (self, now) {
            (Self::Local(before), Self::Local(now)) => before.difference(now),
            (Self::Remote(before), Self::Remote(now)) => before.difference(now),
            _ => Some("it lies elsewhere now".to_owned()),
        }
    }
}

impl Location {
    /// The file in the version that is there now. Whatever is read through the location that is returned, and through
    /// what was opened with it, is of this version; if the file changed since, it is an error.
    ///
    /// # Errors
    /// No such file, a store that fails.
    pub fn pinned(&self) -> Result<Self> {
        self.found()?.ok_or_else(|| failed(&self.shown, &"no such file"))
    }

    /// [`Self::pinned`], and none where there is no such file.
    pub(super) fn found(&self) -> Result<Option<Self>> {
        if self.pin.is_some() {
            return Ok(Some(self.clone()));
        }
        let stamp = self.stamp()?;
        Ok(stamp.map(|stamp| Self { pin: Some(stamp.into()), ..self.clone() }))
    }

    /// The version that a pinned location means.
    pub fn pin(&self) -> Option<&Stamp> {
        self.pin.as_deref()
    }

    /// Compares a pinned file with what is there now.
    ///
    /// # Errors
    /// The file changed, with what changed and the way out; a store that fails.
    pub fn unchanged(&self) -> Result<Unchanged> {
        let Some(pin) = self.pin() else { return Ok(Unchanged::Whole) };
        let now = self.stamp()?.ok_or_else(|| self.gone())?;
        self.expect(&now)?;
        Ok(if *pin == now || matches!(now, Stamp::Remote(_)) { Unchanged::Whole } else { Unchanged::Touched })
    }

    /// Compares a pinned file with `now`, which was seen in reading it.
    pub(crate) fn expect(&self, now: &Stamp) -> Result<()> {
        match self.pin().and_then(|pin| pin.difference(now)) {
            Some(how) => Err(self.changed(&how)),
            None => Ok(()),
        }
    }

    /// What there is to know about the file without reading it; none where there is no such file.
    pub(super) fn stamp(&self) -> Result<Option<Stamp>> {
        let Some(path) = &self.local else {
            return Ok(self.meta()?.as_ref().map(Answer::of).map(Stamp::Remote));
        };
        if !path.is_file() {
            return Ok(None);
        }
        // A network file system says what is true now about a file that is opened, and what was true lately about others.
        match File::open(path).and_then(|file| file.metadata()) {
            Ok(metadata) => Ok(Some(Stamp::Local(Inode::of(&metadata)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&self.shown, &error)),
        }
    }

    fn gone(&self) -> Error {
        failed(&self.shown, &"the file is gone since this run opened it; put it back and run the same command again")
    }

    /// That the file is not the one that was opened.
    pub(crate) fn changed(&self, how: &str) -> Error {
        let way_out = "run the same command again, which takes the file as it is then";
        failed(&self.shown, &format!("the file changed since this run opened it: {how}; {way_out}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Does something to the first file, perhaps with the second.
    type Change = fn(&Path, &Path);

    fn pinned(path: &Path) -> Location {
        Location::parse(path.to_str().unwrap()).unwrap().pinned().unwrap()
    }

    fn said(changed: Result<impl std::fmt::Debug>) -> String {
        changed.unwrap_err().to_string()
    }

    #[test]
    fn what_changed_is_said_wherever_the_file_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let new = folder.path().join("new");
        let cases: [(Change, &str); 5] = [
            (|path, new| fs::rename(new, path).unwrap(), "another file has taken its place"),
            (|path, _| fs::write(path, "one, two, three").unwrap(), "it had 9 bytes and has 15"),
            (|path, _| fs::write(path, "").unwrap(), "it had 9 bytes and has 0"),
            (|path, _| fs::write(path, "two, two.").unwrap(), "it was written to, at the same size"),
            (|path, _| fs::remove_file(path).unwrap(), "the file is gone since this run opened it"),
        ];
        for (change, expected) in cases {
            fs::write(&path, "one, two.").unwrap();
            fs::write(&new, "one, two.").unwrap();
            let location = pinned(&path);
            let blob = location.open().unwrap();
            assert_eq!(blob.range(5, 3).unwrap(), "two");
            assert_eq!(location.unchanged().unwrap(), Unchanged::Whole);
            // The kernel's clock for files may go by ticks of 10 ms.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change(&path, &new);
            for error in
                [said(location.unchanged()), said(blob.range(5, 3)), said(location.open().unwrap().range(0, 1))]
            {
                assert!(error.contains("x.jsonl: the file ") && error.contains(expected), "{error}");
                assert!(error.contains("run the same command again"), "{error}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_are_not_content() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs::write(&path, "one").unwrap();
        let location = pinned(&path);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(location.unchanged().unwrap(), Unchanged::Touched);
        assert_eq!(location.open().unwrap().range(0, 3).unwrap(), "one");
    }

    #[test]
    fn a_server_is_taken_at_its_tag_and_else_at_its_date() {
        let answer = |tag: Option<&str>, seconds: i64| Answer {
            bytes: 7,
            tag: tag.map(str::to_owned),
            version: None,
            modified: DateTime::from_timestamp(seconds, 0),
        };
        let difference = |before: &Answer, now: &Answer| before.difference(now).unwrap_or_default();
        assert_eq!(difference(&answer(Some("\"a\""), 5), &answer(Some("\"a\""), 6)), "");
        assert!(difference(&answer(Some("\"a\""), 5), &answer(Some("\"b\""), 5)).contains("its ETag is another"));
        assert!(difference(&answer(None, 5), &answer(None, 6)).contains("its Last-Modified is another"));
        assert!(difference(&answer(None, 5), &Answer { bytes: 8, ..answer(None, 5) }).contains("7 bytes and has 8"));
        let versioned = |version: &str| Answer { version: Some(version.to_owned()), ..answer(Some("\"a\""), 5) };
        assert!(difference(&versioned("1"), &versioned("2")).contains("its version is another"));
        for (tag, condition) in [("\"a\"", Some("\"a\"")), ("W/\"a\"", None), ("a", None)] {
            assert_eq!(Stamp::Remote(answer(Some(tag), 5)).condition().as_deref(), condition);
        }
    }
}
