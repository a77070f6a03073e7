//! The forms in which preference pairs are published, brought into one: a prompt, and two answers that continue it.

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use std::sync::Arc;

use crate::columns::messages_type;
use crate::error::{Error, Place, Result};

/// One turn: role and content.
pub(super) type Turn = (String, String);

/// A column of answers or prompts.
pub(super) enum Talk {
    Text(StringArray),
    Turns(ListArray),
}

/// One cell of a [`Talk`].
pub(super) enum Cell {
    Text(String),
    Turns(Vec<Turn>),
}

impl Talk {
    /// Whether a column of this type holds texts or conversations.
    pub(super) fn accepts(data_type: &DataType) -> bool {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
            DataType::Dictionary(_, value) => Self::accepts(value),
            DataType::List(element) | DataType::LargeList(element) => match element.data_type() {
                DataType::Struct(fields) => ["role", "content"].iter().all(|name| fields.find(name).is_some()),
                _ => false,
            },
            _ => false,
        }
    }

    pub(super) fn new(column: &ArrayRef, name: &str) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| Error::data(Place::column(name), error);
        match column.data_type() {
            DataType::List(element) | DataType::LargeList(element) => {
                let list = cast(column, &DataType::List(element.clone())).map_err(|error| wrong(&error))?;
                Ok(Self::Turns(list.as_list::<i32>().clone()))
            }
            _ => {
                let text = cast(column, &DataType::Utf8).map_err(|error| wrong(&error))?;
                Ok(Self::Text(text.as_string::<i32>().clone()))
            }
        }
    }

    /// Row `row`; none where it or a role or content in it is null.
    pub(super) fn cell(&self, row: usize) -> Option<Cell> {
        match self {
            Self::Text(texts) => texts.is_valid(row).then(|| Cell::Text(texts.value(row).to_owned())),
            Self::Turns(lists) => {
                let turns = lists.is_valid(row).then(|| lists.value(row))?;
                let turns = turns.as_struct_opt()?;
                let text = |name: &str| cast(turns.column_by_name(name)?, &DataType::Utf8).ok();
                let (roles, contents) = (text("role")?, text("content")?);
                let (roles, contents) = (roles.as_string::<i32>(), contents.as_string::<i32>());
                let turn = |i: usize| {
                    let valid = roles.is_valid(i) && contents.is_valid(i);
                    valid.then(|| (roles.value(i).to_owned(), contents.value(i).to_owned()))
                };
                (0..turns.len()).map(turn).collect::<Option<_>>().map(Cell::Turns)
            }
        }
    }
}

/// A pair in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) prompt: Vec<Turn>,
    pub(super) answers: [Vec<Turn>; 2],
}

impl Pair {
    /// Brings a row into canonical form, or says why it cannot be used.
    pub(super) fn new(
        prompt: Option<Cell>,
        chosen: Option<Cell>,
        rejected: Option<Cell>,
    ) -> Result<Self, &'static str> {
        let (Some(chosen), Some(rejected)) = (chosen, rejected) else { return Err("empty answer") };
        let pair = match (prompt, chosen, rejected) {
            (Some(Cell::Text(prompt)), Cell::Text(chosen), Cell::Text(rejected)) => {
                let prompt = transcript(&prompt).unwrap_or_else(|| vec![say("user", &prompt)]);
                Self { prompt, answers: [chosen, rejected].map(|text| vec![say("assistant", &text)]) }
            }
            (Some(Cell::Turns(prompt)), Cell::Turns(chosen), Cell::Turns(rejected)) => {
                let behind = |turns: Vec<Turn>| match turns.starts_with(&prompt) && turns.len() > prompt.len() {
                    true => turns[prompt.len()..].to_vec(),
                    false => turns,
                };
                Self { answers: [behind(chosen), behind(rejected)], prompt }
            }
            (Some(Cell::Turns(prompt)), Cell::Text(chosen), Cell::Text(rejected)) => {
                Self { prompt, answers: [chosen, rejected].map(|text| vec![say("assistant", &text)]) }
            }
            // UltraFeedback binarized: the prompt's text beside whole conversations.
            (_, Cell::Turns(chosen), Cell::Turns(rejected)) => Self::part(chosen, rejected),
            (None, Cell::Text(chosen), Cell::Text(rejected)) => match (transcript(&chosen), transcript(&rejected)) {
                (Some(chosen), Some(rejected)) => Self::part(chosen, rejected),
                _ => Self::part_text(&chosen, &rejected),
            },
            _ => return Err("one answer is a text, the other a conversation"),
        };
        pair.check()
    }

    /// Two conversations part where they differ; an answer begins with the assistant.
    fn part(chosen: Vec<Turn>, rejected: Vec<Turn>) -> Self {
        let mut common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
        while common > 0 && (common >= chosen.len().min(rejected.len()) || chosen[common].0 != "assistant") {
            common -= 1;
        }
        Self { prompt: chosen[..common].to_vec(), answers: [chosen[common..].to_vec(), rejected[common..].to_vec()] }
    }

    /// As TRL's `extract_prompt`: the prompt is what both texts share, up to a white space.
    fn part_text(chosen: &str, rejected: &str) -> Self {
        let same = chosen.char_indices().zip(rejected.chars()).take_while(|((_, a), b)| a == b);
        let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
        let end = chosen[..end].rfind(char::is_whitespace).unwrap_or(0);
        let answer = |text: &str| vec![say("assistant", &text[end..])];
        Self { prompt: vec![say("user", &chosen[..end])], answers: [answer(chosen), answer(rejected)] }
    }

    fn check(self) -> Result<Self, &'static str> {
        let silent = |turns: &[Turn]| turns.iter().all(|(_, content)| content.trim().is_empty());
        if silent(&self.prompt) {
            return Err("empty prompt");
        }
        if self.answers.iter().any(|answer| silent(answer)) {
            return Err("empty answer");
        }
        if self.answers[0] == self.answers[1] {
            return Err("identical answers");
        }
        Ok(self)
    }
}

fn say(role: &str, content: &str) -> Turn {
    (role.to_owned(), content.to_owned())
}

/// The turns of an HH-RLHF transcript (`\n\nHuman: … \n\nAssistant: …`); none where the text is not one. An open last
/// turn of the assistant is left out.
fn transcript(text: &str) -> Option<Vec<Turn>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    if !MARKS.iter().any(|(mark, _)| text.trim_start().starts_with(mark.trim_start())) {
        return None;
    }
    let text = format!("\n\n{}", text.trim_start());
    let mut marks: Vec<(usize, usize, &str)> = MARKS
        .iter()
        .flat_map(|(mark, role)| text.match_indices(mark).map(move |(at, _)| (at, at + mark.len(), *role)))
        .collect();
    marks.sort_unstable();
    let ends = marks.iter().skip(1).map(|(at, ..)| *at).chain([text.len()]);
    let mut turns: Vec<Turn> =
        marks.iter().zip(ends).map(|((_, from, role), to)| say(role, text[*from..to].trim())).collect();
    if turns.last().is_some_and(|(role, content)| role == "assistant" && content.is_empty()) {
        turns.pop();
    }
    Some(turns)
}

/// A column of conversations.
pub(super) fn column<'a>(rows: impl Iterator<Item = &'a [Turn]> + Clone) -> ArrayRef {
    let DataType::List(element) = messages_type() else { unreachable!("messages are a list") };
    let DataType::Struct(fields) = element.data_type() else { unreachable!("of structs") };
    let turns: Vec<&Turn> = rows.clone().flatten().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(turns.iter().map(|(role, _)| role))),
        Arc::new(StringArray::from_iter_values(turns.iter().map(|(_, content)| content))),
    ];
    let values = StructArray::new(fields.clone(), columns, None);
    let lengths = OffsetBuffer::from_lengths(rows.map(<[Turn]>::len));
    Arc::new(ListArray::new(Arc::new(Field::clone(&element)), lengths, Arc::new(values), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Cell> {
        Some(Cell::Text(text.into()))
    }

    fn turns(turns: &[(&str, &str)]) -> Option<Cell> {
        Some(Cell::Turns(turns.iter().map(|(role, content)| say(role, content)).collect()))
    }

    fn expect(pair: Result<Pair, &'static str>, prompt: &[(&str, &str)], answers: [&[(&str, &str)]; 2]) {
        let own = |turns: &[(&str, &str)]| turns.iter().map(|(role, content)| say(role, content)).collect::<Vec<_>>();
        assert_eq!(pair, Ok(Pair { prompt: own(prompt), answers: answers.map(own) }));
    }

    #[test]
    fn every_form_ends_in_the_same_pair() {
        let prompt = [("user", "Two plus two?")];
        let answers: [&[(&str, &str)]; 2] = [&[("assistant", "Four.")], &[("assistant", "Five.")]];
        let whole = |answer| turns(&[("user", "Two plus two?"), ("assistant", answer)]);
        expect(Pair::new(text("Two plus two?"), text("Four."), text("Five.")), &prompt, answers);
        expect(Pair::new(turns(&prompt), turns(answers[0]), turns(answers[1])), &prompt, answers);
        expect(Pair::new(turns(&prompt), whole("Four."), whole("Five.")), &prompt, answers);
        expect(Pair::new(text("Two plus two?"), whole("Four."), whole("Five.")), &prompt, answers);
        expect(Pair::new(None, whole("Four."), whole("Five.")), &prompt, answers);
        let hh = |answer| text(&format!("\n\nHuman: Two plus two?\n\nAssistant: {answer}"));
        expect(Pair::new(None, hh("Four."), hh("Five.")), &prompt, answers);
        expect(Pair::new(hh(""), text("Four."), text("Five.")), &prompt, answers);
        let implicit = |answer| text(&format!("Two plus two? {answer}"));
        let spaced: [&[(&str, &str)]; 2] = [&[("assistant", " Four.")], &[("assistant", " Five.")]];
        expect(Pair::new(None, implicit("Four."), implicit("Five.")), &prompt, spaced);
    }

    #[test]
    fn rows_without_use_say_why() {
        assert_eq!(Pair::new(text("q"), text("a"), text("a")), Err("identical answers"));
        assert_eq!(Pair::new(text("q"), text(" "), text("a")), Err("empty answer"));
        assert_eq!(Pair::new(text("q"), None, text("a")), Err("empty answer"));
        assert_eq!(Pair::new(text(""), text("b"), text("a")), Err("empty prompt"));
        let other = |first: &str| text(&format!("\n\nHuman: {first}\n\nAssistant: x"));
        assert_eq!(Pair::new(None, other("one"), other("two")), Err("empty prompt"));
    }
}
