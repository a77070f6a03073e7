//! Samples tokens from logits. The arithmetic is in f64 and in a fixed order, so that equal logits and random numbers
//! give equal tokens on every machine.

/// How tokens are sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f64,
    /// Samples from so many of the most likely tokens, and from those as likely as the last of them; 0 takes all.
    pub top_k: usize,
    /// Samples from the smallest set of most likely tokens with this total probability (arXiv 1904.09751).
    pub top_p: f64,
    /// Samples from tokens with at least this share of the probability of the most likely one (arXiv 2407.01082).
    pub min_p: f64,
    /// Samples from the set of tokens with this total probability whose information is nearest to the entropy (arXiv
    /// 2202.00666).
    pub typical_p: f64,
}

impl Sampling {
    /// From the smallest set of most likely tokens with the probability `top_p`.
    pub const fn new(temperature: f64, top_p: f64) -> Self {
        Self { temperature, top_k: 0, top_p, min_p: 0.0, typical_p: 1.0 }
    }

    /// Whether it restricts nothing.
    pub(super) fn takes_all(self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0 && self.typical_p >= 1.0
    }

    /// A token for each of `draws`, random numbers in [0, 1). The likeliest token, for which NaN counts as `-inf` and
    /// ties go to the smallest id, comes without a temperature, and where a logit is NaN or infinite, or none is above
    /// `-inf`.
    pub(super) fn choose(self, logits: &[f32], draws: &[f64]) -> Vec<i32> {
        let best = likeliest(logits);
        let certain = vec![best as i32; draws.len()];
        if self.temperature == 0.0 {
            return certain;
        }
        let highest = f64::from(logits[best]);
        let weight = |logit: f32| ((f64::from(logit) - highest) / self.temperature).exp();
        let weights: Vec<f64> = logits.iter().map(|logit| weight(*logit)).collect();
        let total: f64 = weights.iter().sum();
        if !total.is_finite() {
            return certain;
        }
        let (tokens, kept) = self.candidates(&weights, total);
        let token = |draw: &f64| {
            let mut left = draw * kept;
            let drawn = tokens.iter().find(|token| {
                left -= weights[**token];
                left < 0.0
            });
            drawn.copied().unwrap_or(best) as i32
        };
        draws.iter().map(token).collect()
    }

    /// The tokens to choose from, and the sum of their weights. All `weights`, of which the largest is 1, come to
    /// `total`. Restrictions are applied in the order of `transformers`, each to what the one before it left.
    fn candidates(self, weights: &[f64], total: f64) -> (Vec<usize>, f64) {
        let mut tokens: Vec<usize> = (0..weights.len()).collect();
        let mut kept = total;
        let sum = |tokens: &[usize]| tokens.iter().map(|token| weights[*token]).sum();
        if self.takes_all() {
            return (tokens, kept);
        }
        tokens.sort_unstable_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
        if self.top_k > 0 && self.top_k < tokens.len() {
            let last = weights[tokens[self.top_k - 1]];
            tokens.retain(|token| weights[*token] >= last);
            kept = sum(&tokens);
        }
        if self.top_p < 1.0 {
            let total = kept;
            kept = 0.0;
            let enough = tokens.iter().position(|token| {
                kept += weights[*token];
                kept >= self.top_p * total
            });
            tokens.truncate(enough.map_or(tokens.len(), |last| last + 1));
        }
        if self.min_p > 0.0 {
            let least = self.min_p * weights[tokens[0]];
            tokens.retain(|token| weights[*token] >= least);
            kept = sum(&tokens);
        }
        if self.typical_p < 1.0 {
            tokens = self.typical(tokens, weights, kept);
            kept = sum(&tokens);
        }
        (tokens, kept)
    }

    /// Those of `tokens`, whose weights come to `total`, that are typical.
    fn typical(self, tokens: Vec<usize>, weights: &[f64], total: f64) -> Vec<usize> {
        let information = |token: usize| -(weights[token] / total).ln();
        let of =
            |token: &usize| if weights[*token] > 0.0 { weights[*token] / total * information(*token) } else { 0.0 };
        let entropy: f64 = tokens.iter().map(of).sum();
        let distance = |token: usize| (information(token) - entropy).abs();
        let mut nearest = tokens.clone();
        nearest.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        let mut probability = 0.0;
        let below = nearest.iter().take_while(|token| {
            probability += weights[**token] / total;
            probability < self.typical_p
        });
        let last = below.count().min(nearest.len().saturating_sub(1));
        let Some(farthest) = nearest.get(last).map(|token| distance(*token)) else { return tokens };
        tokens.into_iter().filter(|token| distance(*token) <= farthest).collect()
    }
}

/// The index of the first largest value; NaN counts as `-inf`.
fn likeliest(logits: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::super::tests::candidates_of_transformers;
    use super::*;
    use crate::close::{Tolerance, assert_close};

    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let draws: Vec<f64> = (0..20_000).map(|draw| f64::from(draw) / 20_000.0).collect();
        let mut counts = vec![0.0; logits.len()];
        sampling.choose(logits, &draws).into_iter().for_each(|token| counts[token as usize] += 1.0 / 20_000.0);
        counts
    }

    #[test]
    fn no_temperature_is_the_first_of_the_likeliest() {
        let greedy = |logits: &[f32]| Sampling::new(0.0, 1.0).choose(logits, &[0.0]);
        assert_eq!(greedy(&[0.0, 3.0, 1.0, 3.0]), [1]);
        assert_eq!(greedy(&[f32::NAN, -3.0, -1.0]), [2]);
    }

    #[test]
    fn where_nothing_can_be_drawn_the_likeliest_is_taken() {
        const NO: f32 = f32::NEG_INFINITY;
        let all = Sampling { temperature: 1.0, top_k: 1, top_p: 0.9, min_p: 0.1, typical_p: 0.9 };
        let choose = |logits: &[f32]| all.choose(logits, &[0.0, 0.9]);
        assert_eq!(choose(&[NO, NO, NO]), [0, 0]);
        assert_eq!(choose(&[f32::NAN, 1.0, 2.0]), [2, 2]);
        assert_eq!(choose(&[NO, 1.0, f32::INFINITY]), [2, 2]);
        // No token has twice the probability of the likeliest.
        assert_eq!(Sampling { min_p: 2.0, ..all }.choose(&[1.0, 2.0], &[0.5]), [1]);
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        // Probabilities 0.1, 0.2, 0.3, 0.4; at temperature 0.5 their squares, normalised.
        let logits = [0.1f32, 0.2, 0.3, 0.4].map(f32::ln);
        let check = |temperature: f64, top_p: f64, want: [f64; 4]| {
            let shares = shares(Sampling::new(temperature, top_p), &logits);
            assert_close(&shares, &want, Tolerance::Absolute(1e-4), format_args!("{temperature} {top_p}"));
        };
        check(1.0, 1.0, [0.1, 0.2, 0.3, 0.4]);
        let squares = [0.01, 0.04, 0.09, 0.16].map(|square| square / 0.3);
        check(0.5, 1.0, squares);
        // 0.4 + 0.3 reach 0.65, 0.4 alone does not.
        check(1.0, 0.65, [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
        check(1.0, 0.01, [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn restrictions_leave_what_they_leave_in_transformers() {
        let expected = candidates_of_transformers();
        assert!(expected.len() > 30);
        for (logits, sampling, tokens) in expected {
            let highest = logits.iter().copied().max_by(f64::total_cmp).unwrap();
            let weights: Vec<f64> =
                logits.iter().map(|logit| ((logit - highest) / sampling.temperature).exp()).collect();
            let mut left = sampling.candidates(&weights, weights.iter().sum()).0;
            left.sort_unstable();
            assert_eq!(left, tokens, "{sampling:?} of {logits:?}");
        }
    }
}
