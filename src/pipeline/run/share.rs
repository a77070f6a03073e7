//! Which units of work a run does, and in what order: workers on one workdir need no coordinator, they spread by chance and by the
//! notes that they find.

use std::collections::BTreeSet;

use crate::io::nonce;

/// The units of work that a run does if nobody has done them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Assignment {
    /// All of them.
    #[default]
    All,
    /// One share; others do the rest.
    Share(Share),
    /// None: what others did is merged.
    Merge,
}

/// Every unit of work whose index leaves this remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    index: usize,
    of: usize,
}

impl Assignment {
    /// Whether unit `unit` is to be done.
    pub(super) fn holds(self, unit: usize) -> bool {
        match self {
            Self::All => true,
            Self::Share(share) => unit % share.of == share.index,
            Self::Merge => false,
        }
    }
}

impl std::str::FromStr for Share {
    type Err = &'static str;

    /// `i/n`, from 1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index @ 1.., of)) if index <= of => Ok(Self { index: index - 1, of }),
            _ => Err("give i/n with 1 <= i <= n, for example 2/8"),
        }
    }
}

/// A way through units of work, each once: one after the other, until it meets what another worker did; then from a random
/// one on. So workers that know nothing of one another spread, and each has a stretch to itself.
pub(super) struct Walk {
    /// In order.
    units: Vec<usize>,
    /// Indices of those that are left.
    left: BTreeSet<usize>,
    /// Those that were met and are not finished.
    begun: BTreeSet<usize>,
    at: usize,
}

impl Walk {
    /// A way through `units`, which are in order.
    pub(super) fn through(units: Vec<usize>) -> Self {
        Self { left: (0..units.len()).collect(), units, begun: BTreeSet::new(), at: 0 }
    }

    /// Leaves out `done`, which other workers did.
    pub(super) fn leave_out(&mut self, done: &[usize]) {
        for unit in done {
            if let Ok(index) = self.units.binary_search(unit) {
                self.left.remove(&index);
            }
        }
    }

    /// Notes that `unit`, which was met, is finished.
    pub(super) fn finish(&mut self, unit: usize) {
        self.begun.remove(&unit);
    }

    /// Units of the way that are finished: done by this worker, or left out.
    pub(super) fn gone(&self) -> impl Iterator<Item = usize> {
        let gone = self.units.iter().enumerate().filter(|(index, _)| !self.left.contains(index));
        gone.map(|(_, unit)| *unit).filter(|unit| !self.begun.contains(unit))
    }

    /// Goes on at any of the units that are left. At which, differs between processes.
    pub(super) fn jump(&mut self) {
        let number = u64::from_str_radix(&nonce()[..16], 16).expect("a nonce is hexadecimal");
        let index = (number % self.left.len().max(1) as u64) as usize;
        self.at = self.left.iter().nth(index).copied().unwrap_or_default();
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        // Behind what another worker did it is probably still at work.
        if !self.left.contains(&self.at) {
            self.jump();
        }
        let index = self.at;
        self.at += 1;
        let unit = self.left.remove(&index).then(|| self.units[index])?;
        self.begun.insert(unit);
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_every_unit_once_wherever_it_goes_on() {
        let all = |units: usize| (0..units).collect::<Vec<_>>();
        assert_eq!(Walk::through(all(5)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut walk = Walk::through(vec![1, 4, 7, 10]);
        assert_eq!((walk.next(), walk.next()), (Some(1), Some(4)));
        let mut walk = Walk::through(all(100));
        let mut met = vec![walk.next().unwrap(), walk.next().unwrap()];
        walk.jump();
        let place = walk.at;
        met.extend(&mut walk);
        assert_eq!(met[2], place);
        met.sort_unstable();
        assert_eq!(met, all(100));
        assert_eq!(walk.next(), None);
    }

    #[test]
    fn what_others_did_is_left_out_and_never_entered_from_behind() {
        let mut walk = Walk::through((0..1_000_000).collect());
        assert_eq!(walk.next(), Some(0));
        walk.leave_out(&[1, 2, 3]);
        // One in a million that it is 4.
        let somewhere = walk.next().unwrap();
        assert!(somewhere > 4, "{somewhere}");
        let mut walk = Walk::through(vec![2, 5, 8]);
        walk.leave_out(&[5, 6, 7]);
        assert_eq!(walk.gone().collect::<Vec<_>>(), [5]);
        let mut met: Vec<usize> = walk.by_ref().collect();
        met.sort_unstable();
        assert_eq!(met, [2, 8]);
        assert_eq!(walk.gone().collect::<Vec<_>>(), [5], "no other is finished");
        walk.finish(8);
        assert_eq!(walk.gone().collect::<Vec<_>>(), [5, 8]);
    }

    #[test]
    fn workers_go_on_at_different_places() {
        let place = || {
            let mut walk = Walk::through((0..1_000_000).collect());
            walk.jump();
            walk.at
        };
        let places: BTreeSet<usize> = (0..8).map(|_| place()).collect();
        assert!(places.len() > 6, "{places:?}");
    }
}
