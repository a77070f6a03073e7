//! Where on the Hugging Face hub a stage uploads what it made.

use crate::error::Problem;
use crate::io::hub::{Address, Kind, SCHEME, Visibility};

/// A place on the hub for what a stage makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The repository, its branch, and a folder of it.
    pub address: Address,
    /// Who sees the repository if it has to be made; none where it has to be there.
    pub create: Option<Visibility>,
    /// Whether files of other makers may be replaced.
    pub overwrites: bool,
}

impl Publication {
    /// What the settings `to`, `create` and `overwrite` of a stage say; none where `to` is no address of the hub.
    pub fn of(to: &str, create: Option<Visibility>, overwrites: bool) -> Option<Self> {
        let address = Address::parse(to).ok()??;
        Some(Self { address, create, overwrites })
    }
}

/// What is wrong with the settings `to` and `create` of a stage that makes something of `kind`.
pub(super) fn problems(to: Option<&str>, create: Option<Visibility>, kind: Kind) -> Vec<Problem> {
    let on_hub = to.filter(|to| to.starts_with(SCHEME));
    let Some(to) = on_hub else {
        let message = "only a repository of the hub is made";
        let problem = || Problem::at("create", message).help("leave `create` out, or set `to: hf://…`");
        return create.is_some().then(problem).into_iter().collect();
    };
    let (what, form) = match kind {
        Kind::Model => ("a model", "hf://org/name[@branch][/folder]"),
        Kind::Dataset => ("a dataset", "hf://datasets/org/name[@branch][/folder]"),
    };
    let wrong = |message: String| vec![Problem::at("to", message).help(format!("write `{form}`"))];
    let address = match Address::parse(to) {
        Ok(Some(address)) => address,
        Ok(None) => return Vec::new(),
        Err(error) => return wrong(error.to_string()),
    };
    if address.kind != kind {
        return wrong(format!("`{to}` is not the address of {what}"));
    }
    if !address.repo.contains('/') {
        return wrong(format!("`{}` does not say whose repository it is", address.repo));
    }
    if address.path.contains(['*', '?', '[']) {
        return wrong(format!("`{}` is a pattern, not a folder", address.path));
    }
    let revision = address.revision();
    let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit || revision.starts_with("refs/") && !revision.starts_with("refs/pr/") {
        return wrong(format!("`{revision}` is not a branch, so that nothing can be added to it"));
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_branches_of_named_repositories_are_written_to() {
        let said = |to: &str, kind| problems(Some(to), None, kind).into_iter().map(|problem| problem.message).collect();
        let is = |to: &str, kind, expected: &str| {
            let said: Vec<String> = said(to, kind);
            assert!(said.len() == 1 && said[0].contains(expected), "{to}: {said:?}");
        };
        for to in ["hf://datasets/o/n", "hf://datasets/o/n@b/folder", "hf://datasets/o/n@refs/pr/1"] {
            assert_eq!(said(to, Kind::Dataset), Vec::<String>::new());
            is(to, Kind::Model, "is not the address of a model");
        }
        is("hf://o/n", Kind::Dataset, "is not the address of a dataset");
        is("hf://gpt2", Kind::Model, "`gpt2` does not say whose repository it is");
        is("hf://datasets/o/n/*.parquet", Kind::Dataset, "is a pattern");
        is("hf://datasets/o/n@refs/convert/parquet", Kind::Dataset, "is not a branch");
        is(&format!("hf://o/n@{}", "a".repeat(40)), Kind::Model, "is not a branch");
        is("hf://o/../n", Kind::Model, "the form is hf://org/name");
        let local = problems(Some("out"), Some(Visibility::Private), Kind::Dataset);
        assert!(local[0].message.contains("only a repository of the hub is made"));
        assert!(problems(None, None, Kind::Model).is_empty());
    }
}
