//! Scored rows as a report reads them: both answers of a pair, with every list as long as the answer has tokens.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};

use crate::columns::lists::{Lists, assistant_masks, floats, ids, masks};
use crate::columns::{PROMPT_IDS, REWARD_MARGIN, Side, with_column};
use crate::error::{Error, Place, Problem, Result};
use crate::io::list_element;

/// The columns that a report of rows with the columns of `schema` lacks.
pub fn problems(schema: &Schema) -> Vec<Problem> {
    let needed = Side::BOTH.into_iter().flat_map(|side| {
        [(side.ids(), DataType::Int32, "tokenize"), (side.token_rewards(), DataType::Float32, "score")]
    });
    let missing = needed.filter(|(name, element, _)| !has(schema, name, element));
    let problem = |(name, _, stage)| {
        Problem::at("input", format!("no column `{name}`")).help(format!("a `{stage}` stage makes it"))
    };
    missing.map(problem).collect()
}

/// Whether there are lists of `element` in column `name`, whatever kind of lists.
fn has(schema: &Schema, name: &str, element: &DataType) -> bool {
    schema.field_with_name(name).is_ok_and(|field| list_element(field.data_type()) == Some(element))
}

/// `batch` with lists and texts of one kind: other engines write back other kinds of them.
pub(super) fn canonical(batch: &RecordBatch) -> Result<RecordBatch> {
    let is_text = |element: &DataType| matches!(element, DataType::LargeUtf8 | DataType::Utf8View);
    let mut out = batch.clone();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let Some(element) = list_element(field.data_type()) else { continue };
        if element.is_nested() || matches!(field.data_type(), DataType::List(_)) && !is_text(element) {
            continue;
        }
        let element = if is_text(element) { DataType::Utf8 } else { element.clone() };
        let list = DataType::List(Arc::new(Field::new("element", element, true)));
        let column = cast(column, &list).and_then(|column| with_column(&out, field.name(), column));
        out = column.map_err(|error| Error::data(Place::column(field.name()), error))?;
    }
    Ok(out)
}

/// The masks that both sides have, by what stands behind the side in the columns' names; the stage's own comes first.
pub(super) fn masks_of(schema: &Schema) -> Vec<String> {
    let own = Side::Chosen.key_mask(None);
    let is_mask = |name: &str| has(schema, name, &DataType::Boolean);
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let of_chosen =
        names.filter(|name| *name == own || name.starts_with(&format!("{own}_"))).filter(|name| is_mask(name));
    let mut masks: Vec<String> = of_chosen.filter_map(|name| name.strip_prefix("chosen_")).map(str::to_owned).collect();
    masks.retain(|mask| is_mask(&format!("rejected_{mask}")));
    masks.sort_by_key(|mask| (format!("chosen_{mask}") != own, mask.clone()));
    masks
}

/// A batch of scored rows.
pub(super) struct Rows<'a> {
    prompts: Option<Lists<'a, i32>>,
    margins: Option<&'a Float32Array>,
    answers: [Answers<'a>; 2],
}

/// The answers of one side.
struct Answers<'a> {
    side: Side,
    ids: Lists<'a, i32>,
    rewards: Lists<'a, f32>,
    reference: Option<Lists<'a, f32>>,
    oracle: Option<Lists<'a, f32>>,
    sums: Option<&'a Float32Array>,
    masks: Vec<Vec<Vec<bool>>>,
    own: Option<Vec<Vec<bool>>>,
    texts: Option<Texts<'a>>,
}

/// Two answers to one prompt.
pub(super) struct Pair<'a> {
    /// Number of the row among all rows, from 1.
    pub(super) number: u64,
    pub(super) prompt: &'a [i32],
    /// Reward of the chosen answer minus that of the rejected one.
    pub(super) margin: f64,
    /// Chosen first.
    pub(super) answers: [Answer<'a>; 2],
}

/// One answer. Every list has a value for each of its tokens.
pub(super) struct Answer<'a> {
    pub(super) ids: &'a [i32],
    pub(super) rewards: &'a [f32],
    pub(super) reference: Option<&'a [f32]>,
    pub(super) oracle: Option<&'a [f32]>,
    /// The sum of the token rewards.
    pub(super) reward: f64,
    /// In the order of [`masks_of`].
    pub(super) masks: Vec<&'a [bool]>,
    /// Which tokens are the assistant's; all of them where there is none.
    own: Option<&'a [bool]>,
    pub(super) texts: Option<Vec<&'a str>>,
}

impl Answer<'_> {
    /// Whether the token at `index` is the assistant's.
    pub(super) fn is_own(&self, index: usize) -> bool {
        self.own.is_none_or(|own| own[index])
    }

    /// Which tokens are the assistant's, where not all of them are.
    pub(super) fn own(&self) -> Option<&[bool]> {
        self.own
    }

    /// Whether all numbers are finite.
    fn is_finite(&self) -> bool {
        let logps = [self.reference, self.oracle].into_iter().flatten().flatten();
        self.rewards.iter().chain(logps).all(|value| value.is_finite()) && self.reward.is_finite()
    }
}

impl Pair<'_> {
    /// Whether all its numbers are finite.
    pub(super) fn is_finite(&self) -> bool {
        self.margin.is_finite() && self.answers.iter().all(Answer::is_finite)
    }
}

impl<'a> Rows<'a> {
    /// The rows of `batch`, with the masks called `names`.
    pub(super) fn of(batch: &'a RecordBatch, names: &[String]) -> Result<Self> {
        let prompts = batch.column_by_name(PROMPT_IDS).map(|_| ids(batch, PROMPT_IDS)).transpose()?;
        let [chosen, rejected] = Side::BOTH.map(|side| Answers::of(batch, side, names));
        Ok(Self { prompts, margins: sums(batch, REWARD_MARGIN), answers: [chosen?, rejected?] })
    }

    /// Row `index`, which is row `number` of all.
    pub(super) fn pair(&self, index: usize, number: u64) -> Result<Pair<'_>> {
        let [chosen, rejected] = self.answers.each_ref().map(|answers| answers.answer(index, number));
        let answers = [chosen?, rejected?];
        let own = || answers[0].reward - answers[1].reward;
        let margin = self.margins.map_or_else(own, |margins| f64::from(margins.value(index)));
        let prompt = self.prompts.map_or(&[][..], |prompts| prompts.row(index));
        Ok(Pair { number, prompt, margin, answers })
    }
}

impl<'a> Answers<'a> {
    fn of(batch: &'a RecordBatch, side: Side, names: &[String]) -> Result<Self> {
        let optional = |name: &str| batch.column_by_name(name).map(|_| floats(batch, name)).transpose();
        Ok(Self {
            side,
            ids: ids(batch, &side.ids())?,
            rewards: floats(batch, &side.token_rewards())?,
            reference: optional(&side.ref_logps())?,
            oracle: optional(&side.oracle_logps())?,
            sums: sums(batch, &side.reward()),
            masks: names.iter().map(|name| masks(batch, &format!("{}_{name}", side.name()))).collect::<Result<_>>()?,
            own: assistant_masks(batch, side)?,
            texts: batch.column_by_name(&side.tokens()).and_then(Texts::of),
        })
    }

    fn answer(&self, index: usize, number: u64) -> Result<Answer<'_>> {
        let (ids, rewards) = (self.ids.row(index), self.rewards.row(index));
        let (reference, oracle) = (self.reference.map(|l| l.row(index)), self.oracle.map(|l| l.row(index)));
        let masks: Vec<&[bool]> = self.masks.iter().map(|mask| &mask[index][..]).collect();
        let own = self.own.as_ref().map(|own| &own[index][..]);
        let texts = self.texts.as_ref().map(|texts| texts.row(index));
        let lengths = [Some(rewards.len()), reference.map(<[f32]>::len), oracle.map(<[f32]>::len)];
        let lengths = lengths.into_iter().flatten().chain(masks.iter().map(|mask| mask.len()));
        if lengths.chain(own.map(<[bool]>::len)).chain(texts.as_ref().map(Vec::len)).any(|length| length != ids.len()) {
            let place = Place::column(self.side.ids()).row(number);
            return Err(Error::data(
                place,
                "rewards, log-probabilities, masks or texts have another length than the ids",
            ));
        }
        let sum = || rewards.iter().copied().map(f64::from).sum();
        let reward = self.sums.map_or_else(sum, |sums| f64::from(sums.value(index)));
        Ok(Answer { ids, rewards, reference, oracle, reward, masks, own, texts })
    }
}

/// A column of sums, if it is one without nulls.
fn sums<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a Float32Array> {
    let column = batch.column_by_name(name)?.as_primitive_opt::<Float32Type>()?;
    (column.null_count() == 0).then_some(column)
}

/// A list column of texts.
struct Texts<'a> {
    offsets: &'a [i32],
    values: &'a StringArray,
}

impl<'a> Texts<'a> {
    fn of(column: &'a ArrayRef) -> Option<Self> {
        let list = column.as_list_opt::<i32>()?;
        let values = list.values().as_string_opt::<i32>()?;
        (list.null_count() + values.null_count() == 0).then_some(Self { offsets: list.value_offsets(), values })
    }

    fn row(&self, index: usize) -> Vec<&'a str> {
        (self.offsets[index]..self.offsets[index + 1]).map(|at| self.values.value(at as usize)).collect()
    }
}
