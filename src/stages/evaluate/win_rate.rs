//! How often answers of one name are better than those of another to the same prompts, with an interval.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The score of every row, by `row_id`.
pub(super) type Scores = BTreeMap<String, f64>;

/// Win rates of all names against `against`, by name.
///
/// # Errors
/// Answers that have no row in common.
pub(super) fn win_rates(scores: &BTreeMap<&str, &Scores>, against: &str) -> Result<BTreeMap<String, Value>> {
    let Some(theirs) = scores.get(against) else { return Ok(BTreeMap::new()) };
    let rate = |(name, own): (&&str, &&Scores)| {
        let common = own.iter().filter_map(|(row, score)| Some((*score, *theirs.get(row)?)));
        let points: Vec<f64> = common.map(|(own, theirs)| points(own, theirs)).collect();
        if points.is_empty() {
            let message = format!("the answers of `{name}` and of `{against}` have no row_id in common");
            return Err(Error::stage("evaluate", message));
        }
        let [low, high] = interval(&points);
        let count = |wanted: f64| points.iter().filter(|points| **points == wanted).count();
        let numbers = json!({
            "against": against, "rows": points.len(), "rate": mean(&points), "low": low, "high": high,
            "wins": count(1.0), "ties": count(0.5), "losses": count(0.0),
        });
        Ok(((*name).to_owned(), numbers))
    };
    scores.iter().filter(|(name, _)| **name != against).map(rate).collect()
}

/// A win counts 1, a tie 0.5.
fn points(own: f64, theirs: f64) -> f64 {
    match own.total_cmp(&theirs) {
        std::cmp::Ordering::Less => 0.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 1.0,
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The 95 % percentile interval of the mean: rows are drawn with replacement, always with the same seed.
fn interval(points: &[f64]) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut pick = || points[(rng.next_u64() % points.len() as u64) as usize];
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..points.len()).map(|_| pick()).sum::<f64>() / points.len() as f64).collect();
    means.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|share| means[(share * (RESAMPLES - 1) as f64).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(scores: &[(&str, f64)]) -> Scores {
        scores.iter().map(|(row, score)| ((*row).to_owned(), *score)).collect()
    }

    #[test]
    fn ties_count_half_and_only_common_rows_count() {
        let one = scores(&[("a", 1.0), ("b", 0.5), ("c", 0.0), ("x", 9.0)]);
        let two = scores(&[("a", 0.5), ("b", 0.5), ("c", 0.2), ("y", 9.0)]);
        let all = [("one", &one), ("two", &two)].into();
        let rates = win_rates(&all, "two").unwrap();
        let rate = &rates["one"];
        assert_eq!((rates.len(), &rate["rate"], &rate["rows"]), (1, &json!(0.5), &json!(3)));
        assert_eq!((&rate["wins"], &rate["ties"], &rate["losses"]), (&json!(1), &json!(1), &json!(1)));
        let (a, b) = (scores(&[("a", 1.0)]), scores(&[("b", 1.0)]));
        let apart = [("one", &a), ("two", &b)].into();
        assert!(win_rates(&apart, "one").unwrap_err().to_string().contains("no row_id in common"));
    }

    // scipy 1.17: scipy.stats.bootstrap(([1.] * 60 + [0.] * 40,), np.mean, method="percentile", n_resamples=100000,
    //             rng=0).confidence_interval -> (0.50, 0.69)
    #[test]
    fn the_interval_is_that_of_the_bootstrap() {
        let points = [vec![1.0; 60], vec![0.0; 40]].concat();
        let [low, high] = interval(&points);
        assert!((low - 0.50).abs() < 0.011 && (high - 0.69).abs() < 0.011, "{low} {high}");
        assert_eq!(interval(&[1.0; 5]), [1.0, 1.0]);
    }
}
