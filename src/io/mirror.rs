//! Folders of a store on this machine: models are memory-mapped from local files, so what lies in a store is copied once,
//! and what is made here is copied there.
//!
//! The copy of a folder lies under a digest of its files' names and versions, so a folder that changed gets another copy;
//! every file appears whole.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::session;
use super::store::Location;
use crate::error::{Error, Result};

/// Where copies are kept: `SEPO_CACHE`, or `sepo` in the user's folder of caches.
pub fn cache() -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    variable("SEPO_CACHE").or_else(|| caches().map(|caches| caches.join("sepo"))).unwrap_or_else(env::temp_dir)
}

/// A folder of a store and its copy here.
#[derive(Debug, Clone)]
pub struct Mirror {
    remote: Location,
    files: Vec<Location>,
    folder: PathBuf,
}

impl Mirror {
    /// The folder `remote` as it is now. Nothing is copied yet.
    ///
    /// # Errors
    /// A store that cannot be listed, a folder without files.
    pub fn of(remote: &Location) -> Result<Self> {
        let listed = remote.list_all()?;
        if listed.is_empty() {
            let message = "no such folder, or nothing in it".to_owned();
            return Err(Error::Store { path: remote.to_string(), message, retryable: false });
        }
        let mut hasher = blake3::Hasher::new();
        for found in &listed {
            for part in [&found.file.to_string(), &found.version] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        let digest = &hasher.finalize().to_hex()[..16];
        let folder = cache().join("models").join(format!("{}-{digest}", remote.name()));
        Ok(Self { remote: remote.clone(), files: listed.into_iter().map(|found| found.file).collect(), folder })
    }

    /// The copy.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder in the store.
    pub fn remote(&self) -> &Location {
        &self.remote
    }

    /// Whether files whose names are `wanted` are not here yet.
    pub fn awaits(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.files.iter().any(|file| wanted(file.name()) && !self.copy_of(file).is_file())
    }

    /// Copies the files whose names are `wanted` and that are not here yet.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn fetch(&self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let missing = self.files.iter().filter(|file| wanted(file.name()) && !self.copy_of(file).is_file());
        missing.into_iter().try_for_each(|file| {
            let copy = self.copy_of(file);
            let draft = copy.with_file_name(session::draft_name());
            let folder = copy.parent().unwrap_or(&self.folder);
            let mut reader = file.open()?.reader(0);
            let copied = fs::create_dir_all(folder)
                .and_then(|()| io::copy(&mut reader, &mut File::create(&draft)?))
                .and_then(|_| fs::rename(&draft, &copy));
            copied.map_err(|error| {
                // The draft may not exist; what matters is the error that led here.
                drop(fs::remove_file(&draft));
                file.cause(unusable(&copy, &error))
            })
        })
    }

    fn copy_of(&self, file: &Location) -> PathBuf {
        let below = file.to_string();
        self.folder.join(below[self.remote.to_string().len()..].trim_start_matches('/'))
    }

    /// Takes `folder`, which holds the same files, as the copy; false where there is one already.
    ///
    /// # Errors
    /// A folder that cannot be moved.
    pub fn adopt(&self, folder: &Path) -> Result<bool> {
        if self.folder.exists() {
            return Ok(false);
        }
        fs::rename(folder, &self.folder).map(|()| true).map_err(|error| unusable(&self.folder, &error))
    }
}

/// Copies the file `from` to `to`.
///
/// # Errors
/// A file that cannot be read; a store that fails.
pub fn copy(from: &Path, to: &Location) -> Result<()> {
    let mut upload = to.upload()?;
    let mut file = File::open(from).map_err(|error| unusable(from, &error))?;
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block).map_err(|error| unusable(from, &error))?;
        if read == 0 {
            return upload.finish().map(drop);
        }
        io::Write::write_all(&mut upload, &block[..read]).map_err(|error| to.cause(unusable(from, &error)))?;
    }
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Store { path: path.display().to_string(), message: error.to_string(), retryable: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_folder_is_fetched_whole_and_again_when_it_changed() {
        let temporary = tempfile::tempdir().unwrap();
        let source = temporary.path().join("model");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("config.json"), "{}").unwrap();
        fs::write(source.join("model.safetensors"), [7; 100]).unwrap();
        let remote = Location::parse(temporary.path().join("store/x").to_str().unwrap()).unwrap();
        assert!(Mirror::of(&remote).unwrap_err().to_string().contains("no such folder"));
        let publish = || {
            for name in ["model.safetensors", "config.json"] {
                copy(&source.join(name), &remote.join(name)).unwrap();
            }
        };
        publish();
        let first = Mirror { folder: temporary.path().join("copy"), ..Mirror::of(&remote).unwrap() };
        first.fetch(|name| name.ends_with(".json")).unwrap();
        assert!(first.folder().join("config.json").is_file());
        assert!(!first.folder().join("model.safetensors").exists());
        first.fetch(|_| true).unwrap();
        assert_eq!(fs::read(first.folder().join("model.safetensors")).unwrap(), [7; 100]);

        fs::write(source.join("model.safetensors"), [8; 100]).unwrap();
        publish();
        assert_ne!(Mirror::of(&remote).unwrap().folder().file_name(), first.folder().file_name());
    }
}
