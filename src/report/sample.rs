//! The rows that a report shows token by token, where it cannot show all: a quarter with the largest margins, a quarter with the
//! smallest, and as many as are left at random. Which those are follows from the seed and from the rows' numbers, so a report
//! of the same rows always shows the same.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use serde::Serialize;

use super::Settings;
use super::rows::{Answer, Pair};
use super::vocabulary::{Vocabulary, cut};
use crate::columns::{PROMPT, messages, messages_type, role, row_id, words};
use crate::error::Result;

/// Tokens of an answer that are shown.
const MOST_TOKENS: usize = 2000;

/// Tokens at the end of a prompt that are shown.
const PROMPT_TOKENS: usize = 1000;

/// Characters of a prompt that are shown.
const PROMPT_CHARACTERS: usize = 4000;

/// Bytes of all rows together, as JSON. With the rest of the page that is below 5 MB.
const MOST_BYTES: usize = 4_000_000;

/// Why a row is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its margin is one of the largest.
    LargestMargin,
    /// Its margin is one of the smallest.
    SmallestMargin,
    /// By chance.
    Random,
}

/// The rows with the least keys. Of equal keys the first stays.
struct Least<K> {
    most: usize,
    /// In order, with the rows' numbers.
    kept: Vec<(K, u64)>,
}

impl<K: PartialOrd + Copy> Least<K> {
    fn new(most: usize) -> Self {
        Self { most, kept: Vec::new() }
    }

    /// Takes row `number` if its key is among the least.
    fn offer(&mut self, key: K, number: u64) -> bool {
        let at = self.kept.partition_point(|(other, _)| *other <= key);
        if at >= self.most {
            return false;
        }
        self.kept.insert(at, (key, number));
        self.kept.truncate(self.most);
        true
    }

    /// Their numbers, those with the least keys first.
    fn tagged(&self, why: Why) -> Vec<(u64, Why)> {
        self.kept.iter().map(|(_, number)| (*number, why)).collect()
    }

    fn has(&self, number: u64) -> bool {
        self.kept.iter().any(|(_, kept)| *kept == number)
    }
}

/// The rows that are shown, while rows come in.
pub(super) struct Sample {
    settings: Settings,
    largest: Least<f64>,
    smallest: Least<f64>,
    random: Least<u64>,
    /// By number.
    rows: BTreeMap<u64, Shown>,
    seen: u64,
}

impl Sample {
    /// A sample without rows.
    pub(super) fn new(settings: Settings) -> Self {
        let quarter = settings.rows / 4;
        Self {
            settings,
            largest: Least::new(quarter),
            smallest: Least::new(quarter),
            // Any of them may be among the others already.
            random: Least::new(settings.rows),
            rows: BTreeMap::new(),
            seen: 0,
        }
    }

    /// Takes `pair`, row `index` of `batch`, if it is to be shown by what is known so far.
    pub(super) fn offer(&mut self, pair: &Pair, batch: &RecordBatch, index: usize) -> Result<()> {
        self.seen += 1;
        let number = pair.number;
        let hash = blake3::hash(&[self.settings.seed.to_le_bytes(), number.to_le_bytes()].concat());
        let chance = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a digest has 32 bytes"));
        let taken = [
            self.largest.offer(-pair.margin, number),
            self.smallest.offer(pair.margin, number),
            self.random.offer(chance, number),
        ];
        if taken.contains(&true) {
            self.rows.insert(number, Shown::of(pair, batch, index)?);
            let Self { largest, smallest, random, rows, .. } = self;
            rows.retain(|number, _| largest.has(*number) || smallest.has(*number) || random.has(*number));
        }
        Ok(())
    }

    /// The rows, with texts by `vocabulary`.
    pub(super) fn finish(self, vocabulary: &Vocabulary) -> Result<Sampled> {
        let Self { settings, largest, smallest, random, mut rows, seen } = self;
        // The most telling rows first: where the page is full, the others are left out.
        let (high, low) = (largest.tagged(Why::LargestMargin), smallest.tagged(Why::SmallestMargin));
        let in_turns = high.into_iter().zip(low).flat_map(|(high, low)| [high, low]);
        let (mut shown, mut bytes) = (BTreeMap::new(), 0);
        for (number, why) in in_turns.chain(random.tagged(Why::Random)) {
            let Some(row) = rows.remove(&number).filter(|_| shown.len() < settings.rows) else { continue };
            let row = row.written(why, vocabulary)?;
            bytes += serde_json::to_string(&row).map_or(0, |text| text.len());
            if bytes > MOST_BYTES && !shown.is_empty() {
                break;
            }
            shown.insert(number, row);
        }
        let (quarter, all) = (largest.most, shown.len() as u64 == seen);
        let rule = match all {
            true => "All rows are shown.".to_owned(),
            false => format!(
                "{} of {seen} rows are shown: the {quarter} with the largest and the {quarter} with the smallest margins, the \
                 others picked at random (seed {}).",
                shown.len(),
                settings.seed
            ),
        };
        Ok(Sampled { rule, rows: shown.into_values().collect() })
    }
}

/// The rows of a report.
#[derive(Debug, Serialize)]
pub struct Sampled {
    /// Which they are.
    pub rule: String,
    /// In their order.
    pub rows: Vec<Shown>,
}

/// A row token by token.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Its number among all rows, from 1.
    pub row: u64,
    /// Its `row_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Why it is shown.
    pub why: Why,
    /// Reward of the chosen answer minus that of the rejected one.
    pub margin: f64,
    /// The end of the prompt; empty where it is not known as text.
    pub prompt: String,
    /// What is shown of a prompt that has no messages.
    #[serde(skip)]
    pub prompt_ids: Vec<i32>,
    /// The better answer.
    pub chosen: ShownAnswer,
    /// The worse answer.
    pub rejected: ShownAnswer,
}

/// An answer token by token. Every list has a value for each token that is shown, or none at all.
#[derive(Debug, Serialize)]
pub struct ShownAnswer {
    /// The sum of the token rewards.
    pub reward: f64,
    /// Texts, where they are known. Empty: the token belongs to the character of the one before.
    pub tokens: Vec<String>,
    /// Ids.
    pub ids: Vec<i32>,
    /// Rewards.
    pub rewards: Vec<f32>,
    /// The reference's log-probabilities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<f32>,
    /// The oracle's log-probabilities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oracle: Vec<f32>,
    /// For each mask, `1` for every token that it marks and `0` for the others.
    pub masks: Vec<String>,
    /// `1` for the assistant's tokens, where not all of them are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistant: Option<String>,
    /// Tokens that are not shown.
    pub left_out: usize,
}

impl Shown {
    fn of(pair: &Pair, batch: &RecordBatch, index: usize) -> Result<Self> {
        let row = batch.slice(index, 1);
        let has_messages = row.column_by_name(PROMPT).is_some_and(|column| *column.data_type() == messages_type());
        let turns = if has_messages { messages(&row, PROMPT)?.pop().unwrap_or_default() } else { Vec::new() };
        let said: Vec<String> = turns.iter().map(|turn| format!("{}: {}", role(turn), words(turn))).collect();
        let [chosen, rejected] = pair.answers.each_ref().map(ShownAnswer::of);
        Ok(Self {
            row: pair.number,
            id: row_id(&row).map(|id| cut(&id)),
            why: Why::Random,
            margin: pair.margin,
            prompt: end_of(&said.join("\n\n")),
            prompt_ids: pair.prompt[pair.prompt.len().saturating_sub(PROMPT_TOKENS)..].to_vec(),
            chosen,
            rejected,
        })
    }

    /// It with the texts that its row does not have.
    fn written(mut self, why: Why, vocabulary: &Vocabulary) -> Result<Self> {
        self.why = why;
        let Some(tokenizer) = vocabulary.tokenizer() else { return Ok(self) };
        if self.prompt.is_empty() {
            self.prompt = end_of(&tokenizer.decode(&self.prompt_ids)?);
        }
        for answer in [&mut self.chosen, &mut self.rejected] {
            if answer.tokens.is_empty() {
                answer.tokens = tokenizer.pieces(&answer.ids)?.iter().map(|piece| cut(&piece.text)).collect();
            }
        }
        Ok(self)
    }
}

impl ShownAnswer {
    fn of(answer: &Answer) -> Self {
        let shown = answer.ids.len().min(MOST_TOKENS);
        let marks = |mask: &[bool]| mask[..shown].iter().map(|is| if *is { '1' } else { '0' }).collect::<String>();
        let values = |values: Option<&[f32]>| values.map_or_else(Vec::new, |values| values[..shown].to_vec());
        Self {
            reward: answer.reward,
            tokens: answer.texts.iter().flatten().take(shown).map(|text| cut(text)).collect(),
            ids: answer.ids[..shown].to_vec(),
            rewards: answer.rewards[..shown].to_vec(),
            reference: values(answer.reference),
            oracle: values(answer.oracle),
            masks: answer.masks.iter().map(|mask| marks(mask)).collect(),
            assistant: answer.own().map(marks),
            left_out: answer.ids.len() - shown,
        }
    }
}

/// The end of a long text, which the answer follows.
fn end_of(text: &str) -> String {
    let count = text.chars().count();
    match count.checked_sub(PROMPT_CHARACTERS).filter(|more| *more > 0) {
        Some(more) => format!("({more} characters) …{}", text.chars().skip(more).collect::<String>()),
        None => text.to_owned(),
    }
}
