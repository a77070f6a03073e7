//! What is done to the logits of a next token before it is chosen, as `generate()` of `transformers` does it and in its order:
//! `generation/logits_process.py`.

use std::collections::BTreeSet;

/// Changes to logits. The default changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Logits of tokens in the prompt or the answer are divided by it, or multiplied where they are below 0 (arXiv 1909.05858).
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
    /// Whether it changes nothing.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Changes the `logits` of the token that follows `prompt` and the unfinished `answer`, which one of `ends` would end.
    pub(super) fn apply(&self, logits: &mut [f32], prompt: &[i32], answer: &[i32], ends: &BTreeSet<i32>) {
        let text = [prompt, answer].concat();
        if self.repetition != 1.0 {
            for &id in &text.iter().copied().collect::<BTreeSet<i32>>() {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit < 0.0 { *logit * self.repetition } else { *logit / self.repetition };
                }
            }
        }
        self.forbid_repeated(logits, &text);
        let mut forbid = |ids: &mut dyn Iterator<Item = &i32>| ids.for_each(|id| forbid(logits, *id));
        if text.len() < self.min_length || answer.len() < self.min_new_tokens {
            forbid(&mut ends.iter());
        }
        forbid(&mut self.suppressed.iter());
        if answer.is_empty() {
            forbid(&mut self.suppressed_at_begin.iter());
        }
    }

    /// Forbids the tokens that followed the last `no_repeat_ngram - 1` ones before.
    fn forbid_repeated(&self, logits: &mut [f32], text: &[i32]) {
        let length = self.no_repeat_ngram;
        if length == 0 || text.len() + 1 < length {
            return;
        }
        let last = &text[text.len() + 1 - length..];
        for window in text.windows(length) {
            if window[..length - 1] == *last {
                forbid(logits, window[length - 1]);
            }
        }
    }
}

fn forbid(logits: &mut [f32], id: i32) {
    if let Some(logit) = usize::try_from(id).ok().and_then(|id| logits.get_mut(id)) {
        *logit = f32::NEG_INFINITY;
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
            penalties.apply(&mut logits, prompt, answer, &[3].into());
            logits
        };
        let none = Penalties::default();
        assert!(none.is_none());
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
