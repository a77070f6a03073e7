//! How long rows may be: what `tokenize` cuts at must fit every model that reads its rows.

use super::plan::{Node, Plan};
use super::spec::Spec;
use crate::error::{Problem, Result};
use crate::stages::{ModelUse, Role};

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
        for ModelUse { name, .. } in node.operation().models().into_iter().filter(|model| model.role != Role::Stored) {
            let Some(source) = self.start_of(name) else { continue };
            let positions = source.describe()?.sizes.positions;
            if least.as_ref().is_none_or(|least| positions < least.positions) {
                least = Some(Limit { model: name.to_owned(), positions });
            }
        }
        Ok(least)
    }

    /// The stages that made the ids of `node`'s rows.
    fn tokenized(&self, node: &Node) -> Vec<String> {
        let operation = node.operation();
        match operation.longest_row() {
            Some(_) => vec![node.id.clone()],
            None => {
                let inputs = operation.inputs().into_iter().filter_map(|(_, id)| self.node(id));
                inputs.flat_map(|node| self.tokenized(node)).collect()
            }
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
        let lacking = node.operation().lacks_positions(&model, positions);
        problems.extend(lacking.map(|problem| problem.within(&["stages", &id, node.operation().name()])));
        for made_by in plan.tokenized(node) {
            let Some(node) = plan.nodes.iter_mut().find(|node| node.id == made_by) else { continue };
            let operation = node.stage.operation_mut();
            let Some((field, length)) = operation.longest_row().filter(|(_, length)| *length > positions) else {
                continue;
            };
            let path = ["stages", &made_by, operation.name(), field];
            if !spec.says(&path) {
                operation.shorten_rows(positions);
                continue;
            }
            let message = format!("{field} is {length}: `{model}`, which stage `{id}` uses, has {positions} positions");
            let help = format!("set it to {positions} or less; longer answers are cut there");
            problems.push(Problem::at("", message).help(help).within(&path));
        }
    }
    problems
}
