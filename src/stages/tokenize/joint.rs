//! The ids of a prompt with each of its answers. A model reads prompt and answer as one text, so the whole text is
//! tokenized and its ids are cut where the ids of the prompt alone end.
//!
//! A tokenizer may merge characters across that point, so that the ids of the prompt alone are not a prefix of the whole.
//! [`BoundaryRule`] then decides where to cut. Both answers share one prompt, so the ids in front of the cut are the same in
//! both texts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::text::{Rendered, Tokenizer};

/// Where a token that spans the end of the prompt and the start of an answer goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoundaryRule {
    /// To the answer. The prompt keeps the common prefix of its own ids and the ids of both texts.
    #[default]
    MergeToAnswer,
    /// To the prompt, if both texts have the same ids there. Otherwise the row is set aside.
    MergeToPrompt,
    /// The row is set aside.
    SetAside,
}

/// Token ids of a text with the characters that each covers, if they were asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Encoded {
    pub(super) ids: Vec<i32>,
    /// One for every id, or none at all.
    pub(super) offsets: Vec<(usize, usize)>,
}

/// A pair as ids.
#[derive(Debug)]
pub(super) struct Joint {
    /// The prompt, tokenized alone.
    pub(super) alone: Vec<i32>,
    /// The prompt with each answer, tokenized as one text.
    pub(super) whole: [Encoded; 2],
    /// Characters of the prompt.
    pub(super) prompt_chars: usize,
}

/// How texts become ids.
pub(super) struct Joiner<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    /// What stands in front of and behind every text.
    pub(super) ends: [&'a [i32]; 2],
}

impl Joiner<'_> {
    /// The ids of `rendered`, which has two answers. `with_offsets` asks for the characters that each token covers; they are
    /// always there when the ids of the prompt alone are not a prefix of the whole.
    pub(super) fn join(&self, rendered: &Rendered, with_offsets: bool) -> Result<Joint> {
        let alone = self.alone(&rendered.prompt)?;
        let prompt_chars = rendered.prompt.chars().count();
        let texts = [0, 1].map(|side| format!("{}{}", rendered.prompt, rendered.answers[side].text));
        let whole = |with_offsets| Ok([self.whole(&texts[0], with_offsets)?, self.whole(&texts[1], with_offsets)?]);
        let joint = Joint { whole: whole(with_offsets)?, alone, prompt_chars };
        match with_offsets || joint.is_clean() {
            true => Ok(joint),
            false => Ok(Joint { whole: whole(true)?, ..joint }),
        }
    }

    /// The ids of a prompt alone.
    pub(super) fn alone(&self, prompt: &str) -> Result<Vec<i32>> {
        Ok([self.ends[0], &self.tokenizer.encode(prompt)?].concat())
    }

    fn whole(&self, text: &str, with_offsets: bool) -> Result<Encoded> {
        let [front, behind] = self.ends;
        let (ids, mut offsets) = match with_offsets {
            true => self.tokenizer.encode_with_offsets(text)?,
            false => (self.tokenizer.encode(text)?, Vec::new()),
        };
        let behind = if ids.ends_with(behind) { &[] } else { behind };
        if with_offsets {
            let end = text.chars().count();
            offsets.splice(..0, front.iter().map(|_| (0, 0)));
            offsets.extend(behind.iter().map(|_| (end.saturating_sub(1), end)));
        }
        Ok(Encoded { ids: [front, &ids, behind].concat(), offsets })
    }
}

impl Joint {
    /// Whether the ids of the prompt alone are a prefix of both texts.
    pub(super) fn is_clean(&self) -> bool {
        (0..2).all(|side| !self.spans_the_end(side))
    }

    /// Whether a token spans the end of the prompt and the beginning of the answer of `side`.
    pub(super) fn spans_the_end(&self, side: usize) -> bool {
        !self.whole[side].ids.starts_with(&self.alone)
    }

    /// How many ids are the prompt's, or why that cannot be said.
    pub(super) fn cut(&self, rule: BoundaryRule) -> Result<usize, &'static str> {
        if self.is_clean() {
            return Ok(self.alone.len());
        }
        let [chosen, rejected] = &self.whole;
        match rule {
            BoundaryRule::SetAside => Err("a token spans the end of the prompt"),
            BoundaryRule::MergeToAnswer => {
                let cut = common(&self.alone, &chosen.ids).min(common(&self.alone, &rejected.ids));
                if cut == 0 { Err("no token of the prompt alone") } else { Ok(cut) }
            }
            BoundaryRule::MergeToPrompt => {
                let cut = |side: usize| self.tokens_of_prompt(side);
                let cuts = [cut(0), cut(1)];
                let same = cuts[0] == cuts[1] && chosen.ids[..cuts[0]] == rejected.ids[..cuts[1]];
                if same { Ok(cuts[0]) } else { Err("the end of the prompt has other tokens with each answer") }
            }
        }
    }

    /// The tokens that begin in the prompt.
    fn tokens_of_prompt(&self, side: usize) -> usize {
        match self.spans_the_end(side) {
            true => self.whole[side].offsets.iter().take_while(|(from, _)| *from < self.prompt_chars).count(),
            false => self.alone.len(),
        }
    }

    /// `other`, the ids of a prompt in other words with the same end, cut at its end as this one is cut at `cut`; none where
    /// it ends otherwise.
    pub(super) fn cut_alike(&self, other: Vec<i32>, cut: usize) -> Option<Vec<i32>> {
        let prompt = &self.whole[0].ids[..cut];
        let same = common(&self.alone, prompt);
        let kept = other.strip_suffix(&self.alone[same..])?;
        Some([kept, &prompt[same..]].concat())
    }
}

/// How many ids both begin with.
fn common(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt of two characters; `whole` are ids with the characters that they cover.
    fn joint(alone: &[i32], whole: [&[(i32, usize, usize)]; 2]) -> Joint {
        let encoded = |tokens: &[(i32, usize, usize)]| Encoded {
            ids: tokens.iter().map(|token| token.0).collect(),
            offsets: tokens.iter().map(|token| (token.1, token.2)).collect(),
        };
        Joint { alone: alone.to_vec(), whole: whole.map(encoded), prompt_chars: 2 }
    }

    #[test]
    fn the_prompt_ends_where_its_own_ids_do() {
        let clean = joint(&[1, 2], [&[(1, 0, 1), (2, 1, 2), (3, 2, 3)], &[(1, 0, 1), (2, 1, 2), (4, 2, 3)]]);
        for rule in [BoundaryRule::MergeToAnswer, BoundaryRule::MergeToPrompt, BoundaryRule::SetAside] {
            assert_eq!(clean.cut(rule), Ok(2));
        }
        assert_eq!(clean.cut_alike(vec![7, 1, 2], 2), Some(vec![7, 1, 2]));
    }

    #[test]
    fn a_token_across_the_end_goes_by_the_rule() {
        // 5 lies across the end of the prompt with one answer only.
        let one = joint(&[1, 2], [&[(1, 0, 1), (5, 1, 3)], &[(1, 0, 1), (2, 1, 2), (4, 2, 3)]]);
        assert_eq!(one.cut(BoundaryRule::MergeToAnswer), Ok(1));
        assert!(one.cut(BoundaryRule::MergeToPrompt).is_err());
        assert!(one.cut(BoundaryRule::SetAside).is_err());
        let both = joint(&[1, 2], [&[(1, 0, 1), (5, 1, 3), (3, 3, 4)], &[(1, 0, 1), (5, 1, 3), (4, 3, 4)]]);
        assert_eq!(both.cut(BoundaryRule::MergeToAnswer), Ok(1));
        assert_eq!(both.cut(BoundaryRule::MergeToPrompt), Ok(2));
        assert_eq!(both.cut_alike(vec![7, 1, 2], 2), Some(vec![7, 1, 5]));
        assert_eq!(both.cut_alike(vec![7, 1, 2], 1), Some(vec![7, 1]));
        assert_eq!(both.cut_alike(vec![7, 1, 3], 1), None);
        let nothing = joint(&[1], [&[(5, 0, 3)], &[(6, 0, 3)]]);
        assert!(nothing.cut(BoundaryRule::MergeToAnswer).is_err());
    }
}
