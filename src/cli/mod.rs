//! The command line. stdout is data, stderr is progress and problems.

mod dataset;
mod explain;
mod init;
mod inspect;
mod numbers;
mod plan;
mod progress;
mod report;
mod row;
mod runs;
#[cfg(feature = "flight")]
mod serve;
mod shell;
mod summary;
mod terminal;
mod tokenizer;
mod values;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(not(feature = "flight"))]
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::progress::Progress;
use self::terminal::{Colours, plain, plain_json};
use crate::error::{Error, Result};
use crate::io::Location;
use crate::monitor::Monitor;
use crate::pipeline::estimate::estimate;
use crate::pipeline::plan::warn;
use crate::pipeline::{Assignment, Options, Planned, Share, Sources, Spec, Suite, run, schema, sweep};

/// Finds the tokens of a preference dataset that matter, and trains language models on them.
#[derive(Debug, Parser)]
#[command(name = "sepo", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented pipeline file for a dataset.
    Init(init::Init),
    /// Report all mistakes in a pipeline file.
    Check(Pipeline),
    /// Print the stages of a pipeline file, with estimates of rows, tokens, memory and time.
    Plan(Pipeline),
    /// Run a pipeline. Results of earlier runs are reused.
    Run {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Run all stages again, and replace the results that earlier runs of this pipeline have for its current settings.
        #[arg(long, conflicts_with = "share")]
        fresh: bool,
        /// Verify files of earlier runs by their digests instead of sizes and times.
        #[arg(long)]
        verify: bool,
        /// Run only this stage and the stages that it needs.
        #[arg(long, value_name = "STAGE")]
        only: Option<String>,
        /// Compute share I of N of the units of work, for job arrays; all shares use the same workdir.
        #[arg(long = "units", value_name = "I/N")]
        share: Option<Share>,
        /// Print one JSON object instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// Commit the units that the shares of a job array computed, and write the result. Computes no units.
    Merge {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Merge only this stage and the stages that it needs.
        #[arg(long, value_name = "STAGE")]
        only: Option<String>,
        /// Print one JSON object instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// List the content of a workdir, or remove results that no run will use.
    Runs(runs::Runs),
    /// Print schema, provenance and statistics of a dataset, or one of its rows.
    Inspect(inspect::Inspect),
    /// Write one HTML page about scored rows or a training: numbers, plots, rows token by token.
    Report(report::Report),
    /// Serve the rows of a dataset, or of a stage of a run that is going on, to other programs by Arrow Flight.
    #[cfg(feature = "flight")]
    Serve(serve::Serve),
    /// Serve rows to other programs by Arrow Flight: this program was built without the feature `flight`, which is on by default.
    #[cfg(not(feature = "flight"))]
    Serve {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the tables and plots of a sweep again, from its numbers.parquet.
    Tables {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Folder with numbers.parquet; tables and plots are written to it.
        folder: String,
        /// Replace existing tables and plots.
        #[arg(long)]
        overwrite: bool,
    },
    /// Explain a stage or a setting of a pipeline file.
    Explain(explain::Explain),
    /// Print the schema of pipeline files: as JSON Schema for editors, or as the reference in docs/pipeline.md.
    Schema {
        /// The format.
        #[arg(long, value_enum, default_value_t)]
        format: SchemaFormat,
    },
    /// Print completions for a shell.
    Completions(shell::Completions),
    /// Print the manual page.
    Man,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SchemaFormat {
    /// JSON Schema.
    #[default]
    Json,
    /// The reference of all settings.
    Markdown,
}

#[derive(Debug, Args)]
struct Pipeline {
    /// Pipeline file, or a file that lists several of them under `pipelines:`.
    file: PathBuf,
    /// Value of a variable of the file.
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = assignment)]
    vars: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The text of a pipeline file.
struct Source {
    name: String,
    text: String,
    vars: Vec<(String, String)>,
}

impl Pipeline {
    /// The file, or those that it names, each unless it cannot be read.
    fn sources(&self) -> Result<Vec<Result<Source>>> {
        let (name, text) = read(&self.file)?;
        let Some(suite) = Suite::parse(&text, &name)? else {
            return Ok(vec![Ok(Source { name, text, vars: self.vars.clone() })]);
        };
        let vars = [suite.assignments(), self.vars.clone()].concat();
        let source = |file: &String| {
            let (name, text) = read(Path::new(file))?;
            Ok(Source { name, text, vars: vars.clone() })
        };
        Ok(suite.pipelines.iter().map(source).collect())
    }

    /// All files, planned: mistakes in the last one come to light before the first one has run for hours.
    fn planned(&self, monitor: &dyn Monitor) -> Result<Vec<Planned>> {
        let mut opened = Sources::default();
        let (mut planned, mut files, mut other) = (Vec::new(), Vec::new(), None);
        for source in self.sources()? {
            match source.and_then(|source| source.planned(&mut opened, monitor)) {
                Ok(plan) => planned.push(plan),
                Err(error @ Error::Pipeline { .. }) => files.push(error),
                Err(error @ Error::Interrupted) => return Err(error),
                // A store that fails now may not fail when the mistakes are mended.
                Err(error) => other = other.or(Some(error)),
            }
        }
        match other {
            _ if !files.is_empty() => Err(Error::Pipelines { files }),
            Some(error) => Err(error),
            None => Ok(planned),
        }
    }

    fn run(&self, options: &Options, json: bool) -> Result<()> {
        // A stop may be asked for while stores are asked for their files.
        let monitor = Progress::stoppable();
        let planned = self.planned(&monitor)?;
        planned.iter().try_for_each(|planned| print(&text_of_run(planned, options, json, &monitor)?))
    }
}

fn read(file: &Path) -> Result<(String, String)> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| Error::Store {
        path: name.clone(),
        message: error.to_string(),
        retryable: false,
    })?;
    Ok((name, text))
}

impl Source {
    fn planned(&self, opened: &mut Sources, monitor: &dyn Monitor) -> Result<Planned> {
        Planned::new(&self.text, &self.name, &self.vars, opened, monitor)
    }
}

/// Runs a pipeline; returns what is to be said of it.
fn text_of_run(planned: &Planned, options: &Options, json: bool, monitor: &dyn Monitor) -> Result<String> {
    let line = |value: serde_json::Result<String>| plain_json(&(value.expect("a report is plain data") + "\n"));
    match &planned.plans[..] {
        [plan] if planned.variants.is_empty() => {
            warn(&planned.plans);
            let report = run(plan, &planned.name, options, monitor)?;
            Ok(if json { line(serde_json::to_string(&report)) } else { plain(&summary::summary(plan, &report)) })
        }
        _ => {
            let outcomes = sweep::run(planned, options, monitor)?;
            Ok(if json { line(serde_json::to_string(&outcomes)) } else { plain(&outcomes.text) })
        }
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    // RUST_LOG=info tells of retries, too.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    // HTTP clients print headers and URLs, in which keys, tokens and signatures stand.
    let own = filter_fn(|event| event.target().split("::").next() == Some(env!("CARGO_CRATE_NAME")));
    let stderr = tracing_subscriber::fmt::layer()
        .with_ansi(Colours::of(&io::stderr()) == Colours::On)
        .with_writer(io::stderr)
        .with_target(false);
    tracing_subscriber::registry().with(stderr.with_filter(filter.and(own))).init();
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr there is nobody to tell; the exit code remains.
            let _ = writeln!(io::stderr(), "error: {}", plain(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Init(init) => print(&plain(&init.text()?)),
        Command::Check(pipeline) => {
            pipeline.planned(&Progress::new())?.iter().try_for_each(|Planned { name, plans, .. }| {
                warn(plans);
                let variants = if plans.len() > 1 { format!(", {} variants", plans.len()) } else { String::new() };
                let stages = plans.first().map_or(0, |plan| plan.nodes.len());
                print(&format!("{name}: {stages} stages{variants}, no problems\n"))
            })
        }
        Command::Plan(pipeline) => {
            pipeline.planned(&Progress::new())?.iter().try_for_each(|Planned { plans, .. }| {
                warn(plans);
                let Some(plan) = plans.first() else { return Ok(()) };
                let variants = match plans.len() {
                    1 => String::new(),
                    n => format!("the first of {n} variants:\n"),
                };
                print(&plain(&format!("{variants}{}", plan::text(plan, &estimate(plan)?))))
            })
        }
        Command::Run { pipeline, fresh, verify, only, share, json } => {
            let assignment = share.map_or(Assignment::All, Assignment::Share);
            pipeline.run(&Options { fresh, verify, only, assignment }, json)
        }
        Command::Merge { pipeline, only, json } => {
            pipeline.run(&Options { only, assignment: Assignment::Merge, ..Options::default() }, json)
        }
        Command::Runs(runs) => print(&plain(&runs.text()?)),
        Command::Inspect(inspect) => print(&inspect.text()?),
        Command::Report(report) => print(&report.text()?),
        #[cfg(feature = "flight")]
        Command::Serve(serve) => serve.run(),
        #[cfg(not(feature = "flight"))]
        Command::Serve { arguments } => {
            let message = format!(
                "`sepo serve {}` needs the feature `flight`, which is on by default; this program was built without it",
                arguments.join(" ")
            );
            Cli::command().error(ErrorKind::InvalidSubcommand, message).exit()
        }
        Command::Tables { pipeline, folder, overwrite } => pipeline.sources()?.into_iter().try_for_each(|source| {
            let source = source?;
            let spec = Spec::parse(&source.text, &source.name, &source.vars)?;
            print(&plain(&sweep::again(&spec, &Location::parse(&folder)?, overwrite)?))
        }),
        Command::Explain(explain) => print(&explain.text()),
        Command::Schema { format: SchemaFormat::Json } => print(&format!("{:#}\n", schema::for_editors())),
        Command::Schema { format: SchemaFormat::Markdown } => print(&schema::reference::markdown()),
        Command::Completions(completions) => print(&completions.text(Cli::command())),
        Command::Man => print(&shell::manual(Cli::command())),
    }
}

/// Writes to stdout; a reader that has gone away is no error.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Store { path: "stdout".into(), message: error.to_string(), retryable: false })
        }
        _ => Ok(()),
    }
}
