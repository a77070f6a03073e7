//! How much of the reward lies in how few tokens.

/// Steps of the curve, each a twentieth of an answer's tokens.
const STEPS: usize = 20;

/// The reward in the best share of every answer's tokens: those that are best for SePO, the highest of a chosen answer, the
/// lowest of a rejected one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gathered {
    /// By share of an answer's tokens, rounded up: their reward, counted positive where it speaks for its side.
    steps: [f64; STEPS],
    /// Everything that speaks for its side.
    whole: f64,
}

impl Gathered {
    /// Adds an answer; `rewards` are positive where they speak for its side.
    pub fn add(&mut self, mut rewards: Vec<f64>) {
        rewards.sort_unstable_by(|a, b| b.total_cmp(a));
        for (step, sum) in self.steps.iter_mut().enumerate() {
            *sum += rewards.iter().take((rewards.len() * (step + 1)).div_ceil(STEPS)).sum::<f64>();
        }
        self.whole += rewards.iter().filter(|reward| **reward > 0.0).sum::<f64>();
    }

    /// (percent of the tokens, share of the reward that speaks for its side). What speaks against its side is subtracted, so
    /// that the shares fall again where it begins.
    pub fn shares(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.steps.iter().enumerate().map(|(step, sum)| (100 * (step + 1) / STEPS, sum / self.whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tokens_hold_most_of_the_reward() {
        let mut gathered = Gathered::default();
        gathered.add(vec![0.5, 6.0, -1.0, 1.5]);
        gathered.add(vec![2.0]);
        // 1, 1, 2, 2, 2, 3, 3, 4, 4, 4 tokens of the first answer, the only one of the second.
        let shares: Vec<(usize, f64)> = gathered.shares().filter(|(percent, _)| percent % 10 == 0).collect();
        let expected = [0.8, 0.8, 0.95, 0.95, 0.95, 1.0, 1.0, 0.9, 0.9, 0.9];
        let percents = (1..=10).map(|tenth| 10 * tenth);
        assert_eq!(shares, percents.zip(expected).collect::<Vec<_>>());
    }
}
