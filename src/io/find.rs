//! Which files a path, a glob or a folder means, and what kind each of them is.

use glob::{MatchOptions, Pattern};

use super::store::{Location, Stores};
use super::text::COMPRESSED;
use crate::error::{Error, Place, Result};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Parquet,
    JsonLines,
    /// One array, or lines under another name.
    Json,
    Csv,
    Ipc,
}

pub(super) const KINDS: &str = "known are .parquet, .jsonl, .ndjson, .json and .csv (these also with .gz or .zst), .arrow, \
                     .feather and .ipc";

impl Kind {
    /// The kind of the file `name`, by its ending.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let text = COMPRESSED.iter().find_map(|ending| name.strip_suffix(ending));
        let kinds: &[(&str, Self)] = &[
            (".jsonl", Self::JsonLines),
            (".ndjson", Self::JsonLines),
            (".json", Self::Json),
            (".csv", Self::Csv),
            (".parquet", Self::Parquet),
            (".arrow", Self::Ipc),
            (".feather", Self::Ipc),
            (".ipc", Self::Ipc),
        ];
        // Only text comes compressed.
        let kinds = if text.is_some() { &kinds[..4] } else { kinds };
        let name = text.unwrap_or(&name);
        kinds.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| *kind)
    }
}

/// What makes a path a pattern.
pub(super) const WILD: [char; 3] = ['*', '?', '['];

/// The files that `pattern` names: itself, those below it, or those that match.
pub(super) fn find(pattern: &str, stores: &Stores) -> Result<Vec<Location>> {
    let whole = stores.locate(pattern)?;
    if whole.is_file()? {
        return Ok(vec![whole]);
    }
    // Web servers have no listings, and a `?` there begins a query.
    let Some(wild) = pattern.find(WILD).filter(|_| !pattern.starts_with("http")) else {
        let visible = |below: &Location| {
            let path = below.to_string();
            let hidden = |part: &str| part.starts_with(['.', '_']);
            Kind::of(below.name()).is_some() && !path[whole.to_string().len()..].split('/').any(hidden)
        };
        return Ok(without_notes(whole.list()?.into_iter().filter(visible).collect()));
    };
    let folder = match pattern[..wild].rfind('/') {
        Some(0) => "/",
        Some(at) => &pattern[..at],
        None => ".",
    };
    let relative = pattern[..wild].rfind('/').map_or(pattern, |at| &pattern[at + 1..]);
    let options =
        MatchOptions { require_literal_separator: true, require_literal_leading_dot: true, case_sensitive: true };
    let compiled = Pattern::new(relative).map_err(|error| Error::data(Place::file(pattern), error))?;
    let root = stores.locate(folder)?;
    let prefix = root.to_string().len() + 1;
    let matches = |below: &Location| compiled.matches_with(&below.to_string()[prefix..], options);
    Ok(root.list()?.into_iter().filter(matches).collect())
}

/// Files of a folder without the `.json` files that tell about the others.
fn without_notes(mut files: Vec<Location>) -> Vec<Location> {
    const NOTES: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
    let is_json = |file: &Location| Kind::of(file.name()) == Some(Kind::Json);
    let only_json = files.iter().all(is_json);
    files.retain(|file| !is_json(file) || only_json && !NOTES.contains(&file.name()));
    files
}
