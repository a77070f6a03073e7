//! Settings that are valid one by one and together surely a mistake, or probably one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::plan::{Node, Plan};
use crate::error::Problem;
use crate::io::Dataset;
use crate::model::{ModelSource, Weights};
use crate::stages::Stage;
use crate::stages::evaluate::{Judge, Reward};
use crate::stages::read::Read;
use crate::stages::train::Train;

/// What cannot be meant: an oracle that is its reference, data without rows.
pub(super) fn problems(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    for node in &plan.nodes {
        let found = match &node.stage {
            Stage::Score(score) => {
                let twin = score.oracle.as_ref().filter(|oracle| same_model(plan, oracle, &score.reference));
                twin.map(|oracle| one_model("oracle", oracle, &score.reference))
            }
            Stage::Evaluate(evaluate) => match &evaluate.judge {
                Some(Judge::Reward(Reward { oracle, reference })) if same_model(plan, oracle, reference) => {
                    Some(one_model("judge", oracle, reference))
                }
                _ => None,
            },
            Stage::Read(read) if !plan.allow_empty => {
                node.dataset.as_ref().and_then(|dataset| without_rows(read, dataset))
            }
            _ => None,
        };
        problems.extend(found.map(|problem| problem.within(&["stages", &node.id, node.stage.name()])));
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
    let message = format!("oracle `{oracle}` and reference `{reference}` are one model: all rewards would be 0");
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
        let found = match &node.stage {
            Stage::Train(train) => {
                [unused_reference(train), train.eval.as_ref().and_then(|eval| seen(plan, train, "eval", &eval.input))]
            }
            Stage::Evaluate(evaluate) => {
                let trained = evaluate.models.values().filter_map(|name| match &plan.node(name)?.stage {
                    Stage::Train(train) => Some(train),
                    _ => None,
                });
                let seen = |input: &String| trained.into_iter().find_map(|train| seen(plan, train, "input", input));
                [evaluate.input.as_ref().and_then(seen), None]
            }
            Stage::Read(_) => {
                let empty = node.dataset.as_ref().map(empty_files).unwrap_or_default();
                let message = |file| format!("{} of the files hold no rows, {file} is the first", empty.len());
                [empty.first().map(|file| Problem::at("from", message(file))), None]
            }
            _ => [None, None],
        };
        let found = found.into_iter().flatten();
        warnings.extend(found.map(|problem| problem.within(&["stages", &node.id, node.stage.name()])));
    }
    warnings
}

fn unused_reference(train: &Train) -> Option<Problem> {
    let needs = train.objective.formula().needs();
    let unused = train.reference.is_some() && !needs.reference && !needs.live_reference();
    let message = || format!("`{}` reads no reference: this one changes nothing", train.objective.name());
    unused.then(|| Problem::at("reference", message()).help("leave it out"))
}

/// Rows of stage `input`, which `field` names as held out, that `train` learns from.
fn seen(plan: &Plan, train: &Train, field: &str, input: &str) -> Option<Problem> {
    let (one, other) = (source(plan, &train.input)?, source(plan, input)?);
    let file = common_rows(one, other)?;
    let message = format!("rows of `{input}` are also those of `{}`, which are trained on: {file}", train.input);
    Some(Problem::at(field, message).help("read other files, or hold rows out with `split` in both `read` stages"))
}

/// The `read` stage that the rows of stage `id` come from.
fn source<'a>(plan: &'a Plan, id: &'a str) -> Option<&'a Node> {
    let node = plan.node(id)?;
    match node.stage.inputs().first() {
        Some((_, input)) => source(plan, input),
        None => Some(node),
    }
}

/// A file of which two `read` stages take the same rows, as far as that can be told.
fn common_rows(one: &Node, other: &Node) -> Option<String> {
    let (Stage::Read(own), Stage::Read(others)) = (&one.stage, &other.stage) else { return None };
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
