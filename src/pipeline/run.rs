//! Runs a plan: every stage whose result is not there yet, in order.
//!
//! ```text
//! workdir/data/<id>-<fingerprint>/part-*.parquet, manifest.json   rows of `tokenize` and `score`
//! workdir/rejects/<id>-<fingerprint>/part-*.parquet               rows set aside on the way there
//! workdir/models/<id>/                                            what `train` made, and metrics beside it
//! workdir/results/<id>.json                                       what any other stage said
//! ```
//!
//! A fingerprint covers a stage's settings and everything before it. A part appears whole, so whoever finds one skips it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::flow::{Flow, Passed, Station, Tally};
use super::plan::{Node, Plan};
use crate::columns::provenance::Provenance;
use crate::error::{Error, Result};
use crate::io::{Dataset, FileFormat, Location};
use crate::model::{CausalLm, ModelSource, Scorer, Tokenizer, folder};
use crate::monitor::Monitor;
use crate::stages::audit::{Audit, Seen};
use crate::stages::evaluate::{Evaluate, Sums};
use crate::stages::train::Train;
use crate::stages::write::{Shards, Write};
use crate::stages::{Metrics, Stage};
use crate::train::example::Wanted;
use crate::train::log::Log;
use crate::train::{Example, Feed, stream};

/// What a run may be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Forget what earlier runs left.
    pub fresh: bool,
    /// Run this stage, and what it needs.
    pub only: Option<String>,
}

/// What one stage did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StageReport {
    /// Rows in, rows out, rows set aside by reason.
    #[serde(flatten)]
    pub tally: Tally,
    /// Seconds that the stage was busy, model loading apart.
    pub seconds: f64,
    /// Seconds that models took to load.
    pub load_seconds: f64,
    /// Bytes written.
    pub bytes: u64,
    /// Numbers of its own.
    pub metrics: Metrics,
}

/// What a run did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The pipeline file.
    pub pipeline: String,
    /// What every stage did, by id.
    pub stages: BTreeMap<String, StageReport>,
    /// Files that `write` stages made.
    pub outputs: Vec<String>,
}

/// A finished stage, as the workdir remembers it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    fingerprint: String,
    reports: BTreeMap<String, StageReport>,
    #[serde(default)]
    outputs: Vec<String>,
    #[serde(default)]
    parts: Vec<String>,
}

/// What is known of a finished part, beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    tallies: BTreeMap<String, Tally>,
    /// What stages noted for themselves.
    stages: BTreeMap<String, Value>,
}

impl Note {
    fn of(tallies: BTreeMap<String, Tally>, stations: &mut [Station]) -> Self {
        let stages = stations.iter_mut().filter_map(|station| Some((station.id.clone(), station.work.note()?)));
        Self { tallies, stages: stages.collect() }
    }

    fn tell(&self, station: &mut Station) {
        if let Some(note) = self.stages.get(&station.id) {
            station.work.recall(note);
        }
    }
}

/// Runs `plan`.
pub fn run(plan: &Plan, name: &str, options: &Options, monitor: &dyn Monitor) -> Result<Report> {
    let workdir = Location::parse(&plan.workdir)?;
    if options.fresh {
        for kept in ["data", "rejects", "models", "results"] {
            workdir.join(kept).delete_all()?;
        }
    }
    let report = Report { pipeline: name.to_owned(), ..Report::default() };
    let mut run = Run { plan, workdir, monitor, report, prints: BTreeMap::new() };
    let needed = needed(plan, options)?;
    for node in plan.nodes.iter().filter(|node| needed.contains(&node.id)) {
        if monitor.stopping() {
            return Err(Error::Interrupted);
        }
        let print = run.fingerprint(node)?;
        run.prints.insert(node.id.clone(), print);
        run.stage(node).map_err(|error| error.in_stage(&node.id))?;
    }
    Ok(run.report)
}

fn needed(plan: &Plan, options: &Options) -> Result<Vec<String>> {
    let Some(only) = &options.only else { return Ok(plan.nodes.iter().map(|node| node.id.clone()).collect()) };
    if plan.node(only).is_none() {
        let ids: Vec<&str> = plan.nodes.iter().map(|node| node.id.as_str()).collect();
        return Err(Error::stage(only, format!("no such stage; there are {}", ids.join(", "))));
    }
    let mut needed = vec![only.clone()];
    let mut at = 0;
    while let Some(node) = needed.get(at).and_then(|id| plan.node(id)) {
        let uses = node.stage.inputs().into_iter().chain(node.stage.models()).map(|(_, name)| name.to_owned());
        let more: Vec<String> = uses.filter(|name| plan.node(name).is_some() && !needed.contains(name)).collect();
        needed.extend(more);
        at += 1;
    }
    Ok(needed)
}

struct Run<'a> {
    plan: &'a Plan,
    workdir: Location,
    monitor: &'a dyn Monitor,
    report: Report,
    prints: BTreeMap<String, String>,
}

impl Run<'_> {
    /// Digest of the stage's settings and of everything that it uses.
    fn fingerprint(&self, node: &Node) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let settings = serde_json::to_string(&node.stage).expect("settings are plain data");
        hasher.update(env!("CARGO_PKG_VERSION").as_bytes()).update(settings.as_bytes());
        hasher.update(&self.plan.seed.to_le_bytes());
        if let Some(dataset) = &node.dataset {
            hasher.update(dataset.fingerprint()?.as_bytes());
        }
        if let Stage::Tokenize(tokenize) = &node.stage {
            let tokenizer = Tokenizer::load(&self.plan.tokenizer(&tokenize.tokenizer))?;
            hasher.update(tokenizer.digest()?.as_bytes());
            hasher.update(tokenizer.template_digest().unwrap_or_default().as_bytes());
        }
        for (_, name) in node.stage.inputs().into_iter().chain(node.stage.models()) {
            let print = match (self.prints.get(name), self.plan.source(name)) {
                (Some(print), _) => print.clone(),
                (None, Some(source)) => source.digest()?,
                (None, None) => String::new(),
            };
            hasher.update(print.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn stage(&mut self, node: &Node) -> Result<()> {
        match &node.stage {
            Stage::Read(_) | Stage::Select(_) => Ok(()),
            Stage::Tokenize(_) if self.joins_its_consumer(&node.id) => Ok(()),
            Stage::Tokenize(_) | Stage::Score(_) => self.materialise(node),
            Stage::Train(train) => self.train(node, train),
            Stage::Write(write) => self.write(node, write),
            Stage::Evaluate(evaluate) => self.evaluate(node, evaluate),
            Stage::Audit(audit) => self.audit(node, audit),
        }
    }

    /// A `tokenize` stage whose rows go into one `score` stage and nowhere else runs in the same pass.
    fn joins_its_consumer(&self, id: &str) -> bool {
        let mut consumers = self.plan.consumers(id);
        let joins = consumers.next().is_some_and(|node| matches!(node.stage, Stage::Score(_)));
        joins && consumers.next().is_none()
    }

    /// The rows of stage `id`, and the transforms that they still have to pass, in order.
    fn flow(&self, id: &str) -> Result<(Flow, Vec<Station>)> {
        let node = self.plan.node(id).expect("the plan resolved the name");
        match &node.stage {
            Stage::Read(read) => {
                let dataset = node.dataset.clone().expect("the plan opened the source");
                let reader = read.open(dataset.schema())?;
                Ok((Flow::source(id, dataset, reader, read.limit)?, Vec::new()))
            }
            Stage::Select(select) => {
                let (mut flow, stations) = self.flow(&select.input)?;
                flow.selects.push((id.to_owned(), select.clone()));
                Ok((flow, stations))
            }
            Stage::Tokenize(tokenize) if self.joins_its_consumer(id) => {
                let (flow, mut stations) = self.flow(&tokenize.input)?;
                let tokenizer = Tokenizer::load(&self.plan.tokenizer(&tokenize.tokenizer))?;
                stations.push(Station::new(id, tokenize.open(tokenizer)?));
                Ok((flow, stations))
            }
            _ => Ok((self.parts(node)?, Vec::new())),
        }
    }

    fn folder(&self, kind: &str, node: &Node) -> Location {
        let print = &self.prints[&node.id][..16];
        self.workdir.join(&format!("{kind}/{}-{print}", node.id))
    }

    /// The rows that a stage materialised.
    fn parts(&self, node: &Node) -> Result<Flow> {
        let manifest = self.folder("data", node).join("manifest.json");
        let record: Record = match manifest.read()? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::model(&manifest, error))?,
            None => return Err(Error::stage(&node.id, "its rows are gone; run the pipeline again")),
        };
        let parts: Vec<String> =
            record.parts.iter().map(|part| self.folder("data", node).join(part).to_string()).collect();
        let dataset = Dataset::open(&parts)?;
        let units = dataset.units().into_iter().map(|unit| (unit, u64::MAX)).collect();
        Ok(Flow { rows: dataset.rows(), dataset, reader: None, units, selects: Vec::new() })
    }

    fn materialise(&mut self, node: &Node) -> Result<()> {
        let data = self.folder("data", node);
        let manifest = data.join("manifest.json");
        if let Some(record) = self.finished(&manifest, &self.prints[&node.id])? {
            self.remember(record);
            return Ok(());
        }
        let input = node.stage.inputs()[0].1;
        let (flow, mut stations) = self.flow(input)?;
        let mut all = flow.stations();
        all.append(&mut stations);
        let start = Instant::now();
        all.push(self.station(node)?);
        let load_seconds = start.elapsed().as_secs_f64();

        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        let (mut parts, mut bytes) = (Vec::new(), 0);
        self.monitor.begin(&node.id, Some(flow.rows), "rows");
        for index in 0..flow.units.len() {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let name = format!("part-{index:05}.parquet");
            let (part, note) = (data.join(&name), data.join(&format!("part-{index:05}.json")));
            let known = note.read()?.filter(|_| part.exists().unwrap_or(false));
            let known: Option<Note> = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let counted = match known {
                Some(known) => {
                    all.iter_mut().for_each(|station| known.tell(station));
                    known
                }
                None => {
                    let (passed, written) = self.unit(&flow, index, &mut all, &part)?;
                    bytes += written;
                    self.set_aside(node, &name, &passed)?;
                    let made = Note::of(passed.tallies, &mut all);
                    note.write(serde_json::to_vec(&made).expect("counts are plain data"))?;
                    made
                }
            };
            for (stage, tally) in &counted.tallies {
                tallies.entry(stage.clone()).or_default().add(tally);
            }
            parts.push(name);
        }
        self.monitor.end();
        for station in &all {
            station.work.finish().map_err(|error| error.in_stage(&station.id))?;
        }
        let mut reports = reports(tallies, &all);
        let report = reports.entry(node.id.clone()).or_default();
        (report.load_seconds, report.bytes) = (load_seconds, bytes);
        let record = Record { fingerprint: self.prints[&node.id].clone(), reports, outputs: Vec::new(), parts };
        // Whoever was faster wrote the same.
        manifest.create(serde_json::to_vec_pretty(&record).expect("a record is plain data"))?;
        self.remember(record);
        Ok(())
    }

    /// Keeps the rows of a unit that were set aside.
    fn set_aside(&self, node: &Node, part: &str, passed: &Passed) -> Result<()> {
        if passed.rejects.is_empty() {
            return Ok(());
        }
        let rows = passed.rejected_rows()?;
        let mut writer = FileFormat::Parquet.create(&self.folder("rejects", node).join(part), &rows.schema())?;
        writer.write(&rows)?;
        writer.finish().map(drop)
    }

    /// One unit's rows into one part.
    fn unit(&self, flow: &Flow, index: usize, stations: &mut [Station], part: &Location) -> Result<(Passed, u64)> {
        let mut writer = None;
        let passed = flow.run(index, stations, &mut |batch| {
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
            None => {
                let last = stations.last().expect("a materialised stage is a station");
                let node = self.plan.node(&last.id).expect("stations are stages");
                FileFormat::Parquet.create(part, &node.columns)?.finish()?
            }
        };
        Ok((passed, written))
    }

    fn station(&self, node: &Node) -> Result<Station> {
        let work = match &node.stage {
            Stage::Tokenize(tokenize) => tokenize.open(Tokenizer::load(&self.plan.tokenizer(&tokenize.tokenizer))?)?,
            Stage::Score(score) => {
                let oracle = score.oracle.as_deref().map(|oracle| self.model(oracle)).transpose()?;
                score.open(oracle.as_ref(), &self.model(&score.reference)?, self.plan.device)?
            }
            other => return Err(Error::stage(&node.id, format!("`{}` makes no rows", other.name()))),
        };
        Ok(Station::new(&node.id, work))
    }

    /// The model `name`: one of the file's, or what a `train` stage made.
    fn model(&self, name: &str) -> Result<ModelSource> {
        match self.plan.source(name) {
            Some(source) => Ok(source),
            None => Ok(ModelSource::folder(name, self.model_folder(name)?)),
        }
    }

    fn model_folder(&self, id: &str) -> Result<PathBuf> {
        let folder = self.workdir.join(&format!("models/{id}"));
        let local = folder.local().map(PathBuf::from);
        local.ok_or_else(|| Error::model(&folder, "models are kept in local folders; set `workdir` to one"))
    }

    fn train(&mut self, node: &Node, train: &Train) -> Result<()> {
        let folder = self.model_folder(&node.id)?;
        let record = self.workdir.join(&format!("results/{}.json", node.id));
        if folder.join("config.json").is_file() && self.skip(&record, &node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let source = self.model(&train.model)?;
        let device = self.plan.device.open()?.autodiff();
        let model = CausalLm::load(&source, &device)?;
        let load_seconds = start.elapsed().as_secs_f64();
        let input = self.flow(&train.input)?.0;
        let rows = input.rows;
        if train.objective.needs_reference() {
            self.refuse_another_reference(node, &input, train.reference.as_ref().unwrap_or(&train.model))?;
        }
        let held_out = match &train.eval {
            None => None,
            Some(eval) => {
                let columns = &self.plan.node(&eval.input).expect("the plan resolved the name").columns;
                Some((Arc::new(self.flow(&eval.input)?.0), train.wanted(columns)))
            }
        };
        let feed =
            Rows { input: Arc::new(input), wanted: train.wanted(&node.columns), held_out, train, seed: self.plan.seed };
        let log = self.workdir.join(&format!("logs/{}", node.id));
        let mut log = Log::create(log.local().unwrap_or(&folder))?;
        let start = Instant::now();
        let settings = train.settings();
        let (model, metrics) = crate::train::train(model, &node.id, &device, &settings, &feed, &mut log, self.monitor)?;
        let seconds = start.elapsed().as_secs_f64();
        folder::save(&model, &source, &folder)?;
        let tally = Tally { rows_in: rows, rows_out: 0, ..Tally::default() };
        let report = StageReport { tally, seconds, load_seconds, metrics, ..StageReport::default() };
        self.finish(&record, &node.id, report, BTreeMap::new(), Vec::new())
    }

    /// The reference's log-probabilities in the rows must be those of the reference that the stage names.
    fn refuse_another_reference(&self, node: &Node, input: &Flow, reference: &str) -> Result<()> {
        let own = self.model(reference)?.digest()?;
        match Provenance::of(input.dataset.schema()).reference {
            Some(found) if found != own => {
                let short = |digest: &str| digest.chars().take(12).collect::<String>();
                let (found, own) = (short(&found), short(&own));
                let message = format!(
                    "the `ref_logps` columns were computed with another model ({found}…) than `{reference}` ({own}…); \
                     name that one as `reference`, or score the rows again"
                );
                Err(Error::stage(&node.id, message))
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, node: &Node, write: &Write) -> Result<()> {
        let record = self.workdir.join(&format!("results/{}.json", node.id));
        if let Some(found) = self.finished(&record, &self.prints[&node.id])? {
            let whole =
                found.outputs.iter().all(|file| Location::parse(file).and_then(|f| f.exists()).unwrap_or(false));
            if whole {
                self.remember(found);
                return Ok(());
            }
        }
        let start = Instant::now();
        let mut shards = Shards::create(write)?;
        let (rows, passed) = self.each(&write.input, node, &mut |batch| shards.write(batch))?;
        let (outputs, bytes) = shards.finish(&node.columns)?;
        let tally = Tally { rows_in: rows, rows_out: rows, ..Tally::default() };
        let seconds = start.elapsed().as_secs_f64();
        let report = StageReport { tally, seconds, bytes, ..StageReport::default() };
        self.finish(&record, &node.id, report, passed, outputs)
    }

    fn evaluate(&mut self, node: &Node, evaluate: &Evaluate) -> Result<()> {
        let record = self.workdir.join(&format!("results/{}.json", node.id));
        if self.skip(&record, &node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let load = |name: &str| Scorer::load(&self.model(name)?, self.plan.device, evaluate.batch_tokens);
        let first = load(&evaluate.start)?;
        let models: Vec<(&String, Scorer)> =
            evaluate.models.iter().map(|(label, name)| Ok((label, load(name)?))).collect::<Result<_>>()?;
        let load_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut sums: Vec<Sums> = models.iter().map(|_| Sums::default()).collect();
        let (rows, passed) = self.each(&evaluate.input, node, &mut |batch| {
            models.iter().zip(&mut sums).try_for_each(|((_, model), sums)| sums.add(model, &first, batch))
        })?;
        let metrics = models.iter().zip(&sums);
        let metrics = metrics.map(|((label, _), sums)| ((*label).clone(), Value::Object(sums.metrics()))).collect();
        let tally = Tally { rows_in: rows, ..Tally::default() };
        let seconds = start.elapsed().as_secs_f64();
        let report = StageReport { tally, seconds, load_seconds, metrics, ..StageReport::default() };
        self.finish(&record, &node.id, report, passed, Vec::new())
    }

    fn audit(&mut self, node: &Node, audit: &Audit) -> Result<()> {
        let record = self.workdir.join(&format!("results/{}.json", node.id));
        if self.skip(&record, &node.id)? {
            return Ok(());
        }
        let start = Instant::now();
        let mut seen = Seen::default();
        let (rows, passed) = self.each(&audit.input, node, &mut |batch| seen.add(batch, &audit.spans))?;
        let tally = Tally { rows_in: rows, ..Tally::default() };
        let seconds = start.elapsed().as_secs_f64();
        let report = StageReport { tally, seconds, metrics: seen.metrics(), ..StageReport::default() };
        self.finish(&record, &node.id, report, passed, Vec::new())
    }

    /// Hands all rows of stage `input` to `take`; returns their number and what the stages on the way did.
    fn each(
        &self,
        input: &str,
        node: &Node,
        take: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<(u64, BTreeMap<String, StageReport>)> {
        let (flow, mut stations) = self.flow(input)?;
        let mut all = flow.stations();
        all.append(&mut stations);
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
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
            self.set_aside(node, &format!("part-{index:05}.parquet"), &passed)?;
            for (stage, tally) in &passed.tallies {
                tallies.entry(stage.clone()).or_default().add(tally);
            }
        }
        self.monitor.end();
        Ok((rows, reports(tallies, &all)))
    }

    /// What the workdir remembers of a stage, if it was this one.
    fn finished(&self, record: &Location, print: &str) -> Result<Option<Record>> {
        let Some(bytes) = record.read()? else { return Ok(None) };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        Ok(record.filter(|record| record.fingerprint == print))
    }

    fn skip(&mut self, record: &Location, id: &str) -> Result<bool> {
        let found = self.finished(record, &self.prints[id])?;
        let skip = found.is_some();
        found.into_iter().for_each(|record| self.remember(record));
        Ok(skip)
    }

    fn remember(&mut self, record: Record) {
        self.report.outputs.extend(record.outputs);
        for (stage, report) in record.reports {
            self.report.stages.entry(stage).or_insert(report);
        }
    }

    fn finish(
        &mut self,
        at: &Location,
        id: &str,
        report: StageReport,
        mut reports: BTreeMap<String, StageReport>,
        outputs: Vec<String>,
    ) -> Result<()> {
        reports.insert(id.to_owned(), report);
        let record = Record { fingerprint: self.prints[id].clone(), reports, outputs, parts: Vec::new() };
        at.write(serde_json::to_vec_pretty(&json!(record)).expect("a record is plain data"))?;
        self.remember(record);
        Ok(())
    }
}

/// What the stages of a pass did.
fn reports(tallies: BTreeMap<String, Tally>, stations: &[Station]) -> BTreeMap<String, StageReport> {
    let counted = tallies.into_iter().map(|(stage, tally)| (stage, StageReport { tally, ..StageReport::default() }));
    let mut reports: BTreeMap<String, StageReport> = counted.collect();
    for station in stations {
        let report = reports.entry(station.id.clone()).or_default();
        (report.seconds, report.metrics) = (station.seconds, station.work.metrics());
    }
    reports
}

/// The rows of a `train` stage.
struct Rows<'a> {
    input: Arc<Flow>,
    wanted: Wanted,
    held_out: Option<(Arc<Flow>, Wanted)>,
    train: &'a Train,
    seed: u64,
}

impl Feed for Rows<'_> {
    fn epoch(&self, epoch: u32) -> Box<dyn Iterator<Item = Result<Example>>> {
        let shuffle = self.train.shuffle(self.seed);
        Box::new(stream::examples(self.input.clone(), self.wanted.clone(), shuffle, epoch))
    }

    fn held_out(&self) -> Option<Box<dyn Iterator<Item = Result<Example>>>> {
        let (flow, wanted) = self.held_out.as_ref()?;
        Some(Box::new(stream::examples(flow.clone(), wanted.clone(), None, 0)))
    }

    fn examples(&self) -> u64 {
        self.input.rows
    }
}
