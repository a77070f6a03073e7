//! A thousand workers on a million units: the program's own code for dividing units among workers (`spread.rs`), with a
//! simulated store and clock.
//!
//!     cargo run --release --example simulate-scale -- [--latencies benches/scale/overheads.json] [--at-most 1.1]
//!
//! A worker asks whether its next unit has a note, does it if not, in about `--unit-seconds` times its slowness, and puts the part,
//! then the note. Everything else about units is what `spread.rs` decides. Of the workers 5 % are stragglers, three times as slow.
//! With a probability of 1 % a process dies within a unit; another one takes its place after a back-off, and loads models
//! before its first unit. The first worker that knows of no unit that is left commits: it reads the notes of others' units, and
//! the parts that were there before it came up, while the others look again and again whether it is done.
//!
//! Every request takes a time that is drawn from measured ones, times `--store-factor`. A write is seen by others after that
//! time, so workers that tell at the same time undo what the other told, as in a store.

#[path = "../../../src/pipeline/run/spread.rs"]
mod spread;
mod store;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, LogNormal};
use serde_json::{Value, json};

use spread::{Board, UnitSet, Walk};
use store::{Kind, PAGE, Store, uniform};

/// Notes, and parts as small as these, that a commit reads at a time.
const AT_ONCE: f64 = 64.0;

/// Workers start within so many seconds.
const START: f64 = 60.0;

/// Requests of a process before its first unit, beside those of `spread.rs`: workdir, session, leases, footers of inputs.
const OPENING: usize = 40;

/// Requests of a worker that looks whether a commit is done.
const LOOK: f64 = 3.0;

/// How much slower a straggler is.
const STRAGGLER: f64 = 3.0;

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1000)]
    workers: usize,
    #[arg(long, default_value_t = 1_000_000)]
    units: usize,
    #[arg(long, default_value_t = 10.0)]
    unit_seconds: f64,
    /// Share of the workers that are three times as slow.
    #[arg(long, default_value_t = 0.05)]
    stragglers: f64,
    /// Share of the units within which a process dies.
    #[arg(long, default_value_t = 0.01)]
    failures: f64,
    #[arg(long, default_value_t = 30.0)]
    load_seconds: f64,
    #[arg(long, default_value_t = 1.0)]
    back_off: f64,
    /// What the measured latencies are multiplied by.
    #[arg(long, default_value_t = 1.0)]
    store_factor: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The `latencies` that `overheads.py --out` wrote.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/scale/overheads.json"))]
    latencies: PathBuf,
    /// Fails where makespan over ideal is more.
    #[arg(long)]
    at_most: Option<f64>,
}

/// What happens to a worker at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Its process begins.
    Begin,
    /// It has computed a unit.
    Computed(usize),
}

/// A process of a worker.
struct Process {
    walk: Walk,
    /// Units that were finished when it began.
    found: usize,
    has_models: bool,
    /// Units that it did.
    did: usize,
}

struct World<'a> {
    arguments: &'a Arguments,
    store: Store,
    rng: ChaCha8Rng,
    slowness: Vec<f64>,
    processes: Vec<Option<Process>>,
    /// By their times, whose bits are in the same order, as no time is below 0.
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    /// When all units were done, and what it took.
    done_at: f64,
    done: usize,
    twice: usize,
    met: usize,
    died: usize,
    computed: f64,
    /// The first worker that knows of no unit that is left: when, the units that it found and that it did.
    first: Option<(f64, usize, usize)>,
}

impl<'a> World<'a> {
    fn new(arguments: &'a Arguments, measured: &Value) -> Result<Self, Box<dyn Error>> {
        let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed + 1);
        let mut slowness = || if uniform(&mut rng) < arguments.stragglers { STRAGGLER } else { 1.0 };
        let slowness = (0..arguments.workers).map(|_| slowness()).collect();
        let begin = |worker| Reverse(((START * uniform(&mut rng)).to_bits(), worker, Event::Begin));
        let events = (0..arguments.workers).map(begin).collect();
        Ok(Self {
            arguments,
            store: Store::new(arguments, measured)?,
            slowness,
            processes: (0..arguments.workers).map(|_| None).collect(),
            events,
            rng,
            done_at: 0.0,
            done: 0,
            twice: 0,
            met: 0,
            died: 0,
            computed: 0.0,
            first: None,
        })
    }

    fn run(&mut self) {
        let takes = LogNormal::new(-0.02, 0.2).expect("a finite deviation");
        while let Some(Reverse((at, worker, event))) = self.events.pop() {
            self.store.serve(f64::from_bits(at));
            let mut process = match (event, self.processes[worker].take()) {
                (Event::Computed(unit), Some(process)) => self.publish(process, unit),
                _ => self.begin(),
            };
            let Some(unit) = self.take(&mut process) else {
                let now = self.store.now();
                if self.first.is_none_or(|(first, ..)| now < first) {
                    self.first = Some((now, process.found, process.did));
                }
                continue;
            };
            if !std::mem::replace(&mut process.has_models, true) {
                self.store.serve(self.store.now() + self.arguments.load_seconds);
            }
            // The unit's rows.
            self.store.ask(Kind::Get, 1);
            let now = self.store.now();
            let mut seconds = takes.sample(&mut self.rng) * self.arguments.unit_seconds * self.slowness[worker];
            let dies = uniform(&mut self.rng) < self.arguments.failures;
            let (pause, next) = if dies {
                self.died += 1;
                seconds *= uniform(&mut self.rng);
                (self.arguments.back_off, Event::Begin)
            } else {
                self.processes[worker] = Some(process);
                (0.0, Event::Computed(unit))
            };
            self.computed += seconds;
            self.events.push(Reverse(((now + seconds + pause).to_bits(), worker, next)));
        }
    }

    /// A process that comes up among others.
    fn begin(&mut self) -> Process {
        self.store.ask(Kind::Get, OPENING);
        let units = self.arguments.units;
        let Ok(told) = self.store.told();
        if told.is_none() {
            self.store.ask(Kind::List, 1 + 2 * self.done / PAGE);
        }
        let found = told.unwrap_or_else(|| UnitSet::none(units));
        let mut walk = Walk::new(&found, |_| true, self.rng.next_u64());
        self.store.ask(Kind::List, 1);
        let Ok(()) = walk.join(&self.store);
        Process { walk, found: units - found.absent(), has_models: false, did: 0 }
    }

    /// The next unit of `process` without a note.
    fn take(&mut self, process: &mut Process) -> Option<usize> {
        while let Some(unit) = process.walk.next() {
            if !self.store.is_noted(unit) {
                return Some(unit);
            }
            self.met += 1;
            let Ok(()) = process.walk.meet(unit, &self.store);
        }
        None
    }

    /// The part and the note of `unit`, which `process` has computed.
    fn publish(&mut self, mut process: Process, unit: usize) -> Process {
        let Ok(()) = if self.store.publish(unit) {
            self.done += 1;
            self.done_at = self.done_at.max(self.store.now());
            process.did += 1;
            process.walk.did(unit, &self.store)
        } else {
            self.twice += 1;
            process.walk.meet(unit, &self.store)
        };
        process
    }

    fn result(&self) -> Result<Value, Box<dyn Error>> {
        let arguments = self.arguments;
        let (units, workers) = (arguments.units as f64, arguments.workers as f64);
        let (first, found, did) = self.first.ok_or("no worker came to the end")?;
        if self.done != arguments.units {
            return Err(format!("{} of {} units were done", self.done, arguments.units).into());
        }
        let state = self.store.state();
        let speed: f64 = self.slowness.iter().map(|slowness| 1.0 / slowness).sum();
        let ideal = units * arguments.unit_seconds / speed;
        // Notes of others, and parts that were there.
        let (notes, checks) = ((arguments.units - did) as f64, found as f64);
        let commit = (notes + checks) * state.mean(Kind::Get) / AT_ONCE;
        let waiting = LOOK * looks(commit) * (workers - 1.0);
        // On average half of the unit is lost, too.
        let death = arguments.load_seconds + arguments.back_off + arguments.unit_seconds / 2.0;
        let requests = state.requests.values().sum::<usize>() as f64 + notes + checks + waiting;
        let counts: BTreeMap<String, f64> = state
            .requests
            .iter()
            .map(|(kind, count)| (format!("{kind:?}").to_uppercase(), *count as f64 / units))
            .collect();
        Ok(json!({
            "workers": arguments.workers,
            "units": arguments.units,
            "unit_seconds": arguments.unit_seconds,
            "store_factor": arguments.store_factor,
            "ideal_seconds": ideal.round(),
            "all_units_done_seconds": self.done_at.round(),
            "committed_seconds": (first + commit).round(),
            "makespan_over_ideal": rounded((first + commit) / ideal),
            "of_that_deaths": rounded(self.died as f64 * death / workers / ideal),
            "of_that_commit": rounded(commit / ideal),
            "computed_over_needed": rounded(self.computed / (ideal * workers)),
            "units_done_twice": self.twice,
            "processes_that_died": self.died,
            "met_another_worker": self.met,
            "requests_per_unit": rounded(requests / units),
            "of_that_notes": rounded(notes / units),
            "of_that_parts_that_were_there": rounded(checks / units),
            "of_that_waiting": rounded(waiting / units),
            "until_then_by_kind": counts.into_iter().map(|(kind, count)| (kind, rounded(count))).collect::<BTreeMap<_, _>>(),
            "mean_requests_a_second": (state.seconds.iter().map(|second| second[0]).sum::<usize>() as f64 / self.done_at).round(),
            "busiest_second": state.seconds.iter().map(|second| second[0]).max(),
            "busiest_second_of_known_bits": state.seconds.iter().map(|second| second[1]).max(),
        }))
    }
}

/// How often a worker looks that waits for `seconds`: every 2 s at first, then after a tenth of the time waited so far, at
/// most 5 s.
fn looks(seconds: f64) -> f64 {
    let pauses = |at: &f64| Some(at + (at / 10.0).clamp(2.0, 5.0));
    std::iter::successors(Some(0.0), pauses).take_while(|at| *at < seconds).count() as f64
}

/// To three decimals.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn measured(path: &Path) -> Result<Value, Box<dyn Error>> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_slice::<Value>(&text)?["latencies"].take())
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is what this program is for")]
fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let mut world = World::new(&arguments, &measured(&arguments.latencies)?)?;
    world.run();
    let result = world.result()?;
    println!("{result:#}");
    eprintln!("simulated in {:.0} s", start.elapsed().as_secs_f64());
    let makespan = result["makespan_over_ideal"].as_f64().ok_or("no makespan")?;
    Ok(match arguments.at_most {
        Some(bar) if makespan > bar => {
            eprintln!("makespan over ideal is {makespan}, more than {bar}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    })
}
