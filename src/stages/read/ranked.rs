//! Lists of ranked answers: Nectar, and the form that NeMo-RL reads. The lowest rank is the best.
//!
//! <https://huggingface.co/datasets/berkeley-nest/Nectar> (rank 1 is the best of seven),
//! <https://github.com/NVIDIA-NeMo/RL/blob/main/docs/guides/rm.md> ("lower rank is preferred")

use super::conversation::{Pair, Turn, role, say, turns, words};
use super::form::{Column, Form, Kind, Reason, Row, Rows};
use super::{Format, PairRule, hh};
use crate::columns::node::Node;

/// A transcript in `prompt`, and `answers`.
pub(super) const NECTAR: Form = Form {
    format: Format::Nectar,
    columns: &[Column::new("prompt", Kind::Text), Column::new("answers", Kind::Ranked("answer"))],
    rows: Rows::Ranked(nectar),
};

/// Messages in `context`, and `completions`.
pub(super) const NEMO_RL: Form = Form {
    format: Format::NemoRl,
    columns: &[Column::new("context", Kind::Talk), Column::new("completions", Kind::Ranked("completion"))],
    rows: Rows::Ranked(nemo_rl),
};

fn nectar(row: &Row<'_>, rule: PairRule) -> Vec<Result<Pair, Reason>> {
    let prompt = row.words("prompt").unwrap_or_default();
    let prompt = hh::open_transcript(prompt).unwrap_or_else(|| vec![say("user", prompt)]);
    pairs(&prompt, &answers(row.get("answers"), "answer"), rule)
}

fn nemo_rl(row: &Row<'_>, rule: PairRule) -> Vec<Result<Pair, Reason>> {
    match turns(row.get("context"), "user") {
        Ok(prompt) => pairs(&prompt, &answers(row.get("completions"), "completion"), rule),
        Err(reason) => vec![Err(reason)],
    }
}

struct Answer {
    /// In the row's list, from 1.
    place: usize,
    rank: f64,
    turns: Vec<Turn>,
}

/// The answers that have a rank and words.
fn answers(list: &Node, field: &str) -> Vec<Answer> {
    let answer = |(at, node): (usize, &Node)| {
        let turns = turns(node.field(field), "assistant").ok().filter(|turns| !turns.is_empty())?;
        Some(Answer { place: at + 1, rank: node.field("rank").number()?, turns })
    };
    list.items().iter().enumerate().filter_map(answer).collect()
}

/// The pairs that `rule` makes, in the order of the chosen answer's rank; the reason where there is none.
fn pairs(prompt: &[Turn], answers: &[Answer], rule: PairRule) -> Vec<Result<Pair, Reason>> {
    let mut answers: Vec<&Answer> = answers.iter().collect();
    answers.sort_by(|a, b| a.rank.total_cmp(&b.rank));
    let (Some(best), Some(worst), true) = (answers.first(), answers.last(), answers.len() > 1) else {
        return vec![Err("fewer than two ranked answers")];
    };
    if best.rank == worst.rank {
        return vec![Err("all answers have one rank")];
    }
    let pair = |chosen: &Answer, rejected: &Answer| {
        let mut pair = Pair::new(prompt.to_vec(), [chosen.turns.clone(), rejected.turns.clone()])?;
        pair.places = Some([chosen.place, rejected.place]);
        Ok(pair)
    };
    match rule {
        PairRule::BestWorst => vec![pair(best, worst)],
        PairRule::BestRandom => {
            let worse: Vec<&&Answer> = answers.iter().filter(|answer| answer.rank > best.rank).collect();
            vec![pair(best, worse[draw(prompt, &answers) as usize % worse.len()])]
        }
        PairRule::All => {
            let worse = |(at, chosen): (usize, &&Answer)| {
                let chosen: &Answer = chosen;
                let rest = answers[at + 1..].iter().filter(move |answer| answer.rank > chosen.rank);
                rest.map(|rejected| pair(chosen, rejected)).collect::<Vec<_>>()
            };
            answers.iter().enumerate().flat_map(worse).collect()
        }
    }
}

/// A number that the texts of the row alone decide.
fn draw(prompt: &[Turn], answers: &[&Answer]) -> u32 {
    let mut hasher = blake3::Hasher::new();
    for turn in prompt.iter().chain(answers.iter().flat_map(|answer| &answer.turns)) {
        hasher.update(role(turn).as_bytes()).update(b"\0").update(words(turn).as_bytes()).update(b"\0");
    }
    let hash = hasher.finalize();
    u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("a hash has 32 bytes"))
}
