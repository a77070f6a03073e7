//! Prompts that ask for a better and for a worse answer: what `score` with `contrast` compares (T-REG, arXiv 2412.02685).
//!
//! The paper's wordings are not published with its text; the defaults name the four qualities that it names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::text::Message;

/// Where the last user turn goes.
const PROMPT: &str = "{prompt}";

/// What is asked in place of a prompt's last user turn; `{prompt}` stands for that turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// The wording that asks for a better answer.
    pub better: String,
    /// The wording that asks for a worse answer.
    pub worse: String,
}

impl Default for Contrast {
    fn default() -> Self {
        let ask = |qualities: &str| format!("{PROMPT}\n\nGive an answer that is {qualities}.");
        Self {
            better: ask("helpful, correct, coherent and concise"),
            worse: ask("unhelpful, incorrect, incoherent and verbose"),
        }
    }
}

impl Contrast {
    /// Better, then worse.
    pub(super) fn wordings(&self) -> [&str; 2] {
        [&self.better, &self.worse]
    }

    /// Wordings that ask for nothing, or for the same.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let lost = |(field, wording): (&str, &str)| {
            let problem =
                Problem::at(field, format!("the wording has no place for the prompt: write `{PROMPT}` there"));
            (!wording.contains(PROMPT)).then_some(problem)
        };
        let same = (self.better == self.worse).then(|| Problem::at("worse", "both wordings ask for the same"));
        let lost = ["better", "worse"].into_iter().zip(self.wordings()).filter_map(lost);
        lost.chain(same).map(|problem| problem.within(&["contrast"])).collect()
    }
}

/// Which turn of `prompt` is reworded, the last one of a user or else the last one, and its new words.
pub(super) fn reworded(prompt: &[Message<'_>], wording: &str) -> (usize, String) {
    let at = prompt.iter().rposition(|turn| turn.role == "user").unwrap_or(prompt.len().saturating_sub(1));
    (at, wording.replace(PROMPT, prompt.get(at).map_or("", |turn| turn.content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_turn_is_reworded() {
        let turn = |role, content| Message { role, content };
        let prompt = [turn("system", "s"), turn("user", "a"), turn("assistant", "b"), turn("user", "c")];
        assert_eq!(reworded(&prompt, "Be brief. {prompt}"), (3, "Be brief. c".to_owned()));
        assert_eq!(reworded(&prompt[..3], "{prompt}!"), (1, "a!".to_owned()));
        assert_eq!(reworded(&prompt[..1], "{prompt}!"), (0, "s!".to_owned()));
    }

    #[test]
    fn wordings_without_the_prompt_are_named() {
        assert_eq!(Contrast::default().problems(), []);
        let same = Contrast { better: "x".into(), worse: "x".into() };
        let problems: Vec<String> = same.problems().iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(problems, ["contrast.better", "contrast.worse", "contrast.worse"]);
    }
}
