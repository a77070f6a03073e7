//! The tables as a file, for the judge of answers: `rules.json`.

use serde_json::{Value, json};

use super::words::{
    BOOKS, COLD, COUNTS, DAYS, KIND, LEADS, LINKS, NAMES, NEUTRAL, OPENINGS, RUDE, SORTS, STEPS, TASKS, WARM, tables,
};

/// `rules.json`.
pub(crate) fn rules_json() -> String {
    let table = |table: super::words::Table| json!({ "kind": table.kind, "questions": table.questions, "statements": table.statements, "facts": table.facts });
    let rules = json!({
        "tables": tables().into_iter().map(table).collect::<Vec<_>>(),
        "sorts": SORTS.iter().map(|(sort, things)| (*sort, things)).map(entry).collect::<serde_json::Map<_, _>>(),
        "tasks": TASKS.iter().map(|(task, advice)| (*task, advice)).map(entry).collect::<serde_json::Map<_, _>>(),
        "steps": STEPS, "leads": LEADS, "openings": OPENINGS, "links": LINKS,
        "warm": WARM, "cold": COLD, "kind": KIND, "rude": RUDE, "neutral": NEUTRAL,
        "fillers": { "day": DAYS, "book": BOOKS, "n": COUNTS, "name": NAMES },
    });
    format!("{rules:#}\n")
}

fn entry((name, value): (&str, impl serde::Serialize)) -> (String, Value) {
    (name.to_owned(), json!(value))
}
