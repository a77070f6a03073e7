//! docs/pipeline.md: a section for the file and for each stage, a table for each map.

use std::fmt::Write;

use serde_json::json;

use super::{NAME, STAGES, Setting, flow, settings};

const HEAD: &str = "\
# Pipeline reference

<!-- Generated: sepo schema --format markdown > docs/pipeline.md -->

Every setting of a pipeline file. `sepo explain NAME` prints one of them, for example `sepo explain select.rule`; `sepo schema`
prints the JSON Schema for editors. A map is written in YAML's block or flow style. `${name}` inserts the value of a variable
anywhere below `vars`, `${env:NAME}` that of an environment variable.

";

/// The page.
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    let settings = settings();
    let (stages, file): (Vec<&Setting>, Vec<&Setting>) = settings.iter().partition(|setting| setting.key() == STAGES);
    let stages: Vec<&Setting> = stages.into_iter().flat_map(|stages| &stages.inside).collect();
    let names: Vec<String> = stages.iter().map(|stage| format!("[`{0}`](#{0})", stage.key())).collect();
    let _ = writeln!(out, "Stages: {}.\n\n## The file\n", names.join(", "));
    table(&mut out, settings.iter());
    file.iter().for_each(|setting| section(&mut out, setting));
    for stage in stages {
        let _ = writeln!(out, "## {}\n\n{}\n\n```yaml\n{}\n```\n", stage.key(), stage.meaning, example(stage));
        inside(&mut out, stage);
    }
    let mut text = out.trim_end().to_owned();
    text.push('\n');
    text
}

/// A stage in full: `pairs: { read: { from: pairs.jsonl } }`.
fn example(stage: &Setting) -> String {
    let id = match stage.key() {
        "read" => "pairs",
        "tokenize" => "tokens",
        "score" => "scored",
        "select" => "keyed",
        _ => "out",
    };
    format!("stages:\n  {id}: {}", flow(&json!({ stage.key(): stage.example })))
}

/// A section for a setting that has settings inside, or words.
fn section(out: &mut String, setting: &Setting) {
    if setting.same_as.is_some() || setting.inside.is_empty() && setting.words.is_empty() {
        return;
    }
    let _ = writeln!(out, "### `{}`\n", setting.name());
    let about = if setting.about.is_empty() { &setting.meaning } else { &setting.about };
    let _ = writeln!(out, "{about}\n");
    inside(out, setting);
}

/// The settings in one, and its words; then a section for each of those that need one.
fn inside(out: &mut String, setting: &Setting) {
    if !setting.words.is_empty() {
        out.push_str("| word | meaning |\n|---|---|\n");
        for (word, meaning) in &setting.words {
            let _ = writeln!(out, "| `{word}` | {} |", cell(meaning));
        }
        out.push('\n');
    }
    if !setting.inside.is_empty() {
        table(out, setting.inside.iter());
    }
    setting.inside.iter().for_each(|inner| section(out, inner));
}

fn table<'a>(out: &mut String, settings: impl Iterator<Item = &'a Setting>) {
    out.push_str("| setting | type | default | meaning | example |\n|---|---|---|---|---|\n");
    for setting in settings {
        let unit = setting.unit.as_ref().map(|unit| format!(" ({unit})")).unwrap_or_default();
        let default = match setting.default_text() {
            _ if setting.required => "required".to_owned(),
            Some(default) => format!("`{default}`"),
            None => String::new(),
        };
        let name = setting.path.iter().rev().take(2).rev().map(String::as_str).collect::<Vec<_>>();
        let name = if name[0] == NAME { name.join(".") } else { setting.key().to_owned() };
        let _ = writeln!(
            out,
            "| `{name}` | {}{unit} | {} | {} | `{}` |",
            setting.kind,
            cell(&default),
            cell(&format!("{}{}", setting.meaning, more(setting))),
            cell(&setting.example_text())
        );
    }
    out.push('\n');
}

/// Where the words of a setting and the settings in it are listed.
fn more(setting: &Setting) -> String {
    let has_more =
        !setting.words.is_empty() || !setting.inside.is_empty() || setting.kind.starts_with("map with one key");
    let listed = match &setting.same_as {
        Some(name) if has_more || setting.kind == "map" => name.clone(),
        None if setting.path == [STAGES] => return String::new(),
        None if has_more => setting.name(),
        _ => return String::new(),
    };
    format!(" See [`{listed}`](#{}).", anchor(&listed))
}

/// GitHub's anchor of a heading.
fn anchor(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric() || *c == '_' || *c == '-').collect::<String>().to_lowercase()
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
