//! Numbers over all rows of a scored dataset, in one pass. Memory grows with the vocabulary and not with the rows, and sums are
//! taken in the order of the rows, so that the numbers of a file are always the same.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::classes::Class;
use super::gathered::Gathered;
use super::grid::{Correlation, Grid, Moments};
use super::rows::{Answer, Pair};
use super::vocabulary::Vocabulary;
use crate::columns::Side;

/// The share of the reward on end and newline tokens above which a report warns. DPO rewards are known to gather there: an
/// answer's length and form are easy to learn.
const MOST_END_SHARE: f64 = 0.1;

/// Token strings in each list of the most rewarded and the most punished ones.
const LISTED: usize = 20;

/// Parts of an answer by position.
const TENTHS: usize = 10;

/// Sums over tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Sum {
    tokens: u64,
    /// Those in the first mask.
    key_tokens: u64,
    reward: f64,
    /// Of the reward's size, whatever its sign.
    magnitude: f64,
}

impl Sum {
    fn add(&mut self, reward: f64, is_key: bool) {
        *self = self.and(&Self { tokens: 1, key_tokens: u64::from(is_key), reward, magnitude: reward.abs() });
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            key_tokens: self.key_tokens + other.key_tokens,
            reward: self.reward + other.reward,
            magnitude: self.magnitude + other.magnitude,
        }
    }
}

/// Tokens that two masks mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Overlap {
    both: u64,
    only_first: u64,
    only_second: u64,
}

/// What was seen of one side.
#[derive(Debug, Clone, Default)]
struct Seen {
    reward: Moments,
    rewards: Grid,
    token_reward: Moments,
    token_rewards: Grid,
    gathered: Gathered,
    whole: Sum,
    not_assistant: u64,
    zero_rewards: u64,
    tenths: [Sum; TENTHS],
    ids: HashMap<i32, Sum>,
    lengths: Option<Grid>,
    length_and_reward: Correlation,
    /// Tokens of each mask.
    marked: Vec<u64>,
    overlaps: BTreeMap<(usize, usize), Overlap>,
}

/// Numbers over rows.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    masks: Vec<String>,
    rows: u64,
    ranked_right: u64,
    margin: Moments,
    margins: Grid,
    sides: [Seen; 2],
    /// Rows with a number that is not finite, which count nowhere else, and the first of them.
    unusable: u64,
    first_unusable: Option<u64>,
}

impl Statistics {
    /// Numbers over rows with the masks called so.
    pub(super) fn new(masks: &[String]) -> Self {
        Self {
            masks: masks.to_owned(),
            rows: 0,
            ranked_right: 0,
            margin: Moments::default(),
            margins: Grid::default(),
            sides: Default::default(),
            unusable: 0,
            first_unusable: None,
        }
    }

    /// Adds a row; false for one with a number that is not finite, which is only counted.
    pub(super) fn add(&mut self, pair: &Pair) -> bool {
        if !pair.is_finite() {
            self.unusable += 1;
            self.first_unusable.get_or_insert(pair.number);
            return false;
        }
        self.rows += 1;
        self.ranked_right += u64::from(pair.margin > 0.0);
        self.margin.add(pair.margin);
        self.margins.add(pair.margin, 0.0);
        for (side, (seen, answer)) in Side::BOTH.into_iter().zip(self.sides.iter_mut().zip(&pair.answers)) {
            seen.add(side, answer);
        }
        true
    }

    /// What is probably wrong with the rows.
    pub(super) fn warnings(&self, vocabulary: &Vocabulary) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(first) = self.first_unusable {
            warnings.push(format!(
                "{} rows, the first of them row {first}, have a reward or a log-probability that is not a finite number; they \
                 are left out of this report",
                self.unusable
            ));
        }
        for (side, seen) in Side::BOTH.into_iter().zip(&self.sides) {
            if let Some(share) = seen.end_share(vocabulary).filter(|share| *share > MOST_END_SHARE) {
                warnings.push(format!(
                    "{:.1} % of the reward of {} answers, by size, lies on end and newline tokens, more than {:.0} %: the \
                     oracle may have learned how answers end and not what they say",
                    100.0 * share,
                    side.name(),
                    100.0 * MOST_END_SHARE
                ));
            }
        }
        if self.rows > 0 && 2 * self.ranked_right < self.rows {
            let percent = 100.0 * self.ranked_right as f64 / self.rows as f64;
            warnings.push(format!(
                "the chosen answer has the higher reward in only {percent:.1} % of the rows: are the two answers, or oracle and \
                 reference, mixed up?"
            ));
        }
        warnings
    }

    /// The numbers as they are shown.
    pub(super) fn summary(self, vocabulary: &Vocabulary) -> Summary {
        let width = |grid: fn(&Seen) -> &Grid| self.sides.iter().map(|side| grid(side).width()).fold(0.0, f64::max);
        let widths = [width(|side| &side.rewards), width(|side| &side.token_rewards)];
        let pairs = self.sides[0].overlaps.keys().copied();
        let overlaps = pairs.map(|(first, second)| Overlaps {
            first: self.masks[first].clone(),
            second: self.masks[second].clone(),
            chosen: self.sides[0].overlaps[&(first, second)],
            rejected: self.sides[1].overlaps.get(&(first, second)).copied().unwrap_or_default(),
        });
        let overlaps = overlaps.collect();
        let [chosen, rejected] = self.sides.map(|seen| seen.summary(&self.masks, widths, vocabulary));
        Summary {
            rows: self.rows,
            unusable: self.unusable,
            ranked_right: self.ranked_right,
            margin: self.margin.into(),
            margins: self.margins.into(),
            masks: self.masks,
            has_texts: vocabulary.has_texts(),
            most_end_share: MOST_END_SHARE,
            chosen,
            rejected,
            overlaps,
        }
    }
}

impl Seen {
    fn add(&mut self, side: Side, answer: &Answer) {
        let sign = if side == Side::Chosen { 1.0 } else { -1.0 };
        let (count, mut for_its_side) = (answer.ids.len(), Vec::with_capacity(answer.ids.len()));
        self.marked.resize(answer.masks.len(), 0);
        for (index, (id, reward)) in answer.ids.iter().zip(answer.rewards).enumerate() {
            if !answer.is_own(index) {
                self.not_assistant += 1;
                continue;
            }
            let reward = f64::from(*reward);
            let is_key = answer.masks.first().is_some_and(|mask| mask[index]);
            for sum in [&mut self.whole, &mut self.tenths[TENTHS * index / count], self.ids.entry(*id).or_default()] {
                sum.add(reward, is_key);
            }
            self.zero_rewards += u64::from(reward == 0.0);
            self.token_reward.add(reward);
            self.token_rewards.add(reward, 0.0);
            for_its_side.push(sign * reward);
            self.compare(answer, index);
        }
        let length = for_its_side.len() as f64;
        self.gathered.add(for_its_side);
        self.reward.add(answer.reward);
        self.rewards.add(answer.reward, 0.0);
        self.lengths.get_or_insert_with(Grid::of_counts).add(length, answer.reward);
        self.length_and_reward.add(length, answer.reward);
    }

    /// Counts the token at `index` for every mask, and for every two of them.
    fn compare(&mut self, answer: &Answer, index: usize) {
        for (first, mask) in answer.masks.iter().enumerate() {
            self.marked[first] += u64::from(mask[index]);
            for (second, other) in answer.masks.iter().enumerate().skip(first + 1) {
                let overlap = self.overlaps.entry((first, second)).or_default();
                match (mask[index], other[index]) {
                    (true, true) => overlap.both += 1,
                    (true, false) => overlap.only_first += 1,
                    (false, true) => overlap.only_second += 1,
                    (false, false) => {}
                }
            }
        }
    }

    /// The ids in order, with their sums: the order in which sums of floats are taken decides their last digits.
    fn by_id(&self) -> Vec<(i32, &Sum)> {
        let mut ids: Vec<(i32, &Sum)> = self.ids.iter().map(|(id, sum)| (*id, sum)).collect();
        ids.sort_unstable_by_key(|(id, _)| *id);
        ids
    }

    fn by_class(&self, vocabulary: &Vocabulary) -> BTreeMap<Class, Sum> {
        let mut classes: BTreeMap<Class, Sum> = Class::ALL.into_iter().map(|class| (class, Sum::default())).collect();
        for (id, sum) in self.by_id() {
            let class = classes.entry(vocabulary.class(id)).or_default();
            *class = class.and(sum);
        }
        classes
    }

    /// The share of the reward, by size, on end and newline tokens; none without texts or reward.
    fn end_share(&self, vocabulary: &Vocabulary) -> Option<f64> {
        let classes = self.by_class(vocabulary);
        let ends = classes[&Class::Special].magnitude + classes[&Class::Newline].magnitude;
        (vocabulary.has_texts() && self.whole.magnitude > 0.0).then(|| ends / self.whole.magnitude)
    }

    fn summary(self, masks: &[String], [rewards, token_rewards]: [f64; 2], vocabulary: &Vocabulary) -> SideSummary {
        let mut ids = self.by_id();
        ids.sort_by(|(_, a), (_, b)| b.reward.total_cmp(&a.reward));
        let listed =
            |(id, sum): &(i32, &Sum)| Listed { id: *id, text: vocabulary.text(*id).map(str::to_owned), sum: **sum };
        let highest = ids.iter().filter(|(_, sum)| sum.reward > 0.0).take(LISTED).map(listed).collect();
        let lowest = ids.iter().rev().filter(|(_, sum)| sum.reward < 0.0).take(LISTED).map(listed).collect();
        let marked = masks.iter().cloned().zip(self.marked.iter().copied()).collect();
        SideSummary {
            reward: self.reward.into(),
            token_reward: self.token_reward.into(),
            curve: self.gathered.shares().map(|(percent, share)| Share { percent, share }).collect(),
            whole: self.whole,
            not_assistant: self.not_assistant,
            zero_rewards: self.zero_rewards,
            tenths: self.tenths,
            classes: self.by_class(vocabulary),
            end_share: self.end_share(vocabulary),
            highest,
            lowest,
            marked,
            length_and_reward: self.length_and_reward.value(),
            lengths: self.lengths.unwrap_or_default().into(),
            rewards: self.rewards.at_least(rewards).into(),
            token_rewards: self.token_rewards.at_least(token_rewards).into(),
        }
    }
}

/// All numbers of a report.
#[derive(Debug, Serialize)]
pub struct Summary {
    rows: u64,
    unusable: u64,
    ranked_right: u64,
    margin: Spread,
    pub(super) margins: Histogram,
    /// The masks, by what stands behind the side in their columns' names.
    pub masks: Vec<String>,
    has_texts: bool,
    most_end_share: f64,
    pub(super) chosen: SideSummary,
    pub(super) rejected: SideSummary,
    overlaps: Vec<Overlaps>,
}

/// The numbers of one side.
#[derive(Debug, Serialize)]
pub(super) struct SideSummary {
    reward: Spread,
    pub(super) rewards: Histogram,
    token_reward: Spread,
    pub(super) token_rewards: Histogram,
    pub(super) curve: Vec<Share>,
    whole: Sum,
    not_assistant: u64,
    zero_rewards: u64,
    pub(super) tenths: [Sum; TENTHS],
    classes: BTreeMap<Class, Sum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_share: Option<f64>,
    highest: Vec<Listed>,
    lowest: Vec<Listed>,
    marked: BTreeMap<String, u64>,
    pub(super) lengths: Histogram,
    length_and_reward: Option<f64>,
}

/// Moments with the deviation.
#[derive(Debug, Serialize)]
pub(super) struct Spread {
    #[serde(flatten)]
    moments: Moments,
    deviation: f64,
}

impl From<Moments> for Spread {
    fn from(moments: Moments) -> Self {
        Self { moments, deviation: moments.deviation() }
    }
}

/// A point of the curve of gathered reward.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Share {
    pub(super) percent: usize,
    pub(super) share: f64,
}

/// A histogram; a column holds the numbers from its left end up to, and without, that of the next.
#[derive(Debug, Serialize)]
pub(super) struct Histogram {
    pub(super) width: f64,
    pub(super) columns: Vec<Counted>,
}

/// A column of a histogram.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Counted {
    pub(super) from: f64,
    pub(super) count: u64,
    /// The mean of what was given with its numbers: of lengths, the reward.
    pub(super) mean: f64,
}

impl From<Grid> for Histogram {
    fn from(grid: Grid) -> Self {
        let counted = |(from, column): (f64, super::grid::Column)| Counted {
            from,
            count: column.count,
            mean: column.sum / column.count as f64,
        };
        Self { width: grid.width(), columns: grid.columns().map(counted).collect() }
    }
}

/// A token string with its sums.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    id: i32,
    text: Option<String>,
    #[serde(flatten)]
    sum: Sum,
}

/// Two masks compared.
#[derive(Debug, Serialize)]
pub(super) struct Overlaps {
    first: String,
    second: String,
    chosen: Overlap,
    rejected: Overlap,
}

impl Sum {
    /// Key tokens among the tokens; NaN without tokens.
    pub(super) fn key_share(&self) -> f64 {
        self.key_tokens as f64 / self.tokens as f64
    }

    /// The mean reward of a token; NaN without tokens.
    pub(super) fn mean_reward(&self) -> f64 {
        self.reward / self.tokens as f64
    }
}
