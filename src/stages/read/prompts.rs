//! Prompts without answers, for a `generate` stage.

use super::Format;
use super::conversation::{Pair, is_system, say, silent, turns};
use super::form::{Column, Form, Kind, Reason, Row, Rows};

/// `prompt`, as text or messages.
pub(super) const PROMPTS: Form = Form {
    format: Format::Prompts,
    columns: &[Column::new("prompt", Kind::Talk), Column::new("system", Kind::Text).if_named()],
    rows: Rows::Prompt(prompt),
};

fn prompt(row: &Row<'_>) -> Result<Pair, Reason> {
    let mut prompt = turns(row.get("prompt"), "user")?;
    if silent(&prompt) {
        return Err("empty prompt");
    }
    if let Some(system) = row.words("system").filter(|_| !is_system(&prompt[0])) {
        prompt.insert(0, say("system", system));
    }
    Ok(Pair { prompt, ..Pair::default() })
}
