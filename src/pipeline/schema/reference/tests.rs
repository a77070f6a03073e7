//! The page is complete and true: every setting has a text and an example that a pipeline file may have.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;
use crate::pipeline::Spec;

#[test]
fn the_page_is_the_one_that_is_shipped() {
    let shipped = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pipeline.md")).unwrap();
    assert!(shipped == markdown(), "make it again: sepo schema --format markdown > docs/pipeline.md");
}

#[test]
fn every_setting_has_a_type_a_meaning_and_an_example() {
    let all: Vec<&Setting> = all().collect();
    assert!(all.len() > 180, "{}", all.len());
    for setting in &all {
        let name = setting.name();
        assert!(!setting.kind.is_empty(), "{name} has no type");
        assert!(!setting.meaning.is_empty(), "{name} has no text (`///` above the field)");
        assert!(setting.words.iter().all(|(_, meaning)| !meaning.is_empty()), "a word of {name} has no text");
    }
    let missing: Vec<String> = all.iter().filter(|it| it.example == Value::Null).map(|it| it.name()).collect();
    assert!(
        missing.is_empty(),
        "an example for each: `#[schemars(extend(\"examples\" = [...]))]`\n{}",
        missing.join("\n")
    );
}

/// `value` at the end of `path`, in maps that have what they need beside it: `settings` are those of the outermost one.
fn within(path: &[String], settings: &[Setting], value: &Value) -> Map<String, Value> {
    let needed = settings.iter().filter(|setting| setting.required);
    let mut map: Map<String, Value> =
        needed.map(|setting| (setting.key().to_owned(), setting.example.clone())).collect();
    let Some((key, rest)) = path.split_first() else { return map };
    let inner = settings.iter().find(|setting| setting.path.last() == Some(key));
    let inside = inner.map_or(settings, |inner| &inner.inside[..]);
    let value = if rest.is_empty() { value.clone() } else { within(rest, inside, value).into() };
    let is_item = !rest.is_empty() && inner.is_some_and(|inner| inner.kind.starts_with("list of maps"));
    let value = if is_item { Value::Array(vec![value]) } else { value };
    // The settings of what the user names are those inside of the map of names.
    if key == NAME {
        map.clear();
    }
    map.insert(if key == NAME { "name".to_owned() } else { key.clone() }, value);
    map
}

#[test]
fn examples_are_valid() {
    for setting in all() {
        let file = within(&setting.path, settings(), &setting.example);
        let text = file.iter().map(|(key, value)| format!("{key}: {}\n", flow(value))).collect::<String>();
        if let Err(error) = Spec::parse(&text, "example.yaml", &[]) {
            panic!("{}: {error}\n{text}", setting.name());
        }
    }
}

#[test]
fn a_setting_is_found_by_its_name_and_by_the_end_of_it() {
    let names = |name: &str| find(name).map(|found| found.into_iter().map(Setting::name).collect::<Vec<_>>());
    assert_eq!(names("select.rule").unwrap(), ["select.rule"]);
    assert_eq!(names("stages.select.rule").unwrap(), ["select.rule"]);
    assert_eq!(names("learning_rate").unwrap(), ["train.learning_rate"]);
    assert_eq!(names("read").unwrap(), ["read"]);
    assert_eq!(names("models.path").unwrap(), ["models.<name>.path"]);
    assert_eq!(names("objective.sepo.gamma").unwrap(), ["train.objective.sepo.gamma"]);
    assert_eq!(names("batch_tokens").unwrap().len(), 4);
    for (wrong, expected) in [
        ("selct.rule", "did you mean `select.rule`?"),
        ("train.learnign_rate", "did you mean `train.learning_rate`?"),
        ("learnign_rate", "did you mean `train.learning_rate`?"),
        ("lr", "the setting here is `learning_rate` of a `train` stage"),
        ("what_ever", "one of read, tokenize"),
    ] {
        let said = names(wrong).unwrap_err();
        assert!(said.contains(expected), "{wrong}: {said}");
    }
}

#[test]
fn a_setting_knows_its_type_its_unit_and_its_default() {
    let one = |name: &str| find(name).unwrap().remove(0);
    let rate = one("train.learning_rate");
    assert_eq!((rate.kind.as_str(), rate.default_text().as_deref()), ("number", Some("1.0e-6")));
    assert_eq!(rate.example_text(), "learning_rate: 5.0e-7");
    let length = one("tokenize.max_length");
    assert_eq!((length.unit.as_deref(), length.default_text().as_deref()), (Some("tokens"), Some("2048")));
    let rule = one("select.rule");
    assert_eq!((rule.kind.as_str(), rule.default_text().as_deref()), ("word", Some("share")));
    assert_eq!(rule.words[1].0, "official");
    assert_eq!(one("read.from").kind, "text, or list of text");
    assert_eq!(one("tokenize.boundary").kind, "word, or map");
    assert_eq!(one("train.betas").kind, "list of 2 numbers");
    let oracle = one("score.oracle");
    assert!(!oracle.required && oracle.default.is_none() && one("score.reference").required);
    assert_eq!(one("train.objective").example, json!({ "sepo": { "gamma": 2.0 } }));
}
