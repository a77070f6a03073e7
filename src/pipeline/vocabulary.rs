//! Whether the ids of a stage's rows mean the same to all of its models. Log-probabilities of ids that another tokenizer
//! made are numbers without a meaning, and nothing later would notice. A live reference, whose distributions are compared with the
//! policy's, must have as many entries, too.

use std::path::PathBuf;

use super::plan::{Node, Origin, Plan};
use crate::columns::provenance::Provenance;
use crate::error::{Problem, Result};
use crate::stages::ModelUse;
use crate::text::tokenizer::compare::difference;

/// Where ids and models of a stage do not fit together.
pub(super) fn problems(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    for node in &plan.nodes {
        // Passes that the planner added have the models of the stage that they serve.
        let models = node.operation().models().into_iter();
        let models = models.filter(|model| node.origin == Origin::File && !plan.is_broken(model.name));
        for ModelUse { field, name, .. } in models {
            let message = match mismatch(plan, node, name) {
                Ok(None) => continue,
                Ok(Some(message)) => message,
                Err(error) => error.to_string(),
            };
            let path = ["stages", &node.id, node.operation().name(), field].map(str::to_owned).to_vec();
            let help = "tokenize the rows with the models' own tokenizer, and use models that share it";
            problems.push(Problem { path, ..Problem::at("", message).help(help) });
        }
        if let Some(message) = other_size(plan, node) {
            let path = ["stages", &node.id, node.operation().name(), "reference"].map(str::to_owned).to_vec();
            let help = "name a reference with the policy's vocabulary";
            problems.push(Problem { path, ..Problem::at("", message).help(help) });
        }
    }
    problems
}

/// What keeps a live reference's distributions from being compared with those of the model that trains.
fn other_size(plan: &Plan, node: &Node) -> Option<String> {
    let train = node.training()?;
    let reference = train.reference.as_ref().filter(|_| train.objective.formula().needs().live_reference())?;
    let size = |name: &str| plan.start_of(name)?.config().ok()?.get("vocab_size")?.as_u64();
    let (own, other) = (size(&train.model)?, size(reference)?);
    let message = || format!("`{reference}` has {other} entries in its vocabulary, `{}` has {own}", train.model);
    (own != other).then(message)
}

/// What keeps the model `name` from reading the ids of the rows of `node`.
fn mismatch(plan: &Plan, node: &Node, name: &str) -> Result<Option<String>> {
    let Some(source) = plan.start_of(name) else { return Ok(None) };
    let Some(own) = &source.tokenizer else { return Ok(None) };
    let own = plan.tokenizers.load(own)?;
    if let Some(vocabulary) = source.config()?.get("vocab_size").and_then(serde_json::Value::as_u64) {
        own.check_fits(vocabulary as usize)?;
    }
    match ids_of(plan, node) {
        Ids::Tokenized { stage, folder } => difference((stage, &*plan.tokenizers.load(&folder)?), (name, &*own)),
        Ids::Stamped(digest) if digest != own.digest()? => {
            Ok(Some(format!("the rows were tokenized with another tokenizer than that of `{name}`")))
        }
        Ids::Stamped(_) | Ids::Unknown => Ok(None),
    }
}

/// Where the ids of a stage's rows come from.
enum Ids<'a> {
    /// A stage of the pipeline, with the tokenizer in `folder`.
    Tokenized {
        stage: &'a str,
        folder: PathBuf,
    },
    /// A dataset that names its tokenizer's digest.
    Stamped(String),
    Unknown,
}

fn ids_of<'a>(plan: &'a Plan, node: &'a Node) -> Ids<'a> {
    let mut at = node;
    loop {
        let operation = at.operation();
        if operation.longest_row().is_some()
            && let Some(folder) = plan.tokenizer_of(operation)
        {
            return Ids::Tokenized { stage: &at.id, folder };
        }
        let inputs = operation.inputs();
        match inputs.first().and_then(|(_, input)| plan.node(input)) {
            Some(input) => at = input,
            None => return Provenance::of(&at.columns).tokenizer.map_or(Ids::Unknown, Ids::Stamped),
        }
    }
}
