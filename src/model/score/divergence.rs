//! The exact Kullback-Leibler divergence between the next-token distributions of two models, at every response token. Logits are
//! computed for a few rows at a time.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{Scorer, check, cost};
use crate::error::{Error, Result};
use crate::kernels::FEW_ROWS;
use crate::model::batch::{Needed, PackedBatch, PairIds, Response};
use crate::model::layers::cache::host;

impl Scorer {
    /// KL(self || start) in nats at every response token of every pair, those of the first response first.
    ///
    /// # Errors
    /// As for [`Scorer::logps`], and models with vocabularies of different sizes.
    pub fn divergences(&self, start: &Self, pairs: &[PairIds]) -> Result<Vec<Vec<f64>>> {
        for pair in pairs {
            check(pair, &self.model, &self.name)?;
            check(pair, &start.model, &start.name)?;
        }
        let sizes = [self.model.vocab_size(), start.model.vocab_size()];
        if sizes[0] != sizes[1] {
            let message = format!("{} entries in its vocabulary, {} in that of {}", sizes[0], sizes[1], start.name);
            return Err(Error::model(&self.name, message));
        }
        self.precision.begin();
        let mut out = Vec::with_capacity(pairs.len());
        let costs: Vec<usize> = pairs.iter().map(cost).collect();
        self.room.batches(&costs, |range| {
            let mut batch = PackedBatch::default();
            for pair in &pairs[range.clone()] {
                batch.push(pair.prompt, &pair.responses.map(|ids| Response { ids, needed: Needed::All }));
            }
            let hidden = [self, start].map(|scorer| scorer.model.needed(&batch, None, &scorer.device));
            let mut all = Vec::with_capacity(batch.rows.len());
            for from in (0..batch.rows.len()).step_by(FEW_ROWS) {
                let rows = from..batch.rows.len().min(from + FEW_ROWS);
                let logits = |scorer: &Self, hidden: &Tensor<2>| {
                    let columns = 0..hidden.dims()[1];
                    host(scorer.model.head().logits(hidden.clone().slice([rows.clone(), columns])))
                };
                let (own, other) = (logits(self, &hidden[0]), logits(start, &hidden[1]));
                let rows = own.par_chunks_exact(sizes[0]).zip(other.par_chunks_exact(sizes[0]));
                all.par_extend(rows.map(|(own, other)| divergence(own, other)));
            }
            let pairs = batch.responses.chunks_exact(2);
            out.extend(pairs.map(|sides| all[sides[0].start..sides[1].end].to_vec()));
            Ok(())
        })?;
        Ok(out)
    }
}

/// The KL divergence of the distributions with the logits `own` and `other`.
fn divergence(own: &[f32], other: &[f32]) -> f64 {
    let norm = |logits: &[f32]| {
        let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        highest + logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum::<f64>().ln()
    };
    let (own_norm, other_norm) = (norm(own), norm(other));
    let terms = own.iter().zip(other).map(|(own, other)| {
        let (own, other) = (f64::from(*own) - own_norm, f64::from(*other) - other_norm);
        own.exp() * (own - other)
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    // torch 2.15: F.kl_div(torch.tensor([.5, -1., 2.]).double().log_softmax(0), torch.tensor([1., 0., 3.]).double().log_softmax(0),
    //                      reduction="sum", log_target=True).item() -> 0.014367677
    #[test]
    fn divergence_is_that_of_torch() {
        let got = divergence(&[1.0, 0.0, 3.0], &[0.5, -1.0, 2.0]);
        assert!((got - 0.014_367_677).abs() < 1e-9, "{got}");
        assert_eq!(divergence(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
    }
}
