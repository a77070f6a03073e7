//! `train` — a model, an objective, and the rows to train on; what comes out is a model that other stages can name.

use arrow::datatypes::{DataType, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::needs::{needs_ids, needs_rewards};
use super::publication::problems as publication_problems;
use super::score::Score;
use super::{
    HeldOut, Inputs, Keeps, ModelCost, ModelUse, Operation, Pass, Publication, Role, Shape, Stage, StageCost,
    TokenizerUse, Volume,
};
use crate::columns::{Side, list_type};
use crate::error::{Problem, Result, suggest};
use crate::io::Claim;
use crate::io::hub::{Kind, SCHEME, Visibility};
use crate::model::{BatchTokens, Lora, Memory, Precision};
use crate::objective::{Objective, Tokens};
use crate::train::example::Wanted;
use crate::train::kept::Kept;
use crate::train::optimizer::AdamW;
use crate::train::schedule::{Decay, Schedule};
use crate::train::stream::Shuffle;
use crate::train::{Checkpoints, Settings};

/// Trains a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Stage that provides the training rows.
    #[schemars(extend("examples" = ["keyed"]))]
    pub input: String,
    /// Model to start from: a name under `models:`, or a `train` stage.
    #[schemars(extend("examples" = ["ref"]))]
    pub model: String,
    /// Reference model of DPO and related objectives. The default is the model that training starts from. Its
    /// log-probabilities are taken from the columns if present, and otherwise computed once before training. `tdpo1`,
    /// `tdpo2` and `tbpo_a` run the reference at every step and have no default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["ref"]))]
    pub reference: Option<String>,
    /// Loss to minimise.
    #[schemars(extend("examples" = [{"sepo": {"gamma": 2.0}}]))]
    pub objective: Objective,
    /// Trains LoRA adapters and leaves the model's own weights unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"r": 16}]))]
    pub lora: Option<Lora>,
    /// Trains on `{side}_key_mask_{mask}` instead of `{side}_key_mask`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["random"]))]
    pub mask: Option<String>,
    /// Passes over the rows.
    #[serde(default = "one")]
    #[schemars(extend("examples" = [3]))]
    pub epochs: u32,
    /// Largest number of optimizer steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [1000], "x-unit" = "steps"))]
    pub max_steps: Option<u64>,
    /// Pairs per optimizer step.
    #[serde(default = "default_batch_size")]
    #[schemars(extend("examples" = [64], "x-unit" = "pairs"))]
    pub batch_size: usize,
    /// Largest number of tokens in one forward and backward pass. A step uses as many passes as it needs (gradient
    /// accumulation). A pass that the device has no memory for is split, and later ones are smaller.
    #[serde(default)]
    #[schemars(extend("examples" = [8192, "auto"], "x-unit" = "tokens"))]
    pub batch_tokens: BatchTokens,
    /// What a forward pass stores for the backward pass. `low` takes about a third more time and much less memory.
    /// Gradients are the same, so the setting may change in the middle of a training.
    #[serde(default)]
    #[schemars(extend("examples" = ["low"]))]
    pub memory: Memory,
    /// Precision of the passes; f32 by default, whatever the file's `precision` says. `bf16` is for devices other than `cpu`: layers
    /// compute in bf16 with copies of the parameters, which stay f32, as do AdamW's moments, unless `optimizer` says otherwise; the
    /// frozen base of adapters and a live reference are held in bf16 alone. `tf32` is for `libtorch:cuda:N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Peak learning rate, above 0 and at most 1.
    #[serde(default = "default_learning_rate")]
    #[schemars(extend("examples" = [5e-07]))]
    pub learning_rate: f64,
    /// Share of the steps, in [0, 1), for linear warm-up, rounded up to `w` whole steps. Step `s`, counted from 0,
    /// has the peak rate times `(s + 1) / (w + 1)`. `transformers` uses `s / w`, which starts at 0; both reach the
    /// peak at the same step and are equal from there on.
    #[serde(default = "default_warmup")]
    #[schemars(extend("examples" = [0.1], "x-unit" = "share of steps"))]
    pub warmup: f64,
    /// Learning rate schedule after warm-up.
    #[serde(default)]
    #[schemars(extend("examples" = ["linear"]))]
    pub decay: Decay,
    /// AdamW's betas, in [0, 1).
    #[serde(default = "default_betas")]
    #[schemars(extend("examples" = [[0.9, 0.95]]))]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_eps")]
    #[schemars(extend("examples" = [1e-08]))]
    pub eps: f64,
    /// Decoupled weight decay, applied to matrices only.
    #[serde(default)]
    #[schemars(extend("examples" = [0.01]))]
    pub weight_decay: f64,
    /// What AdamW keeps of every parameter. docs/backends.md lists the bytes of each choice.
    #[serde(default)]
    #[schemars(extend("examples" = [{"state": "bf16"}]))]
    pub optimizer: Kept,
    /// Gradients with a larger norm are scaled down to it.
    #[serde(default = "default_max_grad_norm")]
    #[schemars(extend("examples" = [1.0]))]
    pub max_grad_norm: f64,
    /// Size of the buffer that rows are drawn from in random order. 0 keeps the order of the rows.
    #[serde(default = "default_shuffle_window")]
    #[schemars(extend("examples" = [0], "x-unit" = "rows"))]
    pub shuffle_window: usize,
    /// Evaluates on held-out rows during training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"input": "held_out", "every": 100}]))]
    pub eval: Option<Eval>,
    /// When to save the state from which an interrupted training resumes.
    #[serde(default)]
    #[schemars(extend("examples" = [{"every": 500}]))]
    pub checkpoint: Checkpoint,
    /// Interval between log entries.
    #[serde(default = "default_log_every")]
    #[schemars(extend("examples" = [1], "x-unit" = "steps"))]
    pub log_every: u64,
    /// Repository of the Hugging Face hub that the trained model is uploaded to, `hf://org/name[@branch][/folder]`, in one
    /// commit (docs/hub.md). The model stays in the workdir, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["hf://org/policy"]))]
    pub to: Option<String>,
    /// Makes the repository, or the branch, of `to` if it does not exist, for its owner alone or for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["private"]))]
    pub create: Option<Visibility>,
    /// Allow a model folder in the workdir, or in the repository of `to`, that contains other files, and replace those with the
    /// same names. By default such a folder is refused. A model that the stage itself trained earlier is always replaced.
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub overwrite: bool,
}

/// Evaluation on held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// Stage that provides the rows.
    #[schemars(extend("examples" = ["held_out"]))]
    pub input: String,
    /// Interval between evaluations. There is always one at the end of the training.
    #[schemars(extend("examples" = [100], "x-unit" = "steps"))]
    pub every: u64,
}

/// When to save checkpoints. One is also saved when a training is asked to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Interval between checkpoints.
    #[schemars(extend("examples" = [500], "x-unit" = "steps"))]
    pub every: u64,
    /// Number of latest checkpoints to keep.
    #[schemars(extend("examples" = [1]))]
    pub keep: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 200, keep: 2 }
    }
}

impl Checkpoint {
    /// The checkpoints in the folder of `claim`.
    pub fn open(&self, claim: Claim) -> Checkpoints {
        Checkpoints { claim, every: self.every, keep: self.keep }
    }
}

fn one() -> u32 {
    1
}
fn default_batch_size() -> usize {
    64
}
fn default_learning_rate() -> f64 {
    1e-6
}
fn default_warmup() -> f64 {
    0.03
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_eps() -> f64 {
    1e-8
}
fn default_max_grad_norm() -> f64 {
    1.0
}
fn default_shuffle_window() -> usize {
    4096
}
fn default_log_every() -> u64 {
    10
}

impl Train {
    /// What is wrong with the settings, or with the columns of the input and of the held-out rows.
    pub fn problems(&self, input: &Schema, held_out: Option<&Schema>) -> Vec<Problem> {
        let needs = self.objective.formula().needs();
        let mut problems = needs_ids(input);
        if needs.rewards {
            problems.extend(needs_rewards(input));
            problems.extend(held_out.into_iter().flat_map(needs_rewards).map(|problem| problem.within(&["eval"])));
        }
        problems.extend(self.wrong_settings());
        if needs.tokens.contains(&Tokens::Key) {
            problems.extend(self.no_mask(input));
        }
        problems
    }

    /// Masks that the stage names and that `input` does not have.
    fn no_mask(&self, input: &Schema) -> Option<Problem> {
        let has = |name: &str| {
            let field =
                Side::BOTH.map(|side| input.field_with_name(&side.key_mask((!name.is_empty()).then_some(name))));
            field.into_iter().all(|field| field.is_ok_and(|field| *field.data_type() == list_type(DataType::Boolean)))
        };
        let wanted = self.mask.as_deref().unwrap_or_default();
        if has(wanted) {
            return None;
        }
        let unnamed = Side::Chosen.key_mask(None);
        let named = input.fields().iter().filter_map(|field| field.name().strip_prefix(&format!("{unnamed}_")));
        let masks: Vec<&str> = named.filter(|name| has(name)).collect();
        Some(match (&self.mask, masks.is_empty(), has("")) {
            (Some(mask), false, _) => Problem::at("mask", format!("no mask `{mask}`")).help(suggest(mask, &masks)),
            (Some(mask), true, true) => Problem::at("mask", format!("no mask `{mask}`"))
                .help("leave it out: the rows have the mask without a name alone"),
            (None, false, _) => Problem::at("mask", "the rows have no mask without a name").help(suggest("", &masks)),
            (mask, true, _) => {
                let column = Side::Chosen.key_mask(mask.as_deref());
                Problem::at("input", format!("no column `{column}`")).help("put a `select` stage before it")
            }
        })
    }

    /// The numbers of the passes, where the device has them.
    pub fn precision(&self) -> Precision {
        self.precision.unwrap_or_default()
    }

    /// The settings of the training loop.
    pub fn settings(&self, seed: u64) -> Settings {
        Settings {
            precision: self.precision(),
            objective: self.objective,
            epochs: self.epochs,
            max_steps: self.max_steps,
            batch_size: self.batch_size,
            frozen: self.lora.is_some(),
            memory: self.memory,
            schedule: Schedule { peak: self.learning_rate, warmup: self.warmup, decay: self.decay },
            max_grad_norm: self.max_grad_norm,
            optimizer: AdamW { betas: self.betas, eps: self.eps, weight_decay: self.weight_decay },
            kept: self.optimizer,
            eval_every: self.eval.as_ref().map(|eval| eval.every),
            log_every: self.log_every,
            seed,
        }
    }

    /// The columns that the objective reads, as far as `input` has them: held-out rows may lack masks.
    pub fn wanted(&self, input: &Schema) -> Wanted {
        let has_mask = input.field_with_name(&Side::Chosen.key_mask(self.mask.as_deref())).is_ok();
        let needs = self.objective.formula().needs();
        let key = needs.tokens.contains(&Tokens::Key) && has_mask;
        Wanted { mask: key.then(|| self.mask.clone()), reference: needs.stored_reference(), rewards: needs.rewards }
    }

    /// The order of the rows.
    pub fn shuffle(&self, seed: u64) -> Option<Shuffle> {
        (self.shuffle_window > 0).then_some(Shuffle { seed, window: self.shuffle_window })
    }
}

impl Operation for Train {
    fn name(&self) -> &'static str {
        "train"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        let eval = self.eval.iter().map(|eval| ("eval", eval.input.as_str()));
        std::iter::once(("input", self.input.as_str())).chain(eval).collect()
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        let live = self.objective.formula().needs().live_reference();
        let role = if live { Role::Frozen(self.precision()) } else { Role::Stored };
        let reference = self.reference.iter().map(|name| ModelUse { field: "reference", name, role });
        let own = if self.lora.is_some() { Role::Adapted } else { Role::Trained };
        let role = own(self.precision());
        reference.chain([ModelUse { field: "model", name: &self.model, role }]).collect()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        None
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Training(self)
    }

    fn wrong_settings(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let (name, needs) = (self.objective.name(), self.objective.formula().needs());
        if needs.live_reference() && self.reference.is_none() {
            let message =
                format!("`{name}` compares whole distributions: it needs a reference at work beside the policy");
            problems.push(Problem::at("reference", message).help(format!("set `reference: {}`", self.model)));
        }
        let wrong = self.objective.formula().problems().into_iter();
        problems.extend(wrong.map(|problem| problem.within(&["objective", &name])));
        problems.extend(publication_problems(self.to.as_deref(), self.create, Kind::Model));
        if let Some(to) = self.to.as_ref().filter(|to| !to.starts_with(SCHEME)) {
            let help = "models are kept in the workdir; `to` uploads them, too: `hf://org/name`";
            problems.push(Problem::at("to", format!("`{to}` is not on the hub")).help(help));
        }
        let wrong = self.lora.as_ref().and_then(Lora::problem);
        problems.extend(wrong.map(|message| Problem::at("lora", message)));
        let mut at_least = |field: &str, holds: bool, rule: &str| {
            if !holds {
                problems.push(Problem::at(field, format!("{field} must be {rule}")));
            }
        };
        at_least("epochs", self.epochs > 0, "above 0");
        at_least("max_steps", self.max_steps != Some(0), "above 0");
        at_least("batch_size", self.batch_size > 0, "above 0");
        at_least("batch_tokens", self.batch_tokens.at_least() > 0, "above 0");
        at_least("log_every", self.log_every > 0, "above 0");
        at_least(
            "checkpoint",
            self.checkpoint.every > 0 && self.checkpoint.keep > 0,
            "every 1 step or more, keep 1 or more",
        );
        at_least("eval", self.eval.as_ref().is_none_or(|eval| eval.every > 0), "every 1 step or more");
        let rate = self.learning_rate;
        at_least("learning_rate", rate as f32 > 0.0 && rate <= 1.0, "above 0 as a 32-bit number, and at most 1");
        at_least("max_grad_norm", self.max_grad_norm > 0.0, "above 0");
        at_least("warmup", (0.0..1.0).contains(&self.warmup), "in [0, 1)");
        at_least("betas", self.betas.iter().all(|beta| (0.0..1.0).contains(beta)), "in [0, 1)");
        at_least("eps", self.eps as f32 > 0.0, "above 0 as a 32-bit number");
        at_least(
            "weight_decay",
            self.weight_decay >= 0.0 && rate * self.weight_decay < 1.0,
            "0 or more, and below 1 / learning_rate",
        );
        if self.precision == Some(Precision::Bf16x2) {
            let problem = Problem::at("precision", "`bf16x2` is for frozen models; training has f32, tf32 and bf16");
            problems.push(problem.help("set `precision: bf16`, or leave it out"));
        }
        let wrong = self.optimizer.problem(self.precision() == Precision::Bf16, self.lora.is_some());
        problems.extend(wrong.map(|message| Problem::at("optimizer", message).help("leave `master` out")));
        if self.mask.is_some() && !needs.tokens.contains(&Tokens::Key) {
            let problem = Problem::at("mask", format!("`{name}` trains on all tokens and reads no mask"));
            problems.push(problem.help("leave it out, or train with `sepo`"));
        }
        problems
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let (input, held_out) = (inputs.of(&self.input), self.eval.as_ref().map(|eval| inputs.of(&eval.input)));
        let problems = self.problems(&input, held_out.as_deref());
        if problems.is_empty() { Ok(input) } else { Err(problems) }
    }

    fn fingerprint(&self) -> Value {
        // None of these changes what comes out.
        let (memory, checkpoint) = (Memory::default(), Checkpoint::default());
        let (to, create) = (None, None);
        json!(Self { memory, checkpoint, log_every: default_log_every(), overwrite: false, to, create, ..self.clone() })
    }

    fn publication(&self) -> Option<Publication> {
        Publication::of(self.to.as_deref()?, self.create, self.overwrite)
    }

    fn cost(&self, volume: &Volume) -> Option<StageCost<'_>> {
        let most = self.max_steps.map_or(f64::INFINITY, |steps| (steps * self.batch_size as u64) as f64);
        let epochs = f64::from(self.epochs).min(most / volume.rows.max(1.0));
        let there_and_back = self.settings(0).passes();
        let model = |ModelUse { name, role, .. }| match role {
            Role::Trained(_) | Role::Adapted(_) => Some(ModelCost {
                name,
                role,
                keeps: Keeps::AllLayers,
                work: volume.work.times(epochs * there_and_back),
            }),
            Role::Frozen(_) => Some(ModelCost { name, role, keeps: Keeps::OneLayer, work: volume.work.times(epochs) }),
            Role::Stored => None,
        };
        let models = self.models().into_iter().filter_map(model).collect();
        Some(StageCost { batch_tokens: self.batch_tokens, models })
    }

    /// Objectives that read the reference's log-probabilities from columns need a scoring pass where these are missing.
    fn passes_before(&self, inputs: &Inputs) -> Vec<Pass> {
        if !self.objective.formula().needs().stored_reference() {
            return Vec::new();
        }
        let pass = |field, input: &str, name| Pass {
            field,
            name,
            stage: Stage::Score(Score {
                input: input.to_owned(),
                oracle: None,
                contrast: false,
                reference: self.reference.as_ref().unwrap_or(&self.model).clone(),
                batch_tokens: self.batch_tokens,
                // The reference must not differ from the policy by rounding.
                precision: Some(self.precision()),
            }),
        };
        let own = std::iter::once(pass("input", &self.input, "reference"));
        let held_out = self.eval.iter().map(|eval| pass("eval", &eval.input, "eval_reference"));
        let is_scored = |id: &str| inputs.of(id).field_with_name(&Side::Chosen.ref_logps()).is_ok();
        own.chain(held_out)
            .filter(|pass| !pass.stage.operation().inputs().iter().any(|(_, id)| is_scored(id)))
            .collect()
    }

    fn take_from(&mut self, field: &'static str, id: String) {
        match &mut self.eval {
            Some(eval) if field == "eval" => eval.input = id,
            _ => self.input = id,
        }
    }

    fn held_out(&self) -> Option<HeldOut<'_>> {
        let eval = self.eval.as_ref()?;
        Some(HeldOut { field: "eval", input: &eval.input, models: Vec::new() })
    }

    fn doubts(&self) -> Vec<Problem> {
        let needs = self.objective.formula().needs();
        if self.reference.is_none() || needs.reference || needs.live_reference() {
            return Vec::new();
        }
        let message = format!("`{}` reads no reference: this one changes nothing", self.objective.name());
        vec![Problem::at("reference", message).help("leave it out")]
    }
}
