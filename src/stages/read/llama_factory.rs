//! LLaMA-Factory's two ranking formats, alpaca and sharegpt. The better answer is `chosen`.
//!
//! <https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md>

use super::Format;
use super::conversation::{Pair, Turn, is_system, role, say, turns};
use super::form::{Column, Form, Kind, Reason, Row, Rows};

/// The prompt is `instruction` and, on a line of its own, `input`.
pub(super) const ALPACA: Form = Form {
    format: Format::Alpaca,
    columns: &[
        Column::new("instruction", Kind::Text),
        Column::new("input", Kind::Text).optional(),
        Column::new("system", Kind::Text).optional(),
        Column::new("history", Kind::Rounds).optional(),
        Column::new("chosen", Kind::Talk),
        Column::new("rejected", Kind::Talk),
    ],
    rows: Rows::Pair(alpaca),
};

/// The prompt is a conversation that ends with the user.
pub(super) const SHAREGPT: Form = Form {
    format: Format::Sharegpt,
    columns: &[
        Column::new("conversations", Kind::Turns),
        Column::new("system", Kind::Text).optional(),
        Column::new("chosen", Kind::Talk),
        Column::new("rejected", Kind::Talk),
    ],
    rows: Rows::Pair(sharegpt),
};

fn alpaca(row: &Row<'_>) -> Result<Pair, Reason> {
    let mut prompt: Vec<Turn> = row.words("system").map(|system| say("system", system)).into_iter().collect();
    for round in row.get("history").items() {
        let [Some(asked), Some(answered)] = [0, 1].map(|at| round.items().get(at).and_then(|node| node.text())) else {
            return Err("a round of the history is not two texts");
        };
        prompt.extend([say("user", asked), say("assistant", answered)]);
    }
    let asked: Vec<&str> = ["instruction", "input"].into_iter().filter_map(|name| row.words(name)).collect();
    if asked.is_empty() {
        return Err("empty prompt");
    }
    prompt.push(say("user", &asked.join("\n")));
    Pair::new(prompt, answers(row)?)
}

fn sharegpt(row: &Row<'_>) -> Result<Pair, Reason> {
    let mut prompt = turns(row.get("conversations"), "user")?;
    if prompt.last().is_some_and(|turn| role(turn) == "assistant") {
        return Err("the conversation does not end with the user");
    }
    if let Some(system) = row.words("system").filter(|_| prompt.first().is_some_and(|turn| !is_system(turn))) {
        prompt.insert(0, say("system", system));
    }
    Pair::new(prompt, answers(row)?)
}

fn answers(row: &Row<'_>) -> Result<[Vec<Turn>; 2], Reason> {
    Ok([turns(row.get("chosen"), "assistant")?, turns(row.get("rejected"), "assistant")?])
}
