//! Conversations in canonical form: turns out of published messages, and pairs of answers to one prompt.

use serde_json::Value;

use super::form::Reason;
use crate::columns::conversation::EXTRA;
use crate::columns::node::Node;
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
            Node::Null | Node::Bool(_) | Node::Integer(_) | Node::Unsigned(_) | Node::Number(_) => Ok(None),
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

/// A message with `role` and `content`, or with `from` and `value`, and with all of its other fields. A system message
/// without content is none.
fn turn(message: &Node) -> Result<Option<Turn>, Reason> {
    let Node::Struct(fields) = message else { return Err("a message has no role") };
    let (role, content, own) = match message.field("from").text() {
        Some(from) => (said_by(from), "value", "from"),
        None => (message.field("role").text().ok_or("a message has no role")?, "content", "role"),
    };
    let mut turn = Turn::from_iter([("role".to_owned(), role.into())]);
    match message.field(content) {
        Node::Text(text) => drop(turn.insert("content".into(), text.as_str().into())),
        Node::List(parts) => {
            parts.iter().try_for_each(is_text)?;
            turn.insert("content".into(), parts.iter().map(Node::json).collect());
        }
        _ => {}
    }
    for (name, value) in fields.iter().filter(|(name, value)| name != content && name != own && *value != Node::Null) {
        match (name.as_str(), value.json()) {
            // As written by `write`: JSON in a text.
            ("tool_calls", Value::String(text)) => {
                let calls = serde_json::from_str(&text).map_err(|_| "the tool calls of a message are no JSON")?;
                turn.insert("tool_calls".into(), calls);
            }
            (EXTRA, Value::String(text)) => match serde_json::from_str::<Turn>(&text) {
                Ok(extra) => turn.extend(extra),
                Err(_) => drop(turn.insert(EXTRA.into(), text.into())),
            },
            (name, value) => drop(turn.insert(name.to_owned(), value)),
        }
    }
    turn.retain(|_, value| !value.is_null());
    let is_silent = !turn.contains_key("content") && !has_calls(&turn);
    match role {
        "system" if is_silent => Ok(None),
        _ if is_silent => Err("a message has no content"),
        _ => Ok(Some(turn)),
    }
}

/// Whether `turn` calls a tool.
fn has_calls(turn: &Turn) -> bool {
    let calls = |name: &str| turn.get(name).is_some_and(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty()));
    calls("tool_calls") || calls("function_call")
}

/// Refuses a part of a content that is not text.
fn is_text(part: &Node) -> Result<(), Reason> {
    match part.field("type").text() {
        None | Some("text") if part.field("text").text().is_some() => Ok(()),
        Some("image" | "image_url" | "input_image") => Err("a message has an image, which is not read"),
        Some("audio" | "audio_url" | "input_audio") => Err("a message has audio, which is not read"),
        Some("video" | "video_url") => Err("a message has a video, which is not read"),
        Some(_) | None => Err("a message has parts that are not text"),
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

/// Whether nothing was said, and no tool called.
pub(super) fn silent(turns: &[Turn]) -> bool {
    turns.iter().all(|turn| words(turn).trim().is_empty() && !has_calls(turn))
}

/// Whether `turns` are a conversation with its prompt: an answer begins with the assistant, or with a tool.
pub(super) fn is_whole(turns: &[Turn]) -> bool {
    turns.first().is_some_and(|turn| is_system(turn) || role(turn) == "user")
}

/// Whether `turn` is an instruction to the model.
pub(super) fn is_system(turn: &Turn) -> bool {
    matches!(role(turn), "system" | "developer")
}

/// A message as it is compared with another of the same words: without white space around them.
fn spoken(turn: &Turn) -> Turn {
    let mut turn = turn.clone();
    if let Some(Value::String(text)) = turn.get_mut("content") {
        *text = text.trim().to_owned();
    }
    turn
}

/// A pair in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) prompt: Vec<Turn>,
    /// The chosen and the rejected answer.
    pub(super) answers: [Vec<Turn>; 2],
    /// Where both stood in a list of ranked answers, from 1.
    pub(super) places: Option<[usize; 2]>,
    /// The tokens of both answers, where the source has them.
    pub(super) tokens: [Tokens; 2],
}

/// An answer that is tokenized already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) ids: Vec<i32>,
    /// As long as the ids.
    pub(super) key_mask: Vec<bool>,
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
        Ok(Self { prompt, answers, ..Self::default() })
    }

    /// Answers that are whole conversations, both or one of them, beside their prompt: what follows it is the answer. White
    /// space, and a system message that one of them lacks, make no difference.
    pub(super) fn whole(prompt: Vec<Turn>, answers: [Vec<Turn>; 2]) -> Result<Self, Reason> {
        const DISAGREE: Reason = "the prompt and the conversations of the answers do not agree";
        let systems = [&prompt, &answers[0], &answers[1]].map(|turns| turns.first().filter(|turn| is_system(turn)));
        if answers.iter().all(|turns| is_whole(turns)) && systems[1].is_some() != systems[2].is_some() {
            return Err(DISAGREE);
        }
        let mut given = systems.into_iter().flatten();
        let system = given.next().cloned();
        if given.any(|other| Some(spoken(other)) != system.as_ref().map(spoken)) {
            return Err(DISAGREE);
        }
        let rest =
            |turns: &[Turn]| turns.iter().skip(usize::from(turns.first().is_some_and(is_system))).cloned().collect();
        let (asked, [chosen, rejected]): (Vec<Turn>, [Vec<Turn>; 2]) =
            (rest(&prompt), answers.each_ref().map(|turns| rest(turns)));
        let same = |a: &[Turn], b: &[Turn]| a.iter().map(spoken).eq(b.iter().map(spoken));
        // The column of prompts may hold one of the conversations.
        if same(&asked, &chosen) || same(&asked, &rejected) {
            let with_system = |turns: Vec<Turn>| system.iter().cloned().chain(turns).collect::<Vec<_>>();
            return Self::part(&with_system(chosen), &with_system(rejected));
        }
        let behind = |turns: Vec<Turn>| match turns.get(..asked.len()) {
            Some(begin) if is_whole(&turns) && same(begin, &asked) => Ok(turns[asked.len()..].to_vec()),
            _ if is_whole(&turns) => Err(DISAGREE),
            _ => Ok(turns),
        };
        let answers = [behind(chosen)?, behind(rejected)?];
        Self::new(system.into_iter().chain(asked).collect(), answers)
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
