//! Where a pipeline reads and writes. Places that would destroy or feed on one another are found before the run: outputs
//! and inputs, models, the workdir, and two outputs in one place.

use std::collections::BTreeSet;

use super::plan::{Node, Plan};
use super::run::FOLDERS;
use super::spec::Spec;
use crate::error::{Problem, Result};
use crate::io::hub::{Address, SCHEME};
use crate::io::{Canonical, dataset};
use crate::stages::{Destination, Shape};

/// A place with what it is, for messages.
struct Place {
    what: String,
    at: Canonical,
}

/// What is wrong with the places of `plan`, which was made of `spec`.
///
/// # Errors
/// A store that fails.
pub(super) fn problems(spec: &Spec, plan: &Plan) -> Result<Vec<Problem>> {
    let workdir = plan.stores.locate(&plan.workdir)?.canonical();
    let models = models(spec, plan)?;
    let outputs = outputs(plan)?;
    let mut problems = Vec::new();
    for node in plan.nodes.iter().filter(|node| node.training().is_some()) {
        let at = plan.stores.locate(&plan.workdir)?.join(&format!("models/{}", node.id)).canonical();
        if let Some(model) = models.iter().find(|model| model.at.is_within(&at) && !plan.shared) {
            let message = format!("the stage would put its model in place of {}", model.what);
            let help = "give the stage another id, or name another workdir".to_owned();
            problems.push(Problem { path: vec!["stages".into(), node.id.clone()], message, help: Some(help) });
        }
    }
    for (index, (node, output, at)) in outputs.iter().enumerate() {
        let mut problem = |message: String| {
            let help = "name a folder of its own, for example one below the workdir";
            let place = ["stages", &node.id, node.operation().name()];
            problems.push(Problem::at("to", message).help(help).within(&place));
        };
        if let Some(what) = in_workdir(at, &workdir) {
            problem(what);
        }
        if let Some(model) = models.iter().find(|model| at.is_within(&model.at) || model.at.is_within(at)) {
            problem(format!("the folder is, contains or is inside {}", model.what));
        }
        if let Some(message) = beside_inputs(plan, *output, at)? {
            problem(message);
        }
        let clash = outputs[..index].iter().find(|(_, other, place)| place == at && output.may_make(&other.name(0, 1)));
        if let Some((other, ..)) = clash {
            problem(format!("stage `{}` writes files of the same names into this folder", other.id));
        }
    }
    problems.extend(on_hub(plan)?);
    problems.extend(workdir_in_input(plan, &workdir)?);
    Ok(problems)
}

/// What is wrong with the repositories that stages upload to: two stages' files of the same names in one folder, and files
/// beside those that a stage reads.
fn on_hub(plan: &Plan) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let uploads = uploads(plan);
    for (index, (node, to)) in uploads.iter().enumerate() {
        let mut problem = |message: String| {
            let help = "name a folder or a branch of its own: `hf://…/org/name@branch/folder`";
            let place = ["stages", &node.id, node.operation().name()];
            problems.push(Problem::at("to", message).help(help).within(&place));
        };
        let clash = uploads[..index].iter().find(|(other, place)| place == to && have_files_of_one_name(node, other));
        if let Some((other, _)) = clash {
            problem(format!("stage `{}` uploads files of the same names into this folder", other.id));
        }
        for source in &plan.nodes {
            let Shape::Source(read) = source.shape() else { continue };
            for pattern in read.from.list() {
                let Some(address) = Address::parse(&pattern)? else { continue };
                let folder = address.of(address.folder()).canonical();
                if folder.is_within(to) || to.is_within(&folder) {
                    let what = format!("stage `{}` reads `{pattern}`, which may include this folder", source.id);
                    problem(format!("{what}: the next run would read what this one uploads"));
                }
            }
        }
    }
    Ok(problems)
}

/// The stages that upload something, and where.
fn uploads(plan: &Plan) -> Vec<(&Node, Canonical)> {
    let place = |node: &'_ Node| Some(node.operation().publication()?.address.canonical());
    plan.nodes.iter().filter_map(|node| Some((node, place(node)?))).collect()
}

/// Whether two stages that upload into one folder make files of the same names; models always do.
fn have_files_of_one_name(node: &Node, other: &Node) -> bool {
    match (node.shape(), other.shape()) {
        (Shape::Sink(one), Shape::Sink(other)) => {
            let names = one.destination().zip(other.destination());
            names.is_none_or(|(one, other)| one.may_make(&other.name(0, 1)))
        }
        _ => true,
    }
}

/// The models and tokenizers that are folders of this machine or of a store.
fn models(spec: &Spec, plan: &Plan) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for (name, model) in spec.file.models.iter().filter(|(name, _)| !plan.is_broken(name)) {
        for path in [&model.path, &model.adapter, &model.tokenizer].into_iter().flatten() {
            if !path.starts_with(SCHEME) {
                let what = format!("`{path}` of model `{name}`");
                places.push(Place { what, at: plan.stores.locate(path)?.canonical() });
            }
        }
    }
    Ok(places)
}

/// The folders that stages write files into.
fn outputs(plan: &Plan) -> Result<Vec<(&Node, &dyn Destination, Canonical)>> {
    let outputs = plan.nodes.iter().filter_map(|node| Some((node, node.destination()?)));
    outputs.map(|(node, output)| Ok((node, output, plan.stores.locate(output.folder())?.canonical()))).collect()
}

/// An output may lie in the workdir, beside the folders that a run keeps there.
fn in_workdir(at: &Canonical, workdir: &Canonical) -> Option<String> {
    if workdir.is_within(at) {
        return Some("the folder is or holds the workdir".to_owned());
    }
    let below = at.below(workdir)?;
    let first = below.split('/').next().unwrap_or_default();
    FOLDERS.contains(&first).then(|| format!("sepo keeps what is its own in `{first}` of the workdir"))
}

fn beside_inputs(plan: &Plan, output: &dyn Destination, at: &Canonical) -> Result<Option<String>> {
    let written = at.join(&output.name(0, 1));
    for node in &plan.nodes {
        let (Shape::Source(read), Some(dataset)) = (node.shape(), &node.dataset) else { continue };
        if let Some(file) = dataset.files().find(|file| file.canonical().is_within(at)) {
            return Ok(Some(format!("the folder holds {file}, which stage `{}` reads", node.id)));
        }
        for pattern in read.from.list() {
            if dataset::takes(&pattern, &plan.stores, &written)? {
                let what = format!("stage `{}` reads `{pattern}`, which includes this folder", node.id);
                return Ok(Some(format!("{what}: the next run would read what this one writes")));
            }
        }
    }
    Ok(None)
}

fn workdir_in_input(plan: &Plan, workdir: &Canonical) -> Result<Vec<Problem>> {
    let kept = workdir.join("data/stage-0/part-00000.parquet");
    for node in &plan.nodes {
        let Shape::Source(read) = node.shape() else { continue };
        for pattern in read.from.list() {
            if dataset::takes(&pattern, &plan.stores, &kept)? {
                let message = format!(
                    "stage `{}` reads `{pattern}`, which includes the workdir: it would read its own results",
                    node.id
                );
                return Ok(vec![Problem::at("workdir", message).help("name a workdir beside the inputs")]);
            }
        }
    }
    Ok(Vec::new())
}

/// Outputs in one place whose rows differ between the variants of a sweep.
///
/// # Errors
/// A store that cannot be reached.
pub(super) fn clashes(plans: &[Plan]) -> Result<Vec<Problem>> {
    let mut problems = BTreeSet::new();
    let mut seen: Vec<(Canonical, String, &Plan)> = Vec::new();
    for plan in plans {
        for (node, output, at) in outputs(plan)? {
            let name = output.name(0, 1);
            match seen.iter().find(|(place, other, _)| *place == at && *other == name) {
                Some((_, _, other)) if history(plan, &node.id) != history(other, &node.id) => {
                    problems.insert((node.id.clone(), node.operation().name()));
                }
                Some(_) => {}
                None => seen.push((at, name, plan)),
            }
        }
    }
    let problem = |(id, stage): (String, &str)| {
        let message = "variants of the sweep that differ in these rows write them into one folder";
        Problem::at("to", message).help("put the sweep's variables into the path").within(&["stages", &id, stage])
    };
    let mut problems: Vec<Problem> = problems.into_iter().map(problem).collect();
    problems.extend(clashes_on_hub(plans));
    Ok(problems)
}

/// Repositories into which variants upload what differs between them.
fn clashes_on_hub(plans: &[Plan]) -> Vec<Problem> {
    let mut problems = BTreeSet::new();
    let mut seen: Vec<(Canonical, &Node, &Plan)> = Vec::new();
    for plan in plans {
        for (node, to) in uploads(plan) {
            let same =
                |(place, other, _): &&(Canonical, &Node, &Plan)| *place == to && have_files_of_one_name(node, other);
            match seen.iter().find(same) {
                Some((_, _, other)) if history(plan, &node.id) != history(other, &node.id) => {
                    problems.insert((node.id.clone(), node.operation().name()));
                }
                Some(_) => {}
                None => seen.push((to, node, plan)),
            }
        }
    }
    let problem = |(id, stage): (String, &str)| {
        let message = "variants of the sweep that differ upload into one folder of the hub";
        Problem::at("to", message).help("put the sweep's variables into the address").within(&["stages", &id, stage])
    };
    problems.into_iter().map(problem).collect()
}

/// The settings that matter of stage `id` and of everything that it uses, as text.
fn history(plan: &Plan, id: &str) -> String {
    let Some(node) = plan.node(id) else { return String::new() };
    let operation = node.operation();
    let above: Vec<String> = operation.uses().into_iter().map(|(_, name)| history(plan, name)).collect();
    format!("{} {} {} {}", operation.name(), operation.fingerprint(), plan.seed, above.join(" "))
}
