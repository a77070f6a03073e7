//! HH-RLHF: transcripts of `\n\nHuman: …` and `\n\nAssistant: …` that differ in their ends. The better one is `chosen`.
//!
//! Anthropic/hh-rlhf has `chosen` and `rejected`; Dahoas/full-hh-rlhf has them without the transcript, which stands in
//! `prompt`.

use super::Format;
use super::conversation::{Pair, Turn, say};
use super::form::{Column, Form, Kind, Reason, Row, Rows};

/// Transcripts only.
pub(super) const HH_RLHF: Form = Form {
    format: Format::HhRlhf,
    columns: &[
        Column::new("prompt", Kind::Text).optional(),
        Column::new("chosen", Kind::Text),
        Column::new("rejected", Kind::Text),
    ],
    rows: Rows::Pair(pair),
};

fn pair(row: &Row<'_>) -> Result<Pair, Reason> {
    let (Some(chosen), Some(rejected)) = (row.words("chosen"), row.words("rejected")) else {
        return Err("empty answer");
    };
    pair_of(row.words("prompt"), chosen, rejected).unwrap_or(Err("not a Human/Assistant transcript"))
}

/// A pair of transcripts, or of answers to one; none where the texts are no transcripts.
pub(super) fn pair_of(prompt: Option<&str>, chosen: &str, rejected: &str) -> Option<Result<Pair, Reason>> {
    match (transcript(chosen), transcript(rejected), prompt.and_then(transcript)) {
        (Some(chosen), Some(rejected), _) => Some(Pair::part(&chosen, &rejected)),
        (_, _, Some(prompt)) => {
            Some(Pair::new(prompt, [chosen, rejected].map(|text| vec![say("assistant", text.trim())])))
        }
        _ => None,
    }
}

/// The turns of a transcript; none where the text is not one. An open last turn of the assistant is left out.
pub(super) fn transcript(text: &str) -> Option<Vec<Turn>> {
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
