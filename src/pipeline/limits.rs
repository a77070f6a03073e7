//! How long rows may be: what `tokenize` cuts at must fit every model that reads its rows.

use super::plan::{Node, Plan};
use super::spec::Spec;
use crate::error::{Problem, Result};
use crate::stages::Stage;

/// A model that reads a stage's rows, and its positions.
struct Limit {
    model: String,
    positions: usize,
}

impl Plan {
    /// Positions of the model with the fewest, of those that read the rows of `node`; none where no model has a limit.
    ///
    /// # Errors
    /// A model that is not supported, or whose config.json cannot be read.
    pub fn positions(&self, node: &Node) -> Result<Option<usize>> {
        Ok(self.limit(node)?.map(|limit| limit.positions))
    }

    fn limit(&self, node: &Node) -> Result<Option<Limit>> {
        let mut least: Option<Limit> = None;
        for (field, name) in node.stage.models() {
            if let (Stage::Train(train), "reference") = (&node.stage, field)
                && !train.objective.formula().needs().live_reference()
            {
                // A stage of its own turned it into columns.
                continue;
            }
            let Some(source) = self.start_of(name) else { continue };
            let positions = source.describe()?.sizes.positions;
            if least.as_ref().is_none_or(|least| positions < least.positions) {
                least = Some(Limit { model: name.to_owned(), positions });
            }
        }
        Ok(least)
    }

    /// The `tokenize` stages that made the ids of `node`'s rows.
    fn tokenized(&self, node: &Node) -> Vec<String> {
        match &node.stage {
            Stage::Tokenize(_) => vec![node.id.clone()],
            stage => stage
                .inputs()
                .iter()
                .filter_map(|(_, id)| self.node(id))
                .flat_map(|node| self.tokenized(node))
                .collect(),
        }
    }
}

/// Rows that would be longer than a model's positions. A `max_length` that the file does not name becomes what fits.
pub(super) fn problems(plan: &mut Plan, spec: &Spec) -> Vec<Problem> {
    let mut problems = Vec::new();
    for index in 0..plan.nodes.len() {
        let node = &plan.nodes[index];
        // A config.json that cannot be read is an error where the model is loaded.
        let Ok(Some(limit)) = plan.limit(node) else { continue };
        let (id, Limit { model, positions }) = (node.id.clone(), limit);
        if let Stage::Generate(generate) = &node.stage
            && generate.max_tokens >= positions
        {
            let message = format!(
                "max_tokens is {}: `{model}` has {positions} positions, for the prompt and the answer",
                generate.max_tokens
            );
            let help = "set it so that prompts have room: a prompt that has none is set aside";
            problems.push(Problem::at("max_tokens", message).help(help).within(&["stages", &id, "generate"]));
        }
        for tokenize_id in plan.tokenized(node) {
            let path = ["stages", &tokenize_id, "tokenize", "max_length"];
            let Some(node) = plan.nodes.iter_mut().find(|node| node.id == tokenize_id) else { continue };
            let Stage::Tokenize(tokenize) = &mut node.stage else { continue };
            if tokenize.max_length <= positions {
                continue;
            }
            if !spec.says(&path) {
                tokenize.max_length = positions;
                continue;
            }
            let length = tokenize.max_length;
            let message =
                format!("max_length is {length}: `{model}`, which stage `{id}` uses, has {positions} positions");
            let help = format!("set it to {positions} or less; longer answers are cut there");
            problems.push(Problem::at("", message).help(help).within(&path));
        }
    }
    problems
}
