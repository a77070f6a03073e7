//! What a run would refuse, found by a check: a folder that cannot be the workdir, folders with files that sepo did not make.

use std::collections::BTreeMap;

use super::published;
use super::workdir::{self, FOLDERS, Workdir};
use crate::error::{Error, Problem, Result};
use crate::io::hub::{Hub, Look, NO_REPOSITORY, no_branch};
use crate::io::owned::{Depth, RECORD, holds, refuse_link, some_of};
use crate::io::{Location, Owned, Written, session};
use crate::pipeline::plan::{Node, Plan};

/// What keeps a run of `plan` from making its files.
///
/// # Errors
/// A store that fails.
pub fn problems(plan: &Plan) -> Result<Vec<Problem>> {
    let at = plan.stores.locate(&plan.workdir)?;
    if let Some(obstacle) = workdir::obstacle(&at)? {
        return Ok(vec![Problem::at("workdir", obstacle)]);
    }
    let links = FOLDERS.iter().filter_map(|folder| refuse_link(&at.join(folder)).err());
    let mut problems: Vec<Problem> = links.map(|error| Problem::at("workdir", error.to_string())).collect();
    let workdir = Workdir::existing(at.clone())?;
    let recorded = workdir.as_ref().map(recorded).transpose()?.unwrap_or_default();
    for node in &plan.nodes {
        let on_hub = on_hub(node, workdir.as_ref())?
            .map(|problem| problem.within(&["stages", &node.id, node.operation().name()]));
        problems.extend(on_hub);
        let (foreign, field) = match (node.destination(), node.training()) {
            (Some(output), _) if !output.overwrites() => {
                (foreign(&plan.stores.locate(output.folder())?, &recorded)?, "to")
            }
            (_, Some(train)) if !train.overwrite && !plan.shared => (foreign_model(&at, workdir.as_ref(), node)?, ""),
            _ => continue,
        };
        if !foreign.is_empty() {
            let message =
                format!("the folder holds {}, which sepo did not make or which changed since", some_of(&foreign));
            let help = "name another folder, or set `overwrite: true` to replace files of the same names";
            problems.push(Problem::at(field, message).help(help).within(&[
                "stages",
                &node.id,
                node.operation().name(),
            ]));
        }
    }
    Ok(problems)
}

/// What keeps `node` from uploading what it makes, if it does.
fn on_hub(node: &Node, workdir: Option<&Workdir>) -> Result<Option<Problem>> {
    let Some(to) = node.operation().publication() else { return Ok(None) };
    let hub = Hub::from_env();
    if let Some(obstacle) = hub.obstacle() {
        return Ok(Some(Problem::at("to", obstacle)));
    }
    let problem = match hub.look(&to.address) {
        Ok(Look::Found(tree)) => {
            let records = workdir.map(Workdir::records).transpose()?.unwrap_or_default();
            let foreign = published::foreign(&tree, &to.address, &records);
            let refused = published::refuse_foreign(&node.id, &to, &foreign).is_err();
            refused.then(|| {
                let message = format!(
                    "{} holds {}, which sepo did not upload from this workdir or which changed since",
                    to.address,
                    some_of(&foreign)
                );
                let help =
                    "name another folder or repository, or set `overwrite: true` to replace files of the same names";
                Problem::at("to", message).help(help)
            })
        }
        Ok(Look::NoRepository) => to.create.is_none().then(|| Problem::at("to", NO_REPOSITORY)),
        Ok(Look::NoBranch) => to.create.is_none().then(|| Problem::at("to", no_branch(&to.address))),
        Err(error @ (Error::Interrupted | Error::Store { retryable: true, .. })) => return Err(error),
        Err(error) => Some(Problem::at("to", error.to_string())),
    };
    Ok(problem)
}

/// Every file that the workdir's records name, in its one spelling. A file may have been written more than once.
fn recorded(workdir: &Workdir) -> Result<BTreeMap<String, Vec<Written>>> {
    let mut files: BTreeMap<String, Vec<Written>> = BTreeMap::new();
    for output in workdir.records()?.into_values().flat_map(|record| record.outputs) {
        files.entry(output.at).or_default().push(output.written);
    }
    Ok(files)
}

/// Files in `folder` that no record names, or that have another size than when they were written.
fn foreign(folder: &Location, recorded: &BTreeMap<String, Vec<Written>>) -> Result<Vec<String>> {
    let at = folder.canonical();
    let mut foreign = Vec::new();
    for found in folder.scan()?.into_iter().filter(|found| session::mark_of(found.name()).is_none()) {
        let file = folder.join(&found.path);
        let mut is_own = false;
        for written in recorded.get(&at.join(&found.path).to_string()).into_iter().flatten() {
            is_own |= found.is_file && holds(&file, written, Depth::Size)? == Some(true);
        }
        if !is_own {
            foreign.push(found.path);
        }
    }
    Ok(foreign)
}

fn foreign_model(at: &Location, workdir: Option<&Workdir>, node: &Node) -> Result<Vec<String>> {
    let folder = at.join(&format!("models/{}", node.id));
    match Owned::open(folder.clone())? {
        Some(owned) if workdir.is_some_and(|workdir| workdir.id == owned.owner().workdir) => {
            Ok([owned.foreign()?, owned.difference(Depth::Size)?.changed].concat())
        }
        Some(_) => Ok(vec![RECORD.to_owned()]),
        None => folder.entries(),
    }
}
