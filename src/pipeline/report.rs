//! What a run did, stage by stage. The reports of a stage's units add up to the report of the stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::stages::Metrics;

/// What a run did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The pipeline file.
    pub pipeline: String,
    /// What every stage did, by id.
    pub stages: BTreeMap<String, StageReport>,
    /// Files that `write` stages made.
    pub outputs: Vec<String>,
    /// Why the run ended before its last stage, where it did: other shares of the units are not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// What one stage did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageReport {
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that went on, or that the stage used where it gives none on.
    pub rows_out: u64,
    /// Rows that stopped here, by reason.
    pub set_aside: BTreeMap<String, u64>,
    /// Where an earlier run did the stage, the seconds that this run took to find that out. All other numbers are then of
    /// the run that did it.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub reused: Option<f64>,
    /// Seconds that the stage was busy, model loading apart; of several devices their sum.
    pub seconds: f64,
    /// Seconds that models took to load.
    pub load_seconds: f64,
    /// Bytes written.
    pub bytes: u64,
    /// Numbers of its own.
    pub metrics: Metrics,
    /// What is probably wrong with its rows although nothing failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Reports by stage.
pub type Reports = BTreeMap<String, StageReport>;

impl StageReport {
    /// Adds what the same stage did elsewhere, as [`Self::add_metrics`] does.
    pub fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        for (reason, count) in &other.set_aside {
            *self.set_aside.entry(reason.clone()).or_default() += count;
        }
        self.seconds += other.seconds;
        self.load_seconds += other.load_seconds;
        self.bytes += other.bytes;
        for warning in &other.warnings {
            if !self.warnings.contains(warning) {
                self.warnings.push(warning.clone());
            }
        }
        self.add_metrics(&other.metrics);
    }

    /// Adds what the stage counted elsewhere: numbers add up; of others the first stays.
    pub fn add_metrics(&mut self, metrics: &Metrics) {
        for (name, value) in metrics {
            match self.metrics.get_mut(name) {
                Some(own) => *own = sum(own, value),
                None => drop(self.metrics.insert(name.clone(), value.clone())),
            }
        }
    }
}

/// Adds the reports of `more` to those of the same stages in `reports`.
pub fn add(reports: &mut Reports, more: &Reports) {
    for (stage, report) in more {
        reports.entry(stage.clone()).or_default().add(report);
    }
}

fn sum(a: &Value, b: &Value) -> Value {
    match (a.as_u64().zip(b.as_u64()), a.as_f64().zip(b.as_f64())) {
        (Some((a, b)), _) => json!(a + b),
        (None, Some((a, b))) => json!(a + b),
        (None, None) => a.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up_to_their_stage() {
        let unit = |rows: u64, metrics: Value| StageReport {
            rows_in: rows + 1,
            rows_out: rows,
            set_aside: [("empty answer".to_owned(), 1)].into(),
            metrics: metrics.as_object().unwrap().clone(),
            ..StageReport::default()
        };
        let mut whole = unit(3, json!({"tokens": 5, "example": "row 1"}));
        whole.add(&unit(4, json!({"tokens": 6, "example": "row 9", "seconds": 0.5})));
        let mut expected = unit(7, json!({"tokens": 11, "example": "row 1", "seconds": 0.5}));
        (expected.rows_in, expected.set_aside) = (9, [("empty answer".to_owned(), 2)].into());
        assert_eq!(whole, expected);
    }
}
