//! Leases under races, deaths, pauses and stores that stay away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Instant;

use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

use super::*;
use crate::io::store::bucket_of;

const MOMENT: Duration = Duration::from_millis(1);

/// Long enough for a busy machine to renew in time.
const SHORT: Duration = Duration::from_millis(600);

fn local(folder: &tempfile::TempDir) -> Location {
    Location::parse(folder.path().to_str().unwrap()).unwrap()
}

fn in_memory() -> Location {
    bucket_of(InMemory::new(), "leases/x")
}

fn on(_: &Holder) -> Result<Wait> {
    Ok(Wait::On)
}

fn give_up(_: &Holder) -> Result<Wait> {
    Ok(Wait::GiveUp)
}

fn numbered(folder: &Location, time_to_live: Duration) -> Option<Numbered> {
    numbered::acquire(folder, &Holder::this_process(), (time_to_live, MOMENT), &mut give_up).unwrap()
}

/// Threads that take turns at a lease; how often one of them had it.
fn take_turns(acquire: impl Fn() -> Box<dyn Fn() -> Result<()>> + Sync) -> u64 {
    const ROUNDS: u64 = 50;
    let (busy, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let held = acquire();
                    assert!(!busy.swap(true, Ordering::SeqCst), "two hold the lease");
                    turns.fetch_add(1, Ordering::SeqCst);
                    held().unwrap();
                    assert!(busy.swap(false, Ordering::SeqCst));
                }
            });
        }
    });
    turns.into_inner()
}

#[test]
fn a_lease_has_one_holder_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let at = local(&folder);
    let lock = || {
        let lease = Lease::acquire_for(&at, "x", MOMENT, on).unwrap().unwrap();
        assert!(matches!(lease.0, Held::Lock(_)));
        Box::new(move || lease.held()) as Box<dyn Fn() -> Result<()>>
    };
    assert_eq!(take_turns(lock), 200);
    for at in [in_memory(), at.join("numbered")] {
        let number = || {
            let times = (Duration::from_secs(30), MOMENT);
            let lease = numbered::acquire(&at, &Holder::this_process(), times, &mut on).unwrap().unwrap();
            Box::new(move || lease.held()) as Box<dyn Fn() -> Result<()>>
        };
        assert_eq!(take_turns(number), 200);
        assert_eq!(at.list().unwrap().len(), 1, "{at}");
    }
}

#[test]
fn one_of_many_takes_over_from_a_holder_that_died() {
    let at = in_memory();
    numbered(&at, SHORT).unwrap().falls_silent();
    for _ in 0..5 {
        let since = Instant::now();
        let done = AtomicBool::new(false);
        let held: Vec<Numbered> = scope(|scope| {
            let wait = || {
                let mut wait = |_: &Holder| Ok(if done.load(Ordering::SeqCst) { Wait::GiveUp } else { Wait::On });
                let lease = numbered::acquire(&at, &Holder::this_process(), (SHORT, MOMENT), &mut wait).unwrap();
                sleep(SHORT / 2);
                done.store(true, Ordering::SeqCst);
                lease
            };
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(wait)).collect();
            waiting.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(since.elapsed() >= SHORT);
        assert_eq!(held.len(), 1);
        held[0].held().unwrap();
        held[0].falls_silent();
    }
    assert_eq!(at.list().unwrap().len(), 1);
}

#[test]
fn a_holder_that_renews_is_not_taken_over_and_a_released_lease_is_free_at_once() {
    let at = in_memory();
    let first = Lease::acquire_for(&at, "train", SHORT, on).unwrap().unwrap();
    let start = Instant::now();
    let mut asked = 0;
    let given_up = Lease::acquire_for(&at, "train", SHORT, |holder| {
        asked += 1;
        assert_eq!(holder.process, std::process::id());
        let text = holder.to_string();
        assert!(text.starts_with("process ") && text.contains(" on ") && text.ends_with(&holder.since), "{text}");
        Ok(if start.elapsed() < 3 * SHORT { Wait::On } else { Wait::GiveUp })
    });
    assert!(given_up.unwrap().is_none() && asked > 10);
    first.held().unwrap();
    let long = Lease::acquire_for(&at, "other", Duration::from_secs(600), on).unwrap().unwrap();
    drop(long);
    assert!(Lease::acquire_for(&at, "other", Duration::from_secs(600), give_up).unwrap().is_some());
    let stopped = Lease::acquire_for(&at, "train", SHORT, |_| Err(Error::Interrupted));
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn a_holder_that_was_stopped_finds_that_it_was_taken_over() {
    let at = in_memory();
    let stopped = numbered(&at, SHORT).unwrap();
    stopped.falls_silent();
    sleep(SHORT);
    let late = stopped.held().unwrap_err();
    assert!(late.to_string().contains("lost its lease: it could not be renewed for 0."), "{late}");
    assert_eq!(late.exit_code(), 75);

    let paused = numbered::acquire(&at, &Holder::this_process(), (SHORT, MOMENT), &mut on).unwrap().unwrap();
    paused.falls_silent();
    let second = numbered::acquire(&at, &Holder::this_process(), (SHORT, MOMENT), &mut on).unwrap().unwrap();
    // By its own clock no time went by.
    paused.wakes();
    let taken = paused.held().unwrap_err().to_string();
    assert!(taken.contains("another run took over") && taken.contains("run the same command again"), "{taken}");
    second.held().unwrap();
    drop(paused);
    second.held().unwrap();
}

#[test]
fn numbers_that_were_used_and_deleted_are_not_won_again() {
    let at = in_memory();
    let holder = numbered(&at, SHORT).unwrap();
    drop(holder);
    let holder = numbered(&at, SHORT).unwrap();
    assert_eq!(at.list().unwrap()[0].name(), "2.json");
    // Somebody who saw the released 0 long ago.
    assert!(Numbered::create(&at, 1, &Holder::this_process(), SHORT).unwrap().is_none());
    holder.held().unwrap();
    let names: Vec<String> = at.list().unwrap().iter().map(|file| file.name().to_owned()).collect();
    assert_eq!(names, ["2.json"]);
    at.join("02.json").write("no number").unwrap();
    at.join("more/7.json").write("another folder's").unwrap();
    holder.held().unwrap();
}

#[test]
fn a_store_that_stays_away_ends_a_lease_for_good() {
    let store = ThrottledStore::new(InMemory::new(), ThrottleConfig::default());
    let objects = Arc::new(store);
    let at = bucket_of(objects.clone(), "x");
    let lease = numbered(&at, SHORT).unwrap();
    sleep(SHORT / 2);
    lease.held().unwrap();
    objects.config_mut(|config| config.wait_put_per_call = 2 * SHORT);
    sleep(SHORT);
    let error = lease.held().unwrap_err().to_string();
    assert!(error.contains("it could not be renewed for "), "{error}");
    objects.config_mut(|config| config.wait_put_per_call = Duration::ZERO);
    // The write that took so long succeeds now; others may have seen the silence before it.
    sleep(2 * SHORT);
    lease.held().unwrap_err();
    let next = numbered::acquire(&at, &Holder::this_process(), (SHORT, MOMENT), &mut on).unwrap().unwrap();
    next.held().unwrap();
}

#[test]
fn objects_that_somebody_deleted_are_a_lost_lease() {
    let at = in_memory();
    let lease = numbered(&at, SHORT).unwrap();
    at.join("1.json").delete().unwrap();
    let error = lease.held().unwrap_err().to_string();
    assert!(error.contains("its object was deleted"), "{error}");
    sleep(SHORT / 2);
    assert!(at.list().unwrap().is_empty());
}

#[test]
fn a_lock_file_that_was_deleted_is_no_lease() {
    let folder = tempfile::tempdir().unwrap();
    let at = local(&folder);
    let first = Lease::acquire(&at, "x", on).unwrap().unwrap();
    assert!(Lease::acquire(&at, "x", give_up).unwrap().is_none());
    fs::remove_file(folder.path().join("x.lock")).unwrap();
    let second = Lease::acquire(&at, "x", give_up).unwrap().unwrap();
    let error = first.held().unwrap_err().to_string();
    assert!(error.contains("x.lock: the lock file was deleted"), "{error}");
    second.held().unwrap();
    drop(second);
    assert!(folder.path().join("x.lock").is_file());
}

#[test]
fn a_lock_says_who_holds_it_and_ends_with_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let at = local(&folder);
    let path = folder.path().join("x.lock");
    fs::write(&path, "left by a run that was killed, longer than what a holder writes".repeat(20)).unwrap();
    let lease = Lease::acquire(&at, "x", give_up).unwrap().unwrap();
    let mut said = String::new();
    let mut note = |holder: &Holder| {
        said = holder.to_string();
        Ok(Wait::GiveUp)
    };
    assert!(Lease::acquire(&at, "x", &mut note).unwrap().is_none());
    assert!(said.starts_with(&format!("process {} on ", std::process::id())), "{said}");
    // A kernel closes the files of a process that was killed.
    let Held::Lock(lock) = lease.0 else { panic!("a local lease") };
    drop(lock);
    assert!(Lease::acquire(&at, "x", give_up).unwrap().is_some());
}
