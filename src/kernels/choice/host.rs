//! The choice on the host, rows side by side.

use rayon::prelude::*;

use super::{Row, Rule};

/// The tokens chosen from `logits` `[rows, vocabulary]`.
pub(super) fn chosen(logits: &[f32], rule: Rule, rows: &[Row]) -> Vec<i32> {
    let vocabulary = logits.len() / rows.len().max(1);
    let choose = |(row, logits): (&Row, &[f32])| {
        if row.edits.is_empty() {
            return rule.sampling.choose(logits, &row.draws);
        }
        let mut logits = logits.to_vec();
        row.edits.apply(&mut logits, rule.repetition);
        rule.sampling.choose(&logits, &row.draws)
    };
    rows.par_iter().zip(logits.par_chunks_exact(vocabulary.max(1))).flat_map_iter(choose).collect()
}
