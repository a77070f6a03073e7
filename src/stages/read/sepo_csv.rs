//! `top_k.csv` of the released code of SePO (<https://github.com/SteveKGYang/SePO>): texts, the ids of both answers, and the
//! numbers of the key tokens in lists that are joined by commas.
//!
//! A number `p` marks token `p + 1` of the answer: the authors' script never scores the first token, and their trainer reads
//! the mask against the ids that follow. It trains on `chosen_selected_args` and `rejected_unselected_args`.

use super::Format;
use super::conversation::{Pair, Tokens, say};
use super::form::{Column, Form, Kind, Reason, Row, Rows};
use crate::columns::node::Node;

pub(super) const SEPO_CSV: Form = Form {
    format: Format::SepoCsv,
    columns: &[
        Column::new("prompt", Kind::Text),
        Column::new("chosen_response", Kind::Text),
        Column::new("rejected_response", Kind::Text),
        Column::new("chosen_responses_ids", Kind::Text),
        Column::new("rejected_responses_ids", Kind::Text),
        Column::new("chosen_selected_args", Kind::Text),
        Column::new("rejected_unselected_args", Kind::Text),
    ],
    rows: Rows::Keyed(pair),
};

fn pair(row: &Row<'_>) -> Result<Pair, Reason> {
    let prompt = row.words("prompt").ok_or("empty prompt")?;
    let answer = |name| row.words(name).map(|text| vec![say("assistant", text)]).ok_or("empty answer");
    let answers = [answer("chosen_response")?, answer("rejected_response")?];
    let tokens = |ids, args| tokens(row.get(ids), row.get(args));
    let tokens = [
        tokens("chosen_responses_ids", "chosen_selected_args")?,
        tokens("rejected_responses_ids", "rejected_unselected_args")?,
    ];
    if tokens[0].ids == tokens[1].ids {
        return Err("identical answers");
    }
    Ok(Pair { tokens, ..Pair::new(vec![say("user", prompt)], answers)? })
}

/// The tokens of one answer.
fn tokens(ids: &Node, args: &Node) -> Result<Tokens, Reason> {
    let ids: Vec<i32> = numbers(ids).ok_or("token ids are no list of numbers")?;
    if ids.is_empty() {
        return Err("empty answer");
    }
    let args: Vec<usize> = numbers(args).ok_or("places of key tokens are no list of numbers")?;
    let mut key_mask = vec![false; ids.len()];
    for arg in args {
        let next = arg.checked_add(1).and_then(|place| key_mask.get_mut(place));
        *next.ok_or("a key token lies outside of its answer")? = true;
    }
    if !key_mask.contains(&true) {
        return Err("no key token");
    }
    Ok(Tokens { ids, key_mask })
}

/// Numbers that are joined by commas, none of them negative; none at all where it is null.
fn numbers<T: TryFrom<u32>>(node: &Node) -> Option<Vec<T>> {
    let text = match node {
        Node::Null => return Some(Vec::new()),
        Node::Text(text) => text,
        _ => return None,
    };
    // An id has 31 bits.
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| i32::try_from(*number).is_ok());
    text.split(',').map(|text| number(text).and_then(|number| T::try_from(number).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_marks_the_token_behind_it() {
        let text = |text: &str| Node::Text(text.into());
        let made = tokens(&text("5,6,7,8"), &text("2,0"));
        assert_eq!(made, Ok(Tokens { ids: vec![5, 6, 7, 8], key_mask: vec![false, true, false, true] }));
        assert_eq!(tokens(&text("5,6"), &text("1")), Err("a key token lies outside of its answer"));
        assert_eq!(tokens(&text("5,6"), &Node::Null), Err("no key token"));
        assert_eq!(tokens(&Node::Null, &text("0")), Err("empty answer"));
        assert_eq!(tokens(&text("5,x"), &text("0")), Err("token ids are no list of numbers"));
        assert_eq!(tokens(&text("5,-6"), &text("0")), Err("token ids are no list of numbers"));
        assert_eq!(
            tokens(&text("5,6"), &text("0,18446744073709551615")),
            Err("places of key tokens are no list of numbers")
        );
    }
}
