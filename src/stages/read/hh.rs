//! HH-RLHF: transcripts of `\n\nHuman: …` and `\n\nAssistant: …` that differ in their ends. The better one is `chosen`.
//!
//! Anthropic/hh-rlhf has `chosen` and `rejected`; Dahoas/full-hh-rlhf has them without the transcript, which stands in
//! `prompt`.

use super::Format;
use super::conversation::{Pair, Turn, role, say, words};
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
    match (transcript(chosen), transcript(rejected), prompt.and_then(open_transcript)) {
        (Some(chosen), Some(rejected), _) => Some(Pair::part(&chosen, &rejected)),
        (_, _, Some(prompt)) => {
            Some(Pair::new(prompt, [chosen, rejected].map(|text| vec![say("assistant", text.trim())])))
        }
        _ => None,
    }
}

/// As [`pair_of`], where transcripts are none unless they begin with the prompt: an answer may begin with `Assistant:`.
pub(super) fn behind(prompt: &str, chosen: &str, rejected: &str) -> Option<Result<Pair, Reason>> {
    let asked = open_transcript(prompt);
    let whole = [chosen, rejected].map(transcript);
    let words = |turns: &[Turn]| turns.iter().map(|turn| (role(turn).to_owned(), words(turn))).collect::<Vec<_>>();
    let begins = match &asked {
        Some(turns) => words(turns),
        None => vec![("user".to_owned(), prompt.trim().to_owned())],
    };
    let all_begin = whole.iter().all(|turns| turns.as_deref().is_some_and(|turns| words(turns).starts_with(&begins)));
    (asked.is_some() || all_begin).then(|| match (all_begin, whole, asked) {
        (true, [Some(chosen), Some(rejected)], _) => Pair::part(&chosen, &rejected),
        (_, _, asked) => {
            let answers = [chosen, rejected].map(|text| vec![say("assistant", text.trim())]);
            Pair::new(asked.unwrap_or_default(), answers)
        }
    })
}

/// The turns of a transcript up to where the assistant is to answer; none where the text is not one.
pub(super) fn open_transcript(text: &str) -> Option<Vec<Turn>> {
    let mut turns = transcript(text)?;
    if turns.last().is_some_and(|turn| role(turn) == "assistant" && words(turn).is_empty()) {
        turns.pop();
    }
    Some(turns)
}

/// The turns of a transcript; none where the text is not one.
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
    Some(marks.iter().zip(ends).map(|((_, from, role), to)| say(role, text[*from..to].trim())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_never_given_is_empty() {
        let talk = |end: &str| format!("\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:{end}");
        assert_eq!(pair_of(None, &talk(""), &talk(" b")), Some(Err("empty answer")));
        let turns = open_transcript(&talk("")).unwrap();
        let roles: Vec<&str> = turns.iter().map(role).collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        assert_eq!(transcript("q\n\nAssistant: a"), None);
    }
}
