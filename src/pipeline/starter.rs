//! The pipeline that `sepo init` writes: the whole way from somebody's data to a policy, with a comment for every choice.

use serde_json::json;

use super::Sources;
use super::schema::reference::flow;
use crate::error::{Error, Place, Result};
use crate::io::{Chunk, Storage, Stores};
use crate::monitor::Monitor;
use crate::stages::read::{Format, Read};

/// Rows that are looked at.
const ROWS: usize = 100;

/// What a file holds, by its columns and first rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked {
    /// The layout of the columns.
    pub format: Format,
    /// The columns.
    pub columns: Vec<String>,
    /// Rows that were looked at.
    pub rows: usize,
    /// Those among them that can be used.
    pub usable: usize,
    /// Why others cannot, each reason once.
    pub reasons: Vec<&'static str>,
}

/// Looks at the columns and at the first rows of `data`.
///
/// # Errors
/// A file that cannot be read, or whose columns are of no known format; the message says what to do.
pub fn look(data: &str, monitor: &dyn Monitor) -> Result<Looked> {
    let dataset = Sources::default().open(&[data.to_owned()], (&Storage::default(), &Stores::default()), monitor)?;
    let schema = dataset.schema();
    let mut read: Read = serde_json::from_value(json!({ "from": data })).expect("a source needs no more than `from`");
    read.format = read.detected(schema).map_err(|problem| {
        let help = problem.help.map(|help| format!("\n  help: {help}")).unwrap_or_default();
        Error::data(Place::file(data), problem.message + &help)
    })?;
    let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
    let mut looked = Looked { format: read.format, columns, rows: 0, usable: 0, reasons: Vec::new() };
    let reader = read.open(schema)?;
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, ROWS)? {
            let Chunk { batch, first_row } = chunk?;
            let batch = batch.slice(0, batch.num_rows().min(ROWS - looked.rows));
            looked.rows += batch.num_rows();
            let (_, outcome) = reader.apply(&dataset.file(&unit).to_string(), Chunk { batch, first_row })?;
            looked.usable += outcome.kept.num_rows();
            looked.reasons.extend(outcome.set_aside.iter().map(|(_, reason)| *reason));
            if looked.rows == ROWS {
                looked.reasons.sort_unstable();
                looked.reasons.dedup();
                return Ok(looked);
            }
        }
    }
    looked.reasons.sort_unstable();
    looked.reasons.dedup();
    Ok(looked)
}

const HEAD: &str = "\
# A pipeline made by `sepo init`. What next:
#   sepo check FILE    finds mistakes, without reading rows
#   sepo plan FILE     estimates rows, tokens, memory and time
#   sepo run FILE      runs it; the same command resumes an interrupted run
# Every setting: docs/pipeline.md, or `sepo explain select.rule`.
vars:
";

const LIMIT: &str = "  # Rows to read; null reads all of them.
  limit: 1000
";

/// The end of the variables, and everything before the stages.
const RUN: &str = "  out: runs/NAME
workdir: ${out}
# NVIDIA GPU: libtorch:cuda:0, in a build with `--features tch` (docs/backends.md).
device: cpu
models:
  base: { path: \"${model}\" }
stages:
";

const PAIRS: &str = "  # Rows become conversations: prompt, chosen, rejected. A tenth of the prompts is kept for the comparison at the end.
  pairs: { read: { from: \"${data}\", format: FORMAT, limit: \"${limit}\", split: { held_out: 0.1, keep: train } } }
  held_out_pairs: { read: { from: \"${data}\", format: FORMAT, limit: \"${limit}\", split: { held_out: 0.1, keep: held_out } } }
  # The chat template of the model; `template: none` for base models without one.
  tokens: { tokenize: { input: pairs, tokenizer: base } }
  held_out: { tokenize: { input: held_out_pairs, tokenizer: base } }
";

const TOKENS: &str = "  # The rows hold token ids already. They must be those of the model's tokenizer.
  tokens: { read: { from: \"${data}\", format: FORMAT, limit: \"${limit}\", split: { held_out: 0.1, keep: train } } }
  held_out: { read: { from: \"${data}\", format: FORMAT, limit: \"${limit}\", split: { held_out: 0.1, keep: held_out } } }
";

const SEPO: &str = "  # The oracle learns the preferences by DPO. Its reference is the model that it starts from. If a
  # model was trained with DPO already, name both under `models:` and leave this stage out.
  oracle: { train: { input: tokens, model: base, objective: { dpo: { beta: 0.1 } }, batch_size: 32, learning_rate: 5.0e-6 } }
  # A reward for every response token: log-probability under the oracle minus that under the reference.
  scored: { score: { input: tokens, oracle: oracle, reference: base } }
  # Key tokens: the best 30 % of the chosen response and the worst 30 % of the rejected one.
  keyed: { select: { input: scored, chosen: { top: 0.3 }, rejected: { bottom: 0.3 } } }
  # Parquet for DuckDB, polars, pandas and datasets.
  out: { write: { input: keyed, to: \"${out}/scored\" } }
  # The policy trains on key tokens only, without a reference model. It may be a larger model than the oracle's, if both share
  # a tokenizer. Learning rates here are a start, not a result: compare several (docs/sweeps.md).
  policy: { train: { input: keyed, model: base, objective: { sepo: { gamma: 2.0 } }, batch_size: 32, learning_rate: 5.0e-6 } }
  # Accuracy and margins on held-out pairs, and drift from the model that both started from.
  report: { evaluate: { input: held_out, start: base, models: { oracle: oracle, policy: policy } } }
";

const PROMPTS: &str =
    "  # Prompts without answers: pairs for training need `chosen` and `rejected` as well (docs/datasets.md).
  prompts: { read: { from: \"${data}\", format: prompts } }
  answers: { generate: { input: prompts, model: base, max_tokens: 256 } }
  out: { write: { input: answers, to: \"${out}/answers\" } }
";

/// A pipeline that reads `data`, of the layout `format`, and starts from `model`; its workdir is `runs/NAME`.
pub fn text(data: &str, format: Format, model: &str, name: &str) -> String {
    let parts: &[&str] = match format {
        Format::Prompts => &[RUN, PROMPTS],
        Format::Tokens => &[LIMIT, RUN, TOKENS, SEPO],
        _ => &[LIMIT, RUN, PAIRS, SEPO],
    };
    // A value with `${` would be a variable of the file.
    let value = |text: &str| flow(&text.into());
    let vars = format!(
        "  data: {}\n  # A folder, or a model of the Hugging Face hub: hf://org/name.\n  model: {}\n",
        value(data),
        value(model)
    );
    HEAD.to_owned()
        + &vars
        + &parts.concat().replace("FORMAT", format.name()).replace("runs/NAME", &value(&format!("runs/{name}")))
}
