//! Changes to single logits of a row.

/// What is done to logits before a token is chosen. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edits {
    /// Tokens whose logits become less likely, each once; see [`Rule::repetition`](super::Rule).
    pub repeated: Vec<i32>,
    /// Tokens that are not chosen: their logits become `-inf`.
    pub forbidden: Vec<i32>,
}

impl Edits {
    /// Whether they change nothing.
    pub fn is_empty(&self) -> bool {
        self.repeated.is_empty() && self.forbidden.is_empty()
    }

    /// Changes `logits`, which have an entry for every id.
    pub fn apply(&self, logits: &mut [f32], repetition: f32) {
        for id in &self.repeated {
            let logit = &mut logits[*id as usize];
            *logit = if *logit < 0.0 { *logit * repetition } else { *logit / repetition };
        }
        for id in &self.forbidden {
            logits[*id as usize] = f32::NEG_INFINITY;
        }
    }
}
