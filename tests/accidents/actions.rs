//! What may happen to a workdir.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use sepo::io::faults::{self, Fault};
use sepo::monitor::Silent;
use sepo::pipeline::run::orphans;
use sepo::pipeline::{Options, Planned, run};

use crate::world::{OUTPUTS, RUN, Rng, Settings, World};

/// How the runs ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) killed: u64,
    pub(crate) failed_writes: u64,
    pub(crate) collected: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { succeeded, failed, killed, failed_writes, collected } = self;
        write!(
            f,
            "{succeeded} runs succeeded, {failed} were refused or failed, {killed} were killed, {failed_writes} met a write that failed; gc removed {collected} orphans"
        )
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Run {
        value: usize,
    },
    Fresh {
        value: usize,
    },
    Verify {
        value: usize,
    },
    /// A run that is killed before one of its changes.
    Killed {
        value: usize,
        after: u64,
    },
    /// A run of which one change fails.
    Failing {
        value: usize,
        after: u64,
        kind: ErrorKind,
    },
    /// Two runs at once.
    Race {
        values: [usize; 2],
    },
    Collect,
    ReplaceInput {
        version: usize,
    },
    /// A file of the workdir or of the outputs is cut, changed or deleted.
    Damage {
        how: Damage,
    },
    /// The user puts a file of their own somewhere.
    Put,
    /// The clock was wrong while the workdir's files were written.
    Clock {
        days: i64,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Damage {
    Cut,
    Flip,
    Delete,
}

impl Action {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let value = rng.below(2);
        let after = rng.below(60) as u64;
        match rng.below(16) {
            0..=3 => Self::Run { value },
            4 => Self::Fresh { value },
            5 => Self::Verify { value },
            6..=8 => Self::Killed { value, after },
            9 => {
                Self::Failing { value, after, kind: *rng.pick(&[ErrorKind::StorageFull, ErrorKind::PermissionDenied]) }
            }
            10 => Self::Race { values: [value, rng.below(2)] },
            11 => Self::Collect,
            12 => Self::ReplaceInput { version: rng.below(3) },
            13 => Self::Damage { how: *rng.pick(&[Damage::Cut, Damage::Flip, Damage::Delete]) },
            14 => Self::Put,
            _ => Self::Clock { days: *rng.pick(&[-3, 3]) },
        }
    }

    pub(crate) fn act(self, world: &mut World, rng: &mut Rng, tally: &mut Tally) -> Result<(), String> {
        let plain = Options::default();
        let mut run = |value: usize, options: &Options, fault| {
            let settings = world.settings(value);
            run_once(world, settings, options, fault, tally).map(drop)
        };
        match self {
            Self::Run { value } => run(value, &plain, None)?,
            Self::Fresh { value } => run(value, &Options { fresh: true, ..plain }, None)?,
            Self::Verify { value } => run(value, &Options { verify: true, ..plain }, None)?,
            Self::Killed { value, after } => run(value, &plain, Some((after, Fault::Killed)))?,
            Self::Failing { value, after, kind } => run(value, &plain, Some((after, Fault::Fails(kind))))?,
            Self::Race { values } => race(world, values, tally)?,
            Self::Collect => collect(world, tally)?,
            Self::ReplaceInput { version } => world.replace_input(version),
            Self::Damage { how } => damage(world, rng, how),
            Self::Put => put(world, rng),
            Self::Clock { days } => set_clock(world, days),
        }
        world.harmed()
    }
}

/// A run to its end, in which `fault` may strike after so many changes. Returns its error; what it left must be right.
pub(crate) fn run_once(
    world: &mut World,
    settings: Settings,
    options: &Options,
    fault: Option<(u64, Fault)>,
    tally: &mut Tally,
) -> Result<Option<String>, String> {
    let plan = world.plan(settings);
    if let Some((after, fault)) = fault {
        faults::arm(after, fault);
    }
    let outcome = plan.and_then(|plan| run(&plan, &world.name(), options, &Silent));
    match (faults::disarm(), fault) {
        (true, Some((_, Fault::Killed))) => tally.killed += 1,
        (true, _) => tally.failed_writes += 1,
        (false, _) => {}
    }
    world.harmed()?;
    match outcome {
        Ok(_) => {
            tally.succeeded += 1;
            world.compare(settings).map(|()| None)
        }
        Err(error) => {
            tally.failed += 1;
            let said = error.to_string();
            let names_a_place = said.contains('/') || said.contains('`');
            if names_a_place { Ok(Some(said)) } else { Err(format!("an error that names no place: {said}")) }
        }
    }
}

fn race(world: &mut World, values: [usize; 2], tally: &mut Tally) -> Result<(), String> {
    let plans = values.map(|value| world.plan(world.settings(value)));
    let name = world.name();
    let outcomes = std::thread::scope(|scope| {
        let runs =
            plans.map(|plan| scope.spawn(|| plan.and_then(|plan| run(&plan, &name, &Options::default(), &Silent))));
        runs.map(|run| run.join().expect("a run panicked"))
    });
    world.harmed()?;
    let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    tally.succeeded += succeeded as u64;
    tally.failed += 2 - succeeded as u64;
    // Runs with other settings take turns; which one came last is not known.
    if succeeded == 2 {
        let results = values.map(|value| world.compare(world.settings(value)));
        return results
            .into_iter()
            .find(Result::is_ok)
            .unwrap_or_else(|| Err("neither of two runs left its rows".into()));
    }
    Ok(())
}

fn collect(world: &mut World, tally: &mut Tally) -> Result<(), String> {
    let Ok(plan) = world.plan(world.settings(0)) else { return Ok(()) };
    let planned = Planned { name: world.name(), variants: Vec::new(), plans: vec![plan] };
    let found = orphans(&[planned], &Silent);
    for orphan in found.map_err(|error| error.to_string())? {
        orphan.remove().map_err(|error| error.to_string())?;
        tally.collected += 1;
    }
    Ok(())
}

/// Files of sepo in the workdir and the outputs, but for the marker of the workdir.
fn own(world: &World) -> Vec<String> {
    let mut own = [world.names(RUN), world.names("out")].concat();
    own.retain(|name| !world.foreign.contains_key(name) && !name.ends_with("/sepo-workdir.json"));
    own
}

fn damage(world: &mut World, rng: &mut Rng, how: Damage) {
    let own = own(world);
    if own.is_empty() {
        return;
    }
    let name = rng.pick(&own).clone();
    let file = world.at(&name);
    let mut bytes = world.content(&name).unwrap_or_default();
    match how {
        Damage::Delete => {
            // Without its record, a file is the user's.
            world.is_blocked |= name.starts_with("run/results/") || name.ends_with("/sepo.json");
            return file.delete().unwrap();
        }
        Damage::Cut => bytes.truncate(bytes.len() / 2),
        Damage::Flip if bytes.is_empty() => return,
        Damage::Flip => {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1;
        }
    }
    file.write(bytes.clone()).unwrap();
    // Where people look, a changed file counts as theirs from now on; but for the record of a folder.
    if !name.ends_with("/sepo.json")
        && OUTPUTS.iter().chain(&["run/models"]).any(|folder| name.starts_with(&format!("{folder}/")))
    {
        world.foreign.insert(name, bytes);
    }
    // Records and logs are refused, not repaired, when they are damaged.
    world.is_blocked = true;
}

fn put(world: &mut World, rng: &mut Rng) {
    let kinds = ["data", "models", "results", "logs", "checkpoints", "rejects"];
    let mut places: Vec<String> = ["keep", RUN].map(str::to_owned).into();
    places.extend(kinds.map(|kind| format!("{RUN}/{kind}")));
    let folder = |name: &String| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    places.extend(own(world).iter().filter_map(folder));
    // The user makes no folder of the workdir's; in a store there are none to make.
    let is_there = |place: &String| match world.at(place).local() {
        Some(local) => local.is_dir(),
        None => place == "keep" || !world.names(place).is_empty(),
    };
    places.retain(is_there);
    let names = [
        "NOTES.txt",
        "train-00000-of-00002.parquet",
        "part-99999.parquet",
        "step-best.safetensors",
        "notes#1",
        ".train-1.draft",
        "mine-v1/x.jsonl",
        "train-list-of-things.txt",
    ];
    let name = format!("{}/{}", rng.pick(&places), rng.pick(&names));
    if world.at(&name).exists().unwrap() {
        return;
    }
    world.put(&name, format!("the user's {name}").into_bytes());
    world.is_blocked |= !name.starts_with("keep");
}

fn set_clock(world: &World, days: i64) {
    let by = Duration::from_secs(days.unsigned_abs() * 24 * 3600);
    let now = SystemTime::now();
    let time = if days < 0 { now - by } else { now + by };
    for name in own(world) {
        // A store has a clock of its own.
        if let Some(path) = world.at(&name).local() {
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
    }
}
