//! SHP and SHP-2: a post in `history`, two comments, and `labels`: 1 where comment A is preferred, 0 where B is.
//!
//! <https://huggingface.co/datasets/stanfordnlp/SHP>

use super::Format;
use super::conversation::{Pair, say};
use super::form::{Column, Form, Kind, Reason, Row, Rows};

pub(super) const SHP: Form = Form {
    format: Format::Shp,
    columns: &[
        Column::new("history", Kind::Text),
        Column::new("human_ref_A", Kind::Text),
        Column::new("human_ref_B", Kind::Text),
        Column::new("labels", Kind::Number),
    ],
    rows: Rows::Pair(pair),
};

fn pair(row: &Row<'_>) -> Result<Pair, Reason> {
    let history = row.words("history").ok_or("empty prompt")?;
    let comment = |name| row.words(name).map(|text| vec![say("assistant", text)]).ok_or("empty answer");
    let (a, b) = (comment("human_ref_A")?, comment("human_ref_B")?);
    let answers = match row.get("labels").number() {
        Some(1.0) => [a, b],
        Some(0.0) => [b, a],
        _ => return Err("label is neither 0 nor 1"),
    };
    Pair::new(vec![say("user", history)], answers)
}
