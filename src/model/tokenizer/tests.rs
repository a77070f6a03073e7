//! Folders good and broken, written on the spot.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::chat_template::Message;

/// Byte-level BPE over a few merges. `added` names the added tokens, ids behind the vocabulary.
fn tokenizer_json(added: &[&str]) -> Value {
    let mut tokens: Vec<String> =
        vec!["a", "b", "c", "Ġ", "Ã", "©", "ab", "abc", "Ġa"].into_iter().map(str::to_owned).collect();
    let merges = json!([["a", "b"], ["ab", "c"], ["Ġ", "a"]]);
    let vocabulary: Map<String, Value> = tokens.drain(..).enumerate().map(|(id, token)| (token, json!(id))).collect();
    let size = vocabulary.len();
    let added: Vec<Value> = added
        .iter()
        .enumerate()
        .map(|(index, text)| {
            json!({"id": size + index, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}
    })
}

fn folder(files: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn error(files: &[(&str, String)]) -> String {
    Tokenizer::load(folder(files).path()).unwrap_err().to_string()
}

#[test]
fn ids_offsets_and_text_agree() {
    let folder = folder(&[("tokenizer.json", tokenizer_json(&["<e>"]).to_string())]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    // Longer than the truncation that the file asks for.
    assert_eq!(tokenizer.encode("abc a<e>ab").unwrap(), [7, 8, 9, 6]);
    assert_eq!(tokenizer.vocab_size(), 10);
    assert_eq!(tokenizer.decode(&[7, 8, 9, 6]).unwrap(), "abc a<e>ab");
    assert_eq!(tokenizer.decode(&[-1, 7, 500]).unwrap(), "abc");
    assert_eq!(tokenizer.token_text(8), " a");
    // `é` is two bytes and two tokens; both cover the one character.
    let (ids, offsets) = tokenizer.encode_with_offsets("cé ab").unwrap();
    assert_eq!(ids, [2, 4, 5, 3, 6]);
    assert_eq!(offsets, [(0, 1), (1, 2), (1, 2), (2, 3), (3, 5)]);
}

#[test]
fn the_digest_sees_content_and_not_layout() {
    let json = tokenizer_json(&["<e>"]);
    let digest = |text: String| Tokenizer::load(folder(&[("tokenizer.json", text)]).path()).unwrap().digest().unwrap();
    let one = digest(json.to_string());
    assert_eq!(one, digest(serde_json::to_string_pretty(&sorted(&json)).unwrap()));
    let mut other_decoder = json.clone();
    other_decoder["decoder"] = Value::Null;
    assert_eq!(one, digest(other_decoder.to_string()));
    assert_ne!(one, digest(tokenizer_json(&["<f>"]).to_string()));
    let mut fewer_merges = json;
    fewer_merges["model"]["merges"].as_array_mut().unwrap().pop();
    assert_ne!(one, digest(fewer_merges.to_string()));
}

#[test]
fn special_tokens_and_templates_are_found_where_they_are_written() {
    let json = tokenizer_json(&["<e>"]).to_string();
    let config = json!({
        "eos_token": {"content": "<e>", "lstrip": false},
        "bos_token": null,
        "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ eos_token }}{{ pad_token }}"}],
    });
    let map = json!({"eos_token": "<other>", "pad_token": "<p>"});
    let mut files = vec![
        ("tokenizer.json", json),
        ("tokenizer_config.json", config.to_string()),
        ("special_tokens_map.json", map.to_string()),
    ];
    let one = folder(&files);
    let tokenizer = Tokenizer::load(one.path()).unwrap();
    assert_eq!(tokenizer.eos_token(), Some("<e>"));
    assert_eq!(tokenizer.special_tokens().len(), 2);
    let prompt = [Message { role: "user", content: "a" }];
    assert_eq!(tokenizer.template().unwrap().render_prompt(&prompt).unwrap(), "<e><p>");

    files.push(("chat_template.jinja", "own".into()));
    let two = folder(&files);
    let other = Tokenizer::load(two.path()).unwrap();
    assert_eq!(other.template().unwrap().render_prompt(&prompt).unwrap(), "own");
    assert_ne!(tokenizer.template_digest(), other.template_digest());
}

#[test]
fn what_cannot_be_used_is_named() {
    let json = tokenizer_json(&[]).to_string();
    let message = error(&[]);
    assert!(message.contains("tokenizer.json: not found; ") && message.contains("save_pretrained"), "{message}");
    let message = error(&[("tokenizer.json", json[..40].to_owned())]);
    assert!(message.contains("tokenizer.json: not a tokenizer: "), "{message}");
    let message = error(&[("tokenizer.json", json.clone()), ("tokenizer_config.json", "[]".into())]);
    assert!(message.contains("tokenizer_config.json: not a JSON object: "), "{message}");
    let named = json!({"chat_template": [{"name": "rag", "template": "x"}]}).to_string();
    let message = error(&[("tokenizer.json", json.clone()), ("tokenizer_config.json", named)]);
    assert!(message.contains("lists rag and none of them is named `default`"), "{message}");
    let message = error(&[("tokenizer.json", json.clone()), ("chat_template.jinja", "{% if %}".into())]);
    assert!(message.contains("chat_template.jinja: chat template, line 1: "), "{message}");

    let folder = folder(&[("tokenizer.json", json)]);
    let message = Tokenizer::load(folder.path()).unwrap().template().unwrap_err().to_string();
    assert!(message.contains("no chat template in this folder") && message.contains("template: none"), "{message}");
}
