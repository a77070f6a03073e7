//! How workers without a coordinator divide the units of a stage among themselves: each goes its own way through them, spreads
//! by chance and by the notes that it finds, and tells the others what is finished.
//!
//! Nothing here depends on the rest of the program: `benches/scale/simulate` compiles this file too, and runs it with a
//! simulated store and clock.

/// A worker tells others of its units after so many of them, and when it meets another worker.
const OFTEN: usize = 64;

const WORD: usize = u64::BITS as usize;

/// What the workers on one stage share.
pub(super) trait Board {
    /// Why the board cannot be read or written.
    type Error;

    /// Finished units, of those after `unit` as many as one answer of the store names.
    fn finished_after(&self, unit: usize) -> Result<Vec<usize>, Self::Error>;

    /// What workers told one another to be finished; nothing before the first of them did.
    fn told(&self) -> Result<Option<UnitSet>, Self::Error>;

    /// Tells the others that `units` are finished. Of two workers that tell at the same time, one may undo what the other
    /// told; it tells it again the next time.
    fn tell(&self, units: &UnitSet) -> Result<(), Self::Error>;
}

/// A set of the units of a stage: a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitSet {
    words: Vec<u64>,
    count: usize,
}

impl UnitSet {
    /// None of `count` units.
    pub(super) fn none(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(WORD)], count }
    }

    /// The set of `count` units that [`Self::to_bytes`] gave; nothing where the length is another one.
    pub(super) fn from_bytes(bytes: &[u8], count: usize) -> Option<Self> {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let words = bytes.chunks(WORD / 8).map(word).collect();
        (bytes.len() == count.div_ceil(8)).then_some(Self { words, count })
    }

    /// A byte for every eight units, the lowest bit first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).take(self.count.div_ceil(8)).collect()
    }

    pub(super) fn contains(&self, unit: usize) -> bool {
        self.words.get(unit / WORD).is_some_and(|word| word >> (unit % WORD) & 1 == 1)
    }

    /// Adds `unit`, one of the stage's.
    pub(super) fn insert(&mut self, unit: usize) {
        debug_assert!(unit < self.count, "{unit} of {} units", self.count);
        self.words[unit / WORD] |= 1 << (unit % WORD);
    }

    /// Adds all of `other`, a set of the same stage's units.
    pub(super) fn extend(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// How many of the units are absent.
    pub(super) fn absent(&self) -> usize {
        let present: usize = self.words.iter().map(|word| word.count_ones() as usize).sum();
        self.count.saturating_sub(present)
    }

    /// The first absent unit from `unit` on; `count` where there is none.
    fn absent_from(&self, unit: usize) -> usize {
        let mut first = !0 << (unit % WORD);
        let words = self.words.iter().enumerate().skip(unit / WORD);
        let found =
            words.map(|(index, word)| (index, !word & std::mem::replace(&mut first, !0))).find(|(_, word)| *word != 0);
        found.map_or(self.count, |(index, word)| self.count.min(index * WORD + word.trailing_zeros() as usize))
    }

    /// The absent unit before which `rank` others are absent.
    fn nth_absent(&self, mut rank: usize) -> Option<usize> {
        let mut absent = self.words.iter().map(|word| !word).enumerate();
        let (index, mut word) = absent.find(|(_, word)| {
            let here = word.count_ones() as usize;
            let is_here = rank < here;
            rank -= if is_here { 0 } else { here };
            is_here
        })?;
        for _ in 0..rank {
            word &= word - 1;
        }
        Some(index * WORD + word.trailing_zeros() as usize).filter(|unit| *unit < self.count)
    }
}

/// `SplitMix64`: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// A worker's way through units, each at most once: one after the other, until it meets what another worker did; then from a
/// random one on. So workers that know nothing of one another spread, and each has a stretch to itself.
///
/// Threads of a worker may take units of one way: a unit that was taken is not entered again, and counts as finished once its thread
/// says so.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    /// Units that the way goes past: finished before it began, or of another share.
    outside: UnitSet,
    /// Known to be finished.
    finished: UnitSet,
    /// Not to be entered any more: outside, finished or taken.
    closed: UnitSet,
    at: usize,
    /// Units that this worker finished.
    did: usize,
    /// No sign of other workers was found.
    is_alone: bool,
    random: Random,
}

impl Walk {
    /// The way of a worker that is alone to its knowledge, through the units that are not `finished` and that it `holds`.
    /// Workers with another `seed` take another way once they meet.
    pub(super) fn new(finished: &UnitSet, holds: impl Fn(usize) -> bool, seed: u64) -> Self {
        let mut outside = finished.clone();
        (0..finished.count).filter(|unit| !holds(*unit)).for_each(|unit| outside.insert(unit));
        let (closed, finished) = (outside.clone(), finished.clone());
        Self { outside, finished, closed, at: 0, did: 0, is_alone: true, random: Random(seed) }
    }

    /// Learns that others are active: takes up what they told, and goes on at a random unit.
    ///
    /// # Errors
    /// Those of the board.
    pub(super) fn join<B: Board>(&mut self, board: &B) -> Result<(), B::Error> {
        self.is_alone = false;
        self.exchange(board)?;
        self.jump();
        Ok(())
    }

    /// Notes that this worker finished `unit`.
    ///
    /// # Errors
    /// Those of the board.
    pub(super) fn did<B: Board>(&mut self, unit: usize, board: &B) -> Result<(), B::Error> {
        self.finished.insert(unit);
        self.did += 1;
        if !self.is_alone && self.did.is_multiple_of(OFTEN) { self.exchange(board) } else { Ok(()) }
    }

    /// Learns that another worker finished `unit`, and therefore goes on elsewhere.
    ///
    /// # Errors
    /// Those of the board.
    pub(super) fn meet<B: Board>(&mut self, unit: usize, board: &B) -> Result<(), B::Error> {
        for unit in board.finished_after(unit)?.into_iter().chain([unit]) {
            self.finished.insert(unit);
            self.closed.insert(unit);
        }
        self.join(board)
    }

    /// Both sides know what one of them knew.
    fn exchange<B: Board>(&mut self, board: &B) -> Result<(), B::Error> {
        let told = board.told()?;
        if let Some(told) = &told {
            self.finished.extend(told);
            self.closed.extend(told);
        }
        if told.as_ref() == Some(&self.finished) { Ok(()) } else { board.tell(&self.finished) }
    }

    /// Goes on at any of the units that are left, each as likely as another.
    fn jump(&mut self) {
        let left = self.closed.absent().max(1) as u64;
        let rank = self.random.next() % left;
        self.at = self.closed.nth_absent(rank as usize).unwrap_or(self.closed.count);
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.at = self.outside.absent_from(self.at);
        // Behind what another worker did it is probably still at work.
        if self.at == self.closed.count || self.closed.contains(self.at) {
            self.jump();
        }
        let unit = Some(self.at).filter(|unit| *unit < self.closed.count)?;
        self.closed.insert(unit);
        self.at += 1;
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use super::*;

    /// A board in memory, whose answers name `page` units.
    struct Shared {
        noted: RefCell<BTreeSet<usize>>,
        told: RefCell<Option<UnitSet>>,
        page: usize,
        listings: RefCell<usize>,
    }

    impl Shared {
        fn new(page: usize) -> Self {
            Self { noted: RefCell::default(), told: RefCell::default(), page, listings: RefCell::default() }
        }

        /// What a worker does with `unit`; whether it did it.
        fn step(&self, walk: &mut Walk, unit: usize) -> bool {
            let is_new = self.noted.borrow_mut().insert(unit);
            let Ok(()) = if is_new { walk.did(unit, self) } else { walk.meet(unit, self) };
            is_new
        }
    }

    impl Board for Shared {
        type Error = Infallible;

        fn finished_after(&self, unit: usize) -> Result<Vec<usize>, Infallible> {
            *self.listings.borrow_mut() += 1;
            Ok(self.noted.borrow().range(unit + 1..).take(self.page).copied().collect())
        }

        fn told(&self) -> Result<Option<UnitSet>, Infallible> {
            Ok(self.told.borrow().clone())
        }

        fn tell(&self, units: &UnitSet) -> Result<(), Infallible> {
            *self.told.borrow_mut() = Some(units.clone());
            Ok(())
        }
    }

    fn set(units: &[usize], count: usize) -> UnitSet {
        let mut set = UnitSet::none(count);
        units.iter().for_each(|unit| set.insert(*unit));
        set
    }

    fn walk(count: usize, seed: u64) -> Walk {
        Walk::new(&UnitSet::none(count), |_| true, seed)
    }

    #[test]
    fn a_set_is_a_byte_for_eight_units_the_lowest_bit_first() {
        for count in [0, 1, 8, 63, 64, 65, 130] {
            let some: Vec<usize> = (0..count).filter(|unit| unit % 3 == 0).collect();
            let bytes = set(&some, count).to_bytes();
            let bit = |unit: usize| bytes[unit / 8] >> (unit % 8) & 1 == 1;
            assert_eq!((0..count).filter(|unit| bit(*unit)).collect::<Vec<_>>(), some);
            assert_eq!(UnitSet::from_bytes(&bytes, count), Some(set(&some, count)));
            assert_eq!(UnitSet::from_bytes(&[&bytes[..], &[0]].concat(), count), None);
        }
    }

    #[test]
    fn absent_units_are_counted_and_found_by_their_rank() {
        let present: Vec<usize> = (0..200).filter(|unit| unit % 7 != 3 && *unit != 64).collect();
        let (set, absent) = (set(&present, 200), (0..200).filter(|unit| !present.contains(unit)));
        let absent: Vec<usize> = absent.collect();
        assert_eq!(set.absent(), absent.len());
        let found: Vec<usize> = (0..).map_while(|rank| set.nth_absent(rank)).collect();
        assert_eq!(found, absent);
        let from = |unit: usize| absent.iter().copied().find(|absent| *absent >= unit).unwrap_or(200);
        assert!((0..=200).all(|unit| set.absent_from(unit) == from(unit)));
    }

    #[test]
    fn a_worker_that_is_alone_goes_in_order_and_tells_nobody() {
        let shared = Shared::new(500);
        let mut walk = Walk::new(&set(&[1, 2], 200), |unit| unit % 2 == 0, 1);
        let mut did = Vec::new();
        while let Some(unit) = walk.next() {
            assert!(shared.step(&mut walk, unit));
            did.push(unit);
        }
        assert_eq!(did, (0..200).filter(|unit| unit % 2 == 0 && *unit != 2).collect::<Vec<_>>());
        assert!(shared.told.borrow().is_none());
    }

    #[test]
    fn what_others_told_is_never_entered() {
        let shared = Shared::new(500);
        shared.tell(&set(&[5, 6, 7], 9)).unwrap();
        let mut walk = walk(9, 3);
        walk.join(&shared).unwrap();
        let mut met: Vec<usize> = walk.by_ref().collect();
        met.sort_unstable();
        assert_eq!(met, [0, 1, 2, 3, 4, 8]);
    }

    #[test]
    fn behind_a_unit_of_another_worker_it_goes_on_elsewhere_and_tells_what_it_knows() {
        let shared = Shared::new(3);
        shared.noted.borrow_mut().extend([2, 3, 4, 9, 10]);
        let mut walk = walk(1_000_000, 7);
        for unit in 0..3 {
            assert_eq!(walk.next(), Some(unit));
            shared.step(&mut walk, unit);
        }
        assert_eq!(shared.told.borrow().as_ref(), Some(&set(&[0, 1, 2, 3, 4, 9], 1_000_000)));
        // One in a hundred thousand that it is one of the next.
        assert!(walk.next().unwrap() > 10);
    }

    #[test]
    fn a_unit_that_a_thread_still_computes_is_not_told_to_be_finished() {
        let shared = Shared::new(500);
        let mut walk = walk(9, 5);
        walk.join(&shared).unwrap();
        let [slow, quick] = [walk.next().unwrap(), walk.next().unwrap()];
        shared.step(&mut walk, quick);
        walk.join(&shared).unwrap();
        assert_eq!(shared.told.borrow().as_ref(), Some(&set(&[quick], 9)));
        let left: Vec<usize> = walk.by_ref().collect();
        assert!(left.len() == 7 && !left.contains(&slow), "{left:?}");
        shared.step(&mut walk, slow);
        walk.join(&shared).unwrap();
        assert!(shared.told.borrow().as_ref().is_some_and(|told| told.contains(slow)));
    }

    #[test]
    fn workers_with_other_seeds_go_on_at_other_places() {
        let place = |seed| {
            let mut walk = walk(1_000_000, seed);
            walk.jump();
            walk.at
        };
        let places: BTreeSet<usize> = (0..8).map(place).collect();
        assert_eq!(places.len(), 8, "{places:?}");
    }

    /// Workers in turn, a step each. How many units were entered twice, and listings.
    fn together(workers: usize, count: usize) -> (usize, usize) {
        let shared = Shared::new(500);
        let mut walks: Vec<Walk> = (0..workers as u64).map(|seed| walk(count, seed)).collect();
        walks.iter_mut().for_each(|walk| walk.join(&shared).unwrap());
        let (mut done, mut twice) = (0, 0);
        let mut is_left = true;
        while is_left {
            is_left = false;
            for walk in &mut walks {
                let Some(unit) = walk.next() else { continue };
                is_left = true;
                let is_new = shared.step(walk, unit);
                done += usize::from(is_new);
                twice += usize::from(!is_new);
            }
        }
        assert_eq!(done, count);
        (twice, shared.listings.take())
    }

    #[test]
    fn meetings_and_listings_grow_with_workers_and_hardly_with_units() {
        let (few, many) = (together(16, 2_000), together(16, 32_000));
        assert!(few.1 <= 16 * 30, "{few:?}");
        assert!(many.1 <= 2 * few.1, "{few:?} {many:?}");
    }
}
