//! What answers are like: length, variety, how good a judge finds them, and how far from the start model their own model
//! is where they were written.

use std::collections::HashSet;

use arrow::array::RecordBatch;
use serde_json::json;

use super::judge::LoadedJudge;
use super::win_rate::Scores;
use super::{Evaluate, Judge};
use crate::columns::lists::ids;
use crate::columns::{PROMPT_IDS, row_ids};
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
    /// Right, polite, well-formed, all of these.
    verdicts: Option<[f64; 4]>,
    /// The mean score of every row's answers.
    scores: Scores,
}

impl Told {
    /// The sums of one name of `evaluate` before the first answer, with everything that will be counted.
    pub(super) fn before(evaluate: &Evaluate) -> Self {
        let measures_divergence =
            evaluate.start.is_some() && evaluate.answers.keys().any(|name| evaluate.models.contains_key(name));
        Self {
            divergence: measures_divergence.then_some((0.0, 0.0)),
            score: evaluate.judge.is_some().then_some(0.0),
            verdicts: (evaluate.judge == Some(Judge::Quickstart)).then_some([0.0; 4]),
            ..Self::default()
        }
    }

    /// Adds the rows of `batch`, which `judge` looks at; `models` are the answers' own model and its start.
    pub(super) fn add(
        &mut self,
        batch: &RecordBatch,
        judge: Option<&LoadedJudge>,
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
        let Some(judge) = judge else { return Ok(()) };
        let names = row_ids(batch);
        let mut by_row = vec![(0.0, 0.0); batch.num_rows()];
        for (row, opinion) in rows.iter().zip(judge.judge(batch, &rows, &texts, &pairs)?) {
            *self.score.get_or_insert_default() += opinion.score;
            by_row[*row] = (by_row[*row].0 + opinion.score, by_row[*row].1 + 1.0);
            if let Some(verdict) = opinion.verdict {
                let sums = self.verdicts.get_or_insert_default();
                let held = [verdict.right, verdict.polite, verdict.well_formed];
                let all = held.iter().all(|held| *held);
                for (sum, held) in sums.iter_mut().zip(held.into_iter().chain([all])) {
                    *sum += f64::from(u8::from(held));
                }
            }
        }
        self.scores
            .extend(names.into_iter().zip(by_row).map(|(name, (sum, count))| (name, sum / f64::max(count, 1.0))));
        Ok(())
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
        for (name, sum) in
            ["right", "polite", "well_formed", "perfect"].into_iter().zip(self.verdicts.into_iter().flatten())
        {
            add(name, sum / answers);
        }
        metrics
    }
}
