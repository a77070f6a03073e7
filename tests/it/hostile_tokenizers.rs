//! Tokenizers that make of a short text a long one. Some of it happens while tokenizer.json is read, all of it with little
//! address space, and all of it must end with the file's name.

use sepo::text::Tokenizer;
use serde_json::{Value, json};

use crate::harness::{Folder, repository};

/// The quickstart's tokenizer, changed by `change`.
fn load(change: impl FnOnce(&mut Value)) -> sepo::Result<Tokenizer> {
    let folder = Folder::new();
    let source = repository().join("data/quickstart/tokenizer/tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(source).unwrap()).unwrap();
    change(&mut file);
    folder.write("tokenizer.json", &file.to_string());
    Tokenizer::load(&folder.path("."))
}

fn refused(change: impl FnOnce(&mut Value)) -> String {
    load(change).unwrap_err().to_string()
}

/// Sixteen letters for every one, eight times.
fn growing() -> Value {
    let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(16)});
    json!({"type": "Sequence", "normalizers": vec![step; 8]})
}

fn added(content: &str) -> Value {
    json!({"id": 5000, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
           "special": false})
}

#[test]
fn the_quickstart_s_tokenizer_is_within_bounds() {
    load(|_| {}).unwrap().encode("a text").unwrap();
}

#[test]
fn normalizers_that_grow_without_end_are_refused() {
    let grows =
        "tokenizer.json: not a tokenizer: normalizer: may make a text 4294967296 times as long; the most is 1000";
    let error = refused(|file| file["normalizer"] = growing());
    assert!(error.contains(grows), "{error}");
    // Added tokens are normalized while the file is read; a sequence without a type is one, too.
    let error = refused(|file| {
        file["normalizer"] = json!({"normalizers": growing()["normalizers"]});
        file["added_tokens"].as_array_mut().unwrap().push(added("aaaa"));
    });
    assert!(error.contains(grows), "{error}");
    let error = refused(|file| {
        file["normalizer"] = json!({"type": "Prepend", "prepend": "a".repeat(100)});
        file["added_tokens"].as_array_mut().unwrap().push(added(&"a".repeat(1 << 20)));
    });
    assert!(error.contains("tokenizer.json: not a tokenizer: added_tokens: may come to "), "{error}");
    // A table of replacements that says that it has four billion bytes.
    let error = refused(|file| file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}));
    assert!(error.contains("tokenizer.json: not a tokenizer: normalizer: precompiled_charsmap is cut off"), "{error}");
}

#[test]
fn templates_that_take_the_text_without_end_are_refused() {
    let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = |pieces: usize| json!({"type": "TemplateProcessing", "single": vec![piece.clone(); pieces], "pair": [], "special_tokens": {}});
    let error = refused(|file| file["post_processor"] = template(200_000));
    assert!(error.contains("tokenizer.json: not a tokenizer: 200"), "{error}");
    assert!(error.contains(" steps and pieces of templates; the most is 1000"), "{error}");
    let processors = vec![template(10); 4];
    let error = refused(|file| file["post_processor"] = json!({"type": "Sequence", "processors": processors}));
    assert!(error.contains("post_processor: may make a text 10000 times as long"), "{error}");
}

#[test]
fn pre_tokenizers_and_decoders_that_grow_without_end_are_refused() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let sequence = json!({"type": "Sequence", "pretokenizers": vec![byte_level; 30]});
    let error = refused(|file| file["pre_tokenizer"] = sequence);
    assert!(error.contains("pre_tokenizer: may make a text 1073741824 times as long"), "{error}");
    let sequence = json!({"type": "Sequence", "decoders": growing()["normalizers"]});
    let error = refused(|file| file["decoder"] = sequence);
    assert!(error.contains("decoder: may make a text 4294967296 times as long"), "{error}");
}

#[test]
fn tokens_and_words_have_a_longest() {
    let error = refused(|file| file["added_tokens"].as_array_mut().unwrap().push(added(&"x".repeat(5000))));
    assert!(
        error.contains("the token `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` has 5000 bytes; the most is 4096"),
        "{error}"
    );
    let word_piece = json!({
        "type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 1_000_000_000,
    });
    let error = refused(|file| file["model"] = word_piece);
    assert!(error.contains("model: max_input_chars_per_word is 1000000000; the most is 1000"), "{error}");
}

#[test]
fn a_text_has_a_longest_too() {
    let tokenizer = load(|_| {}).unwrap();
    let error = tokenizer.encode(&"a ".repeat(40 << 20)).unwrap_err();
    assert!(matches!(error, sepo::Error::Data { .. }));
    let error = error.to_string();
    assert!(
        error.contains("tokenizer.json: a text of 83886080 bytes may become more than 67108864 bytes long"),
        "{error}"
    );
}
