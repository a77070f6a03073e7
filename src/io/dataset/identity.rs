//! What a file is known by, so that rows that were made from it are found again, and by other machines too: its content
//! where that can be had cheaply, and else what its store says.
//!
//! | File | Identity |
//! |---|---|
//! | on this machine, up to 1 GiB | blake3 of its content |
//! | on this machine, larger | blake3 of its size, its time of modification, its first and last MiB, and 1,024 blocks of 64 KiB in even distances: the time because a block between them may have changed |
//! | a copy of a file on the hub | the hub's digest of it |
//! | in a store, on a web server | its `ETag`, or its version, or its `Last-Modified`, with its size |

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use rayon::prelude::*;

use super::remembered::Remembered;
use super::{Cost, Dataset, Unit, at_once};
use crate::error::{Error, Result};
use crate::io::store::{Answer, Inode, Location, Stamp, Unchanged};
use crate::monitor::{Monitor, Silent};

/// Up to this size all of a file is read.
const WHOLE: u64 = 1 << 30;

/// What is read of both ends of a larger file; a footer lies at one of them.
const END: u64 = 1 << 20;

/// Blocks that are read between the ends, and their size.
const SAMPLES: u64 = 1024;
const SAMPLE: u64 = 64 << 10;

/// Read at a time.
const BLOCK: usize = 4 << 20;

/// Inputs that take long enough to read for somebody to want to watch.
const LONG: u64 = 2 << 30;

const WHOLE_DIGEST: &str = "blake3";
const SAMPLED_DIGEST: &str = "sampled";

/// Whether `text` is what [`of`] gives for a file on this machine.
pub(super) fn is_identity(text: &str) -> bool {
    let digest = text.split_once(':').filter(|(kind, _)| [WHOLE_DIGEST, SAMPLED_DIGEST].contains(kind));
    digest.is_some_and(|(_, digest)| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Dataset {
    /// The files' paths or URLs, each with what its content is known by. Two machines that read the same rows have the
    /// same list. The first call reads files on this machine that were not read before; `monitor` can stop it.
    ///
    /// # Errors
    /// A file that cannot be read, or that changed since it was opened; [`Error::Interrupted`].
    pub fn identities(&self, monitor: &dyn Monitor) -> Result<Vec<(String, String)>> {
        let identities = match self.identities.get() {
            Some(identities) => identities,
            None => {
                let found = self.identify(monitor)?;
                self.identities.get_or_init(|| found)
            }
        };
        Ok(self.files().map(ToString::to_string).zip(identities.iter().cloned()).collect())
    }

    /// What changes when a file is added, removed or renamed, or has another content.
    ///
    /// # Errors
    /// As [`Self::identities`].
    pub fn fingerprint(&self, monitor: &dyn Monitor) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (path, identity) in self.identities(monitor)? {
            for part in [&path, &identity] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn identify(&self, monitor: &dyn Monitor) -> Result<Vec<String>> {
        let remembered = Remembered::of_this_machine();
        let size = |location: &Location| match location.pin() {
            Some(Stamp::Local(inode)) if location.version().is_none() && remembered.get(inode).is_none() => {
                if inode.bytes <= WHOLE { inode.bytes } else { 2 * END + SAMPLES * SAMPLE }
            }
            _ => 0,
        };
        let total: u64 = self.files().map(size).sum();
        let watched = if total >= LONG { monitor } else { &Silent };
        watched.begin("inputs", Some(total), "bytes");
        let identities = self.files.par_iter().map(|(location, _)| {
            let identity = of(location, &remembered, monitor)?;
            watched.advance(size(location), "");
            Ok(identity)
        });
        let identities: Result<Vec<String>> = identities.collect();
        watched.end();
        remembered.save();
        identities
    }

    /// Compares the file of `unit` with what it was when it was opened. Everything that comes from a store was compared
    /// when it came, so that only files on this machine are looked at.
    ///
    /// # Errors
    /// The file changed, with what changed and the way out.
    pub fn unchanged(&self, unit: &Unit) -> Result<()> {
        match self.file(unit).local() {
            Some(_) => self.compare(unit.file),
            None => Ok(()),
        }
    }

    /// Compares all files with what they were when they were opened.
    ///
    /// # Errors
    /// A file changed, with what changed and the way out; a store that fails.
    pub fn all_unchanged(&self) -> Result<()> {
        let indices: Vec<usize> = (0..self.files.len()).collect();
        let is_local = self.files().all(|location| location.local().is_some());
        at_once(&indices, Cost::of_blocks(is_local), |index| self.compare(*index)).map(drop)
    }

    fn compare(&self, index: usize) -> Result<()> {
        let location = &self.files[index].0;
        // Without a known content there is nothing to compare with.
        let known = self.identities.get().map(|identities| &identities[index]);
        match (location.unchanged()?, known) {
            (Unchanged::Touched, Some(known)) => {
                let remembered = Remembered::of_this_machine();
                let now = of(location, &remembered, &Silent)?;
                remembered.save();
                let how = "its content is another, though size and time are the same";
                if now == *known { Ok(()) } else { Err(location.changed(how)) }
            }
            _ => Ok(()),
        }
    }
}

/// What the content of the file at the pinned `location` is known by.
fn of(location: &Location, remembered: &Remembered, monitor: &dyn Monitor) -> Result<String> {
    match (location.version(), location.local(), location.pin()) {
        (Some(version), ..) => Ok(format!("copy:{version}")),
        (None, Some(path), _) => of_local(location, path, remembered, monitor),
        (None, None, Some(Stamp::Remote(answer))) => Ok(of_remote(answer)),
        (None, None, _) => Err(location.changed("it was never opened")),
    }
}

fn of_remote(answer: &Answer) -> String {
    let Answer { bytes, tag, version, modified } = answer;
    match (tag, version, modified) {
        (Some(tag), ..) => format!("etag:{tag}, {bytes} bytes"),
        (None, Some(version), _) => format!("version:{version}, {bytes} bytes"),
        (None, None, Some(modified)) => format!("modified:{}, {bytes} bytes", modified.timestamp_millis()),
        (None, None, None) => format!("{bytes} bytes"),
    }
}

fn of_local(location: &Location, path: &Path, remembered: &Remembered, monitor: &dyn Monitor) -> Result<String> {
    let unreadable = |error| location.unchanged().err().unwrap_or_else(|| unreadable(location, &error));
    let began = SystemTime::now();
    let mut file = File::open(path).map_err(unreadable)?;
    let before = Inode::of(&file.metadata().map_err(unreadable)?);
    location.expect(&Stamp::Local(before))?;
    if let Some(known) = remembered.get(&before) {
        return Ok(known);
    }
    let (kind, digest) = match before.bytes {
        0..=WHOLE => (WHOLE_DIGEST, whole(&mut file, monitor).map_err(unreadable)?),
        _ => (SAMPLED_DIGEST, Some(sampled(&mut file, &before).map_err(unreadable)?)),
    };
    let digest = digest.ok_or(Error::Interrupted)?;
    let after = Inode::of(&file.metadata().map_err(unreadable)?);
    location.expect(&Stamp::Local(after))?;
    let identity = format!("{kind}:{}", digest.to_hex());
    if after == before {
        remembered.put(&before, &identity, began);
    }
    Ok(identity)
}

fn unreadable(location: &Location, error: &io::Error) -> Error {
    Error::Store { path: location.to_string(), message: error.to_string(), retryable: false }
}

/// The digest of all of `file`; none if `monitor` wants to stop.
fn whole(file: &mut File, monitor: &dyn Monitor) -> io::Result<Option<blake3::Hash>> {
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::with_capacity(BLOCK);
    while !monitor.stopping() {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(Some(hasher.finalize()));
        }
        hasher.update_rayon(&block);
    }
    Ok(None)
}

fn sampled(file: &mut File, inode: &Inode) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&inode.bytes.to_le_bytes()).update(&inode.modified.to_le_bytes());
    let between = |sample: u64| (inode.bytes - SAMPLE) / (SAMPLES - 1) * sample;
    let ends = [(0, END), (inode.bytes - END, END)];
    for (start, length) in ends.into_iter().chain((0..SAMPLES).map(|sample| (between(sample), SAMPLE))) {
        let mut block = vec![0; length as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        hasher.update(&block);
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, FileTimes, OpenOptions};
    use std::io::Write;
    use std::time::Duration;

    /// Asked to stop from the start.
    struct Stopped;

    impl Monitor for Stopped {
        fn begin(&self, _: &str, _: Option<u64>, _: &'static str) {}
        fn advance(&self, _: u64, _: &str) {}
        fn skip(&self, _: u64) {}
        fn end(&self) {}
        fn stopping(&self) -> bool {
            true
        }
    }

    fn open(path: &Path) -> Dataset {
        Dataset::of(vec![Location::parse(path.to_str().unwrap()).unwrap()]).unwrap()
    }

    fn fingerprint(path: &Path) -> String {
        open(path).fingerprint(&Silent).unwrap()
    }

    fn set_modified(path: &Path, time: SystemTime) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn a_copy_is_the_same_input_and_another_content_or_name_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs::write(&path, "{\"a\": 1}\n").unwrap();
        let first = fingerprint(&path);
        let copy = folder.path().join("copy.jsonl");
        fs::copy(&path, &copy).unwrap();
        set_modified(&copy, SystemTime::now() - Duration::from_secs(1000));
        assert_ne!(fingerprint(&copy), first);
        fs::rename(&copy, &path).unwrap();
        assert_eq!(fingerprint(&path), first);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "{\"a\": 2}\n").unwrap();
        set_modified(&path, modified);
        assert_ne!(fingerprint(&path), first);
    }

    #[test]
    fn a_large_file_is_known_by_size_time_ends_and_samples() {
        let folder = tempfile::tempdir().unwrap();
        let remembered = Remembered::of_this_machine();
        let path = folder.path().join("x");
        let bytes = WHOLE + 12_345;
        // All of it is a hole, which takes no room.
        let write = |path: &Path, at: u64| {
            let mut file = File::create(path).unwrap();
            file.set_len(bytes).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(b"x").unwrap();
        };
        let time = SystemTime::now() - Duration::from_secs(100_000);
        let known_by = |path: &Path| {
            let location = Location::parse(path.to_str().unwrap()).unwrap().pinned().unwrap();
            of(&location, &remembered, &Silent).unwrap()
        };
        let stride = (bytes - SAMPLE) / (SAMPLES - 1);
        let unseen = 500 * stride + SAMPLE;
        write(&path, unseen);
        set_modified(&path, time);
        let first = known_by(&path);
        assert!(first.starts_with("sampled:") && is_identity(&first), "{first}");
        let copy = folder.path().join("copy");
        write(&copy, unseen + 1);
        set_modified(&copy, time);
        assert_eq!(known_by(&copy), first, "a change between the samples that keeps the time");
        set_modified(&copy, time + Duration::from_secs(1));
        assert_ne!(known_by(&copy), first, "the same change, a moment later");
        for seen in [END - 1, 500 * stride + SAMPLE - 1, bytes - END] {
            write(&copy, seen);
            set_modified(&copy, time);
            assert_ne!(known_by(&copy), first, "{seen}");
        }
    }

    #[test]
    fn what_is_remembered_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs::write(&path, "{\"a\": 1}\n".repeat(10_000)).unwrap();
        let location = Location::parse(path.to_str().unwrap()).unwrap().pinned().unwrap();
        let Some(Stamp::Local(inode)) = location.pin() else { panic!("a local file") };
        let planted = format!("blake3:{}", "7".repeat(64));
        let cache = || Remembered::at(Some(folder.path().join("inputs.json")));
        let remembered = cache();
        remembered.put(inode, &planted, SystemTime::now() + Duration::from_secs(60));
        remembered.save();
        assert_eq!(of(&location, &cache(), &Stopped).unwrap(), planted);
        fs::write(&path, "{\"a\": 2}\n".repeat(10_000)).unwrap();
        let location = Location::parse(path.to_str().unwrap()).unwrap().pinned().unwrap();
        let read = of(&location, &cache(), &Silent).unwrap();
        assert_eq!(read, format!("blake3:{}", blake3::hash("{\"a\": 2}\n".repeat(10_000).as_bytes()).to_hex()));
        assert!(matches!(of(&location, &cache(), &Stopped), Err(Error::Interrupted)));
    }

    #[cfg(unix)]
    #[test]
    fn a_write_that_sets_the_time_back_is_found_and_a_new_permission_is_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs::write(&path, "{\"a\": 1}\n").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let dataset = open(&path);
        let unit = &dataset.units()[0];
        dataset.fingerprint(&Silent).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        dataset.unchanged(unit).unwrap();
        dataset.all_unchanged().unwrap();
        fs::write(&path, "{\"a\": 2}\n").unwrap();
        set_modified(&path, modified);
        for error in [dataset.unchanged(unit), dataset.all_unchanged()] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("x.jsonl: the file changed") && error.contains("its content is another"), "{error}");
        }
    }

    #[test]
    fn a_file_that_changes_before_it_was_read_has_no_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        for text in ["{\"a\": 1}\n{\"a\": 2}\n", ""] {
            fs::write(&path, "{\"a\": 1}\n").unwrap();
            let dataset = open(&path);
            fs::write(&path, text).unwrap();
            let error = dataset.fingerprint(&Silent).unwrap_err().to_string();
            assert!(error.contains("x.jsonl: the file changed") && error.contains("it had 9 bytes"), "{error}");
        }
    }
}
