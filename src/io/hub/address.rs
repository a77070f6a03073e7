//! What `hf://` URLs say: a model or a dataset, its revision, and a path inside.

use std::fmt;

use crate::error::{Error, Result};
use crate::io::Canonical;

/// How every address begins.
pub const SCHEME: &str = "hf://";

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A dataset.
    Dataset,
}

impl Kind {
    /// `models` or `datasets`, as the hub's API and the cache spell it.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What stands before the repository in the hub's addresses.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// `hf://org/name[@revision][/path]`, or `hf://datasets/…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Model or dataset.
    pub kind: Kind,
    /// `org/name`; old repositories have no `org`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: Option<String>,
    /// A file, folder or pattern inside; empty for the whole.
    pub path: String,
}

impl Address {
    /// Reads `text`; none where it is not an `hf://` address.
    ///
    /// # Errors
    /// An address that cannot name anything on the hub, with the form that does.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
        let wrong = |what: &str| {
            let form = "hf://org/name[@revision][/path], or hf://datasets/org/name[@revision][/path]";
            Error::Store { path: text.to_owned(), message: format!("{what}; the form is {form}"), retryable: false }
        };
        let (kind, rest) = match rest.split_once('/') {
            Some(("datasets", rest)) => (Kind::Dataset, rest),
            Some(("models", rest)) => (Kind::Model, rest),
            Some((kind @ ("spaces" | "kernels" | "buckets"), _)) => {
                return Err(wrong(&format!("`{kind}` hold neither models nor datasets")));
            }
            _ => (Kind::Model, rest),
        };
        let mut parts = rest.trim_end_matches('/').split('/');
        let mut repo = parts.next().unwrap_or_default().to_owned();
        if !repo.contains('@')
            && let Some(name) = parts.next()
        {
            repo = format!("{repo}/{name}");
        }
        let mut revision = None;
        if let Some((name, named)) = repo.split_once('@') {
            let mut named = named.replace("%2F", "/").replace("%2f", "/");
            if named == "refs" {
                // `refs/pr/3` and `refs/convert/parquet` are written without escapes.
                named = [named.as_str(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default()].join("/");
            }
            revision = Some(named);
            repo = name.to_owned();
        }
        let path = parts.collect::<Vec<_>>().join("/");
        if !repo.split('/').all(is_name) {
            return Err(wrong(&format!("`{repo}` is no repository")));
        }
        if let Some(revision) = revision.as_ref().filter(|revision| !is_inside(revision)) {
            return Err(wrong(&format!("`{revision}` is no revision")));
        }
        if !path.is_empty() && !is_inside(&path) {
            return Err(wrong(&format!("`{path}` is no path inside a repository")));
        }
        Ok(Some(Self { kind, repo, revision, path }))
    }

    /// The revision asked for: `main` where none is.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The address of `path` in the same repository.
    pub fn of(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// The folder in which everything lies that the path, which may be a pattern, may mean.
    pub fn folder(&self) -> &str {
        match self.path.find(['*', '?', '[']) {
            Some(wild) => self.path[..wild].rfind('/').map_or("", |end| &self.path[..end]),
            None => &self.path,
        }
    }

    /// The place in its one spelling, which names the revision.
    pub fn canonical(&self) -> Canonical {
        let repository = Self { revision: Some(self.revision().to_owned()), ..self.of("") };
        Canonical::on_hub(repository.to_string(), &self.path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.kind.prefix(), self.repo)?;
        if let Some(revision) = &self.revision {
            write!(
                f,
                "@{}",
                if revision.starts_with("refs/") { revision.clone() } else { revision.replace('/', "%2F") }
            )?;
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

/// Part of a repository's name.
fn is_name(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !part.is_empty() && part.len() <= 96 && part.chars().all(allowed) && !part.starts_with('.') && !part.contains("--")
}

/// Whether `path`, joined to a folder, stays inside of it.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let foreign = cfg!(windows) && path.contains(['\\', ':']);
    path.split('/').all(plain) && !path.contains(char::is_control) && !foreign
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Kind, String, Option<String>, String) {
        let Address { kind, repo, revision, path } = Address::parse(text).unwrap().unwrap();
        (kind, repo, revision, path)
    }

    #[test]
    fn addresses_of_models_and_datasets() {
        let is = |kind, repo: &str, revision: Option<&str>, path: &str| {
            (kind, repo.to_owned(), revision.map(str::to_owned), path.to_owned())
        };
        assert_eq!(parse("hf://org/name"), is(Kind::Model, "org/name", None, ""));
        assert_eq!(parse("hf://org/name@v1.0/sub/"), is(Kind::Model, "org/name", Some("v1.0"), "sub"));
        assert_eq!(parse("hf://gpt2"), is(Kind::Model, "gpt2", None, ""));
        assert_eq!(parse("hf://gpt2@main/x.json"), is(Kind::Model, "gpt2", Some("main"), "x.json"));
        assert_eq!(parse("hf://datasets/o/n/data/*.parquet"), is(Kind::Dataset, "o/n", None, "data/*.parquet"));
        let converted = "hf://datasets/o/n@refs/convert/parquet/default/train";
        assert_eq!(parse(converted), is(Kind::Dataset, "o/n", Some("refs/convert/parquet"), "default/train"));
        assert_eq!(parse("hf://o/n@a%2Fb/c"), is(Kind::Model, "o/n", Some("a/b"), "c"));
        for text in ["hf://org/name", "hf://datasets/o/n@refs/convert/parquet/default/train", "hf://o/n@a%2Fb/c"] {
            assert_eq!(Address::parse(text).unwrap().unwrap().to_string(), text);
        }
        assert!(Address::parse("/a/folder").unwrap().is_none());
    }

    #[test]
    fn addresses_that_name_nothing_are_refused() {
        for text in
            ["hf://", "hf://spaces/a/b", "hf://../..", "hf://a/b/../c", "hf://a/b@../x", "hf://a b/c", "hf://a/b//c"]
        {
            let message = Address::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(text) && message.contains("the form is hf://org/name"), "{message}");
        }
    }
}
