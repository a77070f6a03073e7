//! `sepo init` — a commented pipeline to begin with, for data that somebody has.

use std::fmt::Write;
use std::path::Path;

use clap::Args;

use super::progress::Progress;
use crate::error::{Error, Result};
use crate::io::Location;
use crate::pipeline::starter::{look, text};
use crate::stages::read::Format;

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Dataset: a file, glob, folder or URL, or a dataset of the hub (`hf://datasets/org/name`).
    data: Option<String>,
    /// Model to start from: a folder, or `hf://org/name`.
    #[arg(long, default_value = "hf://HuggingFaceTB/SmolLM2-135M-Instruct")]
    model: String,
    /// File to write; an existing file is never replaced.
    #[arg(long, value_name = "FILE", default_value = "pipeline.yaml")]
    out: String,
}

impl Init {
    /// Writes the file; what it found in the data.
    pub(super) fn text(&self) -> Result<String> {
        let mut said = String::new();
        let (data, format) = match &self.data {
            Some(data) => {
                let looked = look(data, &Progress::new())?;
                let _ =
                    writeln!(said, "{data}: format `{}`, columns {}", looked.format.name(), looked.columns.join(", "));
                let _ = write!(said, "{} of the first {} rows can be used", looked.usable, looked.rows);
                let reasons = looked.reasons.join(", ");
                let _ = writeln!(said, "{}", if reasons.is_empty() { reasons } else { format!(" ({reasons})") });
                (data.as_str(), looked.format)
            }
            None => {
                said += "no dataset given: replace `pairs.jsonl` by yours (docs/datasets.md lists the formats)\n";
                ("pairs.jsonl", Format::Auto)
            }
        };
        let name = Path::new(&self.out).file_stem().unwrap_or_default().to_string_lossy();
        if !Location::parse(&self.out)?.create(text(data, format, &self.model, &name))? {
            let message = "the file exists; `--out` names another one".to_owned();
            return Err(Error::Store { path: self.out.clone(), message, retryable: false });
        }
        if self.model.starts_with("hf://") {
            let _ = writeln!(
                said,
                "the model is {}, which `check` fetches; `--model FOLDER` takes one from here",
                self.model
            );
        }
        let _ = writeln!(said, "wrote {0}; next: sepo check {0}", self.out);
        Ok(said)
    }
}
