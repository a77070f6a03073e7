//! Every number that the variants of a sweep reported: collected from their reports, kept in `numbers.parquet`, and read
//! from there again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::Value;

use super::{Outcome, Sweep};
use crate::error::{Error, Place, Result};
use crate::io::{Dataset, FileFormat, Location, Stores};

/// The file of all numbers.
pub(super) const FILE: &str = "numbers.parquet";

/// The table of what models took. It is no stage's name.
pub(super) const COSTS: &str = "costs by stage";

/// A number that a stage of a variant reported. `label` is the model or the side that it is about, or empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) values: Arc<BTreeMap<String, String>>,
    pub(super) stage: String,
    pub(super) label: String,
    pub(super) metric: String,
    pub(super) value: f64,
}

/// The numbers of all `outcomes`.
pub(super) fn of(outcomes: &[Outcome]) -> Vec<Measured> {
    let mut all = Vec::new();
    for Outcome { values, report } in outcomes {
        let values = Arc::new(values.clone());
        for (stage, report) in &report.stages {
            let mut put = |label: &str, metric: &str, value| {
                let [stage, label, metric] = [stage, label, metric].map(str::to_owned);
                all.push(Measured { values: values.clone(), stage, label, metric, value });
            };
            put("", "seconds", report.seconds);
            for (name, value) in report.metrics.iter().filter(|(name, _)| *name != "seconds") {
                match (value.as_f64(), value.as_object()) {
                    (Some(value), _) => put("", name, value),
                    (None, Some(several)) => {
                        // A rate with its interval counts as the rate.
                        let number = |value: &Value| value.as_f64().or_else(|| value.get("rate")?.as_f64());
                        let numbers = several.iter().filter_map(|(metric, value)| Some((metric, number(value)?)));
                        numbers.for_each(|(metric, value)| put(name, metric, value));
                    }
                    (None, None) => {}
                }
            }
        }
    }
    all
}

/// What the stages that run a model took, each as a label of one table.
pub(super) fn costs(measured: &[Measured]) -> Vec<Measured> {
    let whole = || measured.iter().filter(|m| m.label.is_empty());
    let with_model: BTreeSet<&str> = whole().filter(|m| m.metric == "gflop").map(|m| m.stage.as_str()).collect();
    let wanted =
        |m: &&Measured| with_model.contains(m.stage.as_str()) && ["seconds", "tokens", "gflop"].contains(&&*m.metric);
    let labelled = |m: &Measured| Measured { stage: COSTS.into(), label: m.stage.clone(), ..m.clone() };
    whole().filter(wanted).map(labelled).collect()
}

/// Keeps `measured` in `folder`, one row a number: the sweep's variables, `stage`, `label`, `metric`, `value`. Returns the
/// file.
pub(super) fn write(sweep: &Sweep, measured: &[Measured], file: &Location) -> Result<String> {
    let texts = |text: &dyn Fn(&Measured) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(measured.iter().map(text)))
    };
    let variables = sweep.over.keys().map(|name| (name.clone(), texts(&|m| m.values[name].clone())));
    let mut columns: Vec<(String, ArrayRef)> = variables.collect();
    columns.push(("stage".into(), texts(&|m| m.stage.clone())));
    columns.push(("label".into(), texts(&|m| m.label.clone())));
    columns.push(("metric".into(), texts(&|m| m.metric.clone())));
    columns.push(("value".into(), Arc::new(Float64Array::from_iter_values(measured.iter().map(|m| m.value)))));
    let batch = RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::file(file), error))?;
    let mut writer = FileFormat::Parquet.create(file, &batch.schema())?;
    writer.write(&batch)?;
    writer.finish()?;
    Ok(file.to_string())
}

/// The numbers that [`write`] kept in `folder`.
///
/// # Errors
/// No such file, or one of another sweep.
pub(super) fn read(sweep: &Sweep, folder: &Location) -> Result<Vec<Measured>> {
    let file = folder.join(FILE);
    let dataset = Dataset::open(&[file.to_string()], &Stores::default())?;
    let wrong = |error: arrow::error::ArrowError| Error::data(Place::file(&file), error);
    let mut measured = Vec::new();
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, 8192)? {
            let batch = chunk?.batch;
            let column = |name: &str, kind: &DataType| {
                let column = batch.column_by_name(name).ok_or_else(|| {
                    let message = "no such column: these are not the numbers of this sweep";
                    Error::data(Place { column: Some(name.to_owned()), ..Place::file(&file) }, message)
                })?;
                cast(column, kind).map_err(wrong)
            };
            let text = |name: &str| column(name, &DataType::Utf8);
            let [stages, labels, metrics] = [text("stage")?, text("label")?, text("metric")?];
            let numbers = column("value", &DataType::Float64)?;
            let variables: Vec<(&String, ArrayRef)> =
                sweep.over.keys().map(|name| Ok((name, text(name)?))).collect::<Result<_>>()?;
            for row in 0..batch.num_rows() {
                let at = |column: &dyn Array| column.as_string::<i32>().value(row).to_owned();
                let values = variables.iter().map(|(name, column)| ((*name).clone(), at(column))).collect();
                measured.push(Measured {
                    values: Arc::new(values),
                    stage: at(&stages),
                    label: at(&labels),
                    metric: at(&metrics),
                    value: numbers.as_primitive::<Float64Type>().value(row),
                });
            }
        }
    }
    Ok(measured)
}
