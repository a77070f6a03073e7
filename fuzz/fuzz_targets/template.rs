//! A chat template: parsed, and rendered over a conversation.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sepo::text::{ChatTemplate, Message};
use sepo_fuzz as _;

fuzz_target!(|source: &str| {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]);
    let Ok(template) = ChatTemplate::parse(source, "chat_template.jinja", &tokens) else { return };
    let say = |role, content| Message { role, content };
    let prompt = [say("system", " Be brief. "), say("user", "Two plus\ttwo? ü🙂")];
    let answers = [say("assistant", "Four."), say("assistant", "Five 12345")];
    if let Ok(rendered) = template.render_answers(&prompt, &[&answers[..1], &answers[1..]]) {
        assert_eq!(rendered.answers.len(), 2);
    }
    let _ = template.render_prompt(&[prompt[1], answers[0]]);
});
