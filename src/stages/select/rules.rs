//! How the rewards of responses become masks: which tokens come first, and how many of them are key tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::columns::Side;
use crate::columns::lists::Lists;

/// Which tokens of a response are key tokens: a share, in (0, 1], or those beyond a reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// The share of tokens with the highest rewards.
    Top(#[schemars(extend("examples" = [0.3], "x-unit" = "share of tokens"))] f64),
    /// The share of tokens with the lowest rewards.
    Bottom(#[schemars(extend("examples" = [0.3], "x-unit" = "share of tokens"))] f64),
    /// The share of tokens with the largest absolute rewards.
    Largest(#[schemars(extend("examples" = [0.3], "x-unit" = "share of tokens"))] f64),
    /// Tokens with a reward above this value.
    Above(#[schemars(extend("examples" = [0.5], "x-unit" = "nats"))] f64),
    /// Tokens with a reward below this value.
    Below(#[schemars(extend("examples" = [-0.5], "x-unit" = "nats"))] f64),
}

/// How picks are turned into masks. If a rule selects no token of a response, the first token is kept, except under
/// `official` and the controls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The pick itself. A share of n tokens is `share * n`, computed in decimal and rounded half up: 0.7 of 45 tokens
    /// is 32. Ties go to the lower index.
    #[default]
    Share,
    /// The authors' script: the first token is never a candidate, and `trunc(share * (n - 1))` of the remaining
    /// tokens are selected.
    Official,
    /// The fewest tokens that account for the share of the response's reward: of its positive rewards for `top`, its
    /// negative rewards for `bottom`, and all absolute rewards for `largest`.
    RewardShare,
    /// The share of all tokens of a batch, as in Rho-1 (arXiv 2404.07965): responses with higher rewards get more of
    /// it. A batch is up to 256 rows that are read together; each side has its own.
    BatchShare,
    /// ConfPO (arXiv 2506.08712): tokens whose probability under the reference is below the mean token probability of
    /// the response; none if all are equal. Reads `{side}_ref_logps` and no rewards; the pick has no effect.
    Confidence,
    /// Control: as many tokens as the pick selects, drawn by a hash of the row.
    Random,
    /// Control: only key tokens of the chosen response.
    ChosenOnly,
    /// Control: only key tokens of the rejected response.
    RejectedOnly,
    /// Control: every token.
    All,
}

impl Pick {
    fn share(self) -> Option<f64> {
        match self {
            Self::Top(share) | Self::Bottom(share) | Self::Largest(share) => Some(share),
            Self::Above(_) | Self::Below(_) => None,
        }
    }

    /// What `reward` is worth: the token that is worth most comes first.
    fn worth(self, reward: f32) -> f32 {
        match self {
            Self::Top(_) | Self::Above(_) => reward,
            Self::Bottom(_) | Self::Below(_) => -reward,
            Self::Largest(_) => reward.abs(),
        }
    }

    /// How many of `rewards` it takes.
    fn count(self, rewards: &[f32]) -> usize {
        match self {
            Self::Top(share) | Self::Bottom(share) | Self::Largest(share) => part(share, rewards.len()),
            Self::Above(limit) => rewards.iter().filter(|reward| f64::from(**reward) > limit).count(),
            Self::Below(limit) => rewards.iter().filter(|reward| f64::from(**reward) < limit).count(),
        }
    }

    /// Whether `rule` may take no token of a response that has many, because of their rewards.
    pub(super) fn may_select_nothing(self, rule: Rule) -> bool {
        match rule {
            Rule::Share | Rule::Random | Rule::ChosenOnly | Rule::RejectedOnly => self.share().is_none(),
            Rule::Official | Rule::RewardShare | Rule::BatchShare | Rule::Confidence => true,
            Rule::All => false,
        }
    }

    /// What is wrong with it under `rule`.
    pub(super) fn problem(self, rule: Rule) -> Option<String> {
        match self {
            Self::Top(share) | Self::Bottom(share) | Self::Largest(share) => {
                (!(share > 0.0 && share <= 1.0)).then(|| format!("a share is {share}; it must be in (0, 1]"))
            }
            Self::Above(limit) | Self::Below(limit) if !limit.is_finite() => {
                Some(format!("a limit of rewards is {limit}; it must be a number"))
            }
            Self::Above(_) | Self::Below(_) => {
                let needs_share = matches!(rule, Rule::Official | Rule::RewardShare | Rule::BatchShare);
                needs_share.then(|| "this rule needs a share: `top`, `bottom` or `largest`".to_owned())
            }
        }
    }
}

impl Rule {
    /// The column that it reads.
    pub(super) fn reads(self, side: Side) -> String {
        if self == Self::Confidence { side.ref_logps() } else { side.token_rewards() }
    }
}

/// The masks of one side of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Masks {
    /// One a row.
    pub(super) rows: Vec<Vec<bool>>,
    /// Rows in which nothing was selected, or the first token instead.
    pub(super) stand_ins: u64,
    /// Rows in which a part of the tokens was selected although all of them are worth the same.
    pub(super) ties: u64,
}

/// The masks of `side`, from the values of the column that `rule` reads; `keys` are stable names of the rows.
pub(super) fn masks(values: Lists<'_, f32>, pick: Pick, rule: Rule, side: Side, keys: &[String]) -> Masks {
    let mut masks = Masks::default();
    for ((row, count), key) in values.rows().zip(counts(values, pick, rule, side)).zip(keys) {
        let stands_in = count == 0 && !row.is_empty() && is_never_empty(rule);
        masks.stand_ins += u64::from(stands_in || count == 0 && rule == Rule::Official);
        let from = usize::from(rule == Rule::Official);
        let worth = |index: usize| match rule {
            Rule::Random => draw(side, key, index),
            Rule::Confidence => -row[index],
            _ => pick.worth(row[index]),
        };
        let is_part = 0 < count && from + count < row.len();
        masks.ties += u64::from(is_part && (from + 1..row.len()).all(|index| worth(index) == worth(from)));
        masks.rows.push(first(row.len(), from, count + usize::from(stands_in), worth));
    }
    masks
}

/// Whether a response without a selected token keeps its first one.
fn is_never_empty(rule: Rule) -> bool {
    !matches!(rule, Rule::Official | Rule::ChosenOnly | Rule::RejectedOnly)
}

/// How many tokens of each row are key tokens.
fn counts(values: Lists<'_, f32>, pick: Pick, rule: Rule, side: Side) -> Vec<usize> {
    let each = |count: &dyn Fn(&[f32]) -> usize| values.rows().map(count).collect();
    match rule {
        Rule::Share | Rule::Random => each(&|rewards| pick.count(rewards)),
        Rule::Official => {
            each(&|rewards| (pick.share().unwrap_or(1.0) * rewards.len().saturating_sub(1) as f64) as usize)
        }
        Rule::RewardShare => each(&|rewards| holding(rewards, pick)),
        Rule::BatchShare => of_batch(values, pick),
        Rule::Confidence => each(&below_the_mean),
        Rule::ChosenOnly | Rule::RejectedOnly => {
            let keeps = (rule == Rule::ChosenOnly) == (side == Side::Chosen);
            each(&|rewards| if keeps { pick.count(rewards).max(1) } else { 0 })
        }
        Rule::All => each(&<[f32]>::len),
    }
}

/// The tokens whose probability is below the mean of the response's.
fn below_the_mean(logps: &[f32]) -> usize {
    // Relative to the likeliest token: where all are alike, every one is exactly the mean, and none is below it.
    let most = logps.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let relative = || logps.iter().map(|logp| (f64::from(*logp) - f64::from(most)).exp());
    let mean = relative().sum::<f64>() / logps.len().max(1) as f64;
    relative().filter(|probability| *probability < mean).count()
}

/// The fewest tokens that hold the pick's share of the response's reward.
fn holding(rewards: &[f32], pick: Pick) -> usize {
    let mut held: Vec<f64> = rewards.iter().map(|reward| f64::from(pick.worth(*reward)).max(0.0)).collect();
    held.sort_by(|a, b| b.total_cmp(a));
    let wanted = pick.share().unwrap_or(1.0) * held.iter().sum::<f64>();
    let mut sum = 0.0;
    let is_needed = |held: &&f64| {
        let needed = sum < wanted;
        sum += **held;
        needed
    };
    held.iter().take_while(is_needed).count()
}

/// How many tokens of each row are among the pick's share of the whole batch.
fn of_batch(values: Lists<'_, f32>, pick: Pick) -> Vec<usize> {
    let worths = values.rows().flatten().map(|reward| pick.worth(*reward)).collect::<Vec<_>>();
    let mask = first(worths.len(), 0, part(pick.share().unwrap_or(1.0), worths.len()), |index| worths[index]);
    let mut mask = mask.into_iter();
    values.rows().map(|row| mask.by_ref().take(row.len()).filter(|key| *key).count()).collect()
}

/// `share` of `n`, rounded half up. The share is the decimal that was written, not the binary number next to it: 0.7 of 45
/// is 31.5 and becomes 32, although the binary 0.7 is a little smaller.
fn part(share: f64, n: usize) -> usize {
    // The shortest decimal that reads as this number, `7e-1`, as `digits / 10^places`.
    let text = format!("{share:e}");
    let (mantissa, exponent) = text.split_once('e').expect("Rust writes an exponent");
    let fraction = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
    let places = fraction - exponent.parse::<i32>().expect("Rust writes a number");
    let digits: u128 = mantissa.replace('.', "").parse().expect("a share is not negative");
    let places = u32::try_from(places).unwrap_or(0);
    // Digits are at most 17, so that neither product leaves 128 bits; of smaller shares than these nothing is left.
    let Some(unit) = 10u128.checked_pow(places).filter(|_| places <= 38) else { return 0 };
    let rounded = (2 * digits * n as u128 + unit) / (2 * unit);
    usize::try_from(rounded).map_or(n, |rounded| rounded.min(n))
}

/// A number for a token that only its row, side and place decide.
fn draw(side: Side, row: &str, index: usize) -> f32 {
    let hash = blake3::hash(format!("{}\0{row}\0{index}", side.name()).as_bytes());
    -(u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("a hash has 32 bytes")) as f32)
}

/// Marks the `count` indices from `from` on that are worth most; ties go to the lower index.
fn first(n: usize, from: usize, count: usize, worth: impl Fn(usize) -> f32) -> Vec<bool> {
    // Adding zero makes -0 a 0: they are ties.
    let mut order: Vec<(usize, f32)> = (from.min(n)..n).map(|index| (index, worth(index) + 0.0)).collect();
    order.sort_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    let mut mask = vec![false; n];
    order.iter().take(count).for_each(|(index, _)| mask[*index] = true);
    mask
}

#[cfg(test)]
mod tests;
