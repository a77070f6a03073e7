//! Stages that look at all rows once and end there: `write`, `evaluate`, `audit`.

use std::time::Instant;

use serde_json::Value;

use super::Run;
use crate::error::Result;
use crate::model::{Precision, Scorer};
use crate::pipeline::plan::Node;
use crate::pipeline::report::StageReport;
use crate::stages::audit::{Audit, Seen};
use crate::stages::evaluate::{Evaluate, Sums};
use crate::stages::write::{Shards, Write};

impl Run<'_> {
    pub(super) fn write(&mut self, node: &Node, write: &Write) -> Result<()> {
        if let Some(found) = self.finished(&self.record_of(&node.id), &node.id)? {
            let there = |file: &String| self.plan.stores.locate(file).and_then(|file| file.is_file()).unwrap_or(false);
            if found.outputs.iter().all(there) {
                self.remember(found);
                return Ok(());
            }
        }
        let start = Instant::now();
        let mut shards = Shards::create(write, self.plan.stores.locate(&write.to)?);
        let (rows, passed) = self.each(&write.input, node, &mut |batch| shards.write(batch))?;
        let (outputs, bytes) = shards.finish(&node.columns)?;
        let seconds = start.elapsed().as_secs_f64();
        let report = StageReport { rows_in: rows, rows_out: rows, seconds, bytes, ..StageReport::default() };
        self.finish(&node.id, report, passed, outputs)
    }

    pub(super) fn evaluate(&mut self, node: &Node, evaluate: &Evaluate) -> Result<()> {
        if self.recall(&node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let load =
            |name: &str| Scorer::load(&self.model(name)?, self.plan.device, Precision::F32, evaluate.batch_tokens);
        let first = load(&evaluate.start)?;
        let models: Vec<(&String, Scorer)> =
            evaluate.models.iter().map(|(label, name)| Ok((label, load(name)?))).collect::<Result<_>>()?;
        let load_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut sums: Vec<Sums> = models.iter().map(|_| Sums::default()).collect();
        let (rows_in, passed) = self.each(&evaluate.input, node, &mut |batch| {
            models.iter().zip(&mut sums).try_for_each(|((_, model), sums)| sums.add(model, &first, batch))
        })?;
        let metrics = models.iter().zip(&sums);
        let metrics = metrics.map(|((label, _), sums)| ((*label).clone(), Value::Object(sums.metrics()))).collect();
        let seconds = start.elapsed().as_secs_f64();
        let report = StageReport { rows_in, seconds, load_seconds, metrics, ..StageReport::default() };
        self.finish(&node.id, report, passed, Vec::new())
    }

    pub(super) fn audit(&mut self, node: &Node, audit: &Audit) -> Result<()> {
        if self.recall(&node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let mut seen = Seen::default();
        let (rows_in, passed) = self.each(&audit.input, node, &mut |batch| seen.add(batch, &audit.spans))?;
        let seconds = start.elapsed().as_secs_f64();
        let report = StageReport { rows_in, seconds, metrics: seen.metrics(), ..StageReport::default() };
        self.finish(&node.id, report, passed, Vec::new())
    }
}
