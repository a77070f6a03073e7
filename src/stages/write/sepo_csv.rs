//! Key tokens as the released code of SePO stores them (<https://github.com/SteveKGYang/SePO>, `token_score.py`): `top_k.csv`, of
//! which `train_selective.py` trains a policy.
//!
//! A number `p` in a column `…_args` marks token `p + 1` of the answer: the script never scores the first token. `…_ids`
//! holds the ids of the tokens at `p`, which its trainer does not read. `selected` are the tokens with the highest rewards and
//! `unselected` those with the lowest, best first; the trainer takes `chosen_selected_args` and `rejected_unselected_args`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::Schema;

use crate::columns::lists::{floats, ids, masks};
use crate::columns::{PROMPT, Side, Turn, messages, messages_type, role, row_ids, words};
use crate::error::{Error, Place, Problem, Result};
use crate::stages::needs::needs_rewards;

/// The only file.
pub(super) const NAME: &str = "top_k.csv";

/// What rows lack, beside ids and key masks.
pub(super) fn problems(input: &Schema) -> Vec<Problem> {
    let is_talk = |name: &str| input.field_with_name(name).is_ok_and(|field| *field.data_type() == messages_type());
    let texts = [PROMPT, Side::Chosen.name(), Side::Rejected.name()].into_iter().filter(|name| !is_talk(name));
    let no_text = |name| Problem::at("format", format!("sepo_csv takes texts, and column `{name}` holds no messages"));
    texts.map(no_text).chain(needs_rewards(input)).collect()
}

/// The rows of `batch` in the columns of `top_k.csv`; key tokens are those of the key mask `mask`.
///
/// # Errors
/// A row that the file cannot hold: a conversation of several turns, a first token that is a key token, an answer without a key
/// token.
pub(super) fn rows(batch: &RecordBatch, mask: Option<&str>) -> Result<RecordBatch> {
    let chosen = Answers::of(batch, Side::Chosen, mask)?;
    let rejected = Answers::of(batch, Side::Rejected, mask)?;
    let columns: [(&str, Vec<String>); 13] = [
        (PROMPT, texts(batch, PROMPT, "user")?),
        ("chosen_response", chosen.texts),
        ("rejected_response", rejected.texts),
        ("chosen_selected_args", chosen.highest.args),
        ("rejected_selected_args", rejected.highest.args),
        ("chosen_unselected_args", chosen.lowest.args),
        ("rejected_unselected_args", rejected.lowest.args),
        ("chosen_selected_ids", chosen.highest.ids),
        ("rejected_selected_ids", rejected.highest.ids),
        ("chosen_unselected_ids", chosen.lowest.ids),
        ("rejected_unselected_ids", rejected.lowest.ids),
        ("chosen_responses_ids", chosen.ids),
        ("rejected_responses_ids", rejected.ids),
    ];
    let columns = columns.map(|(name, texts)| (name, Arc::new(StringArray::from(texts)) as ArrayRef));
    RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::default(), error))
}

/// The cells of one side.
#[derive(Default)]
struct Answers {
    texts: Vec<String>,
    ids: Vec<String>,
    highest: Cells,
    lowest: Cells,
}

/// Tokens of answers: their numbers, and the ids that stand at these numbers.
#[derive(Default)]
struct Cells {
    args: Vec<String>,
    ids: Vec<String>,
}

impl Cells {
    fn push(&mut self, args: &[usize], answer: &[i32]) {
        self.ids.push(listed(args.iter().map(|arg| answer[*arg])));
        self.args.push(listed(args));
    }
}

impl Answers {
    fn of(batch: &RecordBatch, side: Side, mask: Option<&str>) -> Result<Self> {
        let mut cells = Self { texts: texts(batch, side.name(), "assistant")?, ..Self::default() };
        let name = side.key_mask(mask);
        let (answers, rewards) = (ids(batch, &side.ids())?, floats(batch, &side.token_rewards())?);
        for (row, mask) in masks(batch, &name)?.iter().enumerate() {
            let (answer, rewards) = (answers.row(row), rewards.row(row));
            let wrong = |what: String| Err(refused(batch, row, &name, &what));
            if mask.len() != answer.len() || rewards.len() != answer.len() {
                return wrong(format!("{} values, {} rewards and {} tokens", mask.len(), rewards.len(), answer.len()));
            }
            if mask.first() == Some(&true) {
                return wrong(format!("the first token as a key token, which {NAME} cannot say; use `rule: official`"));
            }
            let mut key: Vec<usize> = (1..mask.len()).filter(|token| mask[*token]).map(|token| token - 1).collect();
            if key.is_empty() {
                return wrong(format!("no key token, on which the reader of {NAME} fails; select a larger share"));
            }
            let reward = |arg: &usize| rewards[arg + 1] + 0.0;
            let mut all: Vec<usize> = (0..mask.len() - 1).collect();
            // Both sorts are stable, as taking the first of equals again and again is.
            let highest_first = |args: &mut [usize]| args.sort_by(|a, b| reward(b).total_cmp(&reward(a)));
            let lowest_first = |args: &mut [usize]| args.sort_by(|a, b| reward(a).total_cmp(&reward(b)));
            let (own, other) = match side {
                Side::Chosen => {
                    highest_first(&mut key);
                    lowest_first(&mut all);
                    (&mut cells.highest, &mut cells.lowest)
                }
                Side::Rejected => {
                    lowest_first(&mut key);
                    highest_first(&mut all);
                    (&mut cells.lowest, &mut cells.highest)
                }
            };
            own.push(&key, answer);
            other.push(&all[..key.len()], answer);
            cells.ids.push(listed(answer));
        }
        Ok(cells)
    }
}

/// The text of every row of column `name`, which has one message of `by`.
fn texts(batch: &RecordBatch, name: &str, by: &str) -> Result<Vec<String>> {
    let text = |(row, turns): (usize, &Vec<Turn>)| match &turns[..] {
        [turn] if role(turn) == by => Ok(words(turn)),
        _ => Err(refused(batch, row, name, &format!("{} messages; {NAME} holds one of `{by}`", turns.len()))),
    };
    messages(batch, name)?.iter().enumerate().map(text).collect()
}

fn refused(batch: &RecordBatch, row: usize, column: &str, what: &str) -> Error {
    let id = row_ids(batch).get(row).cloned().unwrap_or_default();
    Error::data(Place::column(column), format!("row {id} has {what}"))
}

fn listed<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::lists::{from_masks, from_rows};
    use crate::columns::{messages_column, say};
    use arrow::datatypes::{Float32Type, Int32Type};
    use serde_json::Value;

    /// Rows as they come out of `select`, and the file that the authors' arithmetic makes of them
    /// (tests/fixtures/sepo_csv.py).
    fn fixture() -> (RecordBatch, String) {
        let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/sepo_csv.json")).unwrap();
        let rows = fixture["rows"].as_array().unwrap();
        let lists = |name: &str| rows.iter().map(|row| row[name].as_array().unwrap().clone()).collect::<Vec<_>>();
        let talk = |name: &str, by: &str| {
            let turns: Vec<Vec<Turn>> = rows.iter().map(|row| vec![say(by, row[name].as_str().unwrap())]).collect();
            messages_column(turns.iter().map(|turns| &turns[..]))
        };
        let number = |value: &Value| value.as_f64().unwrap();
        let mut columns: Vec<(String, ArrayRef)> = vec![(PROMPT.into(), talk("prompt", "user"))];
        for side in Side::BOTH {
            let of = |what: &str| lists(&format!("{}_{what}", side.name()));
            let ids =
                of("ids").iter().map(|row| row.iter().map(|id| number(id) as i32).collect()).collect::<Vec<Vec<_>>>();
            let rewards = of("rewards")
                .iter()
                .map(|row| row.iter().map(|it| number(it) as f32).collect())
                .collect::<Vec<Vec<_>>>();
            let mask = |row: &Vec<Value>| row.iter().map(|key| key.as_bool().unwrap()).collect::<Vec<bool>>();
            columns.push((side.name().into(), talk(side.name(), "assistant")));
            columns.push((side.ids(), from_rows::<Int32Type>(ids)));
            columns.push((side.token_rewards(), from_rows::<Float32Type>(rewards)));
            columns.push((side.key_mask(None), from_masks(of("key_mask").iter().map(mask))));
        }
        (RecordBatch::try_from_iter(columns).unwrap(), fixture["csv"].as_str().unwrap().to_owned())
    }

    fn csv(batch: &RecordBatch) -> String {
        let mut text = Vec::new();
        arrow::csv::Writer::new(&mut text).write(batch).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_file_is_that_of_the_authors_arithmetic() {
        let (batch, expected) = fixture();
        assert_eq!(csv(&rows(&batch, None).unwrap()), expected);
    }

    #[test]
    fn rows_that_the_file_cannot_hold_are_refused() {
        let (batch, _) = fixture();
        let with = |name: &str, column: ArrayRef| {
            let batch = crate::columns::with_column(&batch, name, column).unwrap();
            rows(&batch, None).unwrap_err().to_string()
        };
        let masks = masks(&batch, "chosen_key_mask").unwrap();
        let changed = |change: &dyn Fn(&mut Vec<bool>)| {
            let mut masks = masks.clone();
            change(&mut masks[0]);
            from_masks(masks)
        };
        let said = with("chosen_key_mask", changed(&|mask| mask[0] = true));
        assert!(said.contains("the first token as a key token"), "{said}");
        let said = with("chosen_key_mask", changed(&|mask| mask.fill(false)));
        assert!(said.contains("no key token"), "{said}");
        let two = [say("user", "a"), say("assistant", "b")];
        let said = with(PROMPT, messages_column(std::iter::repeat_n(&two[..], batch.num_rows())));
        assert!(said.contains("2 messages"), "{said}");
    }
}
