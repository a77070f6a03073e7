//! TRL's preference formats, standard and conversational, the prompt explicit or implicit, and UltraFeedback binarized.
//!
//! <https://huggingface.co/docs/trl/dataset_formats>; HuggingFaceH4/ultrafeedback_binarized has the text of the prompt
//! beside whole conversations.

use super::conversation::{Pair, Talk, Turn, is_system, is_whole, role, say};
use super::form::{Column, Form, Kind, Reason, Row, Rows};
use super::{Format, hh};

/// `chosen` and `rejected`, and mostly `prompt`.
pub(super) const PAIRS: Form = Form {
    format: Format::Pairs,
    columns: &[
        Column::new("prompt", Kind::Talk).optional(),
        Column::new("system", Kind::Text).if_named(),
        Column::new("chosen", Kind::Talk),
        Column::new("rejected", Kind::Talk),
    ],
    rows: Rows::Pair(pair),
};

/// The text of the prompt beside conversations that begin with it.
pub(super) const ULTRAFEEDBACK: Form = Form {
    format: Format::Ultrafeedback,
    columns: &[
        Column::new("prompt", Kind::Text),
        Column::new("chosen", Kind::Turns),
        Column::new("rejected", Kind::Turns),
    ],
    rows: Rows::Pair(pair),
};

fn pair(row: &Row<'_>) -> Result<Pair, Reason> {
    let talk = |name| Talk::new(row.get(name));
    let (Some(chosen), Some(rejected)) = (talk("chosen")?, talk("rejected")?) else { return Err("empty answer") };
    let prompt = talk("prompt")?;
    let no_prompt = prompt.is_none() && row.has("prompt");
    let mut pair = match (chosen, rejected) {
        // Only a dataset without prompts has them in its answers.
        (Talk::Text(chosen), Talk::Text(rejected)) if no_prompt => {
            hh::pair_of(None, &chosen, &rejected).unwrap_or(Err("empty prompt"))?
        }
        (chosen, rejected) => pair_of(prompt, chosen, rejected)?,
    };
    if let Some(system) = row.words("system").filter(|_| !is_system(&pair.prompt[0])) {
        pair.prompt.insert(0, say("system", system));
    }
    Ok(pair)
}

/// A pair of whatever texts and conversations stand in one row.
fn pair_of(prompt: Option<Talk>, chosen: Talk, rejected: Talk) -> Result<Pair, Reason> {
    let answer = |text: &str| vec![say("assistant", text)];
    match (prompt, chosen, rejected) {
        (None, Talk::Text(chosen), Talk::Text(rejected)) => match hh::pair_of(None, &chosen, &rejected) {
            Some(pair) => pair,
            None => part_text(&chosen, &rejected),
        },
        (Some(Talk::Text(prompt)), Talk::Text(chosen), Talk::Text(rejected)) => {
            let standard = || Pair::new(vec![say("user", &prompt)], [answer(&chosen), answer(&rejected)]);
            hh::behind(&prompt, &chosen, &rejected).unwrap_or_else(standard)
        }
        (Some(Talk::Turns(prompt)), Talk::Text(chosen), Talk::Text(rejected)) => {
            Pair::new(prompt, [answer(&chosen), answer(&rejected)])
        }
        (Some(Talk::Turns(prompt)), Talk::Turns(chosen), Talk::Turns(rejected)) => {
            let is_whole = is_whole(&chosen) || is_whole(&rejected);
            if is_whole { Pair::whole(prompt, [chosen, rejected]) } else { Pair::new(prompt, [chosen, rejected]) }
        }
        (Some(Talk::Text(prompt)), Talk::Turns(chosen), Talk::Turns(rejected)) => {
            let begins = |turns: &[Turn]| turns.first().is_some_and(|turn| role(turn) == "assistant");
            match begins(&chosen) && begins(&rejected) {
                true => Pair::new(vec![say("user", &prompt)], [chosen, rejected]),
                false => Pair::part(&chosen, &rejected),
            }
        }
        (None, Talk::Turns(chosen), Talk::Turns(rejected)) => Pair::part(&chosen, &rejected),
        _ => Err("one answer is a text, the other a conversation"),
    }
}

/// As TRL's `extract_prompt`: the prompt is what both texts share, up to a white space.
fn part_text(chosen: &str, rejected: &str) -> Result<Pair, Reason> {
    let same = chosen.char_indices().zip(rejected.chars()).take_while(|((_, a), b)| a == b);
    let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    let end = chosen[..end].rfind(char::is_whitespace).unwrap_or(0);
    let answer = |text: &str| vec![say("assistant", &text[end..])];
    Pair::new(vec![say("user", &chosen[..end])], [answer(chosen), answer(rejected)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Talk {
        Talk::Text(text.into())
    }

    fn turns(turns: &[(&str, &str)]) -> Talk {
        Talk::Turns(own(turns))
    }

    fn own(turns: &[(&str, &str)]) -> Vec<Turn> {
        turns.iter().map(|(role, content)| say(role, content)).collect()
    }

    #[test]
    fn every_form_ends_in_the_same_pair() {
        let prompt = [("user", "Two plus two?")];
        let answers: [&[(&str, &str)]; 2] = [&[("assistant", "Four.")], &[("assistant", "Five.")]];
        let expect = |pair: Result<Pair, Reason>, answers: [&[(&str, &str)]; 2]| {
            assert_eq!(pair, Ok(Pair { prompt: own(&prompt), answers: answers.map(own), ..Pair::default() }));
        };
        let whole = |answer| turns(&[("user", "Two plus two?"), ("assistant", answer)]);
        expect(pair_of(Some(text("Two plus two?")), text("Four."), text("Five.")), answers);
        expect(pair_of(Some(turns(&prompt)), turns(answers[0]), turns(answers[1])), answers);
        expect(pair_of(Some(turns(&prompt)), whole("Four."), whole("Five.")), answers);
        expect(pair_of(Some(text("Two plus two?")), whole("Four."), whole("Five.")), answers);
        expect(pair_of(Some(text("Two plus two?")), turns(answers[0]), turns(answers[1])), answers);
        expect(pair_of(None, whole("Four."), whole("Five.")), answers);
        let hh = |answer| text(&format!("\n\nHuman: Two plus two?\n\nAssistant: {answer}"));
        expect(pair_of(None, hh("Four."), hh("Five.")), answers);
        expect(pair_of(Some(hh("")), text("Four."), text("Five.")), answers);
        let implicit = |answer| text(&format!("Two plus two? {answer}"));
        let spaced: [&[(&str, &str)]; 2] = [&[("assistant", " Four.")], &[("assistant", " Five.")]];
        expect(pair_of(None, implicit("Four."), implicit("Five.")), spaced);
    }

    #[test]
    fn rows_without_use_say_why() {
        let explicit = |prompt, chosen, rejected| pair_of(Some(text(prompt)), text(chosen), text(rejected));
        assert_eq!(explicit("q", "a", "a"), Err("identical answers"));
        assert_eq!(explicit("q", " ", "a"), Err("empty answer"));
        assert_eq!(explicit("", "b", "a"), Err("empty prompt"));
        let other = |first: &str| text(&format!("\n\nHuman: {first}\n\nAssistant: x"));
        assert_eq!(pair_of(None, other("one"), other("two")), Err("empty prompt"));
        let mixed = pair_of(None, text("a"), turns(&[("assistant", "b")]));
        assert_eq!(mixed, Err("one answer is a text, the other a conversation"));
    }
}
