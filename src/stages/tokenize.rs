//! `tokenize` — conversations to token ids, as TRL does it: prompt and answers are rendered by the chat template and
//! tokenized apart, so that both answers share one prompt. Nothing is added to what the template writes.

mod boundary;
mod contrast;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Metrics, Outcome, Transform};
use crate::columns::lists::{from_masks, from_rows};
use crate::columns::provenance::Provenance;
use crate::columns::{
    BETTER_PROMPT_IDS, PROMPT, PROMPT_IDS, Side, WORSE_PROMPT_IDS, list_type, messages, messages_type, put, row_id,
    with_column,
};
use crate::error::{Error, Place, Problem, Result};
use crate::text::{Message, Rendered, Template, Tokenizer};
pub use boundary::Boundary;
use boundary::{Boundaries, Faults, Seen};
pub use contrast::Contrast;
use contrast::reworded;

/// Tokenizes conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// The stage whose rows to take.
    pub input: String,
    /// The model whose tokenizer to use, or a folder with tokenizer.json.
    pub tokenizer: String,
    /// The chat template: the tokenizer's own, or none (texts joined as they are, for base models).
    #[serde(default)]
    pub template: TemplateChoice,
    /// Longest prompt and answer together, in tokens; answers are cut there, longer prompts set aside. By default 2048, or
    /// as many as the positions of a model that reads the rows and has fewer; models have at least the number given here.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Shares of rows above which the stage fails, by what is wrong where prompts and answers meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// Write the prompts in two more wordings as well, `better_prompt_ids` and `worse_prompt_ids`, which `score` with
    /// `contrast` compares. They may be longer than `max_length` by their wording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<Contrast>,
    /// Span columns to turn into token masks: `planted` makes `{side}_planted_mask` from `{side}_planted`
    /// (list<struct<start, end>> in characters of the answer).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<String>,
}

/// Where the chat template comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateChoice {
    /// The tokenizer folder's.
    #[default]
    Auto,
    /// None: contents one after the other, and the end-of-text token after every answer.
    None,
}

fn default_max_length() -> usize {
    2048
}

fn span_column(side: Side, span: &str) -> String {
    format!("{}_{span}", side.name())
}

/// `{side}_{span}_mask`: which tokens a span column covers.
pub fn span_mask(side: Side, span: &str) -> String {
    format!("{}_{span}_mask", side.name())
}

impl Tokenize {
    /// The columns that it adds.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = Vec::new();
        if self.max_length < 2 {
            problems.push(Problem::at("max_length", "max_length must be at least 2"));
        }
        problems.extend(self.boundary.iter().flat_map(Boundary::problems));
        for name in [PROMPT, Side::Chosen.name(), Side::Rejected.name()] {
            if input.field_with_name(name).map_or(true, |field| *field.data_type() != messages_type()) {
                let message = format!("column `{name}` holds no conversations (is the data tokenized already?)");
                problems.push(Problem::at("input", message));
            }
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        let mut add = |name: &str, data_type| put(&mut fields, Field::new(name, data_type, false));
        add(PROMPT_IDS, list_type(DataType::Int32));
        if let Some(contrast) = &self.contrast {
            problems.extend(contrast.problems());
            CONTRAST_IDS.iter().for_each(|name| add(name, list_type(DataType::Int32)));
        }
        for side in Side::BOTH {
            add(&side.ids(), list_type(DataType::Int32));
            add(&side.truncated(), DataType::Boolean);
        }
        for span in &self.spans {
            for side in Side::BOTH {
                if input.field_with_name(&span_column(side, span)).is_err() {
                    problems.push(Problem::at("spans", format!("no column `{}`", span_column(side, span))));
                }
                add(&span_mask(side, span), list_type(DataType::Boolean));
            }
        }
        let schema = Schema::new_with_metadata(fields, input.metadata().clone());
        if problems.is_empty() { Ok(Arc::new(schema)) } else { Err(problems) }
    }

    /// What it reports, given the sums over all units; more faults at boundaries than are permitted are an error.
    pub(super) fn conclude(&self, sums: Metrics) -> Result<Metrics> {
        self.boundary.clone().unwrap_or_default().check(&sums)?;
        Ok(sums)
    }

    /// Makes the transform.
    pub fn open(&self, mut tokenizer: Tokenizer) -> Result<Box<dyn Transform>> {
        let digest = tokenizer.digest()?;
        let template = match self.template {
            TemplateChoice::Auto => Template::Chat(Box::new(tokenizer.take_template()?)),
            TemplateChoice::None => Template::Plain { end: tokenizer.eos_token().map(str::to_owned) },
        };
        let (stage, boundaries) = (self.clone(), Boundaries::new(&tokenizer));
        Ok(Box::new(Work { stage, tokenizer, template, digest, boundaries, seen: Seen::default() }))
    }
}

/// The columns of the two wordings, better first.
const CONTRAST_IDS: [&str; 2] = [BETTER_PROMPT_IDS, WORSE_PROMPT_IDS];

struct Work {
    stage: Tokenize,
    tokenizer: Tokenizer,
    template: Template,
    digest: String,
    boundaries: Boundaries,
    /// Since it was last asked.
    seen: Seen,
}

#[derive(Default)]
struct Row {
    prompt: Vec<i32>,
    /// The prompt in the words of the contrast, better first; empty without one.
    contrast: [Vec<i32>; 2],
    answers: [Vec<i32>; 2],
    truncated: [bool; 2],
    /// For every span column, the masks of both answers.
    masks: Vec<[Vec<bool>; 2]>,
    faults: Faults,
    reason: Option<&'static str>,
}

impl Transform for Work {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        let [prompts, chosen, rejected] = [PROMPT, Side::Chosen.name(), Side::Rejected.name()];
        let talk = [messages(&batch, prompts)?, messages(&batch, chosen)?, messages(&batch, rejected)?];
        let rows = (0..batch.num_rows()).into_par_iter().map(|row| {
            let messages = talk
                .each_ref()
                .map(|column| column[row].iter().map(|(role, content)| Message { role, content }).collect::<Vec<_>>());
            self.row(&messages, &batch, row)
        });
        let rows: Vec<Row> = rows.collect::<Result<_>>()?;
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.reason.is_none()) {
            let id = || row_id(&batch.slice(at, 1)).unwrap_or_default();
            let tokens = [row.prompt.len(), row.answers.iter().map(Vec::len).sum()];
            self.seen.add_row(&row.faults, row.truncated, tokens, &id);
        }
        let mut columns: Vec<(String, ArrayRef)> =
            vec![(PROMPT_IDS.to_owned(), from_rows::<Int32Type>(rows.iter().map(|row| &row.prompt)))];
        if self.stage.contrast.is_some() {
            columns.extend(CONTRAST_IDS.into_iter().enumerate().map(|(index, name)| {
                (name.to_owned(), from_rows::<Int32Type>(rows.iter().map(|row| &row.contrast[index])))
            }));
        }
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            columns.push((side.ids(), from_rows::<Int32Type>(rows.iter().map(|row| &row.answers[index]))));
            let truncated: BooleanArray = rows.iter().map(|row| Some(row.truncated[index])).collect();
            columns.push((side.truncated(), Arc::new(BooleanArray::new(truncated.values().clone(), None))));
        }
        for (span, name) in self.stage.spans.iter().enumerate() {
            for (index, side) in Side::BOTH.into_iter().enumerate() {
                let empty: &[bool] = &[];
                let masks = rows.iter().map(|row| row.masks.get(span).map_or(empty, |masks| &masks[index][..]));
                columns.push((span_mask(side, name), from_masks(masks)));
            }
        }
        let mut out = batch;
        for (name, column) in columns {
            out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
        }
        let (tokenizer, template) = (Some(self.digest.clone()), Some(self.template.digest()));
        let contrast = self.stage.contrast.as_ref().and_then(|contrast| serde_json::to_value(contrast).ok());
        let out = Provenance { tokenizer, template, contrast, ..Provenance::of(&out.schema()) }.stamp_rows(&out);
        Outcome::sort_out(&out, &rows.iter().map(|row| row.reason).collect::<Vec<_>>())
    }

    fn counted(&mut self) -> Metrics {
        std::mem::take(&mut self.seen).metrics()
    }
}

impl Work {
    /// The texts of a conversation; none where the template refuses it.
    fn render(&self, prompt: &[Message], answers: [&Vec<Message>; 2]) -> Result<Option<Rendered>> {
        match self.template.render(prompt, &answers.map(Vec::as_slice)) {
            Err(Error::Data { .. }) => Ok(None),
            rendered => rendered.map(Some),
        }
    }

    fn row(&self, [prompt, chosen, rejected]: &[Vec<Message>; 3], batch: &RecordBatch, row: usize) -> Result<Row> {
        let refused = || Row { reason: Some("refused by the chat template"), ..Row::default() };
        let Some(rendered) = self.render(prompt, [chosen, rejected])? else { return Ok(refused()) };
        let mut out = Row { prompt: self.tokenizer.encode(&rendered.prompt)?, ..Row::default() };
        if out.prompt.is_empty() {
            return Ok(Row { reason: Some("empty prompt"), ..Row::default() });
        }
        if out.prompt.len() >= self.stage.max_length {
            return Ok(Row { reason: Some("prompt too long"), ..Row::default() });
        }
        let wordings = self.stage.contrast.iter().flat_map(Contrast::wordings);
        for (wording, ids) in wordings.zip(&mut out.contrast) {
            let (at, words) = reworded(prompt, wording);
            let mut turns = prompt.clone();
            turns[at].content = &words;
            let Some(rendered) = self.render(&turns, [chosen, rejected])? else { return Ok(refused()) };
            *ids = self.tokenizer.encode(&rendered.prompt)?;
            if ids.is_empty() {
                return Ok(Row { reason: Some("empty prompt"), ..Row::default() });
            }
        }
        out.masks = vec![Default::default(); self.stage.spans.len()];
        let room = self.stage.max_length - out.prompt.len();
        for (index, (text, side)) in rendered.answers.iter().zip(Side::BOTH).enumerate() {
            let (mut ids, offsets) = if self.stage.spans.is_empty() {
                (self.tokenizer.encode(text)?, Vec::new())
            } else {
                self.tokenizer.encode_with_offsets(text)?
            };
            if ids.is_empty() {
                out.reason = Some("empty answer");
            }
            let joint = self.tokenizer.encode(&format!("{}{text}", rendered.prompt))?;
            let found = self.boundaries.faults(&self.tokenizer, side, [&out.prompt, &ids, &joint], room);
            out.faults.extend(found);
            out.truncated[index] = ids.len() > room;
            ids.truncate(room);
            for (span, masks) in self.stage.spans.iter().zip(&mut out.masks) {
                let content = [chosen, rejected][index].first().map_or("", |message| message.content);
                let from = text.find(content).map_or(0, |at| text[..at].chars().count());
                let spans = spans(batch, &span_column(side, span), row)?;
                let inside = |&(start, end): &(usize, usize)| {
                    start < end && spans.iter().any(|(from_char, to)| start < to + from && end > from_char + from)
                };
                masks[index] = offsets[..ids.len()].iter().map(inside).collect();
            }
            out.answers[index] = ids;
        }
        if out.answers[0] == out.answers[1] {
            out.reason = Some("identical answers after cutting");
        }
        Ok(out)
    }
}

/// The spans of row `row`, in characters.
fn spans(batch: &RecordBatch, name: &str, row: usize) -> Result<Vec<(usize, usize)>> {
    let wrong = || Error::data(Place::column(name), "is not list<struct<start: int32, end: int32>>");
    let list = batch.column_by_name(name).and_then(|column| column.as_list_opt::<i32>()).ok_or_else(wrong)?;
    let values = list.value(row);
    let values = values.as_struct_opt().ok_or_else(wrong)?;
    let numbers = |field: &str| values.column_by_name(field)?.as_primitive_opt::<Int32Type>().cloned();
    let (starts, ends) = (numbers("start").ok_or_else(wrong)?, numbers("end").ok_or_else(wrong)?);
    Ok((0..values.len()).map(|i| (starts.value(i).max(0) as usize, ends.value(i).max(0) as usize)).collect())
}
