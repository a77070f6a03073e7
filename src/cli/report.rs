//! `sepo report` — one HTML page of scored rows, or of a training.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use clap::Args;

use super::dataset;
use super::progress::Progress;
use super::terminal::plain;
use super::tokenizer;
use crate::columns::provenance::Provenance;
use crate::error::{Error, Place, Result};
use crate::io::{Dataset, Location, Stores};
use crate::monitor::Monitor;
use crate::pipeline::run::MARKER;
use crate::report::{Builder, Contents, Page, SHOWN_ROWS, SetAside, Settings, Training, html, training};

/// Rows that are read at once.
const BATCH_ROWS: usize = 1024;

/// The log of a training.
const LOG: &str = "metrics.jsonl";

#[derive(Debug, Args)]
pub(super) struct Report {
    /// Scored rows (a file, glob or folder), or the log of a training: its metrics.jsonl, or the folder with it.
    path: String,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: String,
    /// Write the plots as SVG files into this folder, too.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<String>,
    /// Rows to show token by token.
    #[arg(long, value_name = "N", default_value_t = SHOWN_ROWS)]
    rows: usize,
    /// Picks the rows that are shown by chance.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder with the tokenizer.json that made the ids, where it is no longer where it was.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// Rows set aside, as a run leaves them in `rejects` of its workdir; by default the folder `rejects` beside PATH.
    #[arg(long, value_name = "FOLDER")]
    rejects: Option<String>,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
}

impl Report {
    /// Writes the page; returns what is to be said of it.
    pub(super) fn text(&self) -> Result<String> {
        let mut out = String::new();
        self.refuse(&Location::parse(&self.out)?)?;
        match self.log()? {
            Some(training) => self.write(&Page::Training(&training), &mut out)?,
            None => {
                let contents = self.contents()?;
                self.write(&Page::Rows(&contents), &mut out)?;
                for warning in &contents.warnings {
                    let _ = writeln!(out, "warning: {}", plain(warning));
                }
            }
        }
        Ok(out)
    }

    fn refuse(&self, file: &Location) -> Result<()> {
        if self.overwrite || !file.exists()? {
            return Ok(());
        }
        let message = "is there already; --overwrite replaces it, --out FILE writes elsewhere".to_owned();
        Err(Error::Store { path: file.to_string(), message, retryable: false })
    }

    fn write(&self, page: &Page, out: &mut String) -> Result<()> {
        let mut files = vec![(Location::parse(&self.out)?, html(page))];
        if let Some(folder) = &self.plots {
            let folder = Location::parse(folder)?;
            files.extend(page.plots().into_iter().map(|(name, svg)| (folder.join(&format!("{name}.svg")), svg)));
        }
        files.iter().try_for_each(|(file, _)| self.refuse(file))?;
        for (file, text) in files {
            file.write(text)?;
            let _ = writeln!(out, "wrote {}", plain(&file.to_string()));
        }
        Ok(())
    }

    /// The training that the path is the log of; none where it is none.
    fn log(&self) -> Result<Option<Training>> {
        let at = Location::parse(&self.path)?;
        let file = if at.name() == LOG { at } else { at.join(LOG) };
        let is_pattern = self.path.contains(['*', '?', '[']);
        let Some(bytes) = (!is_pattern).then(|| file.read()).transpose()?.flatten() else { return Ok(None) };
        let training = training(file.to_string(), &String::from_utf8_lossy(&bytes));
        match training.is_empty() {
            true => Err(Error::data(Place::file(&file), "holds no metrics of a training")),
            false => Ok(Some(training)),
        }
    }

    fn contents(&self) -> Result<Contents> {
        let progress = Progress::new();
        let dataset = dataset::open(&self.path, &progress)?;
        let schema = dataset.schema();
        let tokenizer = tokenizer::find(self.tokenizer.as_deref(), &Provenance::of(schema), &self.path)?;
        let settings = Settings { rows: self.rows, seed: self.seed };
        let mut builder = Builder::new(schema, tokenizer, settings).map_err(|problems| {
            let missing = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
            let help = "`sepo report` shows rows that a `score` stage with an oracle made";
            Error::data(Place::file(&self.path), format!("{missing}; {help}"))
        })?;
        progress.begin("report", Some(dataset.rows()), "rows");
        for unit in dataset.units() {
            for chunk in dataset.read(&unit, BATCH_ROWS)? {
                let batch = chunk?.batch;
                builder.add(&batch)?;
                progress.advance(batch.num_rows() as u64, "");
            }
        }
        progress.end();
        builder.finish(self.path.clone(), self.set_aside(&progress)?)
    }

    /// Rows set aside by stage and reason; none where nothing is known of them.
    fn set_aside(&self, monitor: &dyn Monitor) -> Result<Option<Vec<SetAside>>> {
        let above = Path::new(&self.path).parent().unwrap_or(Path::new(""));
        let beside = Some(above.join("rejects")).filter(|folder| folder.is_dir());
        let folder = self.rejects.clone().or_else(|| beside.map(|folder| folder.display().to_string()));
        let Some(folder) = folder else {
            // A run makes the folder for the first row that it sets aside.
            return Ok(above.join(MARKER).is_file().then(Vec::new));
        };
        if Location::parse(&folder)?.list_all()?.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let dataset = Dataset::open_watched(&[folder], &Stores::default(), monitor)?;
        let mut counts = BTreeMap::new();
        for unit in dataset.units() {
            for chunk in dataset.read(&unit, BATCH_ROWS)? {
                let batch = chunk?.batch;
                let [stages, reasons] = ["stage", "reason"].map(|name| texts(&batch, name));
                for reason in stages?.into_iter().zip(reasons?) {
                    *counts.entry(reason).or_insert(0) += 1;
                }
            }
        }
        let counted = counts.into_iter().map(|((stage, reason), rows)| SetAside { stage, reason, rows });
        Ok(Some(counted.collect()))
    }
}

/// The texts of column `name`.
fn texts(batch: &RecordBatch, name: &str) -> Result<Vec<String>> {
    let column = batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let column = column.filter(|column| column.null_count() == 0);
    let message = "no such column of text; rows that a run set aside have it";
    let column = column.ok_or_else(|| Error::data(Place::column(name), message))?;
    Ok(column.iter().flatten().map(str::to_owned).collect())
}
