//! Mistakes in a sweep that can be seen before anything runs: variables, stages, and the numbers that tables, plots and
//! choices name.

use super::plot::{self, Plot};
use super::{Spec, Sweep};
use crate::error::{Problem, suggest};
use crate::stages::Compared;

/// What is wrong with `sweep`, which is part of `spec`.
pub(super) fn problems(sweep: &Sweep, spec: &Spec) -> Vec<Problem> {
    let mut problems = variables(sweep, spec);
    if let Some(choose) = &sweep.choose {
        let path = ["choose"];
        if let Some(compared) = stage(spec, &choose.stage, &path, &mut problems) {
            problems.extend(
                number(&compared, &choose.metric).map(|problem| problem.within(&["sweep", "choose", "metric"])),
            );
        }
    }
    for (index, compare) in sweep.compare.iter().enumerate() {
        let index = index.to_string();
        let path = ["compare", &index];
        if sweep.repeats.is_none() {
            let problem = Problem::at("compare", "comparisons are paired by repeat");
            problems.push(
                problem.help("name the variable to repeat over, usually a seed: `repeats: seed`").within(&["sweep"]),
            );
        }
        let Some(compared) = stage(spec, &compare.stage, &path, &mut problems) else { continue };
        let at = |problem: Problem, field: &str| problem.within(&["sweep", "compare", &index, field]);
        if !compared.labels.contains(&compare.against) {
            let labels: Vec<&str> = compared.labels.iter().map(String::as_str).collect();
            let problem = Problem::at("", format!("stage `{}` compares no `{}`", compare.stage, compare.against));
            problems.push(at(problem.help(suggest(&compare.against, &labels)), "against"));
        }
        let unknown = compare.metrics.iter().filter_map(|metric| number(&compared, metric));
        problems.extend(unknown.map(|problem| at(problem, "metrics")));
    }
    for (name, plot) in &sweep.plots {
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
            let message = format!("`{name}` names a file: letters, digits, `_` and `-`");
            problems.push(Problem::at("", message).within(&["sweep", "plots", name]));
        }
        if let Some(compared) = stage(spec, &plot.stage, &["plots", name], &mut problems) {
            let found = plotted(plot, &compared);
            problems.extend(found.into_iter().map(|problem| problem.within(&["sweep", "plots", name])));
        }
    }
    problems
}

fn variables(sweep: &Sweep, spec: &Spec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |path: &[&str], message: String| {
        problems.push(Problem::at("", message).within(&[&["sweep"], path].concat()));
    };
    for (name, values) in &sweep.over {
        if !spec.file.vars.contains_key(name) {
            problem(&["over", name], format!("`{name}` is not a variable of the file; give it a default under `vars`"));
        }
        if values.is_empty() || values.iter().any(|value| value.is_array() || value.is_object()) {
            problem(&["over", name], format!("`{name}` takes a list of numbers or words"));
        }
    }
    let unknown = |name: &String| !sweep.over.contains_key(name);
    if let Some(name) = sweep.repeats.as_ref().filter(|name| unknown(name)) {
        problem(&["repeats"], format!("`{name}` is not under `over`"));
    }
    if let Some(choose) = &sweep.choose
        && (unknown(&choose.variable) || sweep.repeats.as_ref() == Some(&choose.variable))
    {
        problem(&["choose", "variable"], format!("`{}` is not under `over`, or is what repeats", choose.variable));
    }
    problems
}

/// What the stage `id`, which the sweep names at `path`, compares; a stage that compares nothing is a problem.
fn stage(spec: &Spec, id: &str, path: &[&str], problems: &mut Vec<Problem>) -> Option<Compared> {
    let stages = &spec.file.stages;
    let compared = stages.get(id).and_then(|stage| stage.operation().compared());
    if compared.is_none() && !spec.broken.contains(id) {
        let compare: Vec<&str> = stages
            .iter()
            .filter(|(_, stage)| stage.operation().compared().is_some())
            .map(|(id, _)| id.as_str())
            .collect();
        let problem = match stages.get(id) {
            Some(stage) => {
                let message = format!("stage `{id}` has no table: `{}` compares nothing", stage.operation().name());
                Problem::at("stage", message).help("name an `evaluate` or `audit` stage")
            }
            None => Problem::at("stage", format!("no stage `{id}`")).help(suggest(id, &compare)),
        };
        problems.push(problem.within(&[&["sweep"], path].concat()));
    }
    compared
}

/// A number that is not among those `compared`.
fn number(compared: &Compared, name: &str) -> Option<Problem> {
    let names: Vec<&str> = compared.numbers.iter().map(String::as_str).collect();
    (!names.contains(&name))
        .then(|| Problem::at("", format!("the stage has no metric `{name}`")).help(suggest(name, &names)))
}

/// Names of a plot that nothing has.
fn plotted(plot: &Plot, compared: &Compared) -> Vec<Problem> {
    let stems = |names: &[String]| -> Vec<String> {
        names.iter().filter_map(|name| Some(plot::numbered(name)?.0.to_owned())).collect()
    };
    let mut problems = Vec::new();
    match plot.x.as_str() {
        plot::METRIC => {
            let stems = stems(&compared.numbers);
            if !stems.contains(&plot.y) {
                let mut stems: Vec<&str> = stems.iter().map(String::as_str).collect();
                stems.dedup();
                let problem = Problem::at("y", format!("the stage has no metrics named `{}` and a number", plot.y));
                problems.push(problem.help(suggest(&plot.y, &stems)));
            }
            return problems;
        }
        plot::LABEL if stems(&compared.labels).is_empty() => {
            let message =
                "`label` is the number that a name ends with, as in `share_10`; none of the stage's names ends so";
            problems.push(Problem::at("x", message).help(format!("the names are {}", compared.labels.join(", "))));
        }
        plot::LABEL => {}
        x => problems.extend(number(compared, x).map(|problem| problem.within(&["x"]))),
    }
    problems.extend(number(compared, &plot.y).map(|problem| problem.within(&["y"])));
    problems
}
