//! `report` — scored rows for people: one HTML page with their numbers, plots and some rows token by token, and the plots as
//! SVG files.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::write::Shard;
use super::{
    Defaults, Destination, Ending, Finished, Inputs, Metrics, ModelUse, Operation, Resources, Shape, Sink, StageCost,
    TokenizerOf, TokenizerUse, Volume,
};
use crate::error::{Error, Place, Problem, Result};
use crate::io::Location;
use crate::report::{self, Builder, Page, SHOWN_ROWS, SetAside, Settings, html};

/// Writes a page about scored rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The stage whose rows to take: scored, and with or without masks.
    #[schemars(extend("examples" = ["keyed"]))]
    pub input: String,
    /// The folder for `report.html` and the plots.
    #[schemars(extend("examples" = ["runs/report"]))]
    pub to: String,
    /// The model whose tokenizer to use, or a folder with tokenizer.json; by default the tokenizer that made the rows' ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["oracle"]))]
    pub tokenizer: Option<String>,
    /// Rows that are shown token by token: a quarter with the largest margins, a quarter with the smallest, the others by
    /// chance.
    #[serde(default = "default_rows")]
    pub rows: usize,
    /// Picks the rows that are shown by chance; by default the file's seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [7]))]
    pub seed: Option<u64>,
    /// Write into a folder that holds other files, too, and replace those of the same names.
    #[serde(default)]
    pub overwrite: bool,
}

fn default_rows() -> usize {
    SHOWN_ROWS
}

/// The page's file.
const PAGE: &str = "report.html";

/// The ending of plots.
const PLOT: &str = ".svg";

impl Operation for Report {
    fn name(&self) -> &'static str {
        "report"
    }

    fn inputs(&self) -> Vec<(&'static str, &str)> {
        vec![("input", &self.input)]
    }

    fn models(&self) -> Vec<ModelUse<'_>> {
        Vec::new()
    }

    fn tokenizer(&self) -> Option<TokenizerUse<'_>> {
        let of = self.tokenizer.as_deref().map_or(TokenizerOf::Rows, TokenizerOf::Named);
        Some(TokenizerUse { of, template: None })
    }

    fn shape(&self) -> Shape<'_> {
        Shape::Sink(self)
    }

    fn columns(&self, inputs: &Inputs) -> Result<SchemaRef, Vec<Problem>> {
        let input = inputs.of(&self.input);
        let problems = report::problems(&input);
        if problems.is_empty() { Ok(input) } else { Err(problems) }
    }

    fn fingerprint(&self) -> Value {
        json!(Self { overwrite: false, ..self.clone() })
    }

    fn cost(&self, _volume: &Volume) -> Option<StageCost<'_>> {
        None
    }

    fn default_to(&mut self, file: &Defaults) {
        self.seed.get_or_insert(file.seed);
    }
}

impl Ending for Report {
    fn open(&self, resources: &dyn Resources) -> Result<Box<dyn Sink>> {
        let settings = Settings { rows: self.rows, seed: self.seed.unwrap_or_default() };
        let builder = Builder::new(&resources.columns(), resources.tokenizer()?, settings);
        let missing = |problems: Vec<Problem>| {
            let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
            Error::data(Place::default(), messages.join("; "))
        };
        Ok(Box::new(Reporting {
            builder: builder.map_err(missing)?,
            source: format!("stage `{}`", self.input),
            folder: resources.locate(&self.to)?,
            set_aside: resources.set_aside(),
        }))
    }

    fn destination(&self) -> Option<&dyn Destination> {
        Some(self)
    }
}

impl Destination for Report {
    fn folder(&self) -> &str {
        &self.to
    }

    fn overwrites(&self) -> bool {
        self.overwrite
    }

    fn name(&self, _index: usize, _count: usize) -> String {
        PAGE.to_owned()
    }

    fn may_make(&self, name: &str) -> bool {
        name == PAGE || name.ends_with(PLOT)
    }
}

struct Reporting {
    builder: Builder,
    source: String,
    folder: Location,
    set_aside: Option<Vec<SetAside>>,
}

impl Sink for Reporting {
    fn take(&mut self, _input: usize, batch: &RecordBatch) -> Result<()> {
        self.builder.add(batch)
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let Self { builder, source, folder, set_aside } = *self;
        let contents = builder.finish(source, set_aside)?;
        let page = Page::Rows(&contents);
        let plots = page.plots().into_iter().map(|(name, svg)| (format!("{name}{PLOT}"), svg));
        let files = [(PAGE.to_owned(), html(&page))].into_iter().chain(plots);
        let files = files.map(|(name, text)| {
            let draft = folder.join(&name).draft();
            let mut upload = draft.upload()?;
            let failed = |error| draft.cause(Error::data(Place::file(&draft), error));
            upload.write_all(text.as_bytes()).map_err(failed)?;
            Ok(Shard::new(draft.clone(), name, upload.finish()?))
        });
        let mut metrics = Metrics::new();
        metrics.insert("shown_rows".into(), json!(contents.sample.rows.len()));
        Ok(Finished {
            metrics,
            warnings: contents.warnings.clone(),
            files: files.collect::<Result<_>>()?,
            columns: None,
        })
    }
}
