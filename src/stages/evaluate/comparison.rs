//! Models and answers on their way to the table that compares them.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use serde_json::Value;

use super::answers::Told;
use super::judge::{Judging, LoadedJudge};
use super::pairs::Sums;
use super::win_rate::win_rates;
use super::{Evaluate, Judge, Reward};
use crate::error::Result;
use crate::io::Program;
use crate::model::{Precision, Scorer};
use crate::stages::score::distinct;
use crate::stages::{Finished, Metrics, Resources, Sink};

/// An `evaluate` stage at work.
pub(super) struct Comparison {
    models: BTreeMap<String, Scorer>,
    /// The model that they started from.
    start: Option<Scorer>,
    judging: Option<Judging>,
    against: Option<String>,
    /// What the rows of each input are.
    takes: Vec<Takes>,
    pairs: BTreeMap<String, Sums>,
    answers: BTreeMap<String, Told>,
}

/// What the rows of an input are.
enum Takes {
    Pairs,
    /// The answers of this name.
    Answers(String),
}

impl Comparison {
    /// Loads the models.
    pub(super) fn open(stage: &Evaluate, resources: &dyn Resources) -> Result<Self> {
        let load =
            |name: &str| Scorer::load(&resources.model(name)?, resources.device(), Precision::F32, stage.batch_tokens);
        let start = stage.start.as_deref().map(load).transpose()?;
        let models = stage.models.iter().map(|(label, name)| Ok((label.clone(), load(name)?)));
        let models: BTreeMap<String, Scorer> = models.collect::<Result<_>>()?;
        let judge = match &stage.judge {
            None => None,
            Some(Judge::Command(command)) => Some(LoadedJudge::Command(command.clone(), Program::start(&command.run)?)),
            Some(Judge::Reward(Reward { oracle, reference })) => {
                distinct(&resources.model(oracle)?, &resources.model(reference)?)?;
                Some(LoadedJudge::Reward(Box::new([load(oracle)?, load(reference)?])))
            }
        };
        let names = stage.answers.keys();
        let pairs = models.keys().filter(|_| stage.input.is_some()).map(|label| (label.clone(), Sums::default()));
        Ok(Self {
            pairs: pairs.collect(),
            takes: stage.input.iter().map(|_| Takes::Pairs).chain(names.clone().cloned().map(Takes::Answers)).collect(),
            answers: names.map(|name| (name.clone(), Told::nothing(stage.judge.as_ref()))).collect(),
            against: stage.against.clone(),
            models,
            start,
            judging: judge.map(Judging::new),
        })
    }
}

impl Sink for Comparison {
    fn take(&mut self, input: usize, batch: &RecordBatch) -> Result<()> {
        let Self { models, start, judging, takes, pairs, answers, .. } = self;
        match (&takes[input], start) {
            (Takes::Pairs, Some(start)) => {
                pairs.iter_mut().try_for_each(|(label, sums)| sums.add(&models[label], start, batch))
            }
            (Takes::Pairs, None) => Ok(()),
            (Takes::Answers(label), start) => {
                let pair = models.get(label).zip(start.as_ref()).map(|(own, start)| [own, start]);
                answers.entry(label.clone()).or_default().add(label, batch, judging.as_mut(), pair)
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Finished> {
        for (label, opinions) in self.judging.take().map(Judging::finish).transpose()?.unwrap_or_default() {
            self.answers.entry(label).or_default().judged(&opinions);
        }
        let mut table: BTreeMap<&str, Metrics> = BTreeMap::new();
        table.extend(self.pairs.iter().map(|(label, sums)| (label.as_str(), sums.metrics())));
        for (label, told) in &self.answers {
            table.entry(label).or_default().extend(told.metrics());
        }
        let scores = self.answers.iter().map(|(label, told)| (label.as_str(), told.scores())).collect();
        let rates = self.against.as_ref().map(|against| win_rates(&scores, against));
        let mut rates = rates.transpose()?.unwrap_or_default();
        let metrics = table.into_iter().map(|(label, mut metrics)| {
            metrics.extend(rates.remove(label).map(|rate| ("win_rate".to_owned(), rate)));
            (label.to_owned(), Value::Object(metrics))
        });
        Ok(Finished { metrics: metrics.collect(), ..Finished::default() })
    }
}
