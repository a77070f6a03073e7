//! What is done to the logits of a next token before it is chosen, as `generate()` of `transformers` does it and in its
//! order: `generation/logits_process.py`.

use std::collections::BTreeSet;

use crate::kernels::choice::Edits;

/// Changes to logits. The default changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Logits of tokens in the prompt or the answer are divided by it, or multiplied where they are below 0 (arXiv
    /// 1909.05858).
    pub repetition: f32,
    /// No sequence of so many tokens comes twice in prompt and answer; 0 permits all.
    pub no_repeat_ngram: usize,
    /// An answer has at least so many tokens before one that ends it.
    pub min_new_tokens: usize,
    /// The same of prompt and answer together.
    pub min_length: usize,
    /// Tokens that are never written.
    pub suppressed: Vec<i32>,
    /// Tokens that no answer begins with.
    pub suppressed_at_begin: Vec<i32>,
}

impl Default for Penalties {
    fn default() -> Self {
        Self {
            repetition: 1.0,
            no_repeat_ngram: 0,
            min_new_tokens: 0,
            min_length: 0,
            suppressed: Vec::new(),
            suppressed_at_begin: Vec::new(),
        }
    }
}

impl Penalties {
    /// What it changes in the logits of the token that follows `prompt` and the unfinished `answer`, which one of
    /// `ends` would end. Ids outside a `vocabulary` of so many tokens have no logit.
    pub(super) fn edits(&self, prompt: &[i32], answer: &[i32], ends: &BTreeSet<i32>, vocabulary: usize) -> Edits {
        if *self == Self::default() {
            return Edits::default();
        }
        let has_logit = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < vocabulary);
        let text = [prompt, answer].concat();
        let mut forbidden = self.repeating(&text);
        if text.len() < self.min_length || answer.len() < self.min_new_tokens {
            forbidden.extend(ends);
        }
        forbidden.extend(&self.suppressed);
        if answer.is_empty() {
            forbidden.extend(&self.suppressed_at_begin);
        }
        forbidden.retain(has_logit);
        let mut repeated = text;
        repeated.retain(|id| self.repetition != 1.0 && has_logit(id));
        repeated.sort_unstable();
        repeated.dedup();
        Edits { repeated, forbidden }
    }

    /// The tokens that followed the last `no_repeat_ngram - 1` ones before.
    fn repeating(&self, text: &[i32]) -> Vec<i32> {
        let length = self.no_repeat_ngram;
        if length == 0 || text.len() + 1 < length {
            return Vec::new();
        }
        let last = &text[text.len() + 1 - length..];
        let windows = text.windows(length).filter(|window| window[..length - 1] == *last);
        windows.map(|window| window[length - 1]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_change_as_in_transformers() {
        const NO: f32 = f32::NEG_INFINITY;
        let apply = |penalties: Penalties, prompt: &[i32], answer: &[i32]| {
            let mut logits = vec![1.0, -2.0, 3.0, 4.0];
            penalties.edits(prompt, answer, &[3].into(), 4).apply(&mut logits, penalties.repetition);
            logits
        };
        let none = Penalties::default();
        assert_eq!(apply(none.clone(), &[0], &[1]), [1.0, -2.0, 3.0, 4.0]);
        let repetition = Penalties { repetition: 2.0, ..none.clone() };
        assert_eq!(apply(repetition, &[0, 1], &[1, 9]), [0.5, -4.0, 3.0, 4.0]);
        let ngram = |length| Penalties { no_repeat_ngram: length, ..Penalties::default() };
        assert_eq!(apply(ngram(2), &[0, 1, 0], &[2, 0]), [1.0, NO, NO, 4.0]);
        assert_eq!(apply(ngram(1), &[0], &[2]), [NO, -2.0, NO, 4.0]);
        assert_eq!(apply(ngram(3), &[0], &[2]), [1.0, -2.0, 3.0, 4.0]);
        let shortest = Penalties { min_new_tokens: 2, ..none.clone() };
        assert_eq!(apply(shortest.clone(), &[0, 0], &[1]), [1.0, -2.0, 3.0, NO]);
        assert_eq!(apply(shortest, &[0, 0], &[1, 1]), [1.0, -2.0, 3.0, 4.0]);
        let length = Penalties { min_length: 4, ..none.clone() };
        assert_eq!(apply(length, &[0, 0], &[1]), [1.0, -2.0, 3.0, NO]);
        let suppressed = Penalties { suppressed: vec![0, -1, 77], suppressed_at_begin: vec![1], ..none };
        assert_eq!(apply(suppressed.clone(), &[0], &[]), [NO, NO, 3.0, 4.0]);
        assert_eq!(apply(suppressed, &[0], &[2]), [NO, -2.0, 3.0, 4.0]);
    }
}
