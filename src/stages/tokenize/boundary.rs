//! Faults at the boundary of prompt and answer: each is counted, with an example, and may have a limit on the share of
//! rows that have it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::joint::{BoundaryRule, Joint};
use crate::columns::Side;
use crate::error::{Error, Place, Problem, Result};
use crate::stages::Metrics;
use crate::text::Tokenizer;

/// Rows that the template refuses, and what it says of the first of them.
const REFUSED: &str = "template_refused";
const REFUSED_EXAMPLE: &str = "template_refused_example";

/// Tokens that an example shows on each side of the boundary.
const SHOWN: usize = 3;

/// The setting `boundary`: a rule, or a rule with limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum BoundarySetting {
    /// Only the rule.
    Rule(BoundaryRule),
    /// The rule and limits.
    Limits(Boundary),
}

impl BoundarySetting {
    /// Rule and limits.
    pub fn all(&self) -> Boundary {
        match self {
            Self::Rule(rule) => Boundary { rule: *rule, ..Boundary::default() },
            Self::Limits(limits) => limits.clone(),
        }
    }
}

/// The rule for tokens that span the end of the prompt, and limits: shares of rows, in [0, 1], above which the stage
/// fails. Faults without a limit are only counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// Where a token that spans the end of the prompt goes.
    #[serde(default)]
    #[schemars(extend("examples" = ["merge_to_prompt"]))]
    pub rule: BoundaryRule,
    /// Limit for rows with a token that spans the end of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [0.01], "x-unit" = "share of rows"))]
    pub merged: Option<f64>,
    /// Limit for rows with an answer that does not end in a special token, so that the model does not learn to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [0.0], "x-unit" = "share of rows"))]
    pub missing_eos: Option<f64>,
    /// Limit for rows whose prompt begins with two BOS tokens, or whose answer begins with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [0.0], "x-unit" = "share of rows"))]
    pub double_bos: Option<f64>,
    /// Limit for rows with an answer that is truncated at `max_length`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [0.05], "x-unit" = "share of rows"))]
    pub truncated: Option<f64>,
}

/// What may be wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Merged,
    MissingEos,
    DoubleBos,
    Truncated,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Merged, Self::MissingEos, Self::DoubleBos, Self::Truncated];

    /// Its name among the metrics.
    fn metric(self) -> &'static str {
        match self {
            Self::Merged => "boundary_merged",
            Self::MissingEos => "missing_eos",
            Self::DoubleBos => "double_bos",
            Self::Truncated => "truncated",
        }
    }

    /// The name of its first row among the metrics.
    fn example(self) -> String {
        format!("{}_example", self.metric())
    }

    /// The field of [`Boundary`], what is wrong, and the way out.
    fn explain(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Merged => (
                "merged",
                "have a token that spans the end of the prompt",
                "end prompts with a special token of the template",
            ),
            Self::MissingEos => (
                "missing_eos",
                "have an answer that no special token ends",
                "use a chat template that closes the turn, or name an eos_token in tokenizer_config.json",
            ),
            Self::DoubleBos => {
                ("double_bos", "have a BOS token too many", "take it out of the texts or out of the chat template")
            }
            Self::Truncated => ("truncated", "have an answer that is cut", "set a larger `max_length`"),
        }
    }
}

impl Boundary {
    fn share(&self, fault: Fault) -> Option<f64> {
        match fault {
            Fault::Merged => self.merged,
            Fault::MissingEos => self.missing_eos,
            Fault::DoubleBos => self.double_bos,
            Fault::Truncated => self.truncated,
        }
    }

    /// Shares that are none.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let problem = |fault: Fault| {
            let (field, ..) = fault.explain();
            let share = self.share(fault).filter(|share| !(0.0..=1.0).contains(share))?;
            let path = vec!["boundary".to_owned(), field.to_owned()];
            Some(Problem { path, ..Problem::at("", format!("{field} is {share}; it must be in [0, 1]")) })
        };
        Fault::ALL.into_iter().filter_map(problem).collect()
    }

    /// Objects where more rows have a fault than may have it.
    pub(super) fn check(&self, metrics: &Metrics) -> Result<()> {
        let count = |name: &str| metrics.get(name).and_then(Value::as_u64).unwrap_or(0);
        if count("rows") == 0 && count(REFUSED) > 0 {
            let example = metrics.get(REFUSED_EXAMPLE).and_then(Value::as_str).unwrap_or_default();
            return Err(Error::data(
                Place::default(),
                format!("the chat template refuses every row; for example {example}"),
            ));
        }
        let aside = if self.rule == BoundaryRule::SetAside { count(Fault::Merged.metric()) } else { 0 };
        let all = count("rows") + aside;
        let complaint = |fault: Fault| {
            let (field, wrong, help) = fault.explain();
            let (limit, rows) = (self.share(fault)?, count(fault.metric()));
            let share = rows as f64 / all.max(1) as f64;
            (share > limit).then(|| {
                let example = metrics.get(&fault.example()).and_then(Value::as_str).unwrap_or_default();
                let percent = 100.0 * share;
                format!(
                    "{rows} of {all} rows ({percent:.2} %) {wrong}, more than `boundary.{field}: {limit}` allows; for \
                     example {example}; {help}, or allow more"
                )
            })
        };
        let complaints: Vec<String> = Fault::ALL.into_iter().filter_map(complaint).collect();
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(Error::data(Place::default(), complaints.join("\n"))),
        }
    }
}

/// The faults of a row, each with an example.
pub(super) type Faults = BTreeMap<Fault, String>;

/// What is looked for at boundaries.
pub(super) struct Boundaries {
    bos: Option<i32>,
    eos: Option<i32>,
    special: BTreeSet<i32>,
}

impl Boundaries {
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let id = |name: &str| tokenizer.special_tokens().get(name).and_then(|token| tokenizer.id(token));
        Self { bos: id("bos_token"), eos: id("eos_token"), special: tokenizer.special_ids() }
    }

    /// An example of the token that spans the end of the prompt and the beginning of answer `side`, if there is one.
    pub(super) fn merged(tokenizer: &Tokenizer, side: Side, joint: &Joint) -> Option<String> {
        let (alone, whole) = (&joint.alone, &joint.whole[side as usize].ids);
        let same = alone.iter().zip(whole).take_while(|(a, b)| a == b).count();
        let (end, together) = (last(tokenizer, alone), first(tokenizer, &whole[same.min(whole.len())..]));
        let example = format!("{}: prompt alone ends {end}, with the answer {together}", side.name());
        joint.spans_the_end(side as usize).then_some(example)
    }

    /// The faults of one answer to `prompt`, of which `room` tokens stay.
    pub(super) fn faults(
        &self,
        tokenizer: &Tokenizer,
        side: Side,
        [prompt, answer]: [&[i32]; 2],
        room: usize,
    ) -> Faults {
        let mut faults = Faults::new();
        let mut add = |fault, example: String| drop(faults.insert(fault, format!("{}: {example}", side.name())));
        let (first, last) = (|ids| first(tokenizer, ids), |ids| last(tokenizer, ids));
        let words = answer.iter().rev().find(|id| !tokenizer.token_text(**id).trim().is_empty());
        if words.is_some_and(|id| !self.special.contains(id)) {
            add(Fault::MissingEos, format!("answer ends {}", last(answer)));
        }
        if let Some(bos) = self.bos {
            // Where one token begins and ends texts, an answer may end at once.
            let answers_begin = self.eos != Some(bos) && answer.first() == Some(&bos);
            if prompt.starts_with(&[bos, bos]) || answers_begin {
                add(Fault::DoubleBos, format!("prompt begins {}, answer begins {}", first(prompt), first(answer)));
            }
        }
        if answer.len() > room {
            add(Fault::Truncated, format!("{} tokens, {room} stay", answer.len()));
        }
        faults
    }
}

fn first(tokenizer: &Tokenizer, ids: &[i32]) -> String {
    texts(tokenizer, &ids[..ids.len().min(SHOWN)])
}

fn last(tokenizer: &Tokenizer, ids: &[i32]) -> String {
    texts(tokenizer, &ids[ids.len().saturating_sub(SHOWN)..])
}

fn texts(tokenizer: &Tokenizer, ids: &[i32]) -> String {
    ids.iter().map(|id| format!("{:?}", tokenizer.token_text(*id))).collect::<Vec<_>>().join(" ")
}

/// What a stage saw of its rows.
#[derive(Debug, Default)]
pub(super) struct TokenizeCounts {
    rows: u64,
    prompt_tokens: u64,
    response_tokens: u64,
    /// Answers that are cut, by side.
    cut: [u64; 2],
    faults: BTreeMap<Fault, Found>,
    /// Rows that the template refuses.
    refused: Option<Found>,
}

/// Rows with a fault, and the first of them.
#[derive(Debug)]
struct Found {
    rows: u64,
    example: String,
}

impl TokenizeCounts {
    /// Counts a row; its `tokens` are those of the prompt and of both answers.
    pub(super) fn add_row(&mut self, faults: &Faults, cut: [bool; 2], tokens: [usize; 2], id: &dyn Fn() -> String) {
        self.rows += 1;
        self.prompt_tokens += tokens[0] as u64;
        self.response_tokens += tokens[1] as u64;
        for (sum, cut) in self.cut.iter_mut().zip(cut) {
            *sum += u64::from(cut);
        }
        self.add_faults(faults, id);
    }

    /// Counts the faults of a row that is set aside for one of them.
    pub(super) fn add_faults(&mut self, faults: &Faults, id: &dyn Fn() -> String) {
        for (fault, example) in faults {
            let first = || Found { rows: 0, example: format!("row {}, {example}", id()) };
            self.faults.entry(*fault).or_insert_with(first).rows += 1;
        }
    }

    /// Counts a row that the template refuses, and what it says.
    pub(super) fn add_refusal(&mut self, message: &str, id: &dyn Fn() -> String) {
        let first = || Found { rows: 0, example: format!("row {}: {message}", id()) };
        self.refused.get_or_insert_with(first).rows += 1;
    }

    /// Numbers that add up over units, and the first row with each fault.
    pub(super) fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        let mut put = |name: &str, value| drop(metrics.insert(name.to_owned(), value));
        put("rows", json!(self.rows));
        put("prompt_tokens", json!(self.prompt_tokens));
        put("response_tokens", json!(self.response_tokens));
        for (side, cut) in Side::BOTH.into_iter().zip(self.cut) {
            put(&side.truncated(), json!(cut));
        }
        for fault in Fault::ALL {
            let found = self.faults.get(&fault);
            put(fault.metric(), json!(found.map_or(0, |found| found.rows)));
            if let Some(found) = found {
                put(&fault.example(), json!(found.example));
            }
        }
        if let Some(refused) = &self.refused {
            put(REFUSED, json!(refused.rows));
            put(REFUSED_EXAMPLE, json!(refused.example));
        }
        metrics
    }
}
