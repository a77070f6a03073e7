//! A run is killed before each of its changes, or each of them fails: what comes after is as if nothing had happened.

use std::io::ErrorKind;

use sepo::io::faults::Fault;
use sepo::pipeline::Options;

use crate::actions::{Tally, run_once};
use crate::world::{Rng, Store, World};

/// More than the changes of any run here.
const MOST: u64 = 500;

/// Worlds of both kinds.
fn worlds() -> [World; 2] {
    let store = Store::of_environment();
    let world = |trains: bool| {
        (0..).map(|seed| World::new(&store, &mut Rng::new(seed))).find(|world| world.trains == trains).unwrap()
    };
    [world(false), world(true)]
}

/// The record of an earlier setting never stands for a later one, wherever the later run was killed.
pub(crate) fn every_change_of_a_run_can_be_its_last() {
    for mut world in worlds() {
        let mut tally = Tally::default();
        let (first, second) = (world.settings(0), world.settings(1));
        let plain = Options::default();
        assert_eq!(run_once(&mut world, first, &plain, None, &mut tally).unwrap(), None);
        for after in 0..MOST {
            let fault = Some((after, Fault::Killed));
            let outcome = run_once(&mut world, second, &plain, fault, &mut tally).unwrap();
            if tally.killed == after {
                assert_eq!(outcome, None, "no change {after}");
                break;
            }
            assert_eq!(
                run_once(&mut world, first, &plain, None, &mut tally).unwrap(),
                None,
                "killed before change {after}"
            );
        }
        assert!((12..MOST).contains(&tally.killed), "{tally}");
    }
}

/// A disk that is full for one change: the run fails and names the place, or did not need the change; the same command
/// then succeeds.
pub(crate) fn every_change_of_a_run_can_fail() {
    for mut world in worlds() {
        let mut tally = Tally::default();
        let settings = world.settings(0);
        for after in 0..MOST {
            let fresh = Options { fresh: true, ..Options::default() };
            let fault = Some((after, Fault::Fails(ErrorKind::StorageFull)));
            let failed = run_once(&mut world, settings, &fresh, fault, &mut tally).unwrap();
            if tally.failed_writes == after {
                assert_eq!(failed, None, "no change {after}");
                break;
            }
            let again = run_once(&mut world, settings, &Options::default(), None, &mut tally).unwrap();
            assert_eq!(again, None, "change {after} failed: {failed:?}");
        }
        assert!((12..MOST).contains(&tally.failed_writes), "{tally}");
    }
}
