//! `tokenize` — conversations to token ids: the chat template renders a prompt with each answer, the ids are those of the
//! whole text, and both answers share the prompt's. Nothing is added to what the template writes.

mod boundary;
mod contrast;
mod given;
mod joint;
mod row;
mod template;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Conclusion, Inputs, Metrics, ModelUse, Operation, Outcome, Resources, Rows, Shape, StageCost, TokenizerFound,
    TokenizerOf, TokenizerUse, Transform, Volume,
};
use crate::columns::lists::{from_masks, from_rows};
use crate::columns::provenance::Provenance;
use crate::columns::{
    BETTER_PROMPT_IDS, PROMPT, PROMPT_IDS, Side, WORSE_PROMPT_IDS, list_type, messages, messages_type, put, row_id,
    with_column,
};
use crate::error::{Error, Place, Problem, Result};
use crate::text::{Template, Tokenizer};
use boundary::{Boundaries, TokenizeCounts};
pub use boundary::{Boundary, BoundarySetting};
pub use contrast::Contrast;
use given::{Given, are_given};
pub use joint::BoundaryRule;
use row::Row;
pub use template::TemplateChoice;
pub(super) use template::contexts;

/// Tokenizes conversations. Rows that come with the ids and key masks of their answers (`read: { format: sepo_csv }`) keep them: only
/// their prompts are tokenized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// Stage that provides the rows: `prompt`, `chosen` and `rejected` as conversations.
    #[schemars(extend("examples" = ["pairs"]))]
    pub input: String,
    /// Model whose tokenizer is used, or a folder with tokenizer.json.
    #[schemars(extend("examples" = ["base"]))]
    pub tokenizer: String,
    /// Chat template: `auto` (the tokenizer's own), `none` (texts are concatenated without a template, for base
    /// models), the name of one of the tokenizer's templates, or a Jinja file.
    #[serde(default)]
    #[schemars(extend("examples" = ["none", "templates/chat.jinja"]))]
    pub template: TemplateChoice,
    /// Variables that the chat template receives, such as `enable_thinking: false`. Values in a row's
    /// `chat_template_kwargs` column take precedence.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(extend("examples" = [{"enable_thinking": false}]))]
    pub template_args: Map<String, Value>,
    /// Longest prompt and answer together. Longer answers are truncated; rows whose prompt alone is longer are set
    /// aside. By default 2048, or the number of positions of a model that reads the rows if that is lower. If the
    /// limit is set explicitly, such models must have at least that many positions.
    #[serde(default = "default_max_length")]
    #[schemars(extend("examples" = [1024], "x-unit" = "tokens"))]
    pub max_length: usize,
    /// Rule for tokens that span the end of the prompt and the start of an answer. As a map, also limits on the share
    /// of rows with each tokenization fault; the stage fails above them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"rule": "set_aside", "truncated": 0.05}]))]
    pub boundary: Option<BoundarySetting>,
    /// Also writes the prompt in two other wordings, as `better_prompt_ids` and `worse_prompt_ids`, for `score` with
    /// `contrast`. These may exceed `max_length` by the length of the added wording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{}]))]
    pub contrast: Option<Contrast>,
    /// Span columns to convert to token masks: `planted` makes `{side}_planted_mask` from `{side}_planted`
    /// (`list<struct<start, end>>`, in characters of the answer).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["planted"]]))]
    pub spans: Vec<String>,
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
    ///
    /// # Errors
    /// Columns that are missing, and settings that contradict one another.
    pub fn columns(&self, input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = self.wrong_settings();
        if are_given(input) {
            problems.extend(given::problems(self));
        }
        for name in [PROMPT, Side::Chosen.name(), Side::Rejected.name()] {
            if input.field_with_name(name).map_or(true, |field| *field.data_type() != messages_type()) {
                let message = format!("column `{name}` holds no conversations (is the data tokenized already?)");
                problems.push(Problem::at("input", message));
            }
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        let mut add = |name: &str, data_type| put(&mut fields, Field::new(name, data_type, false));
        add(PROMPT_IDS, list_type(DataType::Int32));
        if self.contrast.is_some() {
            CONTRAST_IDS.iter().for_each(|name| add(name, list_type(DataType::Int32)));
        }
        for side in Side::BOTH {
            add(&side.ids(), list_type(DataType::Int32));
            add(&side.assistant_mask(), list_type(DataType::Boolean));
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
    fn report(&self, sums: Metrics) -> Result<Metrics> {
        self.boundary().check(&sums)?;
        Ok(sums)
    }

    fn boundary(&self) -> Boundary {
        self.boundary.as_ref().map(BoundarySetting::all).unwrap_or_default()
    }

    /// Makes the transform.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn open(&self, tokenizer: Arc<Tokenizer>) -> Result<Box<dyn Transform>> {
        let digest = tokenizer.digest()?.to_owned();
        if let Some(note) = tokenizer.note() {
            tracing::warn!("{note}");
        }
        let template = self.template.open(&tokenizer, tokenizer.eos_token())?;
        let (rule, boundaries) = (self.boundary().rule, Boundaries::new(&tokenizer));
        let work = Tokenizing {
            stage: self.clone(),
            tokenizer,
            template,
            digest,
            rule,
            boundaries,
            seen: TokenizeCounts::default(),
        };
        Ok(Box::new(work))
    }
}

/// The columns of the two wordings, better first.
const CONTRAST_IDS: [&str; 2] = [BETTER_PROMPT_IDS, WORSE_PROMPT_IDS];

struct Tokenizing {
    stage: Tokenize,
    tokenizer: Arc<Tokenizer>,
    template: Template,
    digest: String,
    rule: BoundaryRule,
    boundaries: Boundaries,
    /// Since it was last asked.
    seen: TokenizeCounts,
}

impl Transform for Tokenizing {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        let [prompts, chosen, rejected] = [PROMPT, Side::Chosen.name(), Side::Rejected.name()];
        let talk = [messages(&batch, prompts)?, messages(&batch, chosen)?, messages(&batch, rejected)?];
        let contexts = contexts(&batch, &self.stage.template_args)?;
        let given = Given::of(&batch)?;
        let rows = (0..batch.num_rows()).into_par_iter().map(|row| {
            let talk = talk.each_ref().map(|column| &column[row][..]);
            match &given {
                Some(given) => self.behind_prompt(talk, &contexts[row], given, row),
                None => self.row(talk, &contexts[row], &batch, row),
            }
        });
        let rows: Vec<Row> = rows.collect::<Result<_>>()?;
        for (at, row) in rows.iter().enumerate() {
            let id = || row_id(&batch.slice(at, 1)).unwrap_or_default();
            match row.reason {
                None => {
                    let tokens = [row.prompt.len(), row.answers.iter().map(Vec::len).sum()];
                    self.seen.add_row(&row.faults, row.truncated, tokens, &id);
                }
                Some(_) if self.rule == BoundaryRule::SetAside => self.seen.add_faults(&row.faults, &id),
                Some(_) => {}
            }
            if let Some(refusal) = &row.refusal {
                self.seen.add_refusal(refusal, &id);
            }
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
            columns.push((side.assistant_mask(), from_masks(rows.iter().map(|row| &row.own[index]))));
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
        columns.extend(given.iter().flat_map(|given| given.key_masks(&rows)));
        let mut out = batch.clone();
        for (name, column) in columns {
            out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
        }
        let (tokenizer, template) = (Some(self.digest.clone()), Some(self.template.digest()));
        let contrast = self.stage.contrast.as_ref().and_then(|contrast| serde_json::to_value(contrast).ok());
        let tokenizer_folder = Some(self.tokenizer.folder().display().to_string());
        let provenance =
            Provenance { tokenizer, tokenizer_folder, template, contrast, ..Provenance::of(&out.schema()) };
        let out = provenance.stamp_rows(&out);
        Outcome::sort_out(&out, &rows.iter().map(|row| row.reason).collect::<Vec<_>>())
    }

    fn counted(&mut self) -> Metrics {
        std::mem::take(&mut self.seen).metrics()
    }
}

impl Operation for Tokenize {
    fn name(&self) -> &'static str {
        "tokenize"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        vec![("input", &self.input)]
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        Vec::new()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        Some(TokenizerUse { of: TokenizerOf::Named(&self.tokenizer), template: Some(&self.template) })
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Materialised(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let short = (self.max_length < 2).then(|| Problem::at("max_length", "max_length must be at least 2"));
        let contrast = self.contrast.iter().flat_map(Contrast::problems);
        self.boundary().problems().into_iter().chain(short).chain(contrast).collect()
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let problem = match &inputs.tokenizer {
            TokenizerFound::In(folder) => self.template.problem(folder),
            _ => None,
        };
        let columns = self.columns(&inputs.of(&self.input));
        match problem {
            Some(problem) => Err([vec![problem], columns.err().unwrap_or_default()].concat()),
            None => columns,
        }
    }

    fn fingerprint(&self) -> Value {
        json!(self)
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }

    fn conclude(&self, sums: Metrics) -> Result<Conclusion> {
        self.report(sums).map(Conclusion::from)
    }

    fn longest_row(&self) -> Option<(&'static str, usize)> {
        Some(("max_length", self.max_length))
    }

    fn shorten_rows(&mut self, tokens: usize) {
        self.max_length = self.max_length.min(tokens);
    }
}

impl Rows for Tokenize {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Transform>> {
        let missing = || Error::stage("tokenize", format!("`{}` has no tokenizer", self.tokenizer));
        self.open(resources.tokenizer()?.ok_or_else(missing)?)
    }
}
