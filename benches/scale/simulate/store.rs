//! A store that holds the notes and what workers tell one another, whose requests take measured times.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;

use super::Arguments;
use super::spread::{Board, UnitSet};

/// Names in one answer of a store.
pub(crate) const PAGE: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Get,
    Put,
    List,
}

/// Requests, or seconds, by kind.
pub(crate) type ByKind<T> = BTreeMap<Kind, T>;

/// Measured latencies of one kind: seconds up to which, and the share of the requests that took no longer.
struct Latencies {
    edges: Vec<f64>,
    shares: Vec<f64>,
}

impl Latencies {
    fn read(measured: &Value, kind: &str) -> Result<Self, Box<dyn Error>> {
        let within: Vec<(f64, f64)> = serde_json::from_value(measured[kind]["within"].clone())?;
        let total = within.last().ok_or("a histogram without buckets")?.1;
        let (edges, counts): (Vec<f64>, Vec<f64>) = within.into_iter().unzip();
        Ok(Self { edges, shares: counts.iter().map(|count| count / total).collect() })
    }

    /// The time of a random request.
    fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        let share = uniform(rng);
        let bucket = self.shares.partition_point(|below| *below <= share).min(self.edges.len() - 1);
        let lower = if bucket == 0 { 0.0 } else { self.edges[bucket - 1] };
        lower + uniform(rng) * (self.edges[bucket] - lower)
    }

    fn mean(&self) -> f64 {
        let mut before = (0.0, 0.0);
        let mut mean = 0.0;
        for (edge, share) in self.edges.iter().zip(&self.shares) {
            mean += (share - before.1) * (edge + before.0) / 2.0;
            before = (*edge, *share);
        }
        mean
    }
}

/// In [0, 1).
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A store that holds the notes and what workers tell one another, as one worker after the other sees it.
pub(crate) struct Store {
    state: RefCell<State>,
}

pub(crate) struct State {
    rng: ChaCha8Rng,
    latencies: ByKind<Latencies>,
    factor: f64,
    /// The time of the worker that asks.
    now: f64,
    /// When each unit's note came.
    noted: Vec<f64>,
    /// The units in the order of their notes' names, and where in that order each is.
    order: Vec<usize>,
    place: Vec<usize>,
    /// `known.bits`.
    told: Option<Vec<u8>>,
    /// What was written there and is not seen yet, with the time from which it is.
    pending: Vec<(f64, Vec<u8>)>,
    pub(crate) requests: ByKind<usize>,
    /// Requests in every second, and those for what workers tell one another.
    pub(crate) seconds: Vec<[usize; 2]>,
}

impl Store {
    pub(crate) fn new(arguments: &Arguments, measured: &Value) -> Result<Self, Box<dyn Error>> {
        let kinds = [(Kind::Get, "GET"), (Kind::Put, "PUT"), (Kind::List, "LIST")];
        let latencies = kinds.into_iter().map(|(kind, name)| Ok((kind, Latencies::read(measured, name)?)));
        let mut order: Vec<usize> = (0..arguments.units).collect();
        order.sort_by_cached_key(|unit| format!("part-{unit:05}.json"));
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, unit)| place[*unit] = at);
        let state = State {
            rng: ChaCha8Rng::seed_from_u64(arguments.seed),
            latencies: latencies.collect::<Result<_, Box<dyn Error>>>()?,
            factor: arguments.store_factor,
            now: 0.0,
            noted: vec![f64::INFINITY; arguments.units],
            order,
            place,
            told: None,
            pending: Vec::new(),
            requests: ByKind::new(),
            seconds: Vec::new(),
        };
        Ok(Self { state: RefCell::new(state) })
    }

    /// The time of the worker that asks.
    pub(crate) fn now(&self) -> f64 {
        self.state.borrow().now
    }

    /// From here on a worker asks whose time is `at`.
    pub(crate) fn serve(&self, at: f64) {
        self.state.borrow_mut().now = at;
    }

    /// What was asked until now.
    pub(crate) fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// Makes `count` requests, one after the other.
    pub(crate) fn ask(&self, kind: Kind, count: usize) -> RefMut<'_, State> {
        let mut state = self.state.borrow_mut();
        (0..count).for_each(|_| state.ask(kind, false));
        state
    }

    pub(crate) fn is_noted(&self, unit: usize) -> bool {
        let state = self.ask(Kind::Get, 1);
        state.noted[unit] <= state.now
    }

    /// Puts the part of `unit`, then its note; false where it has one.
    pub(crate) fn publish(&self, unit: usize) -> bool {
        let mut state = self.ask(Kind::Put, 2);
        let is_first = state.noted[unit].is_infinite();
        if is_first {
            state.noted[unit] = state.now;
        }
        is_first
    }
}

impl State {
    /// Mean seconds of a request.
    pub(crate) fn mean(&self, kind: Kind) -> f64 {
        self.factor * self.latencies[&kind].mean()
    }

    /// Makes one request, and waits for its answer.
    fn ask(&mut self, kind: Kind, of_told: bool) {
        *self.requests.entry(kind).or_default() += 1;
        let second = self.now as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, [0; 2]);
        }
        self.seconds[second][0] += 1;
        self.seconds[second][1] += usize::from(of_told);
        self.now += self.factor * self.latencies[&kind].draw(&mut self.rng);
    }
}

impl Board for Store {
    type Error = Infallible;

    fn finished_after(&self, unit: usize) -> Result<Vec<usize>, Infallible> {
        let state = self.ask(Kind::List, 1);
        let after = state.order[state.place[unit] + 1..].iter().copied();
        // Every finished unit has two names: of its part and of its note.
        Ok(after.filter(|unit| state.noted[*unit] <= state.now).take(PAGE / 2).collect())
    }

    fn told(&self) -> Result<Option<UnitSet>, Infallible> {
        let mut state = self.state.borrow_mut();
        state.ask(Kind::Get, true);
        let now = state.now;
        let mut seen: Vec<_> = state.pending.extract_if(.., |(at, _)| *at <= now).collect();
        seen.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, last)) = seen.pop() {
            state.told = Some(last);
        }
        Ok(state.told.as_ref().and_then(|bytes| UnitSet::from_bytes(bytes, state.noted.len())))
    }

    fn tell(&self, units: &UnitSet) -> Result<(), Infallible> {
        let mut state = self.state.borrow_mut();
        state.ask(Kind::Put, true);
        let now = state.now;
        state.pending.push((now, units.to_bytes()));
        Ok(())
    }
}
