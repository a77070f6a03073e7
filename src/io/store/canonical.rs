//! One spelling for every place: `out`, `./out/`, a link to it and its absolute path are the same folder, `s3a://b//x` and
//! `s3://b/x` the same prefix.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Location;

/// A file or folder in its one spelling: where it lies, then the names that lead to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Canonical {
    /// Empty for this machine, else the store with its bucket or host.
    store: String,
    names: Vec<String>,
}

impl Canonical {
    pub(super) fn of(location: &Location) -> Self {
        if let Some(local) = location.local() {
            let path = resolved(local);
            let names = path.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
            return Self { store: String::new(), names: names.collect() };
        }
        let (scheme, rest) = location.shown.split_once("://").unwrap_or(("", &location.shown));
        let bucket = rest.split('/').next().unwrap_or_default();
        let (scheme, bucket) = match scheme {
            "s3a" => ("s3", bucket),
            // The account of `az://container` stands in the environment, so that it may be any.
            "azure" | "abfs" | "abfss" => ("az", bucket.split('@').next().unwrap_or_default()),
            scheme => (scheme, bucket),
        };
        let names = location.path.parts().map(|part| part.as_ref().to_owned()).collect();
        Self { store: format!("{scheme}://{bucket}"), names }
    }

    /// The file or folder `path` of a repository of the hub.
    pub(crate) fn on_hub(repository: String, path: &str) -> Self {
        let names = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned);
        Self { store: repository, names: names.collect() }
    }

    /// The file or folder `name` (with `/` between folders) below it.
    pub fn join(&self, name: &str) -> Self {
        let names = self.names.iter().cloned().chain(name.split('/').map(str::to_owned));
        Self { store: self.store.clone(), names: names.collect() }
    }

    /// Whether it is `other`, or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.store == other.store && self.names.starts_with(&other.names)
    }

    /// Its path below `folder`, with `/` between names; nothing where it does not lie there.
    pub fn below(&self, folder: &Self) -> Option<String> {
        self.is_within(folder).then(|| self.names[folder.names.len()..].join("/"))
    }
}

impl fmt::Display for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.names.join("/"))
    }
}

/// `path` without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    for above in path.ancestors() {
        if let Ok(real) = above.canonicalize() {
            return missing.into_iter().rev().fold(real, |real, name| real.join(name));
        }
        missing.extend(above.file_name());
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use crate::io::Stores;

    #[test]
    fn a_place_has_one_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(at("out")).unwrap();
        std::os::unix::fs::symlink("out", at("link")).unwrap();
        let stores = Stores::default();
        let canonical = |text: &str| stores.locate(text).unwrap().canonical();
        let out = canonical(&at("out"));
        for spelling in [at("./out/"), at("link"), at("out//"), at("x/../out"), format!("file://{}", at("out"))] {
            if spelling.contains("x/") {
                std::fs::create_dir(at("x")).unwrap();
            }
            assert_eq!(canonical(&spelling), out, "{spelling}");
        }
        assert!(canonical(&at("link/new/deep")).is_within(&out));
        assert!(!canonical(&at("outer")).is_within(&out));
        assert_eq!(canonical(&at("out/a/b")).below(&out).unwrap(), "a/b");
        assert_eq!(canonical("s3a://b/x/"), canonical("s3://b/x"));
        assert!(canonical("s3://b/x/y").is_within(&canonical("s3://b/x")));
        assert!(!canonical("s3://c/x/y").is_within(&canonical("s3://b/x")));
        assert_eq!(out.to_string(), folder.path().canonicalize().unwrap().join("out").display().to_string());
    }
}
