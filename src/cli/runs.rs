//! `sepo runs` — what a workdir keeps, and what of it can go.

use std::fmt::Write;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::Pipeline;
use super::progress::Progress;
use crate::error::Result;
use crate::pipeline::run::{KeptFolder, kept, orphans};

#[derive(Debug, Args)]
pub(super) struct Runs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the content of a pipeline's workdir, by stage and fingerprint.
    List {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List results that no run of a pipeline will use again; with --yes, remove them. Files that sepo has no record of and
    /// results that other pipeline files use are never listed.
    Gc {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Remove them.
        #[arg(long)]
        yes: bool,
    },
}

impl Runs {
    pub(super) fn text(&self) -> Result<String> {
        let progress = Progress::new();
        match &self.command {
            Command::List { pipeline, json } => {
                let kept = kept(&pipeline.planned(&progress)?, &progress)?;
                Ok(if *json { format!("{}\n", json!({ "kept": kept })) } else { list(&kept) })
            }
            Command::Gc { pipeline, yes } => {
                let orphans = orphans(&pipeline.planned(&progress)?, &progress)?;
                let (mut out, mut bytes, count) = (String::new(), 0, orphans.len());
                for orphan in orphans {
                    bytes += orphan.bytes;
                    let _ = writeln!(out, "{} ({}, {})", orphan.path, HumanBytes(orphan.bytes), orphan.why);
                    if *yes {
                        let path = orphan.path.clone();
                        for stayed in orphan.remove()? {
                            let _ = writeln!(out, "  {path}/{stayed} stays: sepo has no record of it");
                        }
                    }
                }
                let done = if *yes { "removed" } else { "nothing was removed; --yes removes them" };
                let _ = writeln!(out, "{count} orphans, {}: {done}", HumanBytes(bytes));
                Ok(out)
            }
        }
    }
}

fn list(kept: &[KeptFolder]) -> String {
    let head = ["stage", "fingerprint", "", "", "files", "size", "idle"];
    let mut out = String::new();
    let mut line = |cells: [&str; 7]| {
        let [stage, print, current, state, files, size, idle] = cells;
        let text = format!("{stage:<22} {print:<16} {current:<8} {state:<20} {files:>7} {size:>11} {idle}");
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(head);
    for kept in kept {
        let state = match kept.kind {
            "data" if kept.finished => "finished".to_owned(),
            "data" => format!("{} units done", kept.units),
            kind => kind.to_owned(),
        };
        let current = match (kept.current, kept.shared) {
            (true, _) => "current",
            (false, true) => "of other",
            (false, false) => "stale",
        };
        let idle = HumanDuration(std::time::Duration::from_secs(kept.idle_seconds)).to_string();
        let (files, size) = (kept.files.to_string(), HumanBytes(kept.bytes).to_string());
        line([&kept.stage, &kept.fingerprint, current, &state, &files, &size, &idle]);
    }
    out
}
