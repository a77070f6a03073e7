//! `sweep` — a pipeline run once for every combination of some variables' values, with tables over all of them.
//!
//! Variants share one workdir. What is kept there carries its fingerprint in its name, so that a stage that does not
//! depend on a variable is done once, for all variants.

mod check;
mod compare;
mod numbers;
mod plot;
mod statistics;
mod table;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use compare::Compare;
pub use plot::Plot;

use self::numbers::Measured;
use super::order::natural;
use super::plan::warn;
use super::planned::Mistakes;
use super::run::{self, Options};
use super::sources::Sources;
use super::{Plan, Planned, Report, Spec, places};
use crate::error::{Error, Problem, Result};
use crate::io::Location;
use crate::monitor::Monitor;

/// Most combinations of values, and bytes of all variants' files together: each of them is parsed and kept.
const VARIANTS: usize = 10_000;
const BYTES: usize = 64 << 20;

/// Runs the pipeline once for every combination of values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Variables of the file and the values that each of them takes. A variable that is given by `--var` keeps that
    /// one value.
    #[schemars(extend("examples" = [{"share": [0.1, 0.3], "seed": [1, 2, 3]}]))]
    pub over: BTreeMap<String, Vec<Value>>,
    /// Variable, usually a seed, over which tables report the mean and a 95 % interval (Student's t).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["seed"]))]
    pub repeats: Option<String>,
    /// Selects the value of a variable, usually a learning rate, for each row of a table. Tables show all values and
    /// mark the selected one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"variable": "rate", "stage": "validation", "metric": "accuracy"}]))]
    pub choose: Option<Choose>,
    /// Paired differences over the repeats, with 95 % intervals (Student's t) and p-values with Holm's correction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [[{"stage": "report", "against": "sepo", "metrics": ["accuracy"]}]]))]
    pub compare: Vec<Compare>,
    /// Plots by name, written beside the tables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("examples" = [{"curve": {"stage": "report", "x": "share", "y": "accuracy"}}]))]
    pub plots: BTreeMap<String, Plot>,
}

/// Selection by the one-standard-error rule: the first value in the list of `over` whose mean is at most one standard
/// error below the best mean. List the preferred values first, usually the lowest learning rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Choose {
    /// The variable.
    #[schemars(extend("examples" = ["rate"]))]
    pub variable: String,
    /// `evaluate` stage that decides. Its rows should not be used for results that are reported.
    #[schemars(extend("examples" = ["validation"]))]
    pub stage: String,
    /// Metric to maximise, averaged over the repeats.
    #[schemars(extend("examples" = ["accuracy"]))]
    pub metric: String,
}

/// One combination of values.
#[derive(Debug, Clone)]
pub struct Variant {
    /// The variables of the sweep and their values here.
    pub values: BTreeMap<String, String>,
    /// The pipeline with these values.
    pub spec: Spec,
}

/// What became of a variant.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The variables of the sweep and their values.
    pub values: BTreeMap<String, String>,
    /// What its run did.
    pub report: Report,
}

/// What became of all variants.
#[derive(Debug, Serialize)]
pub struct Outcomes {
    /// By variant.
    pub variants: Vec<Outcome>,
    /// Files with tables.
    pub tables: Vec<String>,
    /// The tables for people.
    #[serde(skip)]
    pub text: String,
}

/// The variants of the pipeline `spec`, which was parsed from `text` with `vars`; none if it has no sweep.
///
/// # Errors
/// Every mistake in the file.
pub fn variants(spec: &Spec, text: &str, vars: &[(String, String)]) -> Result<Vec<Variant>> {
    let Some(sweep) = &spec.file.sweep else { return Ok(Vec::new()) };
    let problems = [check::problems(sweep, spec), sweep.too_many(text, vars)].concat();
    if !problems.is_empty() {
        return Err(spec.report(problems));
    }
    let mut combinations: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for (variable, values) in &sweep.over {
        let given = vars.iter().rev().find(|(name, _)| name == variable);
        let values: Vec<String> = given.map_or_else(|| values.iter().map(text_of).collect(), |(_, v)| vec![v.clone()]);
        combinations = combinations
            .into_iter()
            .flat_map(|first| {
                values.iter().map(move |value| [&first[..], &[(variable.clone(), value.clone())]].concat())
            })
            .collect();
    }
    let variant = |values: Vec<(String, String)>| {
        let spec = Spec::parse(text, spec.name(), &[vars, &values].concat())?;
        Ok(Variant { values: values.into_iter().collect(), spec })
    };
    combinations.into_iter().map(variant).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Sweep {
    /// More combinations than there may be in a file with this `text`, where `vars` are given one value each.
    fn too_many(&self, text: &str, vars: &[(String, String)]) -> Vec<Problem> {
        let given = |name: &String| vars.iter().any(|(given, _)| given == name);
        let counts = self.over.iter().map(|(name, values)| if given(name) { 1 } else { values.len() });
        let variants = counts.fold(1, usize::saturating_mul);
        let most = VARIANTS.min(BYTES / text.len().max(1));
        if variants <= most {
            return Vec::new();
        }
        let of = format!("a file of {} bytes", text.len());
        let message = format!("{variants} combinations of values; the most for {of} is {most}");
        vec![Problem::at("over", message).within(&["sweep"])]
    }
}

/// Plans every variant, so that all mistakes come to light before a row is read.
///
/// # Errors
/// As [`Plan::watched`]; and variants that do not share a workdir.
pub fn plans(variants: &[Variant], sources: &mut Sources, monitor: &dyn Monitor) -> Result<Vec<Plan>> {
    let mut mistakes = Mistakes::default();
    let mut plans = Vec::new();
    for Variant { spec, .. } in variants {
        if let Some(mut plan) = mistakes.of(Plan::watched(spec, sources, monitor))? {
            plan.shared = true;
            plans.push(plan);
        }
    }
    if let Some(first) = variants.first() {
        mistakes.none(first.spec.name())?;
    }
    if plans.windows(2).any(|pair| pair[0].workdir != pair[1].workdir) {
        let message = "the variants of a sweep share one workdir, so `workdir` must not use its variables";
        return Err(variants[0].spec.report(vec![Problem::at("workdir", message)]));
    }
    let clashes = places::clashes(&plans)?;
    if let Some(first) = variants.first().filter(|_| !clashes.is_empty()) {
        return Err(first.spec.report(clashes));
    }
    Ok(plans)
}

/// Runs the variants of `planned`, one after the other, and tabulates what they measured in `tables/NAME` of the workdir, where NAME is that
/// of the pipeline's file.
///
/// # Errors
/// As [`run::run`]; a plot or table of numbers that no variant measured.
pub fn run(planned: &Planned, options: &Options, monitor: &dyn Monitor) -> Result<Outcomes> {
    let Planned { name, variants, plans } = planned;
    warn(plans);
    let mut outcomes = Vec::new();
    for (index, (variant, plan)) in variants.iter().zip(plans).enumerate() {
        let options = Options { fresh: options.fresh && index == 0, ..options.clone() };
        let report = run::run(plan, name, &options, monitor)?;
        outcomes.push(Outcome { values: variant.values.clone(), report });
    }
    let first = plans.first().ok_or_else(|| Error::stage("sweep", "there are no variants"))?;
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    let sweep = variants[0].spec.file.sweep.as_ref().expect("variants come from a sweep");
    let mut folder = run::tables(first, name, &stem)?;
    let measured = numbers::of(&outcomes);
    let numbers = numbers::write(sweep, &measured, &folder.expect(numbers::FILE)?)?;
    let (text, tables) = tabulate(sweep, measured, &mut |name| folder.expect(name))?;
    Ok(Outcomes { variants: outcomes, tables: [vec![numbers], tables].concat(), text })
}

/// Makes the tables and plots of the pipeline `spec` again, from the numbers that a run left in `folder`. Returns the tables
/// for people.
///
/// # Errors
/// A pipeline without a sweep; no `numbers.parquet`, or that of another sweep; a plot of numbers that are not there; without
/// `overwrite`, a file that is there already.
pub fn again(spec: &Spec, folder: &Location, overwrite: bool) -> Result<String> {
    let Some(sweep) = &spec.file.sweep else {
        return Err(Error::stage("tables", format!("{} has no sweep", spec.name())));
    };
    let problems = check::problems(sweep, spec);
    if !problems.is_empty() {
        return Err(spec.report(problems));
    }
    let mut place = |name: &str| {
        let file = folder.join(name);
        if file.exists()? && !overwrite {
            return Err(Error::stage("tables", format!("{file} exists already; --overwrite replaces it")));
        }
        Ok(file)
    };
    tabulate(sweep, numbers::read(sweep, folder)?, &mut place).map(|(text, _)| text)
}

/// Writes tables and plots into files that `place` gives by their names; returns the tables' text, and the paths of all files.
fn tabulate(
    sweep: &Sweep,
    mut measured: Vec<Measured>,
    place: &mut dyn FnMut(&str) -> Result<Location>,
) -> Result<(String, Vec<String>)> {
    measured.extend(numbers::costs(&measured));
    let stages: BTreeSet<&str> = measured.iter().filter(|m| !m.label.is_empty()).map(|m| m.stage.as_str()).collect();
    let mut stages: Vec<&str> = stages.into_iter().collect();
    stages.sort_by(|a, b| natural(a, b));
    let section = |stage: &&str| {
        let compared = sweep.compare.iter().filter(|compare| compare.stage == *stage);
        let compared: String = compared.map(|compare| compare.text(sweep, &measured)).collect();
        table::table(sweep, &measured, stage) + &compared
    };
    let text = stages.iter().map(section).collect::<Vec<_>>().join("\n");
    let file = place("tables.md")?;
    file.write(text.clone())?;
    let mut files = vec![file.to_string()];
    for (name, plot) in &sweep.plots {
        let lines = table::lines(sweep, &measured, &plot.stage);
        let drawn = plot.svg(&lines);
        let svg = drawn.map_err(|message| Error::stage("sweep", format!("plot `{name}`: {message}")))?;
        let file = place(&format!("{name}.svg"))?;
        file.write(svg)?;
        files.push(file.to_string());
    }
    Ok((text, files))
}
