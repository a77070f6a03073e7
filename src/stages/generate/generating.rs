//! Prompts to answers, batch by batch, with what the footer says of them.

use std::mem::take;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Int32Type};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{Generate, answer_fields};
use crate::columns::lists::{from_rows, ids};
use crate::columns::provenance::Provenance;
use crate::columns::{
    ANSWER, ANSWER_IDS, ANSWERS, FINISH_REASON, GENERATOR, PROMPT, PROMPT_IDS, messages, row_ids, with_column,
};
use crate::error::{Error, Place, Result};
use crate::model::generate::{Answer, Finish, Prompt};
use crate::model::{Generator, Precision};
use crate::stages::tokenize::contexts;
use crate::stages::{Metrics, Outcome, Transform};
use crate::text::Template;

pub(super) struct Generating {
    pub(super) stage: Generate,
    pub(super) generator: Generator,
    /// Why there is none is told where one is needed. None without a tokenizer.
    pub(super) template: Option<Result<Template>>,
    /// Digests of tokenizer and template.
    pub(super) made_with: [Option<String>; 2],
    pub(super) digest: String,
    /// The settings by which tokens are chosen, as the footer has them.
    pub(super) chosen_by: Map<String, Value>,
    /// The numbers that the model computes in, and the kind of the device.
    pub(super) computed: (Precision, &'static str),
    pub(super) positions: Option<usize>,
    pub(super) seen: AnswerCounts,
}

/// What was written since it was last asked.
#[derive(Default)]
pub(super) struct AnswerCounts {
    answers: u64,
    tokens: u64,
    cut: u64,
}

impl Transform for Generating {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        let (prompts, mut reasons) = self.prompts(&batch)?;
        for (ids, reason) in prompts.iter().zip(&mut reasons) {
            if ids.is_empty() {
                reason.get_or_insert("empty prompt");
            }
            let positions = self.positions.unwrap_or(usize::MAX);
            if ids.len() >= positions {
                reason.get_or_insert("prompt longer than the model's positions");
            } else if self.stage.max_tokens > positions - ids.len() {
                reason.get_or_insert("prompt and max_tokens longer than the model's positions");
            }
        }
        let keys = row_ids(&batch);
        let asked: Vec<Prompt> = (0..prompts.len())
            .filter(|row| reasons[*row].is_none())
            .map(|row| Prompt { ids: &prompts[row], key: keys.get(row).map_or("", String::as_str) })
            .collect();
        let mut answers = self.generator.answers(&asked)?.into_iter();
        let nothing = || vec![Answer { ids: Vec::new(), finish: Finish::Stop }; self.stage.samples];
        let answers: Vec<Vec<Answer>> = reasons
            .iter()
            .map(|reason| if reason.is_none() { answers.next().unwrap_or_default() } else { nothing() })
            .collect();
        for answer in answers.iter().zip(&reasons).filter(|(_, reason)| reason.is_none()).flat_map(|(all, _)| all) {
            self.seen.answers += 1;
            self.seen.tokens += answer.ids.len() as u64;
            self.seen.cut += u64::from(answer.finish == Finish::Length);
        }
        let mut out = batch;
        for (name, column) in self.columns(&prompts, &answers)? {
            out = with_column(&out, name, column).map_err(|error| Error::data(Place::column(name), error))?;
        }
        let mut provenance = Provenance::of(&out.schema());
        let [tokenizer, template] = self.made_with.clone();
        provenance.tokenizer = provenance.tokenizer.or(tokenizer);
        provenance.template = provenance.template.or(template);
        let Generate { max_tokens, seed, .. } = &self.stage;
        let (precision, device) = self.computed;
        let mut told = self.chosen_by.clone();
        told.extend([
            ("model".to_owned(), json!(self.digest)),
            ("max_tokens".to_owned(), json!(max_tokens)),
            ("seed".to_owned(), json!(seed)),
            ("precision".to_owned(), json!(precision)),
            ("device".to_owned(), json!(device)),
        ]);
        provenance.answers = Some(Value::Object(told));
        Outcome::sort_out(&provenance.stamp_rows(&out), &reasons)
    }

    fn counted(&mut self) -> Metrics {
        let AnswerCounts { answers, tokens, cut } = take(&mut self.seen);
        let counts = [("answers", answers), ("answer_tokens", tokens), ("cut_at_max_tokens", cut)];
        counts.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect()
    }
}

/// The ids of prompts, and why rows have none.
type Prompts = (Vec<Vec<i32>>, Vec<Option<&'static str>>);

impl Generating {
    fn prompts(&self, batch: &RecordBatch) -> Result<Prompts> {
        if batch.column_by_name(PROMPT_IDS).is_some() {
            let prompts: Vec<Vec<i32>> = ids(batch, PROMPT_IDS)?.rows().map(<[i32]>::to_vec).collect();
            let reasons = vec![None; prompts.len()];
            return Ok((prompts, reasons));
        }
        let missing = || Error::stage("generate", "prompts need a tokenizer");
        let tokenizer = self.generator.stops().tokenizer.as_ref().ok_or_else(missing)?;
        let template = match &self.template {
            Some(Ok(template)) => template,
            Some(Err(error)) => return Err(Error::stage("generate", error)),
            None => return Err(missing()),
        };
        let contexts = contexts(batch, &self.stage.template_args)?;
        let rendered = messages(batch, PROMPT)?.into_par_iter().zip(&contexts).map(|(turns, context)| {
            match template.render_prompt(&turns, context) {
                Ok(text) => Ok(([template.ends()[0], &tokenizer.encode(&text)?].concat(), None)),
                Err(Error::Data { .. }) => Ok((Vec::new(), Some("refused by the chat template"))),
                Err(error) => Err(error),
            }
        });
        Ok(rendered.collect::<Result<Vec<_>>>()?.into_iter().unzip())
    }

    /// The columns of `answers`, of which every row has as many.
    fn columns(&self, prompts: &[Vec<i32>], answers: &[Vec<Answer>]) -> Result<Vec<(&'static str, ArrayRef)>> {
        let columns = |answers: &[&Answer]| -> Result<[Option<ArrayRef>; 3]> {
            let texts = answers.par_iter().map(|answer| self.generator.stops().text(&answer.ids));
            let texts: Option<StringArray> = texts.collect::<Result<Option<Vec<String>>>>()?.map(StringArray::from);
            let reasons = answers.iter().map(|answer| match answer.finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
            });
            Ok([
                texts.map(|texts| Arc::new(texts) as ArrayRef),
                Some(from_rows::<Int32Type>(answers.iter().map(|answer| &answer.ids))),
                Some(Arc::new(StringArray::from_iter_values(reasons))),
            ])
        };
        let mut out: Vec<(&str, ArrayRef)> = vec![(PROMPT_IDS, from_rows::<Int32Type>(prompts))];
        let first: Vec<&Answer> = answers.iter().filter_map(|answers| answers.first()).collect();
        let named = [ANSWER, ANSWER_IDS, FINISH_REASON].into_iter().zip(columns(&first)?);
        out.extend(named.filter_map(|(name, column)| Some((name, column?))));
        let generator = StringArray::from_iter_values(answers.iter().map(|_| &self.stage.model));
        out.push((GENERATOR, Arc::new(generator)));
        if self.stage.samples > 1 {
            let all: Vec<&Answer> = answers.iter().flatten().collect();
            let [texts, ids, reasons] = columns(&all)?;
            let empty = || Arc::new(StringArray::from_iter_values(all.iter().map(|_| ""))) as ArrayRef;
            let children: Vec<ArrayRef> =
                [Some(texts.unwrap_or_else(empty)), ids, reasons].into_iter().flatten().collect();
            let structs = StructArray::new(answer_fields(), children, None);
            let element = Arc::new(Field::new("element", structs.data_type().clone(), false));
            let lengths = OffsetBuffer::from_lengths(answers.iter().map(Vec::len));
            out.push((ANSWERS, Arc::new(ListArray::new(element, lengths, Arc::new(structs), None))));
        }
        Ok(out)
    }
}
