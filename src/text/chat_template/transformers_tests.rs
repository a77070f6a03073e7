//! Templates of a folder against what `transformers` made of them, by `tests/fixtures/templates/make_templates.py`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::*;
use crate::text::Tokenizer;

/// A folder's expected.json.
#[derive(Deserialize)]
struct Expected {
    /// Special tokens by template.
    special_tokens: BTreeMap<String, BTreeMap<String, String>>,
    cases: Vec<Case>,
    /// Date formats and what Python makes of them.
    #[serde(default)]
    dates: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    /// `turn`, `generation` or `continue`.
    ending: String,
    /// None where `transformers` has an error.
    text: Option<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> T {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn render(template: &ChatTemplate, conversation: &Json, ending: &str) -> Result<String> {
    let messages = conversation["messages"].as_array().unwrap().iter();
    let messages: Vec<Message> = messages.map(|message| message.as_object().unwrap().clone()).collect();
    let field = |name: &str| conversation.get(name).cloned();
    let context = Context { tools: field("tools"), documents: field("documents"), ..Context::default() };
    match ending {
        "continue" => template.open(&messages, &context),
        "generation" => template.render(&messages, &context, Ending::GenerationPrompt),
        _ => template.render(&messages, &context, Ending::Turn),
    }
}

/// A text and, where the template comes with its tokenizer, its ids.
type Rendered = (String, Option<Vec<i32>>);

/// What became of every case of `folder`.
fn render_folder(folder: &Path) -> Vec<(Case, Result<Rendered>)> {
    let expected: Expected = read(&folder.join("expected.json"));
    let conversations: BTreeMap<String, Json> = read(&folder.join("conversations.json"));
    let mut templates = BTreeMap::new();
    for (name, special_tokens) in &expected.special_tokens {
        let own = folder.join(name);
        templates.insert(
            name.clone(),
            if own.is_dir() {
                let tokenizer = Tokenizer::load(&own).unwrap();
                let template = match tokenizer.template() {
                    Ok(Template::Chat { template, .. }) => Ok(*template),
                    other => Err(Error::model(name, format!("{other:?}"))),
                };
                (template, Some(tokenizer))
            } else {
                let source = fs::read_to_string(own.with_added_extension("jinja")).unwrap();
                (ChatTemplate::parse(&source, name, special_tokens), None)
            },
        );
    }
    let cases = expected.cases.into_iter().map(|case| {
        let (template, tokenizer) = &templates[&case.template];
        let text = match template {
            Ok(template) => render(template, &conversations[&case.conversation], &case.ending),
            Err(error) => Err(Error::model(&case.template, error)),
        };
        let rendered = text.map(|text| {
            let ids = tokenizer.as_ref().map(|tokenizer| tokenizer.encode(&text).unwrap());
            (text, ids)
        });
        (case, rendered)
    });
    cases.collect()
}

#[test]
fn templates_render_as_in_transformers() {
    let mut seen = 0;
    for (case, rendered) in render_folder(&fixtures()) {
        let Case { template, conversation, ending, text } = case;
        match (text, rendered) {
            (Some(text), Ok((rendered, _))) => assert_eq!(rendered, text, "{template}, {conversation}, {ending}"),
            (None, Err(_)) => {}
            (Some(_), Err(error)) => panic!("{template}, {conversation}, {ending}: {error}"),
            (None, Ok((text, _))) => {
                panic!("{template}, {conversation}, {ending}: an error in transformers, here {text}")
            }
        }
        seen += 1;
    }
    assert!(seen > 400, "{seen} cases");
}

#[test]
fn dates_are_written_as_in_python() {
    let at = chrono::DateTime::from_timestamp(1_722_000_009, 0).unwrap().fixed_offset();
    for (format, text) in read::<Expected>(&fixtures().join("expected.json")).dates {
        assert_eq!(python::strftime(at, &format).unwrap(), text, "{format}");
    }
}

#[test]
#[ignore = "renders the folder $SEPO_TEMPLATES for a script that compares"]
fn templates_of_another_folder() {
    let folder = std::env::var("SEPO_TEMPLATES").expect("SEPO_TEMPLATES names a folder");
    let results: Vec<Json> = render_folder(Path::new(&folder))
        .into_iter()
        .map(|(_, rendered)| match rendered {
            Ok((text, ids)) => json!({ "text": text, "ids": ids }),
            Err(error) => json!({ "error": error.to_string() }),
        })
        .collect();
    fs::write(Path::new(&folder).join("rendered.json"), json!(results).to_string()).unwrap();
}
