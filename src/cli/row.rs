//! One scored row in a terminal: tokens on the colours of the report's page, or line by line where there are no colours.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use serde_json::json;

use super::terminal::{Colours, plain, plain_json};
use crate::error::{Error, Place, Result};
use crate::report::{Builder, COLOURS, Contents, STRONGEST, Settings, Shown, ShownAnswer};
use crate::text::Tokenizer;

/// A row and the names of its masks.
pub(super) struct Row {
    row: Shown,
    masks: Vec<String>,
}

/// Tokens that only together make whole characters.
#[derive(Debug, PartialEq)]
struct Block {
    text: String,
    reward: f32,
    is_key: bool,
}

impl Row {
    /// The row of `batch`, which is at `place`, with texts by `tokenizer`.
    pub(super) fn of(batch: &RecordBatch, tokenizer: Option<Arc<Tokenizer>>, place: Place) -> Result<Self> {
        let settings = Settings { rows: 1, seed: 0 };
        let mut builder = Builder::new(&batch.schema(), tokenizer, settings).map_err(|problems| {
            let missing = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
            Error::data(place.clone(), missing)
        })?;
        builder.add(batch)?;
        let Contents { sample, statistics, .. } = builder.finish(String::new(), None)?;
        let not_finite = || Error::data(place, "a reward or a log-probability is not a finite number");
        Ok(Self { row: sample.rows.into_iter().next().ok_or_else(not_finite)?, masks: statistics.masks })
    }

    /// It as one line of JSON.
    pub(super) fn json(&self, number: u64) -> String {
        let mut row = json!(self.row);
        row["row"] = json!(number);
        row["mask_names"] = json!(self.masks);
        plain_json(&format!("{row}\n"))
    }

    /// It for people.
    pub(super) fn text(&self, number: u64) -> String {
        self.drawn(number, Colours::of(&std::io::stdout()))
    }

    fn drawn(&self, number: u64, colours: Colours) -> String {
        let Shown { id, margin, prompt, chosen, rejected, .. } = &self.row;
        let id = id.as_ref().map_or_else(String::new, |id| format!(" ({})", plain(id)));
        let mut out = format!("row {number}{id}: margin {margin:+.4}\n\nprompt\n{}\n", plain(prompt));
        let answers = [("chosen", chosen), ("rejected", rejected)];
        let largest =
            answers.iter().flat_map(|(_, answer)| &answer.rewards).fold(f32::MIN_POSITIVE, |l, r| l.max(r.abs()));
        for (side, answer) in answers {
            let _ = writeln!(out, "\n{side}: reward {:+.4}", answer.reward);
            match colours {
                Colours::On => coloured(&mut out, answer, largest),
                Colours::Off => listed(&mut out, answer),
            }
            if answer.left_out > 0 {
                let _ = writeln!(out, "{} more tokens are not shown", answer.left_out);
            }
        }
        let legend = match colours {
            Colours::On => {
                "blue: the oracle finds the token likelier than the reference; orange: less likely; underlined: key token"
            }
            Colours::Off => "key tokens have a `*`",
        };
        let _ = writeln!(out, "\n{legend}{}", self.masks.first().map_or_else(String::new, |mask| format!(" ({mask})")));
        if chosen.tokens.is_empty() {
            out += "The tokenizer is no longer where it was when the rows were made; `--tokenizer FOLDER` says where it is.\n";
        }
        out
    }
}

/// The text of token `index`, or its id.
fn text(answer: &ShownAnswer, index: usize) -> String {
    answer.tokens.get(index).map_or_else(|| format!("{} ", answer.ids[index]), |text| plain(text))
}

fn is_key(answer: &ShownAnswer, index: usize) -> bool {
    answer.masks.first().is_some_and(|mask| mask.as_bytes()[index] == b'1')
}

fn blocks(answer: &ShownAnswer) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (index, reward) in answer.rewards.iter().enumerate() {
        let (text, is_key) = (text(answer, index), is_key(answer, index));
        match blocks.last_mut() {
            Some(last) if text.is_empty() => {
                last.reward += reward;
                last.is_key |= is_key;
            }
            _ => blocks.push(Block { text, reward: *reward, is_key }),
        }
    }
    blocks
}

/// The answer as one text. Colours are those of the page on white paper, under black letters, whatever the terminal's own are.
fn coloured(out: &mut String, answer: &ShownAnswer, largest: f32) {
    for Block { text, reward, is_key } in blocks(answer) {
        let share = f64::from((reward.abs() / largest).min(1.0)) * STRONGEST;
        let [red, green, blue] =
            COLOURS[usize::from(reward < 0.0)].map(|part| (255.0 - share * (255.0 - f64::from(part))).round() as u8);
        let line = if is_key { "4;" } else { "" };
        let _ = write!(out, "\x1b[{line}30;48;2;{red};{green};{blue}m{}\x1b[0m", text.replace('\n', "⏎\x1b[0m\n"));
    }
    out.push('\n');
}

/// A token a line.
fn listed(out: &mut String, answer: &ShownAnswer) {
    let logp = |values: &[f32], index: usize| values.get(index).map_or_else(|| "-".into(), |logp| format!("{logp:.4}"));
    let _ = writeln!(out, "{:>10} {:>10} {:>10} key  token", "reward", "reference", "oracle");
    for (index, reward) in answer.rewards.iter().enumerate() {
        let key = if is_key(answer, index) { "*" } else { " " };
        let (reference, oracle) = (logp(&answer.reference, index), logp(&answer.oracle, index));
        let text = text(answer, index).replace('\n', "⏎");
        let _ = writeln!(out, "{reward:>+10.4} {reference:>10} {oracle:>10}  {key}   {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Why;

    fn row() -> Row {
        let answer = |rewards: Vec<f32>| ShownAnswer {
            reward: 1.0,
            tokens: ["a\u{1b}[2J", "é", "", "\n"].map(str::to_owned).into(),
            ids: vec![1, 2, 3, 4],
            rewards,
            reference: vec![-1.0; 4],
            oracle: Vec::new(),
            masks: vec!["0010".into()],
            assistant: None,
            left_out: 0,
        };
        let (chosen, rejected) = (answer(vec![0.0, 1.0, 1.0, -0.5]), answer(vec![0.0; 4]));
        let row = Shown {
            row: 1,
            id: None,
            why: Why::Random,
            margin: 0.5,
            prompt: "p".into(),
            prompt_ids: Vec::new(),
            chosen,
            rejected,
        };
        Row { row, masks: vec!["key_mask".into()] }
    }

    #[test]
    fn colours_are_those_of_the_page() {
        let drawn = row().drawn(7, Colours::On);
        assert!(drawn.starts_with("row 7: margin +0.5000\n\nprompt\np\n"), "{drawn:?}");
        // The two tokens of `é` are one block with both rewards, which is as strong as a colour gets: 255 - 0.8 * (255 - 37), …
        assert!(drawn.contains("\x1b[4;30;48;2;81;130;239mé\x1b[0m"), "{drawn:?}");
        assert!(drawn.contains("\x1b[30;48;2;255;255;255ma\\u{1b}[2J\x1b[0m"), "{drawn:?}");
        assert!(drawn.contains("⏎\x1b[0m\n"), "{drawn:?}");
    }

    #[test]
    fn without_colours_there_is_a_line_for_every_token() {
        let drawn = row().drawn(7, Colours::Off);
        assert!(!drawn.contains('\x1b'), "{drawn:?}");
        assert!(
            drawn.contains("\n   +1.0000    -1.0000          -      é\n   +1.0000    -1.0000          -  *   \n"),
            "{drawn}"
        );
    }
}
