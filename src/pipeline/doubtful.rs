//! Settings that are valid one by one and together surely a mistake, or probably one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::plan::{Node, Plan};
use crate::error::Problem;
use crate::io::Dataset;
use crate::model::{ModelSource, Weights};
use crate::stages::read::Read;
use crate::stages::{HeldOut, Shape};

/// What cannot be meant: an oracle that is its reference, data without rows.
pub(super) fn problems(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    for node in &plan.nodes {
        let operation = node.operation();
        let twins = operation.reward().filter(|(_, [oracle, reference])| same_model(plan, oracle, reference));
        let mut found = twins.map(|(field, [oracle, reference])| one_model(field, oracle, reference));
        if let (Shape::Source(read), Some(dataset), false) = (operation.shape(), &node.dataset, plan.allow_empty) {
            found = found.or_else(|| without_rows(read, dataset));
        }
        problems.extend(found.map(|problem| problem.within(&["stages", &node.id, node.operation().name()])));
    }
    problems
}

/// A dataset without rows, or a file without rows that `from` names by itself: other files of a folder may be empty.
fn without_rows(read: &Read, dataset: &Dataset) -> Option<Problem> {
    let named = |file: &String| read.from.list().contains(file);
    let message = match empty_files(dataset).into_iter().find(named) {
        Some(file) => format!("{file} has no row"),
        None if dataset.rows() == 0 => "no file here has a row".to_owned(),
        None => return None,
    };
    let help = "where that is meant, set `allow_empty: true` at the top of the file";
    Some(Problem::at("from", message).help(help))
}

/// The files of `dataset` that hold no rows.
fn empty_files(dataset: &Dataset) -> Vec<String> {
    let full: BTreeSet<usize> = dataset.units().iter().filter(|unit| unit.rows > 0).map(|unit| unit.file).collect();
    let files = dataset.files().enumerate().filter(|(index, _)| !full.contains(index));
    files.map(|(_, file)| file.to_string()).collect()
}

fn one_model(field: &str, oracle: &str, reference: &str) -> Problem {
    let message = format!("oracle `{oracle}` and reference `{reference}` are the same model: all rewards would be 0");
    Problem::at(field, message).help("the oracle is the model that was trained with DPO from the reference")
}

/// Whether two names mean one model, as far as names and folders tell. Weights are compared when a run loads them.
fn same_model(plan: &Plan, one: &str, other: &str) -> bool {
    let folder = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let same = |one: &ModelSource, other: &ModelSource| {
        let weights = match (&one.weights, &other.weights) {
            (Weights::Folder(one), Weights::Folder(other)) => folder(one) == folder(other),
            (one, other) => one == other,
        };
        weights && one.adapter.as_ref().map(folder) == other.adapter.as_ref().map(folder)
    };
    one == other || plan.source(one).zip(plan.source(other)).is_some_and(|(one, other)| same(&one, &other))
}

/// What is probably not meant.
pub(super) fn warnings(plan: &Plan) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for node in &plan.nodes {
        let operation = node.operation();
        let mut found = operation.doubts();
        found.extend(operation.held_out().and_then(|held_out| seen(plan, node, &held_out)));
        found.extend(node.dataset.as_ref().and_then(some_without_rows));
        let place = ["stages", &node.id, operation.name()];
        warnings.extend(found.into_iter().map(|problem| problem.within(&place)));
    }
    warnings
}

/// Files without rows beside others.
fn some_without_rows(dataset: &Dataset) -> Option<Problem> {
    let empty = empty_files(dataset);
    let first = empty.first()?;
    Some(Problem::at("from", format!("{} of the files contain no rows, the first is {first}", empty.len())))
}

/// Rows that `node` holds out, and that it or one of its models was trained on.
fn seen(plan: &Plan, node: &Node, held_out: &HeldOut) -> Option<Problem> {
    let HeldOut { field, input, models } = held_out;
    let models = models.iter().filter_map(|name| plan.node(name)?.training());
    node.training().into_iter().chain(models).find_map(|train| {
        let file = common_rows(source(plan, &train.input)?, source(plan, input)?)?;
        let message = format!("rows of `{input}` are also training rows of `{}`: {file}", train.input);
        let help = "read other files, or hold rows out with `split` in both `read` stages";
        Some(Problem::at(field, message).help(help))
    })
}

/// The `read` stage that the rows of stage `id` come from.
fn source<'a>(plan: &'a Plan, id: &'a str) -> Option<&'a Node> {
    let node = plan.node(id)?;
    match node.operation().inputs().first() {
        Some((_, input)) => source(plan, input),
        None => Some(node),
    }
}

/// A file of which two `read` stages take the same rows, as far as that can be told.
fn common_rows(one: &Node, other: &Node) -> Option<String> {
    let (Shape::Source(own), Shape::Source(others)) = (one.shape(), other.shape()) else { return None };
    let apart = match (own.split, others.split) {
        (Some(own), Some(others)) => own.held_out == others.held_out && own.keep != others.keep,
        _ => false,
    };
    if apart || own.filter != others.filter {
        return None;
    }
    let files: BTreeSet<String> = one.dataset.iter().flat_map(Dataset::files).map(ToString::to_string).collect();
    other.dataset.iter().flat_map(Dataset::files).map(ToString::to_string).find(|file| files.contains(file))
}
