//! What the pipeline file says: variables substituted, shapes checked, no name resolved.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;
use super::sweep::Sweep;
use super::tree::{Allowance, Content, Entry, Node, Vars, expand, lookup};
use crate::error::{Error, Mistake, Problem, Result};
use crate::io::Storage;
use crate::model::{DeviceChoice, Precision};
use crate::stages::Stage;

/// A pipeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Variables and their default values. `${name}` inserts a value, `--var name=value` overrides it on the command
    /// line.
    #[serde(default)]
    #[schemars(extend("examples" = [{"model": "hf://org/name", "limit": 1000}]))]
    pub vars: BTreeMap<String, Value>,
    /// Folder or URL for everything that a run keeps: materialised rows, models, metrics, rejected rows.
    #[schemars(extend("examples" = ["runs/first", "s3://bucket/runs/first"]))]
    pub workdir: String,
    /// Device that models run on: `cpu`, `libtorch`, `libtorch:cuda:N`, `cuda:N`, `vulkan` or `vulkan:cpu`, or with `libtorch:cuda:*`
    /// every CUDA device that LibTorch finds (docs/backends.md).
    #[serde(default)]
    #[schemars(extend("examples" = ["cpu", "libtorch:cuda:0", "libtorch:cuda:*"]))]
    pub device: DeviceChoice,
    /// Several devices of one kind, in place of `device`. `score` and `generate` stages load their models on each of them and share
    /// the rows out; `train` and `evaluate` stages use the first one. Rows are the same as with one device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["libtorch:cuda:0", "libtorch:cuda:1"]]))]
    pub devices: Vec<DeviceChoice>,
    /// Precision of frozen weights in `score` and `generate` stages. A `train` stage has its own `precision`.
    #[serde(default)]
    #[schemars(extend("examples" = ["bf16"]))]
    pub precision: Precision,
    /// Seed of newly initialised parameters and of the order of training rows.
    #[serde(default = "default_seed")]
    #[schemars(extend("examples" = [42]))]
    pub seed: u64,
    /// Largest share of a stage's rows, in [0, 1], that may be set aside. A stage that has seen at least 1,000 rows
    /// and set aside more than this share fails the run.
    #[serde(default = "default_max_reject_share")]
    #[schemars(extend("examples" = [0.1], "x-unit" = "share of rows"))]
    pub max_reject_share: f64,
    /// Accept empty results. By default a run fails if a `read` finds no rows, if a stage sets all rows aside, or if
    /// no rows are left to train on, compare, answer or write.
    #[serde(default)]
    #[schemars(extend("examples" = [true]))]
    pub allow_empty: bool,
    /// Runs the pipeline once for every combination of the values of some variables.
    #[serde(default)]
    #[schemars(extend("examples" = [{"over": {"rate": [1e-06, 5e-06]}}]))]
    pub sweep: Option<Sweep>,
    /// How object stores are accessed.
    #[serde(default)]
    #[schemars(extend("examples" = [{"region": "eu-central-1"}]))]
    pub storage: Storage,
    /// Models by name.
    #[serde(default)]
    #[schemars(extend("examples" = [{"base": {"path": "hf://org/name"}}]))]
    pub models: BTreeMap<String, ModelSpec>,
    /// Stages by id. Each stage is a map with one key, which names the operation.
    #[schemars(extend("examples" = [{"pairs": {"read": {"from": "pairs.jsonl"}}}]))]
    pub stages: BTreeMap<String, Stage>,
}

fn default_seed() -> u64 {
    42
}

fn default_max_reject_share() -> f64 {
    0.5
}

/// A model: a checkpoint, or a configuration from which new parameters are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Folder with config.json, safetensors and tokenizer.json, or with a LoRA adapter saved by PEFT. A local path,
    /// an object store (`s3://…`), or the Hugging Face hub: `hf://org/name[@revision][/folder]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["hf://HuggingFaceTB/SmolLM2-135M-Instruct"]))]
    pub path: Option<String>,
    /// Folder with a LoRA adapter saved by PEFT, which is applied to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["adapters/oracle"]))]
    pub adapter: Option<String>,
    /// Content of a config.json. The model starts with random parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"model_type": "llama", "vocab_size": 1280, "hidden_size": 128}]))]
    pub init: Option<BTreeMap<String, Value>>,
    /// Folder with tokenizer.json, if the tokenizer is not in the model's folder. May be on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["data/quickstart/tokenizer"]))]
    pub tokenizer: Option<String>,
}

/// A parsed pipeline file, and where everything in it stands.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it says.
    pub file: File,
    /// Ids in the order of the file.
    pub order: Vec<String>,
    /// Models and stages that are not in `file`, because of mistakes in them. What follows from their absence is no mistake.
    pub(super) broken: BTreeSet<String>,
    /// Whether `workdir` is missing because of a mistake.
    pub(super) lacks_workdir: bool,
    name: String,
    tree: Node,
}

impl Spec {
    /// Parses `text`, which was read from `name`, with `vars` over the file's own.
    ///
    /// # Errors
    /// Every mistake of syntax and shape, each with its position.
    pub fn parse(text: &str, name: &str, vars: &[(String, String)]) -> Result<Self> {
        match Self::sound(text, name, vars)? {
            (Some(spec), mistakes) if mistakes.is_empty() => Ok(spec),
            (_, mistakes) => Err(Error::pipeline(name, mistakes)),
        }
    }

    /// As [`Self::parse`], but what has no mistake of shape is there beside the mistakes of the rest, as far as it means
    /// anything without that rest.
    ///
    /// # Errors
    /// A file that is not YAML.
    pub(super) fn sound(text: &str, name: &str, vars: &[(String, String)]) -> Result<(Option<Self>, Vec<Mistake>)> {
        let mut tree = Node::parse(text).map_err(|mistake| Error::pipeline(name, vec![mistake]))?;
        let mut mistakes = repeated(&mut tree);
        let allowance = Allowance::default();
        let vars = variables(&tree, vars, &allowance, &mut mistakes);
        let mut unknown = Vec::new();
        if let Content::Map(entries) = &mut tree.content {
            // What is wrong with the variables themselves was found when they got their values.
            for entry in entries.iter_mut().filter(|entry| entry.key != "vars") {
                entry.value.substitute(&|name| allowance.take(lookup(&vars, name)?), &mut unknown);
            }
        }
        mistakes.extend(unknown.into_iter().map(|(at, message)| Mistake { at, message, help: None }));
        let root = schema::of::<File>();
        schema::check(&mut tree, &root, &root, &mut mistakes);
        mistakes.extend(unknown_devices(&tree));
        mistakes.sort_by_key(|mistake| mistake.at);
        let mut rest = tree.clone();
        let broken = if mistakes.is_empty() { BTreeSet::new() } else { take_broken(&mut rest, &root) };
        let lacks_workdir = !mistakes.is_empty() && rest.get("workdir").is_none();
        if let (Content::Map(entries), true) = (&mut rest.content, lacks_workdir) {
            let value = Node { at: tree.at, content: Content::Text(String::new()) };
            entries.push(Entry { key: "workdir".to_owned(), at: tree.at, value });
        }
        let file = match serde_json::from_value(rest.to_json()) {
            Ok(file) => file,
            Err(error) => {
                if mistakes.is_empty() {
                    let device = tree.locate(&["device".into()]);
                    mistakes.push(Mistake { at: device, message: error.to_string(), help: None });
                }
                return Ok((None, mistakes));
            }
        };
        let order = match rest.get("stages").map(|stages| &stages.content) {
            Some(Content::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        };
        Ok((Some(Self { file, order, broken, lacks_workdir, name: name.to_owned(), tree }), mistakes))
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file itself has the key at the end of `path`.
    pub(super) fn says(&self, path: &[&str]) -> bool {
        path.iter().try_fold(&self.tree, |node, key| node.get(key)).is_some()
    }

    /// All `problems` with their positions, in the order of the file.
    pub fn report(&self, problems: Vec<Problem>) -> Error {
        Error::pipeline(&self.name, self.placed(problems))
    }

    /// Each of `problems` with its position, in the order of the file.
    pub(super) fn placed(&self, problems: Vec<Problem>) -> Vec<Mistake> {
        let mistakes = problems.into_iter().map(|problem| Mistake {
            at: self.tree.locate(&problem.path),
            message: problem.message,
            help: problem.help,
        });
        in_order(mistakes)
    }
}

/// Each of `mistakes` once, in the order of the file.
pub(super) fn in_order(mistakes: impl IntoIterator<Item = Mistake>) -> Vec<Mistake> {
    let mut found: Vec<Mistake> = Vec::new();
    for mistake in mistakes {
        if !found.contains(&mistake) {
            found.push(mistake);
        }
    }
    found.sort_by_key(|mistake| mistake.at);
    found
}

/// Takes out of `tree`, a file with the schema `root`, every model and stage that has a mistake, and every other key that
/// has one. Returns the names of those models and stages.
fn take_broken(tree: &mut Node, root: &Value) -> BTreeSet<String> {
    let mut broken = BTreeSet::new();
    let has_device = unknown_devices(tree).is_empty();
    let Content::Map(entries) = &mut tree.content else { return broken };
    entries.retain_mut(|Entry { key, value, .. }| {
        let schema = &root["properties"][&*key];
        match (key.as_str(), &mut value.content) {
            ("models" | "stages", Content::Map(entries)) => entries.retain_mut(|Entry { key, value, .. }| {
                let is_sound = schema::fits(value, &schema["additionalProperties"], root);
                if !is_sound {
                    broken.insert(key.clone());
                }
                is_sound
            }),
            ("device" | "devices", _) if !has_device => return false,
            // Without it files and models would be looked for elsewhere.
            ("storage", _) => {}
            _ => return !schema.is_null() && schema::fits(value, schema, root),
        }
        true
    });
    broken
}

/// Keys of `tree` that stand twice in one map. Those that stand first remain.
pub(super) fn repeated(tree: &mut Node) -> Vec<Mistake> {
    let mistake = |(key, at, (line, _)): (String, (u64, u64), (u64, u64))| {
        let message = format!("duplicate key `{key}`; the first one is in line {line}");
        Mistake { at, message, help: Some("remove one of them".into()) }
    };
    tree.take_repeated().into_iter().map(mistake).collect()
}

/// Devices that no build has.
fn unknown_devices(tree: &Node) -> Vec<Mistake> {
    let several = tree.get("devices").map(|devices| &devices.content);
    let several = if let Some(Content::List(devices)) = several { &devices[..] } else { &[] };
    let mistake = |device: &Node| {
        let text = device.scalar()?;
        let message = DeviceChoice::try_from(text.clone()).err()?;
        let is_gpu = ["cuda", "gpu", "nvidia", "auto"].iter().any(|word| text.to_lowercase().contains(word));
        let help = is_gpu.then(|| "an NVIDIA GPU is `libtorch:cuda:0`, in a build with `--features tch`".to_owned());
        Some(Mistake { at: device.at, message, help })
    };
    tree.get("device").into_iter().chain(several).filter_map(mistake).collect()
}

/// The values of all variables; defaults may use variables that stand before them.
fn variables(tree: &Node, given: &[(String, String)], allowance: &Allowance, mistakes: &mut Vec<Mistake>) -> Vars {
    let mut vars = Vars::new();
    let Some(Content::Map(entries)) = tree.get("vars").map(|vars| &vars.content) else {
        if let Some((name, _)) = given.first() {
            let message = format!("--var {name}: the file has no variables");
            mistakes.push(Mistake { at: (1, 1), message, help: None });
        }
        return vars;
    };
    for entry in entries {
        let value = match given.iter().rev().find(|(name, _)| *name == entry.key) {
            Some((_, value)) => Ok(value.clone()),
            None => {
                let message = || format!("variable `{}` is not a scalar", entry.key).into();
                entry
                    .value
                    .scalar()
                    .ok_or_else(message)
                    .and_then(|value| expand(&value, &|name| allowance.take(lookup(&vars, name)?)))
            }
        };
        let message = value.as_ref().err().and_then(|why| why.0.clone());
        mistakes.extend(message.map(|message| Mistake { at: entry.at, message, help: None }));
        vars.insert(entry.key.clone(), value.ok());
    }
    let names: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    for (name, _) in given.iter().filter(|(name, _)| !names.contains(&name.as_str())) {
        let at = tree.locate(&["vars".into()]);
        mistakes.push(schema::unknown(at, "variable in --var", name, &names));
    }
    vars
}
