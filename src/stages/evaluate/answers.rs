//! What answers are like: length, variety, how good a judge finds them, and how far from the start model their own model
//! is where they were written.

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;
use serde_json::json;

use super::judge::{Judging, Opinion};
use super::win_rate::Scores;
use super::{Evaluate, Judge};
use crate::columns::PROMPT_IDS;
use crate::columns::lists::ids;
use crate::error::Result;
use crate::model::{PairIds, Scorer};
use crate::stages::Metrics;
use crate::stages::generate::answers_of;

/// Sums over the answers of one name.
#[derive(Debug, Default)]
pub(super) struct Told {
    answers: f64,
    tokens: f64,
    characters: f64,
    /// Different n-grams of tokens, and how many there are of all, for n = 1 and 2.
    unigrams: HashSet<i32>,
    bigrams: HashSet<[i32; 2]>,
    grams: [f64; 2],
    divergence: Option<(f64, f64)>,
    score: Option<f64>,
    /// Sums of a judge's further measures, by name.
    measures: Vec<(String, f64)>,
    /// The mean score of every row's answers.
    scores: Scores,
}

impl Told {
    /// No answers yet, for `judge` to look at.
    pub(super) fn nothing(judge: Option<&Judge>) -> Self {
        let measures = match judge {
            Some(Judge::Command(command)) => command.measures.iter().map(|name| (name.clone(), 0.0)).collect(),
            Some(Judge::Reward(_)) | None => Vec::new(),
        };
        Self { measures, ..Self::default() }
    }

    /// The sums of one name of `evaluate` before the first answer, with everything that will be counted.
    pub(super) fn before(evaluate: &Evaluate) -> Self {
        let measures_divergence =
            evaluate.start.is_some() && evaluate.answers.keys().any(|name| evaluate.models.contains_key(name));
        Self {
            divergence: measures_divergence.then_some((0.0, 0.0)),
            score: evaluate.judge.is_some().then_some(0.0),
            ..Self::nothing(evaluate.judge.as_ref())
        }
    }

    /// Adds the rows of `batch`, whose answers are those of `label`; `models` are their own model and its start. A judge gets them, and
    /// what it says comes later, by [`Self::judged`].
    pub(super) fn add(
        &mut self,
        label: &str,
        batch: &RecordBatch,
        judging: Option<&mut Judging>,
        models: Option<[&Scorer; 2]>,
    ) -> Result<()> {
        let (mut rows, mut texts, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            for (text, ids) in answers_of(batch, row)? {
                self.count(&text, &ids);
                rows.push(row);
                texts.push(text);
                tokens.push(ids);
            }
        }
        let prompts = ids(batch, PROMPT_IDS)?;
        let pairs = rows.iter().zip(&tokens).map(|(row, ids)| PairIds::alone(prompts.row(*row), ids));
        let pairs: Vec<PairIds> = pairs.collect();
        if let Some([own, start]) = models {
            let (sum, count) = self.divergence.get_or_insert_default();
            for divergence in own.divergences(start, &pairs)?.iter().flatten() {
                *sum += divergence;
                *count += 1.0;
            }
        }
        judging.map_or(Ok(()), |judging| judging.ask(label, batch, &rows, &texts, &pairs))
    }

    /// Takes what the judge says of the answers, with their rows.
    pub(super) fn judged(&mut self, opinions: &[(String, Opinion)]) {
        let mut by_row: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for (row, opinion) in opinions {
            *self.score.get_or_insert_default() += opinion.score;
            for ((_, sum), value) in self.measures.iter_mut().zip(&opinion.measures) {
                *sum += value;
            }
            let (sum, count) = by_row.entry(row).or_default();
            (*sum, *count) = (*sum + opinion.score, *count + 1.0);
        }
        self.scores.extend(by_row.into_iter().map(|(row, (sum, count))| (row.to_owned(), sum / count)));
    }

    /// The mean score of every row's answers.
    pub(super) fn scores(&self) -> &Scores {
        &self.scores
    }

    fn count(&mut self, text: &str, ids: &[i32]) {
        self.answers += 1.0;
        self.tokens += ids.len() as f64;
        self.characters += text.chars().count() as f64;
        self.unigrams.extend(ids);
        self.bigrams.extend(ids.array_windows::<2>());
        self.grams[0] += ids.len() as f64;
        self.grams[1] += ids.len().saturating_sub(1) as f64;
    }

    /// Means over the answers. `distinct_n`: different n-grams of tokens by all n-grams (arXiv 1510.03055); `kl`: nats a token,
    /// exact over the vocabulary.
    pub(super) fn metrics(&self) -> Metrics {
        let answers = self.answers.max(1.0);
        let mut metrics = Metrics::new();
        metrics.insert("answers".into(), json!(self.answers as u64));
        let mut add = |name: &str, value: f64| drop(metrics.insert(name.to_owned(), json!(value)));
        add("mean_tokens", self.tokens / answers);
        add("mean_characters", self.characters / answers);
        add("distinct_1", self.unigrams.len() as f64 / self.grams[0].max(1.0));
        add("distinct_2", self.bigrams.len() as f64 / self.grams[1].max(1.0));
        if let Some((sum, count)) = self.divergence {
            add("kl", sum / f64::max(count, 1.0));
        }
        if let Some(score) = self.score {
            add("score", score / answers);
        }
        for (name, sum) in &self.measures {
            add(name, sum / answers);
        }
        metrics
    }
}
