//! A lease as numbered objects of a store; `lease.rs` has the protocol.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Holder, Wait};
use crate::error::{Error, Result};
use crate::io::store::Location;

/// The longest that a release may hold up the end of a run; without one the lease ends by itself.
const RELEASE: Duration = Duration::from_secs(5);

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    holder: Holder,
    /// How often it was renewed: another content each time.
    beat: u64,
    released: bool,
    /// In milliseconds.
    time_to_live: u64,
}

/// The number that this process created, which a thread renews.
#[derive(Debug)]
pub(super) struct Numbered {
    folder: Location,
    number: u64,
    time_to_live: Duration,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    /// When the last renewal that succeeded was sent.
    renewed: Instant,
    /// Why the lease is lost.
    lost: Option<String>,
    wish: Wish,
}

/// What the thread shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Renew,
    Release,
    /// It did.
    End,
}

/// One content of the highest number, and when it was first seen.
struct Observed {
    number: u64,
    content: Bytes,
    since: Instant,
}

/// The numbers in `folder`, in order.
fn numbers(folder: &Location) -> Result<Vec<u64>> {
    let prefix = format!("{folder}/");
    let number = |file: &Location| {
        let path = file.to_string();
        let name = path.strip_prefix(&prefix)?.strip_suffix(".json")?;
        name.parse::<u64>().ok().filter(|number| number.to_string() == name)
    };
    let mut numbers: Vec<u64> = folder.list()?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn object(folder: &Location, number: u64) -> Location {
    folder.join(&format!("{number}.json"))
}

/// Deletes what is not the highest number. What stays is deleted by the next holder; what is gone was deleted by another one.
fn remove(lower: &Location) {
    if let Err(error) = lower.delete() {
        info!("{error}; an old number of a lease was not deleted");
    }
}

/// Gets the lease whose objects lie in `folder`. `times` are its time to live and the pause between two looks.
pub(super) fn acquire(
    folder: &Location,
    me: &Holder,
    times: (Duration, Duration),
    wait: &mut dyn FnMut(&Holder) -> Result<Wait>,
) -> Result<Option<Numbered>> {
    let (time_to_live, look) = times;
    let (mut seen, start): (Option<Observed>, _) = (None, Instant::now());
    loop {
        let asked = Instant::now();
        let (mut free, mut holder) = (None, None);
        match numbers(folder)?.last() {
            None => free = Some(1),
            Some(&number) => {
                // None where whoever created a higher one deleted it since.
                if let Some(content) = object(folder, number).read()? {
                    let entry: Option<Entry> = serde_json::from_slice(&content).ok();
                    let known = seen.take().filter(|seen| (seen.number, &seen.content) == (number, &content));
                    let known = known.unwrap_or_else(|| Observed { number, content, since: Instant::now() });
                    let silent = asked.saturating_duration_since(known.since);
                    seen = Some(known);
                    let patience = entry.as_ref().map_or(0, |entry| entry.time_to_live);
                    let patience = Duration::from_millis(patience).max(time_to_live);
                    let is_released = entry.as_ref().is_some_and(|entry| entry.released);
                    free = (is_released || silent >= patience).then_some(number + 1);
                    holder = entry.map(|entry| entry.holder);
                }
            }
        }
        if let Some(number) = free {
            if let Some(lease) = Numbered::create(folder, number, me, time_to_live)? {
                return Ok(Some(lease));
            }
            continue;
        }
        if wait(&holder.unwrap_or_else(Holder::unknown))? == Wait::GiveUp {
            return Ok(None);
        }
        // A thousand may wait, so whoever waited long looks less often; but it has to notice when it is asked to stop.
        thread::sleep(look.max(start.elapsed() / 10).min(time_to_live / 12));
    }
}

impl Numbered {
    /// Creates `number`; none where somebody else did, or a higher one.
    pub(super) fn create(folder: &Location, number: u64, me: &Holder, time_to_live: Duration) -> Result<Option<Self>> {
        let renewed = Instant::now();
        let millis = time_to_live.as_millis() as u64;
        let entry = Entry { holder: me.clone(), beat: 0, released: false, time_to_live: millis };
        let own = object(folder, number);
        if !own.create(entry.to_json())? {
            return Ok(None);
        }
        let numbers = numbers(folder)?;
        if numbers.last() != Some(&number) {
            remove(&own);
            return Ok(None);
        }
        numbers.iter().filter(|lower| **lower < number).for_each(|lower| remove(&object(folder, *lower)));
        let state = Mutex::new(State { renewed, lost: None, wish: Wish::Renew });
        let shared = Arc::new(Shared { state, bell: Condvar::new() });
        let renewal = Renewal { folder: folder.within(time_to_live / 3), number, entry, time_to_live };
        let of_thread = shared.clone();
        thread::spawn(move || renewal.run(&of_thread));
        Ok(Some(Self { folder: folder.clone(), number, time_to_live, shared }))
    }

    pub(super) fn held(&self) -> Result<()> {
        let highest = numbers(&self.folder)?.last().copied();
        let mut state = self.shared.lock();
        state.check(self.number, highest, self.time_to_live);
        // What is published now must be there before anybody can take over.
        let is_late = state.renewed.elapsed() > self.time_to_live - self.time_to_live / 3;
        let late = is_late.then(|| state.silence());
        let Some(why) = state.lost.clone().or(late) else { return Ok(()) };
        let message = format!(
            "this run lost its lease: {why}; another one may do the same work, so nothing was kept of this run's; run the \
             same command again"
        );
        Err(Error::Store { path: self.folder.to_string(), message, retryable: true })
    }
}

#[cfg(test)]
impl Numbered {
    /// What is left of a process that was killed, or stopped: nothing is renewed any more.
    pub(super) fn falls_silent(&self) {
        self.shared.lock().wish = Wish::End;
        self.shared.bell.notify_all();
    }

    /// The clock of a machine that stood still goes on where it stood.
    pub(super) fn wakes(&self) {
        self.shared.lock().renewed = Instant::now();
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.wish == Wish::Renew {
            state.wish = Wish::Release;
            self.shared.bell.notify_all();
        }
        let ended = |state: &mut State| state.wish != Wish::End;
        // After a timeout others wait for the lease to end by itself.
        drop(self.shared.bell.wait_timeout_while(state, RELEASE, ended));
    }
}

impl Entry {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an entry is plain data")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes that the lease is lost where `highest`, the highest number that is there, or the time say so.
    fn check(&mut self, number: u64, highest: Option<u64>, time_to_live: Duration) {
        let why = match highest {
            Some(highest) if highest > number => "it was silent for too long, and another run took over".to_owned(),
            Some(highest) if highest == number && self.renewed.elapsed() < time_to_live => return,
            Some(highest) if highest == number => self.silence(),
            _ => "its object was deleted".to_owned(),
        };
        self.lost.get_or_insert(why);
    }

    fn silence(&self) -> String {
        format!("it could not be renewed for {:.1} s", self.renewed.elapsed().as_secs_f64())
    }
}

/// What renews a number.
struct Renewal {
    folder: Location,
    number: u64,
    entry: Entry,
    time_to_live: Duration,
}

impl Renewal {
    /// Renews the number until it is lost, or released as `shared` wishes.
    fn run(mut self, shared: &Shared) {
        let own = object(&self.folder, self.number);
        let (often, soon) = (self.time_to_live / 3, self.time_to_live / 20);
        let mut pause = often;
        loop {
            let state = shared.lock();
            let waited = shared.bell.wait_timeout_while(state, pause, |state| state.wish == Wish::Renew);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.lost.is_some() || state.wish == Wish::End {
                state.wish = Wish::End;
                shared.bell.notify_all();
                return;
            }
            let wish = state.wish;
            drop(state);
            let sent = Instant::now();
            self.entry.beat += 1;
            self.entry.released = wish == Wish::Release;
            let renewed = numbers(&self.folder).and_then(|numbers| {
                let highest = numbers.last().copied();
                // Whoever took over deleted this number; it is not to come back.
                if highest == Some(self.number) {
                    own.write(self.entry.to_json()).map(|()| highest)
                } else {
                    Ok(highest)
                }
            });
            let mut state = shared.lock();
            match renewed {
                Ok(highest) => {
                    state.check(self.number, highest, self.time_to_live);
                    state.renewed = sent;
                    pause = often;
                }
                Err(error) => {
                    info!("{error}; a lease could not be renewed");
                    pause = soon;
                }
            }
            if wish == Wish::Release {
                state.wish = Wish::End;
                shared.bell.notify_all();
                return;
            }
        }
    }
}
