//! What files say of themselves in their schemas' metadata, asked of all of them: what one says does not hold for another
//! that says the contrary.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::file::File;
use crate::error::{Error, Place, Result};
use crate::io::extension::DATASETS;
use crate::io::store::Location;

/// Key of this program's own words: a JSON object.
const SEPO: &str = "sepo";
/// What they may differ in: who wrote the file.
const VERSION: &str = "version";
/// A map of its own, every entry of which says something of its own column.
const MASKS: &str = "masks";

/// The metadata of all `files`: what several say must be the same.
///
/// # Errors
/// The file that contradicts an earlier one, and in what.
pub(super) fn agreed(files: &[(Location, File)]) -> Result<HashMap<String, String>> {
    let mut all: HashMap<String, String> = HashMap::new();
    for (_, file) in files {
        for (key, value) in file.schema().metadata() {
            all.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let rules: [(&str, Merge); 2] = [(SEPO, merge_own), (DATASETS, merge_features)];
    for (key, merge) in rules {
        let told = files.iter().filter_map(|(location, file)| Some((location, words(file, key)?)));
        let mut known: Option<(&Location, Map<String, Value>)> = None;
        for (location, words) in told {
            let Some((first, known)) = &mut known else {
                known = Some((location, words));
                continue;
            };
            merge(known, words).map_err(|Contrary { what, known, found }| {
                let message = format!(
                    "its footer says that `{what}` is {found}, and that of {first} says {known}; files that contradict each other \
                     are read by stages of their own"
                );
                Error::data(Place::file(location), message)
            })?;
        }
        if let Some((_, known)) = known.filter(|_| files.len() > 1) {
            all.insert(key.to_owned(), Value::Object(known).to_string());
        }
    }
    Ok(all)
}

type Merge = fn(&mut Map<String, Value>, Map<String, Value>) -> Result<(), Contrary>;

/// What two files say of one thing.
struct Contrary {
    what: String,
    known: String,
    found: String,
}

fn words(file: &File, key: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(file.schema().metadata().get(key)?).ok()
}

fn merge_own(known: &mut Map<String, Value>, words: Map<String, Value>) -> Result<(), Contrary> {
    for (key, found) in words {
        match (known.get_mut(&key), found) {
            (Some(_), _) if key == VERSION => {}
            (Some(Value::Object(known)), Value::Object(found)) if key == MASKS => {
                merge_entries(&format!("{MASKS}."), known, found, |a, b| a == b)?;
            }
            (Some(known), found) => same(&key, known, &found, |a, b| a == b)?,
            (None, found) => drop(known.insert(key, found)),
        }
    }
    Ok(())
}

/// Features by name. Types that differ widen as the columns do; labels that have other names are other labels.
fn merge_features(known: &mut Map<String, Value>, mut words: Map<String, Value>) -> Result<(), Contrary> {
    let (Some(known), Some(found)) = (features(known), features(&mut words)) else { return Ok(()) };
    merge_entries("", known, std::mem::take(found), |a, b| labels(a).is_none_or(|a| labels(b).is_none_or(|b| a == b)))
}

fn features(words: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    words.get_mut("info")?.get_mut("features")?.as_object_mut()
}

/// The names of the classes in a feature, wherever in it they are.
fn labels(feature: &Value) -> Option<Vec<&Value>> {
    let mut found = Vec::new();
    collect(feature, &mut found);
    (!found.is_empty()).then_some(found)
}

fn collect<'a>(feature: &'a Value, found: &mut Vec<&'a Value>) {
    match feature {
        Value::Object(fields) if fields.get("_type").is_some_and(|kind| kind == "ClassLabel") => {
            found.extend(fields.get("names"));
        }
        Value::Object(fields) => fields.values().for_each(|field| collect(field, found)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

fn merge_entries(
    path: &str,
    known: &mut Map<String, Value>,
    found: Map<String, Value>,
    is_same: impl Fn(&Value, &Value) -> bool,
) -> Result<(), Contrary> {
    for (key, found) in found {
        match known.get(&key) {
            Some(known) => same(&format!("{path}{key}"), known, &found, &is_same)?,
            None => drop(known.insert(key, found)),
        }
    }
    Ok(())
}

fn same(what: &str, known: &Value, found: &Value, is_same: impl Fn(&Value, &Value) -> bool) -> Result<(), Contrary> {
    match is_same(known, found) {
        true => Ok(()),
        false => Err(Contrary { what: what.to_owned(), known: known.to_string(), found: found.to_string() }),
    }
}
