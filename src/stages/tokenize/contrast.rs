//! Prompts that ask for a better and for a worse answer: what `score` with `contrast` compares (T-REG, arXiv 2412.02685).
//!
//! The paper's wordings are not published with its text; the defaults name the four qualities that it names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::columns::{Turn, role, words};
use crate::error::Problem;

/// Where the last user turn goes.
const PROMPT: &str = "{prompt}";

/// The wordings that replace the last user turn of a prompt. `{prompt}` stands for that turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// Asks for a better answer.
    #[schemars(extend("examples" = ["{prompt}\n\nAnswer helpfully."]))]
    pub better: String,
    /// Asks for a worse answer.
    #[schemars(extend("examples" = ["{prompt}\n\nAnswer unhelpfully."]))]
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

/// `prompt` with other words in its last user turn, or else in its last turn.
pub(super) fn reworded(prompt: &[Turn], wording: &str) -> Vec<Turn> {
    let mut prompt = prompt.to_vec();
    let at = prompt.iter().rposition(|turn| role(turn) == "user").unwrap_or(prompt.len().saturating_sub(1));
    if let Some(turn) = prompt.get_mut(at) {
        turn.insert("content".into(), wording.replace(PROMPT, &words(turn)).into());
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::say;

    #[test]
    fn the_last_user_turn_is_reworded() {
        let prompt = [say("system", "s"), say("user", "a"), say("assistant", "b"), say("user", "c")];
        assert_eq!(reworded(&prompt, "Be brief. {prompt}")[3], say("user", "Be brief. c"));
        assert_eq!(reworded(&prompt[..3], "{prompt}!"), [say("system", "s"), say("user", "a!"), say("assistant", "b")]);
        assert_eq!(reworded(&prompt[..1], "{prompt}!"), [say("system", "s!")]);
    }

    #[test]
    fn wordings_without_the_prompt_are_named() {
        assert_eq!(Contrast::default().problems(), []);
        let same = Contrast { better: "x".into(), worse: "x".into() };
        let problems: Vec<String> = same.problems().iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(problems, ["contrast.better", "contrast.worse", "contrast.worse"]);
    }
}
