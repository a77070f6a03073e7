//! Which contents a template writes: one text, a list of parts, or either. The same words may come in both forms, in one
//! dataset even, and a template that knows one of them only writes nothing of the other, or Python's notation of a list.

use serde_json::{Value as Json, json};

use super::{ChatTemplate, Context, Ending, Message, words};

/// The forms that a template writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takes {
    text: bool,
    parts: bool,
}

/// A word that no template has.
const PROBE: &str = "c0ntent";

impl ChatTemplate {
    /// `messages` with contents that the template writes, where it writes one form alone; as they are if it writes both, or
    /// neither in a conversation of one message.
    pub(super) fn fitted(&self, messages: &[Message]) -> Vec<Message> {
        let takes = *self.takes.get_or_init(|| self.probe());
        messages.iter().map(|message| takes.fit(message)).collect()
    }

    fn probe(&self) -> Takes {
        let writes = |content: Json| {
            let message = Message::from_iter([("role".to_owned(), "user".into()), ("content".to_owned(), content)]);
            let text = self.render(&[message], &Context::default(), Ending::Turn);
            text.is_ok_and(|text| text.contains(PROBE) && !["'type'", "\"type\""].iter().any(|key| text.contains(key)))
        };
        Takes { text: writes(PROBE.into()), parts: writes(json!([{"type": "text", "text": PROBE}])) }
    }
}

impl Takes {
    fn fit(self, message: &Message) -> Message {
        let mut message = message.clone();
        let fitted = match message.get("content") {
            Some(Json::Array(_)) if self.text && !self.parts => Json::from(words(&message)),
            Some(Json::String(text)) if self.parts && !self.text => json!([{"type": "text", "text": text}]),
            _ => return message,
        };
        message.insert("content".to_owned(), fitted);
        message
    }
}
