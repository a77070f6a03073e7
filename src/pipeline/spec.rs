//! What the pipeline file says: variables substituted, shapes checked, no name resolved.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;
use super::sweep::Sweep;
use super::tree::{Allowance, Content, Node, Vars, expand, lookup};
use crate::error::{Error, Mistake, Problem, Result};
use crate::io::Storage;
use crate::model::{DeviceSpec, Precision};
use crate::stages::Stage;

/// A pipeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Variables with their defaults; `--var name=value` overrides, `${name}` uses them.
    #[serde(default)]
    pub vars: BTreeMap<String, Value>,
    /// Folder for everything that the run keeps: materialised data, models, metrics, rows set aside. A path or a URL.
    pub workdir: String,
    /// Where models run.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Numbers of frozen weights in `score` stages; training keeps f32.
    #[serde(default)]
    pub precision: Precision,
    /// Seed of new parameters and of the order of training rows.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The largest share of a stage's rows, in [0, 1], that may be set aside; from 1,000 rows on a run ends that sets
    /// aside more.
    #[serde(default = "default_max_reject_share")]
    pub max_reject_share: f64,
    /// Whether a result may have no rows. Without it a run ends where a `read` finds no row, where a stage sets all rows
    /// aside, and where nothing is left to train on, to compare, to answer or to write.
    #[serde(default)]
    pub allow_empty: bool,
    /// Run the pipeline for every combination of some variables' values.
    #[serde(default)]
    pub sweep: Option<Sweep>,
    /// How object stores are reached.
    #[serde(default)]
    pub storage: Storage,
    /// Models by name.
    #[serde(default)]
    pub models: BTreeMap<String, ModelSpec>,
    /// Stages by id; each is a map with one key that names the operation.
    pub stages: BTreeMap<String, Stage>,
}

fn default_seed() -> u64 {
    42
}

fn default_max_reject_share() -> f64 {
    0.5
}

/// A model that exists, or is made from a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder with config.json, safetensors and tokenizer.json; or with a LoRA adapter that PEFT saved. On this
    /// machine, in a store (`s3://…`), or on the hub: `hf://org/name[@revision][/folder]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A folder with a LoRA adapter that PEFT saved, to be put on the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The content of a config.json, to begin with random parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<BTreeMap<String, Value>>,
    /// A folder with tokenizer.json, where it is not the model's; may be on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
}

/// A parsed pipeline file, and where everything in it stands.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it says.
    pub file: File,
    /// Ids in the order of the file.
    pub order: Vec<String>,
    name: String,
    tree: Node,
}

impl Spec {
    /// Parses `text`, which was read from `name`, with `vars` over the file's own.
    ///
    /// # Errors
    /// Every mistake of syntax and shape, each with its position.
    pub fn parse(text: &str, name: &str, vars: &[(String, String)]) -> Result<Self> {
        let fail = |mistakes: Vec<Mistake>| Error::pipeline(name, mistakes);
        let mut tree = Node::parse(text).map_err(|mistake| fail(vec![mistake]))?;
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
        mistakes.extend(unknown_device(&tree));
        if !mistakes.is_empty() {
            mistakes.sort_by_key(|mistake| mistake.at);
            return Err(fail(mistakes));
        }
        let file = serde_json::from_value(tree.to_json()).map_err(|error| {
            let device = tree.locate(&["device".into()]);
            fail(vec![Mistake { at: device, message: error.to_string(), help: None }])
        })?;
        let order = match tree.get("stages").map(|stages| &stages.content) {
            Some(Content::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        };
        Ok(Self { file, order, name: name.to_owned(), tree })
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
        let mut mistakes: Vec<Mistake> = mistakes.collect();
        mistakes.sort_by_key(|mistake| mistake.at);
        mistakes.dedup();
        mistakes
    }
}

/// Keys of `tree` that stand twice in one map. Those that stand first remain.
pub(super) fn repeated(tree: &mut Node) -> Vec<Mistake> {
    let mistake = |(key, at, (line, _)): (String, (u64, u64), (u64, u64))| {
        let message = format!("the key `{key}` stands twice in one map, first in line {line}");
        Mistake { at, message, help: Some("keep one of the two".into()) }
    };
    tree.take_repeated().into_iter().map(mistake).collect()
}

/// A device that no build has.
fn unknown_device(tree: &Node) -> Option<Mistake> {
    let device = tree.get("device")?;
    let text = device.scalar()?;
    let message = text.parse::<DeviceSpec>().err()?;
    let is_gpu = ["cuda", "gpu", "nvidia", "auto"].iter().any(|word| text.to_lowercase().contains(word));
    let help = is_gpu.then(|| "an NVIDIA GPU is `libtorch:cuda:0`, in a build with `--features tch`".to_owned());
    Some(Mistake { at: device.at, message, help })
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
