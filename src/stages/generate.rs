//! `generate` — what a model answers to the prompt of every row, greedily or by sampling.

mod generating;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tokenize::TemplateChoice;
use super::{
    Defaults, Inputs, Keeps, ModelCost, ModelUse, Operation, Resources, Role, Rows, Shape, StageCost, TokenizerFound,
    TokenizerOf, TokenizerUse, Transform, Volume,
};
use crate::columns::{
    ANSWER, ANSWER_IDS, ANSWERS, FINISH_REASON, GENERATOR, PROMPT, PROMPT_IDS, list_type, messages_type, put,
};
use crate::error::{Error, Place, Problem, Result};
use crate::model::cost::Workload;
use crate::model::generate::{GenerationConfig, Penalties, Sampling, Settings, Stops};
use crate::model::{BatchTokens, CausalLm, DeviceSpec, Generator, ModelSource, Precision};
use crate::monitor::warn_once;
use crate::text::{Template, Tokenizer};
use generating::{AnswerCounts, Generating};

/// Answers from a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Stage that provides the rows, with `prompt_ids` or `prompt`.
    #[schemars(extend("examples" = ["held_out"]))]
    pub input: String,
    /// Model that generates the answers.
    #[schemars(extend("examples" = ["policy"]))]
    pub model: String,
    /// Sampling temperature. 0, the default, always takes the most likely token.
    #[serde(default)]
    #[schemars(extend("examples" = [0.7]))]
    pub temperature: f64,
    /// Nucleus sampling: draw from the smallest set of most likely tokens whose probabilities sum to at least this
    /// value, in (0, 1]. Requires a `temperature` above 0.
    #[serde(default = "default_top_p")]
    #[schemars(extend("examples" = [0.9]))]
    pub top_p: f64,
    /// `model`: the sampling, the penalties and the end tokens of the model's generation_config.json, in place of `temperature` and
    /// `top_p`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_config: Option<Meant>,
    /// Longest answer. Prompts that leave no room for an answer within the model's positions are set aside.
    #[serde(default = "default_max_tokens")]
    #[schemars(extend("examples" = [256], "x-unit" = "tokens"))]
    pub max_tokens: usize,
    /// Texts that end an answer, in addition to the model's end tokens. The name of a special token stands for that
    /// token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["###"]]))]
    pub stop: Vec<String>,
    /// Token ids that end an answer, instead of the model's end tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [[2]]))]
    pub stop_ids: Option<Vec<i32>>,
    /// Answers per prompt. Several answers are written to the column `answers`, and require a `temperature` above 0.
    #[serde(default = "default_samples")]
    #[schemars(extend("examples" = [4]))]
    pub samples: usize,
    /// Seed for sampling. The default is the file's `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [7]))]
    pub seed: Option<u64>,
    /// Largest number of tokens whose keys and values are cached at a time.
    #[serde(default = "default_batch_tokens")]
    #[schemars(extend("examples" = [16384], "x-unit" = "tokens"))]
    pub batch_tokens: usize,
    /// Precision of the weights. The default is the file's `precision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["bf16"]))]
    pub precision: Option<Precision>,
    /// Model whose tokenizer is used, or a folder with tokenizer.json. The default is the model's own tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["base"]))]
    pub tokenizer: Option<String>,
    /// Chat template for rows without `prompt_ids`: `auto` (the tokenizer's own), `none` (contents are concatenated
    /// without a template), the name of one of the tokenizer's templates, or a Jinja file.
    #[serde(default)]
    #[schemars(extend("examples" = ["none"]))]
    pub template: TemplateChoice,
    /// Variables that the chat template receives, such as `enable_thinking: false`. Values in a row's
    /// `chat_template_kwargs` column take precedence.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(extend("examples" = [{"enable_thinking": false}]))]
    pub template_args: Map<String, Value>,
}

/// Where the settings of sampling come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Meant {
    /// The model's generation_config.json.
    Model,
}

fn default_top_p() -> f64 {
    1.0
}
fn default_max_tokens() -> usize {
    512
}
fn default_samples() -> usize {
    1
}
fn default_batch_tokens() -> usize {
    8192
}

/// What a row of `answers` holds.
fn answer_fields() -> Fields {
    Fields::from(vec![
        Field::new(ANSWER, DataType::Utf8, false),
        Field::new(ANSWER_IDS, list_type(DataType::Int32), false),
        Field::new(FINISH_REASON, DataType::Utf8, false),
    ])
}

impl Generate {
    /// The columns that it adds; `tokenizer` says whether there is one.
    ///
    /// # Errors
    /// Columns that are missing, and settings that contradict one another.
    pub fn columns(&self, input: &Schema, tokenizer: bool) -> Result<SchemaRef, Vec<Problem>> {
        let mut problems = self.wrong_settings();
        let is = |name: &str, kind: DataType| input.field_with_name(name).is_ok_and(|field| *field.data_type() == kind);
        let (has_ids, has_text) = (is(PROMPT_IDS, list_type(DataType::Int32)), is(PROMPT, messages_type()));
        if !has_ids && !has_text {
            let help = "put a `read` stage before it; `format: prompts` reads prompts without answers";
            problems.push(Problem::at("input", "no column `prompt_ids`, and no conversation in `prompt`").help(help));
        }
        if !tokenizer && (!has_ids || !self.stop.is_empty()) {
            let message = format!("`{}` has no tokenizer, which prompts and stop texts need", self.model);
            problems.push(Problem::at("model", message).help("`tokenizer:` names a folder, or a model that has one"));
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
        let mut add = |name: &str, kind| put(&mut fields, Field::new(name, kind, false));
        add(PROMPT_IDS, list_type(DataType::Int32));
        if tokenizer {
            add(ANSWER, DataType::Utf8);
        }
        add(ANSWER_IDS, list_type(DataType::Int32));
        add(FINISH_REASON, DataType::Utf8);
        add(GENERATOR, DataType::Utf8);
        if self.samples > 1 {
            add(ANSWERS, list_type(DataType::Struct(answer_fields())));
        }
        let schema = Schema::new_with_metadata(fields, input.metadata().clone());
        if problems.is_empty() { Ok(Arc::new(schema)) } else { Err(problems) }
    }

    /// Loads the model, which has `positions` positions.
    ///
    /// # Errors
    /// A model, tokenizer or template that cannot be loaded.
    pub fn open(
        &self,
        source: &ModelSource,
        tokenizer: Option<Arc<Tokenizer>>,
        device: DeviceSpec,
        positions: Option<usize>,
    ) -> Result<Box<dyn Transform>> {
        let meant = GenerationConfig::of(source)?;
        let (sampling, penalties) = self.sampling(source, &meant)?;
        let mut stops = Stops { ids: self.end_ids(source, &meant, tokenizer.as_deref())?, ..Stops::default() };
        let (mut template, mut made_with) = (None, [None, None]);
        if let Some(tokenizer) = tokenizer {
            let special = tokenizer.special_ids();
            for stop in &self.stop {
                match tokenizer.id(stop).filter(|id| special.contains(id)) {
                    Some(id) => drop(stops.ids.insert(id)),
                    None => stops.texts.push(stop.clone()),
                }
            }
            let renders = self.template.open(&tokenizer, None);
            made_with = [Some(tokenizer.digest()?.to_owned()), renders.as_ref().ok().map(Template::digest)];
            template = Some(renders);
            stops.tokenizer = Some(tokenizer);
        }
        let settings = Settings {
            sampling,
            penalties,
            max_tokens: self.max_tokens,
            samples: self.samples,
            seed: self.seed.unwrap_or_default(),
            batch_tokens: self.batch_tokens,
            stops,
        };
        let wanted = self.precision.unwrap_or_default();
        let generator = Generator::load(source, device, wanted, settings)?;
        let computed = (CausalLm::arithmetic(device, wanted)?, device.kind());
        let digest = source.digest()?;
        let chosen_by = match self.generation_config {
            Some(Meant::Model) => Map::from_iter([("generation_config".to_owned(), json!(meant.entries()))]),
            None => Map::from_iter([
                ("temperature".to_owned(), json!(self.temperature)),
                ("top_p".to_owned(), json!(self.top_p)),
            ]),
        };
        let (stage, seen) = (self.clone(), AnswerCounts::default());
        Ok(Box::new(Generating { stage, generator, template, made_with, digest, chosen_by, computed, positions, seen }))
    }

    /// How tokens are chosen: as the stage says, or as `meant` does if the stage says so. Entries of `meant` that are not applied are
    /// named once.
    fn sampling(&self, source: &ModelSource, meant: &GenerationConfig) -> Result<(Sampling, Penalties)> {
        if self.generation_config.is_none() {
            let ignored = meant.entries_that_matter();
            if !ignored.is_empty() {
                let ignored = ignored.join(", ");
                warn_once(&format!(
                    "{source}: generation_config.json says {ignored}, which is not applied; `generation_config: model` applies it"
                ));
            }
            return Ok((Sampling::new(self.temperature, self.top_p), Penalties::default()));
        }
        let (sampling, penalties) = meant.settings().map_err(|message| Error::model(source, message))?;
        if sampling.temperature == 0.0 && self.samples > 1 {
            let message =
                "generation_config.json takes the likeliest token every time, so that all `samples` are the same";
            return Err(Error::model(source, message));
        }
        Ok((sampling, penalties))
    }

    /// The tokens that end an answer: those of the stage, or else of the model's configurations and of its tokenizer; where
    /// `generation_config: model` is set, those of `meant`, or else of config.json.
    fn end_ids(
        &self,
        source: &ModelSource,
        meant: &GenerationConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<BTreeSet<i32>> {
        if let Some(ids) = &self.stop_ids {
            return Ok(ids.iter().copied().collect());
        }
        let mut found: BTreeSet<i32> = ends_in(&source.config()?);
        match (self.generation_config, meant.ends()) {
            (Some(Meant::Model), Some(ends)) => return Ok(ends),
            (Some(Meant::Model), None) => return Ok(found),
            (None, ends) => found.extend(ends.into_iter().flatten()),
        }
        found.extend(tokenizer.and_then(|tokenizer| tokenizer.id(tokenizer.eos_token()?)));
        Ok(found)
    }
}

/// `eos_token_id` of a configuration: a number or a list of them.
fn ends_in(config: &Value) -> BTreeSet<i32> {
    let found = match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().collect(),
        Some(id) => vec![id],
        None => Vec::new(),
    };
    found.into_iter().filter_map(Value::as_i64).filter_map(|id| i32::try_from(id).ok()).collect()
}

/// Text and token ids of all answers of row `row`.
pub(super) fn answers_of(batch: &RecordBatch, row: usize) -> Result<Vec<(String, Vec<i32>)>> {
    let rows = match batch.column_by_name(ANSWERS).and_then(|column| column.as_list_opt::<i32>()) {
        Some(list) => list.value(row).as_struct().clone(),
        None => {
            let of = |name: &str| batch.column_by_name(name).map(|column| column.slice(row, 1));
            let ids = of(ANSWER_IDS).ok_or_else(|| Error::data(Place::column(ANSWER_IDS), "no such column"))?;
            let text = of(ANSWER).unwrap_or_else(|| Arc::new(StringArray::from(vec![""])));
            let fields = answer_fields().iter().take(2).cloned().collect::<Fields>();
            StructArray::new(fields, vec![text, ids], None)
        }
    };
    let (texts, ids) = (rows.column(0).as_string::<i32>(), rows.column(1).as_list::<i32>());
    let answer = |at: usize| {
        let ids = ids.value(at);
        (texts.value(at).to_owned(), ids.as_primitive::<Int32Type>().values().to_vec())
    };
    Ok((0..rows.len()).map(answer).collect())
}

impl Operation for Generate {
    fn name(&self) -> &'static str {
        "generate"
    }

    fn generates(&self) -> bool {
        true
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        vec![("input", &self.input)]
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        let role = Role::Frozen(self.precision.unwrap_or_default());
        vec![ModelUse { field: "model", name: &self.model, role }]
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        let of = match &self.tokenizer {
            Some(name) => TokenizerOf::Named(name),
            None => TokenizerOf::Model(&self.model),
        };
        Some(TokenizerUse { of, template: Some(&self.template) })
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Materialised(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: &str| problems.push(Problem::at(field, message));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            wrong("temperature", "temperature must be 0 or above");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            wrong("top_p", "top_p must be in (0, 1]");
        }
        let is_greedy = self.temperature == 0.0 && self.generation_config.is_none();
        if self.generation_config.is_some() && (self.temperature != 0.0 || self.top_p != 1.0) {
            wrong(
                "generation_config",
                "`generation_config: model` says how to sample; leave `temperature` and `top_p` out",
            );
        }
        if is_greedy && self.top_p < 1.0 {
            wrong("top_p", "top_p changes nothing at temperature 0, which takes the likeliest token every time");
        }
        if is_greedy && self.samples > 1 {
            wrong("samples", "all samples are the same at temperature 0, which takes the likeliest token every time");
        }
        if self.stop_ids.iter().flatten().any(|id| *id < 0) {
            wrong("stop_ids", "no token has an id below 0");
        }
        let counts = [("max_tokens", self.max_tokens), ("samples", self.samples), ("batch_tokens", self.batch_tokens)];
        for (field, value) in counts {
            if value == 0 {
                wrong(field, &format!("{field} must be above 0"));
            }
        }
        if self.stop.iter().any(String::is_empty) {
            wrong("stop", "an empty text ends every answer");
        }
        problems
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        self.columns(&inputs.of(&self.input), inputs.tokenizer != TokenizerFound::Nowhere)
    }

    fn fingerprint(&self) -> Value {
        json!(self)
    }

    /// As if every answer had `max_tokens` tokens.
    fn cost(&self, volume: &Volume) -> Option<StageCost<'_>> {
        let (prompt, length) = (volume.prompt_tokens / volume.rows.max(1.0), self.max_tokens as f64);
        let (answers, own) = (volume.rows * self.samples as f64, |tokens: f64| tokens * (tokens + 1.0) / 2.0);
        let work = Workload {
            tokens: volume.prompt_tokens + answers * length,
            needed: answers * length,
            attended: volume.rows * own(prompt) + answers * (length * prompt + own(length)),
        };
        let model = |ModelUse { name, role, .. }| ModelCost { name, role, keeps: Keeps::Cache, work };
        let models = self.models().into_iter().map(model).collect();
        Some(StageCost { batch_tokens: BatchTokens::AtMost(self.batch_tokens), models })
    }

    fn default_to(&mut self, file: &Defaults) {
        self.precision.get_or_insert(file.precision);
        self.seed.get_or_insert(file.seed);
    }

    fn lacks_positions(&self, model: &str, positions: usize) -> Option<Problem> {
        let message = || {
            format!(
                "max_tokens is {}: `{model}` has {positions} positions, for the prompt and the answer",
                self.max_tokens
            )
        };
        let help = "set it so that prompts have room: a prompt that has none is set aside";
        (self.max_tokens >= positions).then(|| Problem::at("max_tokens", message()).help(help))
    }
}

impl Rows for Generate {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Transform>> {
        self.open(&resources.model(&self.model)?, resources.tokenizer()?, resources.device(), resources.positions()?)
    }
}
