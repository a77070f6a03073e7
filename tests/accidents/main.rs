//! Accidents: random sequences of runs, failures and other people's hands on a small workdir, against a simple model of
//! what must hold. No foreign file changes; a run that succeeds has written what a run from nothing writes; a run that
//! fails names the place.
//!
//! ```text
//! cargo test --release --test accidents                                 # a few hundred sequences, another seed every time
//! SEPO_SEED=7 SEPO_SEQUENCES=1 cargo test --release --test accidents    # one of them again
//! SEPO_MINUTES=30 cargo test --release --test accidents                 # as many as fit
//! ```
//!
//! The faults of `sepo::io::faults` belong to the whole process, so this is a program of its own, with one thread.

// Without a test harness this is no test to clippy, which permits in tests what is denied elsewhere.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod actions;
mod crashes;
// The server's harness and the folder that its other half names are those of the integration tests.
#[path = "../it/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "../it/seaweed.rs"]
#[allow(dead_code)]
mod seaweed;
mod world;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actions::{Action, Tally};
use world::{Rng, Store, World};

/// Sequences without `SEPO_SEQUENCES` or `SEPO_MINUTES`.
const SEQUENCES: u64 = 300;

/// Sequences in a store, where a run waits up to a minute for the lease of one that was killed.
const IN_A_STORE: u64 = 10;

/// Actions of a sequence.
const ACTIONS: usize = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn main() {
    // `cargo test` passes filters and options of its own test harness.
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    if wanted("crashes") {
        crashes::every_change_of_a_run_can_be_its_last();
        crashes::every_change_of_a_run_can_fail();
        println!("crashes: ok");
    }
    if wanted("sequences") {
        sequences();
    }
    if wanted("store") && std::env::var_os("SEPO_ACCIDENTS_URL").is_none() {
        in_a_store();
    }
}

/// The same sequences with workdir and outputs in a bucket of SeaweedFS, by a child with the server's credentials.
fn in_a_store() {
    let Some(server) = seaweed::server() else { return };
    let program = std::env::current_exe().expect("a running program has a path");
    let mut child = std::process::Command::new(program);
    child.arg("sequences").env("SEPO_ACCIDENTS_URL", "s3://warm");
    child.env("SEPO_ACCIDENTS_ENDPOINT", format!("http://127.0.0.1:{}", server.s3));
    if std::env::var_os("SEPO_SEQUENCES").is_none() {
        child.env("SEPO_SEQUENCES", IN_A_STORE.to_string());
    }
    child.env("AWS_ACCESS_KEY_ID", "testkey").env("AWS_SECRET_ACCESS_KEY", "testsecret").env("NO_PROXY", "127.0.0.1");
    assert!(child.status().expect("the program runs").success(), "in a store");
}

fn sequences() {
    let minutes = number("SEPO_MINUTES");
    let count = number("SEPO_SEQUENCES").unwrap_or(if minutes.is_some() { u64::MAX } else { SEQUENCES });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = number("SEPO_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let (start, mut tally) = (Instant::now(), Tally::default());
    let over = || minutes.is_some_and(|minutes| start.elapsed() > Duration::from_secs(60 * minutes));
    let (mut done, store) = (0, Store::of_environment());
    println!("sequences from seed {first} on");
    while done < count && !over() {
        let seed = first + done;
        if let Err(what) = sequence(&store, seed, &mut tally) {
            panic!(
                "seed {seed}: {what}\nagain: SEPO_SEED={seed} SEPO_SEQUENCES=1 cargo test --release --test accidents sequences"
            );
        }
        done += 1;
    }
    println!("{done} sequences in {:.0} s: {tally}", start.elapsed().as_secs_f64());
    assert!(tally.succeeded > 0, "no run succeeded, so nothing was compared");
}

/// One sequence; what does not hold.
fn sequence(store: &Store, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(store, &mut rng);
    let mut story = Vec::new();
    for _ in 0..ACTIONS {
        let action = Action::random(&mut rng);
        story.push(format!("{action:?}"));
        action.act(&mut world, &mut rng, tally).map_err(|what| format!("{what}\nafter {}", story.join(", ")))?;
    }
    // Whatever happened: with the user's hands off, the same command comes to its end, or says what is in its way.
    story.push("the end".to_owned());
    world.settle(tally).map_err(|what| format!("{what}\nafter {}", story.join(", ")))
}
