//! Which units of work a run does, and in what order: workers on one workdir share them without talking to one another.

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

/// A way through all units, each once: in their order, until another worker turns out to be at the same place.
pub(super) struct Walk {
    left: BTreeSet<usize>,
    at: usize,
    of: usize,
}

impl Walk {
    pub(super) fn new(units: usize) -> Self {
        Self { left: (0..units).collect(), at: 0, of: units }
    }

    /// Goes on somewhere else. Where, differs between processes.
    pub(super) fn jump(&mut self) {
        let number = u64::from_str_radix(&nonce()[..16], 16).expect("a nonce is hexadecimal");
        self.at = (number % self.of.max(1) as u64) as usize;
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let next = self.left.range(self.at..).next().or_else(|| self.left.first()).copied()?;
        self.left.remove(&next);
        self.at = next + 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_every_unit_once_wherever_it_goes_on() {
        assert_eq!(Walk::new(5).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut walk = Walk::new(100);
        let mut met = vec![walk.next().unwrap(), walk.next().unwrap()];
        walk.jump();
        let place = walk.at;
        met.extend(&mut walk);
        assert!(met[2] == place || place < 2 && met[2] == 2);
        met.sort_unstable();
        assert_eq!(met, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn workers_go_on_at_different_places() {
        let place = || {
            let mut walk = Walk::new(1_000_000);
            walk.jump();
            walk.at
        };
        let places: BTreeSet<usize> = (0..8).map(|_| place()).collect();
        assert!(places.len() > 6, "{places:?}");
    }
}
