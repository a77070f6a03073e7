//! Folders good and broken, written on the spot.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::text::chat_template::Context;
use crate::text::{Message, Template};

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

fn user(content: &str) -> [Message; 1] {
    [json!({"role": "user", "content": content}).as_object().unwrap().clone()]
}

fn rendered(template: &Template, content: &str) -> String {
    template.render_prompt(&user(content), &Context::default()).unwrap()
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
fn pieces_are_what_tokens_add_to_the_text() {
    let folder_of = |json: Value| folder(&[("tokenizer.json", json.to_string())]);
    let bytes = folder_of(tokenizer_json(&["<e>"]));
    let tokenizer = Tokenizer::load(bytes.path()).unwrap();
    let ids = tokenizer.encode("cé ab<e>").unwrap();
    let pieces = tokenizer.pieces(&ids).unwrap();
    let texts: Vec<&str> = pieces.iter().map(|piece| &piece.text[..]).collect();
    // `é` is two bytes and two tokens: the first has the character.
    assert_eq!(texts, ["c", "é", "", " ", "ab", "<e>"]);
    assert_eq!(texts.concat(), tokenizer.decode(&ids).unwrap());
    let offsets = tokenizer.encode_with_offsets("cé ab<e>").unwrap().1;
    assert_eq!(pieces.iter().map(|piece| piece.span).collect::<Vec<_>>(), offsets);
    // A character that never ends, ids of no token.
    let odd: Vec<String> =
        tokenizer.pieces(&[0, 4, 0, 500, -1, 4]).unwrap().into_iter().map(|piece| piece.text).collect();
    assert_eq!(odd, ["a", "\u{fffd}a", "", "", "", "\u{fffd}"]);
    assert!(tokenizer.pieces(&[]).unwrap().is_empty());

    // A decoder that takes the space from the beginning of a text takes it from its first token alone.
    let mut json = tokenizer_json(&[]);
    json["decoder"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    json["model"]["vocab"] = json!({"▁a": 0, "b": 1});
    json["model"]["merges"] = json!([]);
    let spaces = folder_of(json);
    let tokenizer = Tokenizer::load(spaces.path()).unwrap();
    let texts: Vec<String> = tokenizer.pieces(&[0, 1, 0, 0]).unwrap().into_iter().map(|piece| piece.text).collect();
    assert_eq!(texts, ["a", "b", " a", " a"]);
}

#[test]
fn the_digest_sees_content_and_not_layout() {
    let json = tokenizer_json(&["<e>"]);
    let digest = |text: String| {
        Tokenizer::load(folder(&[("tokenizer.json", text)]).path()).unwrap().digest().unwrap().to_owned()
    };
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
fn templates_are_found_where_they_are_written() {
    let config = json!({
        "eos_token": {"content": "<e>", "lstrip": false},
        "pad_token": "<p>",
        "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ eos_token }}{{ pad_token }}"}],
    });
    let mut files =
        vec![("tokenizer.json", tokenizer_json(&["<e>"]).to_string()), ("tokenizer_config.json", config.to_string())];
    let one = folder(&files);
    let tokenizer = Tokenizer::load(one.path()).unwrap();
    assert_eq!(tokenizer.eos_token(), Some("<e>"));
    assert_eq!(rendered(&tokenizer.template().unwrap(), "a"), "<e><p>");

    files.push(("chat_template.jinja", "own".into()));
    let two = folder(&files);
    let other = Tokenizer::load(two.path()).unwrap();
    assert_eq!(rendered(&other.template().unwrap(), "a"), "own");
    assert_ne!(tokenizer.template().unwrap().digest(), other.template().unwrap().digest());
}

/// As `AutoTokenizer.from_pretrained(…).special_tokens_map`.
#[test]
fn special_tokens_are_those_of_transformers() {
    let found = |files: &[(&str, Value)]| {
        let mut all = vec![("tokenizer.json", tokenizer_json(&["<e>", "<b>"]).to_string())];
        all.extend(files.iter().map(|(name, json)| (*name, json.to_string())));
        let tokens = Tokenizer::load(folder(&all).path()).unwrap().special_tokens().clone();
        tokens.iter().map(|(name, token)| format!("{name} {token}")).collect::<Vec<_>>().join(", ")
    };
    let config = json!({
        "bos_token": null, "eos_token": "<e>", "add_bos_token": true, "image_token": "<i>", "boa_token": {"content": "<a>"},
        "extra_special_tokens": {"boi_token": "<x>"},
    });
    let map = json!({"eos_token": {"content": "<m>"}, "pad_token": "<p>"});
    let files = [("tokenizer_config.json", config.clone()), ("special_tokens_map.json", map.clone())];
    assert_eq!(found(&files), "boi_token <x>, eos_token <m>, image_token <i>, pad_token <p>");
    let mut listed = config;
    listed["added_tokens_decoder"] = json!({});
    let files = [("tokenizer_config.json", listed), ("special_tokens_map.json", map)];
    assert_eq!(found(&files), "boi_token <x>, eos_token <e>, image_token <i>");
    let model = json!({"bos_token_id": 10, "eos_token_id": [9, 10]});
    assert_eq!(found(&[("config.json", model.clone())]), "bos_token <b>, eos_token <e>");
    assert_eq!(
        found(&[("config.json", model), ("tokenizer_config.json", json!({"bos_token": null}))]),
        "eos_token <e>"
    );
}

#[test]
fn the_beginning_of_text_is_the_template_s_alone() {
    let mut json = tokenizer_json(&["<b>"]);
    // What `AutoTokenizer` would put in front of every text.
    let single = json!([{"SpecialToken": {"id": "<b>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    json["post_processor"] = json!({
        "type": "TemplateProcessing", "single": single, "pair": single,
        "special_tokens": {"<b>": {"id": "<b>", "ids": [9], "tokens": ["<b>"]}},
    });
    let ids = |template: &str| {
        let config = json!({"bos_token": "<b>", "add_bos_token": true, "chat_template": template});
        let folder = folder(&[("tokenizer.json", json.to_string()), ("tokenizer_config.json", config.to_string())]);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        tokenizer.encode(&rendered(&tokenizer.template().unwrap(), "abc")).unwrap()
    };
    assert_eq!(ids("{{ bos_token }}{{ messages[0].content }}"), [9, 7]);
    assert_eq!(ids("{{ messages[0].content }}"), [7]);
    assert_eq!(ids("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}"), [9, 9, 7]);
}

#[test]
fn tokenizers_that_part_are_told_where() {
    let load = |json: &Value| Tokenizer::load(folder(&[("tokenizer.json", json.to_string())]).path()).unwrap();
    let one = tokenizer_json(&["<e>"]);
    let parts = |change: &dyn Fn(&mut Value)| {
        let mut other = one.clone();
        change(&mut other);
        compare::difference(("oracle", &load(&one)), ("policy", &load(&other))).unwrap()
    };
    assert_eq!(parts(&|_| {}), None);
    assert_eq!(parts(&|json| json["decoder"] = Value::Null), None);
    let told = |change: &dyn Fn(&mut Value)| parts(change).unwrap();
    assert_eq!(
        told(&|json| json["added_tokens"][0]["content"] = json!("<f>")),
        "the vocabularies part at id 9: `<e>` in `oracle`, `<f>` in `policy`"
    );
    assert_eq!(
        told(&|json| json["added_tokens"].as_array_mut().unwrap().clear()),
        "the vocabularies part at id 9: `<e>` in `oracle`, nothing in `policy`"
    );
    let swapped = told(&|json| {
        json["model"]["vocab"]["a"] = json!(1);
        json["model"]["vocab"]["b"] = json!(0);
    });
    assert_eq!(swapped, "the vocabularies part at id 0: `a` in `oracle`, `b` in `policy`");
    let message = told(&|json| json["added_tokens"][0]["lstrip"] = json!(true));
    assert!(
        message.starts_with("the added tokens part at id 9: {") && message.contains("\"lstrip\":true"),
        "{message}"
    );
    assert_eq!(
        told(&|json| json["model"]["merges"].as_array_mut().unwrap().swap(0, 2)),
        "the merges part at number 0: [\"a\",\"b\"] in `oracle`, [\"Ġ\",\"a\"] in `policy`"
    );
    assert_eq!(
        told(&|json| json["normalizer"] = json!({"type": "NFC"})),
        "the normalizers differ: null in `oracle`, {\"type\":\"NFC\"} in `policy`"
    );
    let message = told(&|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true));
    assert!(message.starts_with("the pre-tokenizers differ: {"), "{message}");
    let message = told(&|json| json["model"]["ignore_merges"] = json!(true));
    assert!(message.starts_with("the models' settings differ: {"), "{message}");
}

#[test]
fn ids_beyond_the_embedding_are_refused() {
    let folder = folder(&[("tokenizer.json", tokenizer_json(&["<e>", "<p>"]).to_string())]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    tokenizer.check_fits(11).unwrap();
    let message = tokenizer.check_fits(9).unwrap_err().to_string();
    assert!(message.contains("2 tokens have no embedding") && message.contains("`<e>` with id 9"), "{message}");
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
    let one = folder(&[("tokenizer.json", json.clone()), ("tokenizer_config.json", named)]);
    let tokenizer = Tokenizer::load(one.path()).unwrap();
    let message = tokenizer.template().unwrap_err().to_string();
    assert!(
        message.contains("none of the chat templates here is named `default`; `template: NAME` takes one of rag"),
        "{message}"
    );
    assert_eq!(rendered(&tokenizer.named_template("rag").unwrap().unwrap(), "a"), "x");
    assert!(tokenizer.named_template("tool_use").unwrap().is_none());
    let message = error(&[("tokenizer.json", json.clone()), ("chat_template.jinja", "{% if %}".into())]);
    assert!(message.contains("chat_template.jinja: chat template, line 1: "), "{message}");

    let folder = folder(&[("tokenizer.json", json)]);
    let message = Tokenizer::load(folder.path()).unwrap().template().unwrap_err().to_string();
    assert!(message.contains("no chat template in this folder") && message.contains("template: none"), "{message}");
}

/// `AutoTokenizer.from_pretrained(…).added_tokens_decoder` of transformers 5.24.0: (id, content, special, normalized,
/// lstrip).
#[test]
fn tokens_that_other_files_name_have_one_id_each() {
    let found = |files: &[(&str, Value)]| {
        let mut all = vec![("tokenizer.json", tokenizer_json(&["<e>", "<b>"]).to_string())];
        all.extend(files.iter().map(|(name, json)| (*name, json.to_string())));
        let tokenizer = Tokenizer::load(folder(&all).path()).unwrap();
        let mut tokens: Vec<_> = tokenizer.inner.get_added_tokens_decoder().into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        let own = |id: &u32| [("<e>", 9), ("<b>", 10)].iter().all(|(_, own)| own != id);
        let beyond = tokens.into_iter().filter(|(id, token)| own(id) || token.normalized);
        beyond.map(|(id, t)| (id, t.content, t.special, t.normalized, t.lstrip)).collect::<Vec<_>>()
    };
    let token = |id, content: &str, special, normalized, lstrip| (id, content.to_owned(), special, normalized, lstrip);
    let plain = |id, content| token(id, content, true, false, false);
    let config = |config: Value| [("tokenizer_config.json", config)];
    assert_eq!(found(&config(json!({"eos_token": "<z>", "pad_token": "<e>"}))), [plain(11, "<z>")]);
    // Ids in a list are an order alone.
    let listed = json!({
        "15": {"content": "<z>", "lstrip": true, "normalized": false, "rstrip": false, "single_word": false, "special": true},
        "14": {"content": "<y>", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false, "special": false},
        "10": {"content": "<b>", "lstrip": true, "normalized": true, "rstrip": false, "single_word": false, "special": false},
    });
    assert_eq!(
        found(&config(json!({"eos_token": "<b>", "added_tokens_decoder": listed}))),
        [token(10, "<b>", true, true, true), token(11, "<y>", false, true, false), token(12, "<z>", true, false, true)]
    );
    let extra =
        json!({"additional_special_tokens": ["<q>", {"__type": "AddedToken", "content": "<r>", "special": true}]});
    assert_eq!(found(&config(extra)), [plain(11, "<q>"), plain(12, "<r>")]);
    let both = json!({"extra_special_tokens": ["<q>"], "additional_special_tokens": ["<r>"]});
    assert_eq!(found(&config(both)), [plain(11, "<q>")]);
    // A token of the vocabulary keeps its id.
    let map = [("special_tokens_map.json", json!({"additional_special_tokens": ["<q>"], "bos_token": "ab"}))];
    assert_eq!(found(&map), [plain(6, "ab"), plain(11, "<q>")]);
    let added = ("added_tokens.json", json!({"<q>": 12, "<f>": 11}));
    assert_eq!(
        found(&[added, ("tokenizer_config.json", json!({"eos_token": "<f>"}))]),
        [plain(11, "<f>"), token(12, "<q>", false, true, false)]
    );
}

#[test]
fn a_named_token_in_a_text_is_one_id() {
    let tokenizer = |config: Value| {
        let files =
            [("tokenizer.json", tokenizer_json(&[]).to_string()), ("tokenizer_config.json", config.to_string())];
        Tokenizer::load(folder(&files).path()).unwrap()
    };
    assert_eq!(tokenizer(json!({"eos_token": "<ab>"})).encode("a<ab>b").unwrap(), [0, 9, 1]);
    let split = json!({"eos_token": "ca", "split_special_tokens": true});
    assert_eq!(tokenizer(split).encode("aca").unwrap(), [0, 2, 0]);
}

#[test]
fn the_post_processor_says_what_stands_around_a_text() {
    let mut json = tokenizer_json(&["<b>", "<e>"]);
    let ends = |json: &Value| {
        let folder = folder(&[("tokenizer.json", json.to_string())]);
        Tokenizer::load(folder.path()).unwrap().ends().unwrap()
    };
    assert_eq!(ends(&json), [Vec::<i32>::new(), Vec::new()]);
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let single = json!([special("<b>"), special("<b>"), {"Sequence": {"id": "A", "type_id": 0}}, special("<e>")]);
    let tokens: Map<String, Value> = [("<b>", 9), ("<e>", 10)]
        .map(|(token, id)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .into_iter()
        .collect();
    json["post_processor"] =
        json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens});
    assert_eq!(ends(&json), [vec![9, 9], vec![10]]);
}

#[test]
fn a_folder_of_another_kind_is_told_how_to_convert() {
    let message = error(&[("tokenizer.model", "x".into())]);
    assert!(message.contains("not found; `tokenizer.model` is not read itself: "), "{message}");
    assert!(message.contains("AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"), "{message}");
}

/// As `get_chat_template` of transformers: files win over the configuration, and tools take `tool_use`.
#[test]
fn templates_have_names() {
    let named = json!({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]});
    let mut files =
        vec![("tokenizer.json", tokenizer_json(&[]).to_string()), ("tokenizer_config.json", named.to_string())];
    let tools = Context { tools: Some(json!([])), ..Context::default() };
    let both = |folder: &TempDir| {
        let template = Tokenizer::load(folder.path()).unwrap().template().unwrap();
        [Context::default(), tools.clone()].map(|context| template.render_prompt(&user("a"), &context).unwrap())
    };
    assert_eq!(both(&folder(&files)), ["d", "t"]);
    files.push(("chat_template.jinja", "file".into()));
    assert_eq!(both(&folder(&files)), ["file", "file"]);
    let with_more = folder(&files);
    let more = with_more.path().join("additional_chat_templates");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("tool_use.jinja"), "more").unwrap();
    fs::write(more.join("notes.txt"), "x").unwrap();
    assert_eq!(both(&with_more), ["file", "more"]);
    assert_eq!(template_names(with_more.path()).unwrap(), ["default", "tool_use"]);
}

/// `AutoTokenizer.from_pretrained(…)` of transformers 5.24.0 on the same folders: ids of `ab<e>a b`, class by class. The
/// vocabulary has no digits and no letters beyond c, so that classes differ by spaces alone.
#[test]
fn classes_that_build_their_own_are_those_of_transformers() {
    let tokens = ["<unk>", "<e>", "▁", "a", "b", "Ġ", "ab", "▁a", "Ġa"];
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let merges = json!([["a", "b"], ["▁", "a"], ["Ġ", "a"]]);
    let added = json!({"id": 1, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added], "normalizer": prepend,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": "<unk>"}
    });
    let load = |config: Value, model: Value| {
        let files = [
            ("tokenizer.json", json.to_string()),
            ("tokenizer_config.json", config.to_string()),
            ("config.json", model.to_string()),
        ];
        Tokenizer::load(folder(&files).path()).unwrap()
    };
    let ids = |config: Value, model: Value| load(config, model).encode("ab<e>a b").unwrap();
    let class = |name: &str| json!({"tokenizer_class": name, "eos_token": "<e>"});
    let with = |name: &str, key: &str, value: Value| {
        let mut config = class(name);
        config[key] = value;
        config
    };
    let none = || json!({});
    assert_eq!(ids(class("PreTrainedTokenizerFast"), none()), [2, 6, 1, 7, 2, 4]);
    assert_eq!(ids(class("LlamaTokenizerFast"), none()), [2, 6, 1, 3, 2, 4]);
    assert_eq!(ids(with("LlamaTokenizer", "legacy", json!(true)), none()), [2, 6, 1, 7, 2, 4]);
    assert_eq!(ids(with("LlamaTokenizer", "legacy", json!(null)), none()), [2, 6, 1, 3, 2, 4]);
    assert_eq!(ids(with("LlamaTokenizer", "add_prefix_space", json!(false)), none()), [6, 1, 3, 2, 4]);
    assert_eq!(ids(class("GPT2Tokenizer"), none()), [6, 1, 3, 5, 4]);
    assert_eq!(ids(with("GPT2Tokenizer", "add_prefix_space", json!(true)), none()), [5, 6, 1, 8, 5, 4]);
    assert_eq!(ids(class("GemmaTokenizer"), none()), [6, 1, 3, 2, 4]);
    // The model's type, where the class is missing or known to be wrong, or where the file counts.
    assert_eq!(ids(json!({"eos_token": "<e>"}), json!({"model_type": "gpt2"})), [6, 1, 3, 5, 4]);
    assert_eq!(ids(class("LlamaTokenizer"), json!({"model_type": "qwen2"})), [6, 1, 3, 5, 4]);
    assert_eq!(ids(class("LlamaTokenizer"), json!({"model_type": "mistral"})), [2, 6, 1, 7, 2, 4]);
    assert_eq!(ids(class("PreTrainedTokenizerFast"), json!({"model_type": "gpt2"})), [2, 6, 1, 7, 2, 4]);
    let note = load(class("LlamaTokenizer"), none()).note().unwrap().to_owned();
    assert!(note.contains("transformers builds a Llama tokenizer otherwise than tokenizer.json says"), "{note}");
    assert_eq!(load(class("PreTrainedTokenizerFast"), none()).note(), None);
}
