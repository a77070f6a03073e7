//! Who says how good an answer is.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::columns::{PROMPT, messages, row_ids};
use crate::error::{Error, Problem, Result};
use crate::io::{Program, program};
use crate::model::{PairIds, Scorer};

/// A judge of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// A program: rules, a reward model, another language model.
    Command(Command),
    /// The reward that a DPO-trained oracle implies: `log oracle(y | x) - log reference(y | x)`, in nats.
    Reward(Reward),
}

/// A program that scores answers. It reads one JSON object per line, `{"row_id": …, "prompt": [messages], "answer": text}`, and
/// writes one per line, in the same order: `{"score": number}`, higher is better, and the `measures`. The model that answered is not
/// named. An exit status other than 0 ends the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments. Answers are judged again if one of these is a file whose content has changed.
    #[schemars(extend("examples" = [["python3", "judge.py"]]))]
    pub run: Vec<String>,
    /// Further entries of its answers, numbers or booleans, whose means appear in the result table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["polite", "correct"]]))]
    pub measures: Vec<String>,
}

impl Command {
    /// What is wrong with it; `taken` are the names of metrics that answers have without a judge.
    pub(super) fn problems(&self, taken: impl Fn(&str) -> bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        match self.run.first() {
            None => problems.push(Problem::at("judge", "`run` is empty; it names a program and its arguments")),
            Some(name) if !program::exists(name) => {
                let message = match std::path::Path::new(name).is_file() {
                    true if name.contains('/') => "the file may not be executed (chmod +x):",
                    _ if name.contains('/') => "there is no file",
                    _ => "no folder of PATH has a program",
                };
                problems.push(Problem::at("judge", format!("{message} `{name}`")));
            }
            Some(_) => {}
        }
        for name in self.measures.iter().filter(|name| taken(name)) {
            problems.push(Problem::at("judge", format!("`{name}` is the name of another metric of answers")));
        }
        problems
    }
}

/// The models that define a reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// Model trained with DPO.
    #[schemars(extend("examples" = ["oracle"]))]
    pub oracle: String,
    /// Model that the oracle was trained from.
    #[schemars(extend("examples" = ["ref"]))]
    pub reference: String,
}

/// Who judges.
pub(super) enum LoadedJudge {
    /// [`Judge::Command`], running.
    Command(Command, Program),
    /// [`Judge::Reward`]: oracle and reference.
    Reward(Box<[Scorer; 2]>),
}

/// What a judge says of one answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Opinion {
    pub(super) score: f64,
    /// The values of [`Command::measures`].
    pub(super) measures: Vec<f64>,
}

/// Answers on their way to a judge, and its opinions. A program may give these at its end.
pub(super) struct Judging {
    judge: LoadedJudge,
    /// The label and row of every answer.
    asked: Vec<(String, String)>,
    /// Opinions so far, of the first answers.
    opinions: Vec<Opinion>,
}

impl Judging {
    pub(super) fn new(judge: LoadedJudge) -> Self {
        Self { judge, asked: Vec::new(), opinions: Vec::new() }
    }

    /// Gives it answers of `label`, as texts and ids, to the prompts of the rows of `batch`, of which `rows` says one for each answer.
    ///
    /// # Errors
    /// A program that ended; a model that fails.
    pub(super) fn ask(
        &mut self,
        label: &str,
        batch: &RecordBatch,
        rows: &[usize],
        texts: &[String],
        pairs: &[PairIds],
    ) -> Result<()> {
        let names = row_ids(batch);
        self.asked.extend(rows.iter().map(|row| (label.to_owned(), names[*row].clone())));
        match &mut self.judge {
            LoadedJudge::Command(_, program) => {
                let prompts = messages(batch, PROMPT)?;
                let question = |(row, text): (&usize, &String)| {
                    json!({ "row_id": names[*row], "prompt": prompts[*row], "answer": text }).to_string()
                };
                rows.iter().zip(texts).map(question).try_for_each(|question| program.ask(&question))
            }
            LoadedJudge::Reward(models) => {
                let [oracle, reference] = models.each_ref().map(|model| model.logps(pairs));
                let sum = |logps: &[f32]| logps.iter().copied().map(f64::from).sum::<f64>();
                let rewards = oracle?.into_iter().zip(reference?).map(|([o, _], [r, _])| sum(&o) - sum(&r));
                self.opinions.extend(rewards.map(|score| Opinion { score, measures: Vec::new() }));
                Ok(())
            }
        }
    }

    /// The opinions on all answers of each label, with the answers' rows.
    ///
    /// # Errors
    /// A program that fails or answers otherwise than [`Command`] says.
    pub(super) fn finish(mut self) -> Result<BTreeMap<String, Vec<(String, Opinion)>>> {
        if let LoadedJudge::Command(command, program) = self.judge {
            let answers = program.finish()?;
            let opinion = |(line, answer): (usize, &String)| {
                opinion(answer, &command.measures)
                    .map_err(|what| Error::program(&command.run, format!("line {} of its answers: {what}", line + 1)))
            };
            self.opinions = answers.iter().enumerate().map(opinion).collect::<Result<_>>()?;
        }
        let mut by_label: BTreeMap<String, Vec<(String, Opinion)>> = BTreeMap::new();
        for ((label, row), opinion) in self.asked.into_iter().zip(self.opinions) {
            by_label.entry(label).or_default().push((row, opinion));
        }
        Ok(by_label)
    }
}

fn opinion(line: &str, measures: &[String]) -> Result<Opinion, String> {
    let shown: String = line.trim_end().chars().take(80).collect();
    let answer: Value = serde_json::from_str(line).map_err(|error| format!("`{shown}` is not JSON: {error}"))?;
    let number = |name: &str| match answer.get(name) {
        Some(Value::Bool(holds)) => Ok(f64::from(u8::from(*holds))),
        Some(Value::Number(number)) => Ok(number.as_f64().unwrap_or(f64::NAN)),
        Some(_) => Err(format!("`{name}` in `{shown}` is neither a number nor a boolean")),
        None => Err(format!("`{shown}` has no `{name}`")),
    };
    Ok(Opinion {
        score: number("score")?,
        measures: measures.iter().map(|name| number(name)).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opinions_are_numbers_by_name() {
        let measures = ["right", "polite"].map(str::to_owned);
        let found = opinion("{\"polite\": 0.5, \"score\": 2, \"right\": true}\n", &measures);
        assert_eq!(found, Ok(Opinion { score: 2.0, measures: vec![1.0, 0.5] }));
        for (line, expected) in [
            ("{\"score\": 1, \"right\": 1}", "has no `polite`"),
            ("{\"score\": \"good\"}", "`score` in `{\"score\": \"good\"}` is neither a number nor a boolean"),
            ("{\"score\": NaN}", "is not JSON"),
            ("3", "`3` has no `score`"),
        ] {
            let error = opinion(line, &measures).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
