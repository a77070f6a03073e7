//! `sepo explain` — the reference of one setting: what it does, its type, default and choices, and an example.

use std::fmt::Write;

use clap::Args;

use crate::pipeline::schema::reference::{Setting, find, settings};

/// Characters of a line.
const WIDTH: usize = 100;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Stage or setting, for example `select`, `select.rule` or `learning_rate`. Without it, all settings of the file and
    /// all stages are listed.
    #[arg(value_name = "SETTING", value_parser = settings_of)]
    found: Option<Found>,
}

/// What a name may mean.
#[derive(Debug, Clone)]
struct Found(Vec<&'static Setting>);

fn settings_of(name: &str) -> Result<Found, String> {
    find(name).map(Found)
}

impl Explain {
    pub(super) fn text(&self) -> String {
        match self.found.as_ref().map(|found| &found.0[..]) {
            Some([setting]) => explained(setting),
            Some(several) => listed(several.iter().copied(), Setting::name),
            None => {
                let stages = settings().iter().filter(|setting| setting.key() == "stages").flat_map(|it| &it.inside);
                let (file, stages) = (listed(settings(), key), listed(stages, key));
                format!("The file\n{file}\nStages\n{stages}")
            }
        }
    }
}

fn key(setting: &Setting) -> String {
    setting.key().to_owned()
}

fn explained(setting: &Setting) -> String {
    let mut out = format!("{}\n\n{}", setting.name(), wrapped(&setting.meaning, 2));
    let is_choice = setting.kind == "map" && setting.path.len() > 3 && !setting.inside.is_empty();
    if is_choice && setting.about != setting.meaning {
        let _ = write!(out, "\n{}", wrapped(&setting.about, 2));
    }
    let unit = setting.unit.as_ref().map(|unit| format!(" ({unit})")).unwrap_or_default();
    let _ = writeln!(out, "\n  type     {}{unit}", setting.kind);
    match setting.default_text() {
        _ if setting.required => out.push_str("  default  none, the setting is required\n"),
        Some(default) => out += &format!("  default  {default}\n"),
        None => {}
    }
    let _ = writeln!(out, "  example  {}", setting.example_text());
    if !setting.words.is_empty() {
        let words = setting.words.iter().map(|(word, meaning)| (word.clone(), meaning.as_str()));
        let _ = write!(out, "\nWords\n{}", columns(words.collect()));
    }
    if !setting.inside.is_empty() {
        let _ = write!(out, "\nSettings\n{}", listed(&setting.inside, key));
    }
    if let Some(same) = setting.same_as.as_ref().filter(|_| setting.words.is_empty()) {
        let _ = writeln!(out, "\nSettings as in `{same}`");
    }
    out
}

/// A line for each of `settings`, with the first sentence of its text.
fn listed<'a>(settings: impl IntoIterator<Item = &'a Setting>, name: impl Fn(&Setting) -> String) -> String {
    let first = |setting: &Setting| setting.meaning.find(". ").map_or(setting.meaning.len(), |end| end + 1);
    columns(settings.into_iter().map(|it| (name(it), &it.meaning[..first(it)])).collect())
}

/// Names, and beside them their texts.
fn columns(rows: Vec<(String, &str)>) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let row = |(name, text): &(String, &str)| {
        let text = wrapped(text, width + 4);
        format!("  {name:<width$}  {}", text.trim_start())
    };
    rows.iter().map(row).collect()
}

/// `text` in lines that begin with `indent` spaces.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && indent + used + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}
