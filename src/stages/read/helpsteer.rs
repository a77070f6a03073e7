//! HelpSteer3: a conversation in `context`, two responses, and `overall_preference` from -3 (response 1 is much better)
//! to 3 (response 2 is much better).
//!
//! <https://huggingface.co/datasets/nvidia/HelpSteer3>

use super::Format;
use super::conversation::{Pair, turns};
use super::form::{Column, Form, Kind, Reason, Row, Rows};

pub(super) const HELPSTEER3: Form = Form {
    format: Format::Helpsteer3,
    columns: &[
        Column::new("context", Kind::Talk),
        Column::new("response1", Kind::Talk),
        Column::new("response2", Kind::Talk),
        Column::new("overall_preference", Kind::Number),
    ],
    rows: Rows::Pair(pair),
};

fn pair(row: &Row<'_>) -> Result<Pair, Reason> {
    let response = |name| turns(row.get(name), "assistant");
    let (first, second) = (response("response1")?, response("response2")?);
    let answers = match row.get("overall_preference").number() {
        Some(preference) if preference < 0.0 => [first, second],
        Some(preference) if preference > 0.0 => [second, first],
        Some(_) => return Err("both answers are equally good"),
        None => return Err("no preference"),
    };
    Pair::new(turns(row.get("context"), "user")?, answers)
}
