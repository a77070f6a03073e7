//! Rows through stages: one pass over a flow, unit by unit, into parts or into whoever looks at them.

use std::time::Instant;

use arrow::array::RecordBatch;

use super::record::Record;
use super::{Progress, Run, Share};
use crate::error::{Error, Result};
use crate::io::{Dataset, FileFormat, Location};
use crate::model::Tokenizer;
use crate::pipeline::flow::{Flow, Passed, Station};
use crate::pipeline::plan::Node;
use crate::pipeline::report::{Reports, add};
use crate::stages::Stage;

impl Run<'_> {
    /// The rows of stage `id`, and the transforms that they still have to pass, in order.
    pub(super) fn flow(&self, id: &str) -> Result<(Flow, Vec<Station>)> {
        let node = self.plan.node(id).expect("the plan resolved the name");
        match &node.stage {
            Stage::Read(_) => Ok((Flow::source(node)?, Vec::new())),
            Stage::Select(select) => {
                let (mut flow, stations) = self.flow(&select.input)?;
                flow.selects.push((id.to_owned(), select.clone()));
                Ok((flow, stations))
            }
            Stage::Tokenize(tokenize) if self.joins_its_consumer(id) => {
                let (flow, mut stations) = self.flow(&tokenize.input)?;
                stations.push(self.station(node)?);
                Ok((flow, stations))
            }
            _ => Ok((self.parts(node)?, Vec::new())),
        }
    }

    fn station(&self, node: &Node) -> Result<Station> {
        let work = match &node.stage {
            Stage::Tokenize(tokenize) => tokenize.open(Tokenizer::load(&self.plan.tokenizer(&tokenize.tokenizer))?)?,
            Stage::Score(score) => {
                let oracle = score.oracle.as_deref().map(|oracle| self.model(oracle)).transpose()?;
                score.open(oracle.as_ref(), &self.model(&score.reference)?, self.plan.device)?
            }
            Stage::Generate(generate) => {
                let tokenizer = self.plan.tokenizer_of(generate).map(|folder| Tokenizer::load(&folder)).transpose()?;
                generate.open(&self.model(&generate.model)?, tokenizer, self.plan.device)?
            }
            other => return Err(Error::stage(&node.id, format!("`{}` makes no rows", other.name()))),
        };
        Ok(Station::new(&node.id, work))
    }

    /// The rows that a stage materialised.
    fn parts(&self, node: &Node) -> Result<Flow> {
        let folder = self.folder("data", node);
        let gone = || Error::stage(&node.id, "its rows are gone; run the pipeline again");
        let record = self.finished(&folder.join("manifest.json"), &node.id)?.ok_or_else(gone)?;
        Ok(Flow::whole(Dataset::of(record.parts.iter().map(|part| folder.join(part)).collect())?))
    }

    /// Runs the rows of `node` into parts, one for each unit that is not there yet.
    pub(super) fn materialise(&mut self, node: &Node) -> Result<Progress> {
        let data = self.folder("data", node);
        let manifest = data.join("manifest.json");
        if let Some(record) = self.finished(&manifest, &node.id)? {
            self.remember(record);
            return Ok(Progress::Done);
        }
        let (flow, mut stations) = self.flow(node.stage.inputs()[0].1)?;
        let mut all = flow.stations();
        all.append(&mut stations);
        let start = Instant::now();
        all.push(self.station(node)?);
        let load_seconds = start.elapsed().as_secs_f64();

        let mut reports = Reports::new();
        let mut waiting = 0;
        let names: Vec<String> = (0..flow.units.len()).map(|index| format!("part-{index:05}")).collect();
        self.monitor.begin(&node.id, Some(flow.rows), "rows");
        for (index, name) in names.iter().enumerate() {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let (part, note) = (data.join(&format!("{name}.parquet")), data.join(&format!("{name}.json")));
            // A note is written after its part; only somebody else could have taken the part away.
            let there = note.read()?.map(|note| Ok(part.is_file()?.then_some(note))).transpose()?.flatten();
            let counted = match there {
                Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::model(&note, error))?,
                None if !Share::holds(self.share, index) => {
                    waiting += 1;
                    continue;
                }
                None => {
                    let passed = self.unit(&flow, index, node, &mut all, &part)?;
                    self.set_aside(node, index, &passed)?;
                    note.write(serde_json::to_vec(&passed.reports).expect("counts are plain data"))?;
                    passed.reports
                }
            };
            add(&mut reports, &counted);
        }
        self.monitor.end();
        conclude(&mut reports, &all)?;
        reports.entry(node.id.clone()).or_default().load_seconds = load_seconds;
        let parts = names.iter().map(|name| format!("{name}.parquet")).collect();
        let record = Record { fingerprint: self.prints[&node.id].clone(), reports, outputs: Vec::new(), parts };
        if waiting == 0 {
            // Whoever was faster wrote the same.
            manifest.create(record.to_json())?;
        }
        self.remember(record);
        Ok(match waiting {
            0 => Progress::Done,
            _ => Progress::Waiting(format!(
                "stage `{}`: {waiting} of {} units belong to other shares and are not there yet; the share that ends \
                 last goes on, or run again without --units",
                node.id,
                names.len()
            )),
        })
    }

    /// One unit's rows into one part.
    fn unit(
        &self,
        flow: &Flow,
        index: usize,
        node: &Node,
        stations: &mut [Station],
        part: &Location,
    ) -> Result<Passed> {
        let mut writer = None;
        let mut passed = flow.run(index, stations, &mut |batch| {
            if writer.is_none() {
                writer = Some(FileFormat::Parquet.create(part, &batch.schema())?);
            }
            self.monitor.advance(batch.num_rows() as u64, "");
            writer.as_mut().expect("created just above").write(&batch)?;
            Ok(!self.monitor.stopping())
        })?;
        if self.monitor.stopping() {
            return Err(Error::Interrupted);
        }
        let written = match writer {
            Some(writer) => writer.finish()?,
            None => FileFormat::Parquet.create(part, &node.columns)?.finish()?,
        };
        passed.reports.entry(node.id.clone()).or_default().bytes = written;
        Ok(passed)
    }

    /// Keeps the rows of a unit that were set aside on their way to `node`.
    pub(super) fn set_aside(&self, node: &Node, index: usize, passed: &Passed) -> Result<()> {
        passed.write_rejects(&self.folder("rejects", node).join(&format!("part-{index:05}.parquet")))
    }

    /// Hands all rows of stage `input` to `take`; returns their number and what the stages on the way did.
    pub(super) fn each(
        &self,
        input: &str,
        node: &Node,
        take: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<(u64, Reports)> {
        let (flow, mut stations) = self.flow(input)?;
        let mut all = flow.stations();
        all.append(&mut stations);
        let mut reports = Reports::new();
        let mut rows = 0;
        self.monitor.begin(&node.id, Some(flow.rows), "rows");
        for index in 0..flow.units.len() {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let passed = flow.run(index, &mut all, &mut |batch| {
                take(&batch)?;
                rows += batch.num_rows() as u64;
                self.monitor.advance(batch.num_rows() as u64, "");
                Ok(true)
            })?;
            self.set_aside(node, index, &passed)?;
            add(&mut reports, &passed.reports);
        }
        self.monitor.end();
        conclude(&mut reports, &all)?;
        Ok((rows, reports))
    }
}

/// Turns the stages' sums into what they report.
pub(super) fn conclude(reports: &mut Reports, stations: &[Station]) -> Result<()> {
    for station in stations {
        if let Some(report) = reports.get_mut(&station.id) {
            let sums = std::mem::take(&mut report.metrics);
            report.metrics = station.work.conclude(sums).map_err(|error| error.in_stage(&station.id))?;
        }
    }
    Ok(())
}
