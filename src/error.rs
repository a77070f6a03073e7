//! What can go wrong, said so that somebody at 2 a.m. can act on it: what, where, and the way out.
//!
//! [`Error`] is the only error type that leaves the crate. Everything that names a position in data carries a
//! [`Place`]; everything that names a position in a pipeline file is a [`Problem`], and a [`Mistake`] once the file is known.

mod caught;
mod suggest;

use std::fmt;

pub(crate) use caught::caught;
pub use suggest::{nearest, suggest};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A position in data: a file or URL, and as much more as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Path or URL, without credentials.
    pub file: Option<String>,
    /// Row group, from 0.
    pub row_group: Option<usize>,
    /// Row in the file (JSON Lines: line), from 1.
    pub row: Option<u64>,
    /// Column, as a dotted path.
    pub column: Option<String>,
}

impl Place {
    /// A whole file.
    pub fn file(file: impl fmt::Display) -> Self {
        Self { file: Some(file.to_string()), ..Self::default() }
    }

    /// A column, wherever it is.
    pub fn column(column: impl Into<String>) -> Self {
        Self { column: Some(column.into()), ..Self::default() }
    }

    /// The same place, narrowed to a row group.
    pub fn row_group(mut self, index: usize) -> Self {
        self.row_group = Some(index);
        self
    }

    /// The same place, narrowed to a row, counted from 1.
    pub fn row(mut self, number: u64) -> Self {
        self.row = Some(number);
        self
    }

    /// The same place, narrowed to a column.
    pub fn in_column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.file.clone(),
            self.row_group.map(|g| format!("row group {g}")),
            self.row.map(|r| format!("row {r}")),
            self.column.as_ref().map(|c| format!("column `{c}`")),
        ];
        let known: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&known.join(", "))
    }
}

/// One mistake in a pipeline file, addressed by the keys that lead to it.
///
/// Stages produce problems without knowing about YAML; `pipeline::spec` turns the path into file:line:column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Keys from the root of the file, for example `["stages", "scored", "score", "input"]`.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// The way out: valid choices, a near spelling, a command.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at a field. Stages give paths relative to their own map; the planner prefixes them.
    pub fn at(field: &str, message: impl Into<String>) -> Self {
        let path = if field.is_empty() { Vec::new() } else { vec![field.to_owned()] };
        Self { path, message: message.into(), help: None }
    }

    /// The same problem, seen from further up: `keys` lead to where its path begins.
    pub fn within(mut self, keys: &[&str]) -> Self {
        self.path.splice(0..0, keys.iter().map(|key| (*key).to_owned()));
        self
    }

    /// The same problem with a way out.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A mistake in a pipeline file and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line and column, from 1.
    pub at: (u64, u64),
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: Option<String>,
}

impl Mistake {
    /// The mistake as text, in the file `file`: `file:line:column: message`, and the way out in a line of its own.
    pub fn within(&self, file: &str) -> String {
        let (line, column) = self.at;
        let help = self.help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
        format!("{file}:{line}:{column}: {}{help}", self.message)
    }
}

/// Everything that ends a command.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pipeline file is wrong.
    #[error("{}", mistakes.iter().map(|mistake| mistake.within(file)).collect::<Vec<_>>().join("\n\n"))]
    Pipeline {
        /// The path of the file.
        file: String,
        /// At least one, in the order of the file.
        mistakes: Vec<Mistake>,
    },
    /// Several pipeline files are wrong, each of them [`Self::Pipeline`].
    #[error("{}", files.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))]
    Pipelines {
        /// In the order of their suite.
        files: Vec<Error>,
    },
    /// Data that cannot be read or used.
    #[error("{place}{}{message}", if *place == Place::default() { "" } else { ": " })]
    Data {
        /// Where.
        place: Place,
        /// What, and the way out.
        message: String,
    },
    /// A file system or object store said no.
    #[error("{path}: {message}")]
    Store {
        /// Path or URL, without credentials.
        path: String,
        /// What the store said.
        message: String,
        /// Whether the same call may work later.
        retryable: bool,
    },
    /// A model folder, tokenizer or checkpoint that cannot be used.
    #[error("{path}: {message}")]
    Model {
        /// The folder or file.
        path: String,
        /// What, and the way out.
        message: String,
    },
    /// A program of the user that failed, or that does not answer as it should.
    #[error("`{program}`: {message}")]
    Program {
        /// The command.
        program: String,
        /// What, and the way out.
        message: String,
    },
    /// A stage cannot do what it was asked to do.
    #[error("stage `{stage}`: {message}")]
    Stage {
        /// The stage's id in the pipeline file.
        stage: String,
        /// What, and the way out.
        message: String,
    },
    /// An error inside a stage, with the stage's id put in front.
    #[error("stage `{stage}`: {source}")]
    InStage {
        /// The stage's id in the pipeline file.
        stage: String,
        /// What went wrong there.
        source: Box<Error>,
    },
    /// Stopped on request, after a clean stop.
    #[error("stopped on request; run the same command again to resume")]
    Interrupted,
}

impl Error {
    /// A pipeline file with `mistakes`.
    pub fn pipeline(file: impl Into<String>, mistakes: Vec<Mistake>) -> Self {
        Self::Pipeline { file: file.into(), mistakes }
    }

    /// Data that cannot be read or used.
    pub fn data(place: Place, message: impl fmt::Display) -> Self {
        Self::Data { place, message: message.to_string() }
    }

    /// A model folder, tokenizer or checkpoint that cannot be used.
    pub fn model(path: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self::Model { path: path.to_string(), message: message.to_string() }
    }

    /// A program of the user that failed, or that does not answer as it should.
    pub fn program(command: &[String], message: impl fmt::Display) -> Self {
        Self::Program { program: command.join(" "), message: message.to_string() }
    }

    /// A stage cannot do what it was asked to do.
    pub fn stage(stage: impl Into<String>, message: impl fmt::Display) -> Self {
        Self::Stage { stage: stage.into(), message: message.to_string() }
    }

    /// Names the stage in which the error happened.
    pub fn in_stage(self, stage: &str) -> Self {
        match self {
            Self::Pipeline { .. }
            | Self::Pipelines { .. }
            | Self::Stage { .. }
            | Self::InStage { .. }
            | Self::Interrupted => self,
            source => Self::InStage { stage: stage.to_owned(), source: Box::new(source) },
        }
    }

    /// The process exit code: 1 failed, 75 try again, 78 bad pipeline file, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Pipeline { .. } | Self::Pipelines { .. } => 78,
            Self::Store { retryable: true, .. } => 75,
            Self::InStage { source, .. } => source.exit_code(),
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}
