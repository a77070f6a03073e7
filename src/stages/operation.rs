//! What the planner and the run ask of a stage. Neither names a stage: whatever they need to know of one is a method here,
//! and what has no default the compiler asks for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde_json::Value;

use super::shape::Shape;
use super::tokenize::TemplateChoice;
use super::{Compared, Conclusion, Metrics, Publication, Stage};
use crate::error::{Problem, Result};
use crate::model::cost::Workload;
use crate::model::{BatchTokens, Precision};

/// A stage of a pipeline.
pub trait Operation {
    /// The word that names it in YAML.
    fn name(&self) -> &'static str;

    /// The stages whose rows it takes: (field, id).
    fn inputs(&self) -> Vec<(&'static str, &str)>;

    /// The models that it uses.
    fn models(&self) -> Vec<ModelUse<'_>>;

    /// The tokenizer that it reads or writes text with.
    fn tokenizer(&self) -> Option<TokenizerUse<'_>>;

    /// How the run treats it, with what it does.
    fn shape(&self) -> Shape<'_>;

    /// What is wrong with its settings, whatever its inputs are.
    fn wrong_settings(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The columns of its rows; of a stage without rows, those of its input.
    ///
    /// # Errors
    /// Every problem with its settings, [`Self::wrong_settings`] among them, and with the columns of its inputs.
    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>>;

    /// The settings on which its result depends. A setting that is left out may change between two runs, and the second one
    /// takes the first one's result.
    fn fingerprint(&self) -> Value;

    /// What its models compute on `volume` of rows; none for a stage without models.
    fn cost(&self, volume: &Volume) -> Option<StageCost<'_>>;

    /// What it reports, given the sums over all its units of work.
    ///
    /// # Errors
    /// Sums that show a result of no use.
    fn conclude(&self, sums: Metrics) -> Result<Conclusion> {
        Ok(sums.into())
    }

    /// Takes the settings of the pipeline file that it does not set itself.
    fn default_to(&mut self, _file: &Defaults) {}

    /// The stages that have to look at its rows first, where they did not yet.
    fn passes_before(&self, _inputs: &Inputs) -> Vec<Pass> {
        Vec::new()
    }

    /// Takes the rows of stage `id` in `field` from now on.
    fn take_from(&mut self, _field: &'static str, _id: String) {}

    /// Where it makes token ids: the field that bounds a row's length, and the bound in tokens.
    fn longest_row(&self) -> Option<(&'static str, usize)> {
        None
    }

    /// Whether its models write answers, for which their generation_config.json has a say.
    fn generates(&self) -> bool {
        false
    }

    /// Lowers the bound of [`Self::longest_row`].
    fn shorten_rows(&mut self, _tokens: usize) {}

    /// What is wrong with its settings where `model` has `positions` positions.
    fn lacks_positions(&self, _model: &str, _positions: usize) -> Option<Problem> {
        None
    }

    /// The models whose difference is a reward, which are useless where they are one: (field, [oracle, reference]).
    fn reward(&self) -> Option<(&'static str, [&str; 2])> {
        None
    }

    /// Rows that no model should have been trained on.
    fn held_out(&self) -> Option<HeldOut<'_>> {
        None
    }

    /// What its table compares; none for a stage without a table.
    fn compared(&self) -> Option<Compared> {
        None
    }

    /// Where on the hub it uploads what it makes, if it does.
    fn publication(&self) -> Option<Publication> {
        None
    }

    /// Settings that are probably not meant.
    fn doubts(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl dyn Operation + '_ {
    /// Everything that it uses, stages before models: (field, name).
    pub fn uses(&self) -> Vec<(&'static str, &str)> {
        let models = self.models().into_iter().map(|model| (model.field, model.name));
        self.inputs().into_iter().chain(models).collect()
    }
}

/// A model that a stage uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelUse<'a> {
    /// The field that names it.
    pub field: &'static str,
    /// A name under `models:`, or the id of a `train` stage.
    pub name: &'a str,
    /// What it is used for.
    pub role: Role,
}

/// What a stage does with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Passes without gradients, its weights in these numbers where the processor or device has them.
    Frozen(Precision),
    /// Trains it, with passes in these numbers.
    Trained(Precision),
    /// Trains adapters above it, its weights in these numbers.
    Adapted(Precision),
    /// Nothing: what it says is in the columns of the rows.
    Stored,
}

/// The tokenizer that a stage uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenizerUse<'a> {
    /// Which it is.
    pub of: TokenizerOf<'a>,
    /// The template that makes texts of conversations, for a stage that takes these.
    pub template: Option<&'a TemplateChoice>,
}

/// Where a stage's tokenizer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerOf<'a> {
    /// The model or the folder that the field `tokenizer` names.
    Named(&'a str),
    /// The model, which may have none.
    Model(&'a str),
    /// The one that made the ids of the stage's rows, or else that of a model that read them; there may be none.
    Rows,
}

/// What is known of a stage's tokenizer before a row is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TokenizerFound {
    /// There is none.
    #[default]
    Nowhere,
    /// The folder.
    In(PathBuf),
    /// It is that of a model which cannot be read. What is wrong is said where the model stands.
    Unknown,
}

/// What is known of a stage's inputs before a row is read.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The columns of the stages that it takes rows of, by id.
    pub rows: BTreeMap<String, SchemaRef>,
    /// The columns of the files that it reads.
    pub files: Option<SchemaRef>,
    /// Its tokenizer.
    pub tokenizer: TokenizerFound,
}

impl Inputs {
    /// The columns of stage `id`; none where the stage is not known.
    pub fn of(&self, id: &str) -> SchemaRef {
        self.rows.get(id).cloned().unwrap_or_else(|| Arc::new(Schema::empty()))
    }
}

/// Settings at the top of the pipeline file that stages may override.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Numbers of frozen weights.
    pub precision: Precision,
    /// Seed of random numbers.
    pub seed: u64,
}

/// A stage that has to look at the rows of another one's input first.
#[derive(Debug)]
pub struct Pass {
    /// The field of that input.
    pub field: &'static str,
    /// What the pass is called behind the id of the stage that needs it.
    pub name: &'static str,
    /// The stage.
    pub stage: Stage,
}

/// Rows that no model should have been trained on.
#[derive(Debug)]
pub struct HeldOut<'a> {
    /// The field that names their stage.
    pub field: &'static str,
    /// Their stage.
    pub input: &'a str,
    /// The models; a stage that trains one is always meant.
    pub models: Vec<&'a str>,
}

/// How much comes to a stage, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Volume {
    /// Rows.
    pub rows: f64,
    /// Tokens of their prompts.
    pub prompt_tokens: f64,
    /// What the rows are for a model that scores them.
    pub work: Workload,
}

/// What the models of a stage compute.
#[derive(Debug)]
pub struct StageCost<'a> {
    /// Most tokens in a pass.
    pub batch_tokens: BatchTokens,
    /// Each model that is loaded.
    pub models: Vec<ModelCost<'a>>,
}

/// What passes keep of every token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// The activations of all layers, for the way back.
    AllLayers,
    /// The activations of the layer that is computed.
    OneLayer,
    /// Keys and values of all layers.
    Cache,
}

/// What one model of a stage computes.
#[derive(Debug)]
pub struct ModelCost<'a> {
    /// The model's name.
    pub name: &'a str,
    /// What it is used for.
    pub role: Role,
    /// What its passes keep of a batch.
    pub keeps: Keeps,
    /// Its passes, in forward passes.
    pub work: Workload,
}
