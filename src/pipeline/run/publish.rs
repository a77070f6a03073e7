//! What goes to the hub: the rows of a `write` stage with a card, and the model of a `train` stage.

use bytes::Bytes;
use serde_json::{Value, json};

use super::Run;
use super::published::{CARD, Upload, Uploaded, at, is_of};
use super::record::{Done, Output, Record};
use super::sink::Drained;
use crate::error::{Error, Place, Result};
use crate::io::hub::Outgoing;
use crate::io::{Location, Owned, Written};
use crate::pipeline::plan::Node;
use crate::stages::write::card::{self, Part};
use crate::stages::{Destination, Ending, Publication};

/// PEFT's description of an adapter, which names the folder of the model below it.
const ADAPTER_CONFIG: &str = "adapter_config.json";

impl Run<'_> {
    /// Runs stage `node`, which uploads files of rows, unless an earlier run did.
    pub(super) fn publish_rows(
        &mut self,
        node: &Node,
        ending: &dyn Ending,
        destination: &dyn Destination,
        to: &Publication,
    ) -> Result<()> {
        if self.are_rows_published(node, to)? {
            return Ok(());
        }
        let lease = self.lease(&node.id)?;
        // Whoever held it before may have uploaded them.
        if self.are_rows_published(node, to)? {
            return Ok(());
        }
        self.refuse_foreign_files(&node.id, to)?;
        let recorded = self.recorded(&node.id)?.unwrap_or_default();
        let before = recorded.card;
        let (earlier, elsewhere): (Vec<Output>, Vec<Output>) =
            recorded.outputs.into_iter().partition(|output| is_of(&to.address, output));
        let Drained { report, passed, files: shards, columns } = self.drain(node, ending)?;
        let record = self.conclude(&node.id, report, passed);
        let folder = |name: &str| match to.address.path.as_str() {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        };
        let mut files = Vec::new();
        for shard in &shards {
            let draft = shard.draft().ok_or_else(|| Error::stage(&node.id, "a file vanished before its upload"))?;
            files.push((Outgoing::file(folder(&shard.name), draft)?, shard.written.clone()));
        }
        let columns = columns.unwrap_or_else(|| node.columns.clone());
        let part = Part {
            folder: to.address.path.clone(),
            rows: record.reports.get(&node.id).map_or(0, |report| report.rows_out),
            bytes: shards.iter().map(|shard| shard.written.bytes).sum(),
            licenses: self.licenses(node)?,
            about: self.about(node, &columns),
            counts: self.counts(node, &record.reports),
            ..destination.part_of_card(&columns)
        };
        files.push(self.card(node, to, &part)?);
        let unfinished = |new: &[Output]| {
            lease.held()?;
            let outputs = [&elsewhere[..], &earlier[..], new].concat();
            let record = Record { workdir: self.workdir.id.clone(), outputs, ..Record::default() };
            self.record(&node.id, &Record { card: before.clone(), ..record })
        };
        let upload = Upload { stage: &node.id, to, files, earlier: earlier.clone() };
        let Uploaded { outputs, commit } = self.upload(upload, unfinished)?;
        self.report.outputs.extend(shown(to, &outputs));
        let mut record = record;
        if let (Some(commit), Some(report)) = (commit, record.reports.get_mut(&node.id)) {
            report.metrics.insert("commit".to_owned(), Value::from(commit));
        }
        let card = Some((at(&to.address, ""), part));
        self.finish(&node.id, Record { outputs: [elsewhere, outputs].concat(), card, ..record })
    }

    /// Whether the stage's rows are in the repository as they would be under its present settings; the report then has what is
    /// remembered of them.
    fn are_rows_published(&mut self, node: &Node, to: &Publication) -> Result<bool> {
        let Some(found) = self.recorded(&node.id)?.filter(|record| record.fingerprint == self.fingerprints[&node.id])
        else {
            return Ok(false);
        };
        if !self.is_published(to, &found)? {
            return Ok(false);
        }
        self.some_rows(&found.reports, &self.folder("rejects", node))?;
        self.report.outputs.extend(shown(to, &found.outputs));
        self.remember(found, Done::Earlier);
        Ok(true)
    }

    /// The card of the repository with `part` of stage `node`, and those that other stages of this workdir recorded.
    fn card(&self, node: &Node, to: &Publication, part: &Part) -> Result<(Outgoing, Written)> {
        let repository = at(&to.address, "");
        let own = self.kept_name(&node.id);
        let others = self.all_recorded()?.into_iter().filter(|(id, _)| *id != own);
        let others = others.filter_map(|(_, record)| record.card.filter(|(at, _)| *at == repository));
        let parts: Vec<Part> = others.map(|(_, part)| part).chain([part.clone()]).collect();
        let text = card::text(&to.address.repo, &parts);
        let written = written(text.as_bytes());
        Ok((Outgoing::text(CARD, text), written))
    }

    /// Uploads the model that stage `node` trained, if it is to be uploaded and is not there.
    pub(super) fn publish_model(&mut self, node: &Node) -> Result<()> {
        let Some(to) = node.operation().publication() else { return Ok(()) };
        let Some(model) = Owned::open(self.kept(&node.id))? else { return Ok(()) };
        let name = format!("{}.to", self.kept_name(&node.id));
        let place = self.workdir.at.join(&format!("results/{name}.json"));
        let fingerprint = blake3::hash(format!("{} {}", model.digest(), at(&to.address, &to.address.path)).as_bytes());
        let fingerprint = fingerprint.to_hex().to_string();
        let recorded = || Ok::<_, Error>(self.all_recorded()?.remove(&name).unwrap_or_default());
        let is_there =
            |record: &Record| Ok::<_, Error>(record.fingerprint == fingerprint && self.is_published(&to, record)?);
        let mut record = recorded()?;
        if !is_there(&record)? {
            let lease = self.lease(&node.id)?;
            record = recorded()?;
            if !is_there(&record)? {
                self.refuse_foreign_files(&node.id, &to)?;
                let (earlier, elsewhere): (Vec<Output>, Vec<Output>) =
                    record.outputs.iter().cloned().partition(|output| is_of(&to.address, output));
                let workdir = self.workdir.id.clone();
                let note = |new: &[Output]| {
                    lease.held()?;
                    let outputs = [&elsewhere[..], &earlier[..], new].concat();
                    place.write(Record { workdir: workdir.clone(), outputs, ..Record::default() }.to_json())
                };
                let files = self.files_of_model(node, &model, &to)?;
                let upload = Upload { stage: &node.id, to: &to, files, earlier: earlier.clone() };
                let Uploaded { outputs, .. } = self.upload(upload, note)?;
                record = Record {
                    workdir,
                    fingerprint,
                    outputs: [elsewhere.clone(), outputs].concat(),
                    ..Record::default()
                };
                place.write(record.to_json())?;
            }
        }
        let files = shown(&to, &record.outputs);
        self.report.outputs.extend(files);
        Ok(())
    }

    /// The files of `model`, but for the record of its folder, which names places of this machine.
    fn files_of_model(&self, node: &Node, model: &Owned, to: &Publication) -> Result<Vec<(Outgoing, Written)>> {
        let mut files = Vec::new();
        for (name, written) in model.files() {
            let (file, path) = (model.folder().join(name), to.address.path.as_str());
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            files.push(match written {
                _ if name == ADAPTER_CONFIG => self.adapter_config(node, path, &file)?,
                Some(written) => (Outgoing::file(path, &file)?, written.clone()),
                None => continue,
            });
        }
        Ok(files)
    }

    /// An adapter's description that names its model on the hub, or none, in place of a folder of this machine.
    fn adapter_config(&self, node: &Node, path: String, file: &Location) -> Result<(Outgoing, Written)> {
        let text = file.read()?.unwrap_or_default();
        let mut config: Value = serde_json::from_slice(&text).map_err(|error| Error::data(Place::file(file), error))?;
        config["base_model_name_or_path"] = json!(self.plan.hub_base(&node.id));
        let text = Bytes::from(format!("{config:#}\n"));
        let written = written(&text);
        Ok((Outgoing::text(path, text), written))
    }
}

fn written(content: &[u8]) -> Written {
    Written { bytes: content.len() as u64, blake3: blake3::hash(content).to_hex().to_string() }
}

/// The files of `outputs` in the repository of `to`, as the user calls them.
fn shown(to: &Publication, outputs: &[Output]) -> Vec<String> {
    let root = at(&to.address, "");
    let path = |output: &Output| Some(to.address.of(output.at.strip_prefix(&root)?).to_string());
    outputs.iter().filter(|output| is_of(&to.address, output)).filter_map(path).collect()
}
