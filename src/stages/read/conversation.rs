//! Conversations in canonical form: turns out of published messages, and pairs of answers to one prompt.

use super::form::Reason;
use super::node::Node;
pub(super) use crate::columns::{Turn, role, say, words};

/// A prompt or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Talk {
    Text(String),
    Turns(Vec<Turn>),
}

impl Talk {
    /// A text, a message, or a list of messages; none where it is null. A text that is nothing but space is a text.
    pub(super) fn new(node: &Node) -> Result<Option<Self>, Reason> {
        match node {
            Node::Text(text) => Ok(Some(Self::Text(text.clone()))),
            Node::List(messages) => {
                let turns = messages.iter().filter_map(|message| turn(message).transpose());
                Ok(Some(Self::Turns(turns.collect::<Result<_, _>>()?)))
            }
            Node::Struct(_) => Ok(Some(Self::Turns(turn(node)?.into_iter().collect()))),
            Node::Null | Node::Number(_) => Ok(None),
        }
    }

    /// As turns; a text is one turn of `role`.
    pub(super) fn turns(self, role: &str) -> Vec<Turn> {
        match self {
            Self::Text(text) => vec![say(role, &text)],
            Self::Turns(turns) => turns,
        }
    }
}

/// The turns of `node`, where a text is one turn of `role`; none at all where it is null.
pub(super) fn turns(node: &Node, role: &str) -> Result<Vec<Turn>, Reason> {
    Ok(Talk::new(node)?.map(|talk| talk.turns(role)).unwrap_or_default())
}

/// A message with `role` and `content`, or with `from` and `value`. Other fields are left out. A system message without
/// content is none.
fn turn(message: &Node) -> Result<Option<Turn>, Reason> {
    let (role, content) = match message.field("from").text() {
        Some(from) => (said_by(from), message.field("value")),
        None => (message.field("role").text().ok_or("a message has no role")?, message.field("content")),
    };
    let calls = ["tool_calls", "function_call"].map(|name| message.field(name));
    let has_calls = calls.iter().any(|calls| !matches!(calls, Node::Null) && **calls != Node::List(Vec::new()));
    match content {
        Node::Text(text) => Ok(Some(say(role, text))),
        Node::List(parts) => Ok(Some(say(role, &joined(parts)?))),
        _ if has_calls => Err("a message has tool calls and no content"),
        _ if role == "system" => Ok(None),
        _ => Err("a message has no content"),
    }
}

/// The roles of LLaMA-Factory's sharegpt tags in the words of chat templates.
fn said_by(from: &str) -> &str {
    match from {
        "human" => "user",
        "gpt" | "function_call" => "assistant",
        "observation" => "tool",
        other => other,
    }
}

/// The text of content in parts.
fn joined(parts: &[Node]) -> Result<String, Reason> {
    let text = |part: &Node| match part.field("type").text() {
        None | Some("text") => part.field("text").text().map(str::to_owned),
        Some(_) => None,
    };
    parts.iter().map(text).collect::<Option<String>>().ok_or("a message has parts that are not text")
}

/// Whether nothing was said.
pub(super) fn silent(turns: &[Turn]) -> bool {
    turns.iter().all(|turn| words(turn).trim().is_empty())
}

/// A pair in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) prompt: Vec<Turn>,
    /// The chosen and the rejected answer.
    pub(super) answers: [Vec<Turn>; 2],
    /// Where both stood in a list of ranked answers, from 1.
    pub(super) places: Option<[usize; 2]>,
}

impl Pair {
    /// A pair that can be used, or why it cannot.
    pub(super) fn new(prompt: Vec<Turn>, answers: [Vec<Turn>; 2]) -> Result<Self, Reason> {
        if silent(&prompt) {
            return Err("empty prompt");
        }
        if answers.iter().any(|answer| silent(answer)) {
            return Err("empty answer");
        }
        if answers[0] == answers[1] {
            return Err("identical answers");
        }
        Ok(Self { prompt, answers, places: None })
    }

    /// Two conversations part where they differ; an answer begins with the assistant.
    pub(super) fn part(chosen: &[Turn], rejected: &[Turn]) -> Result<Self, Reason> {
        let mut common = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
        while common > 0 && (common >= chosen.len().min(rejected.len()) || role(&chosen[common]) != "assistant") {
            common -= 1;
        }
        Self::new(chosen[..common].to_vec(), [chosen[common..].to_vec(), rejected[common..].to_vec()])
    }
}
