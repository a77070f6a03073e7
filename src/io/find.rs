//! The files that a path, a folder or a pattern means, on this machine, in stores and on the hub, and what kind each of them is.

use glob::{MatchOptions, Pattern};

use super::hub::{Address, Hub};
use super::store::{Canonical, Location, Stores};
use super::text::COMPRESSED;
use crate::error::{Error, Place, Result};
use crate::monitor::Monitor;

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

/// The files that `pattern` means, in order; those of the hub are on this machine then.
pub(super) fn find(pattern: &str, stores: &Stores, monitor: &dyn Monitor) -> Result<Vec<Location>> {
    if let Some(address) = Address::parse(pattern)? {
        return on_hub(&address, monitor);
    }
    let whole = stores.locate(pattern)?;
    if whole.is_file()? {
        return Ok(vec![whole]);
    }
    // Web servers have no listings, and a `?` there begins a query.
    let Some(wild) = pattern.find(WILD).filter(|_| !pattern.starts_with("http")) else {
        let prefix = whole.to_string().len();
        return Ok(data_files(whole.list()?, |below| below.to_string()[prefix..].to_owned()));
    };
    let (folder, relative) = split(pattern, wild);
    let matches = matcher(relative, pattern)?;
    let root = stores.locate(folder)?;
    let prefix = root.to_string().len() + 1;
    Ok(root.list()?.into_iter().filter(|below| matches(&below.to_string()[prefix..])).collect())
}

/// Whether `pattern` would take `file`, were it there.
///
/// # Errors
/// A pattern that is none; a store that fails.
pub fn takes(pattern: &str, stores: &Stores, file: &Canonical) -> Result<bool> {
    if Address::parse(pattern)?.is_some() {
        return Ok(false);
    }
    let whole = stores.locate(pattern)?;
    match pattern.find(WILD).filter(|_| !pattern.starts_with("http")) {
        _ if whole.is_file()? => Ok(whole.canonical() == *file),
        None => {
            let below = file.below(&whole.canonical());
            Ok(below.is_some_and(|below| !data_files(vec![below], Clone::clone).is_empty()))
        }
        Some(wild) => {
            let (folder, relative) = split(pattern, wild);
            let (below, matches) = (file.below(&stores.locate(folder)?.canonical()), matcher(relative, pattern)?);
            Ok(below.is_some_and(|below| matches(&below)))
        }
    }
}

/// The folder before the first wildcard of `pattern`, which stands at `wild`, and the rest.
fn split(pattern: &str, wild: usize) -> (&str, &str) {
    match pattern[..wild].rfind('/') {
        Some(0) => ("/", &pattern[1..]),
        Some(at) => (&pattern[..at], &pattern[at + 1..]),
        None => (".", pattern),
    }
}

fn on_hub(address: &Address, monitor: &dyn Monitor) -> Result<Vec<Location>> {
    let hub = Hub::from_env();
    let snapshot = hub.open(address)?;
    let path = address.path.as_str();
    let files = || snapshot.files().map(str::to_owned);
    let wanted: Vec<String> = if snapshot.files().any(|file| file == path) {
        vec![path.to_owned()]
    } else if path.contains(WILD) {
        let matches = matcher(path, &address.to_string())?;
        files().filter(|file| matches(file)).collect()
    } else {
        let folder = if path.is_empty() { String::new() } else { format!("{path}/") };
        let below = files().filter(|file| file.starts_with(&folder)).collect();
        data_files(below, |file: &String| file[folder.len()..].to_owned())
    };
    hub.fetch(&snapshot, &wanted, monitor)?;
    let copy = |file: &String| Location::copy(&snapshot.local(file), snapshot.address(file), snapshot.etag(file));
    wanted.iter().map(copy).collect()
}

/// Those of a folder's files that are data: of a known kind, not hidden, and no `.json` that tells about the others.
/// `below` gives a file's path inside the folder.
fn data_files<T>(files: Vec<T>, below: impl Fn(&T) -> String) -> Vec<T> {
    const NOTES: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
    let visible = |file: &T| {
        let path = below(file);
        Kind::of(&path).is_some() && !path.split('/').any(|part| part.starts_with(['.', '_']))
    };
    let mut files: Vec<T> = files.into_iter().filter(visible).collect();
    let is_json = |file: &T| Kind::of(&below(file)) == Some(Kind::Json);
    let only_json = files.iter().all(is_json);
    let is_note = |file: &T| below(file).rsplit('/').next().is_some_and(|name| NOTES.contains(&name));
    files.retain(|file| !is_json(file) || only_json && !is_note(file));
    files
}

/// Whether a path is one that `relative` means, which stands in `pattern`.
fn matcher(relative: &str, pattern: &str) -> Result<impl Fn(&str) -> bool + use<>> {
    let options =
        MatchOptions { require_literal_separator: true, require_literal_leading_dot: true, case_sensitive: true };
    let compiled = Pattern::new(relative).map_err(|error| Error::data(Place::file(pattern), error))?;
    Ok(move |path: &str| compiled.matches_with(path, options))
}
