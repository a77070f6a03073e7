//! Stages that look at all rows once and end there: `evaluate`, `audit`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::Run;
use crate::error::Result;
use crate::model::{Precision, Scorer};
use crate::pipeline::plan::Node;
use crate::pipeline::report::{Reports, StageReport, add};
use crate::stages::Metrics;
use crate::stages::audit::{Audit, Seen};
use crate::stages::evaluate::answers::{Bench, Told};
use crate::stages::evaluate::pairs::Sums;
use crate::stages::evaluate::{Evaluate, Judge, Reward, win_rates};
use crate::stages::positions::Reads;
use crate::stages::score::distinct;

impl Run<'_> {
    pub(super) fn evaluate(&mut self, node: &Node, evaluate: &Evaluate) -> Result<()> {
        if self.recall(&node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let load =
            |name: &str| Scorer::load(&self.model(name)?, self.plan.device, Precision::F32, evaluate.batch_tokens);
        let first = evaluate.start.as_deref().map(load).transpose()?;
        let models: BTreeMap<&str, Scorer> =
            evaluate.models.iter().map(|(label, name)| Ok((label.as_str(), load(name)?))).collect::<Result<_>>()?;
        let judge = match &evaluate.judge {
            None => None,
            Some(Judge::Quickstart) => Some(Bench::Quickstart),
            Some(Judge::Reward(Reward { oracle, reference })) => {
                distinct(&self.model(oracle)?, &self.model(reference)?)?;
                Some(Bench::Reward(Box::new([load(oracle)?, load(reference)?])))
            }
        };
        let load_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut passed = Reports::new();
        let mut table: BTreeMap<&str, Metrics> = BTreeMap::new();
        if let (Some(input), Some(first)) = (&evaluate.input, &first) {
            let mut sums: BTreeMap<&str, Sums> = models.keys().map(|label| (*label, Sums::default())).collect();
            (_, passed) = self.each(input, node, Some(Reads::Pairs), &mut |batch| {
                sums.iter_mut().try_for_each(|(label, sums)| sums.add(&models[label], first, batch))
            })?;
            table.extend(sums.into_iter().map(|(label, sums)| (label, sums.metrics())));
        }
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        for (label, stage) in &evaluate.answers {
            let told = told.entry(label.clone()).or_default();
            let pair = models.get(label.as_str()).zip(first.as_ref()).map(|(own, first)| [own, first]);
            let mut add_rows = |batch: &_| told.add(batch, judge.as_ref(), pair);
            let (_, reports) = self.each(stage, node, Some(Reads::Answers), &mut add_rows)?;
            add(&mut passed, &reports);
            table.entry(label).or_default().extend(told.metrics());
        }
        let scores = told.iter().map(|(label, told)| (label.as_str(), told.scores())).collect();
        let rates = evaluate.against.as_ref().map(|against| win_rates(&scores, against));
        let mut rates = rates.transpose()?.unwrap_or_default();
        let metrics = table.into_iter().map(|(label, mut metrics)| {
            metrics.extend(rates.remove(label).map(|rate| ("win_rate".to_owned(), rate)));
            (label.to_owned(), Value::Object(metrics))
        });
        let (metrics, seconds) = (metrics.collect(), start.elapsed().as_secs_f64());
        let report = StageReport { seconds, load_seconds, metrics, ..StageReport::default() };
        let record = self.conclude(&node.id, report, passed);
        self.finish(&node.id, record)
    }

    pub(super) fn audit(&mut self, node: &Node, audit: &Audit) -> Result<()> {
        if self.recall(&node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let mut seen = Seen::default();
        let (rows_in, passed) = self.each(&audit.input, node, None, &mut |batch| seen.add(batch, &audit.spans))?;
        let seconds = start.elapsed().as_secs_f64();
        let (rows_out, metrics) = (rows_in, seen.metrics());
        let report = StageReport { rows_in, rows_out, seconds, metrics, ..StageReport::default() };
        let record = self.conclude(&node.id, report, passed);
        self.finish(&node.id, record)
    }
}
