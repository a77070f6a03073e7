//! Means with their intervals, paired differences, and what many tests at once are worth.

/// A mean over repeats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mean {
    pub(super) mean: f64,
    /// Its standard error; 0 where there is one repeat.
    pub(super) error: f64,
    /// Half the width of its 95 % interval (Student's t); 0 where there is one repeat.
    pub(super) half: f64,
    pub(super) n: usize,
}

impl Mean {
    /// The mean of `values`, of which there is one or more.
    pub(super) fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count();
        let mean = values.clone().sum::<f64>() / n as f64;
        if n < 2 {
            return Self { mean, error: 0.0, half: 0.0, n };
        }
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let error = (variance / n as f64).sqrt();
        Self { mean, error, half: quantile(n - 1) * error, n }
    }

    /// The probability of a mean this far from 0, or farther, if the values come from a normal distribution around 0.
    pub(super) fn p(&self) -> f64 {
        match self.mean.abs() / self.error {
            t if t.is_nan() => 1.0,
            t => two_sided(t, self.n.saturating_sub(1)),
        }
    }
}

/// The probability that Student's t with `degrees` of freedom lies beyond `t` on either side (Abramowitz and Stegun, 26.7.3
/// and 26.7.4).
fn two_sided(t: f64, degrees: usize) -> f64 {
    if degrees == 0 || !t.is_finite() {
        return if degrees == 0 { 1.0 } else { 0.0 };
    }
    let angle = (t / (degrees as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    let (mut term, mut sum) = if is_odd { (cosine, 0.0) } else { (1.0, 0.0) };
    for k in 0..degrees / 2 {
        sum += term;
        let k = k as f64;
        let factor = if is_odd { (2.0 * k + 2.0) / (2.0 * k + 3.0) } else { (2.0 * k + 1.0) / (2.0 * k + 2.0) };
        term *= factor * cosine * cosine;
    }
    let within = if is_odd { (angle + sine * sum) / std::f64::consts::FRAC_PI_2 } else { sine * sum };
    (1.0 - within).clamp(0.0, 1.0)
}

/// The 97.5 % quantile of Student's t.
fn quantile(degrees: usize) -> f64 {
    let (mut low, mut high) = (0.0, 16.0);
    // That of one degree is 12.7, all others are smaller; 60 halvings are more than a float holds.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match two_sided(middle, degrees) > 0.05 {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

/// Holm's correction: the level at which each of several tests still holds when all of them are looked at.
pub(super) fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let (mut corrected, mut largest) = (vec![0.0; ps.len()], 0.0f64);
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(((ps.len() - rank) as f64 * ps[index]).min(1.0));
        corrected[index] = largest;
    }
    corrected
}

/// How many decimals the numbers of one column deserve: two digits of the interval in the middle of all that are not 0, or
/// three digits of the largest number where none has an interval. Whole numbers without intervals have none.
pub(super) fn decimals(column: &[Mean]) -> usize {
    let places = |value: f64, digits: i32| (digits - 1 - value.log10().floor() as i32).clamp(0, 12) as usize;
    let largest = column.iter().map(|mean| mean.mean.abs()).filter(|mean| mean.is_finite()).fold(0.0, f64::max);
    // What is smaller comes from rounding.
    let halves = column.iter().map(|mean| mean.half).filter(|half| half.is_finite() && *half > 1e-9 * largest);
    let mut halves: Vec<f64> = halves.collect();
    halves.sort_by(f64::total_cmp);
    match halves.get(halves.len() / 2) {
        Some(half) => places(*half, 2),
        None if largest == 0.0 || column.iter().all(|mean| mean.mean.fract() == 0.0) => 0,
        None => places(largest, 3),
    }
}

/// `0.953 ± 0.007`, or the mean alone where there is one repeat.
pub(super) fn shown(Mean { mean, half, n, .. }: Mean, decimals: usize) -> String {
    let number = |value: f64| {
        let text = format!("{value:.decimals$}");
        // What rounds to 0 has no sign.
        let zero = text.strip_prefix('-').filter(|digits| digits.chars().all(|c| c == '0' || c == '.'));
        zero.map_or_else(|| text.clone(), str::to_owned)
    };
    if n < 2 { number(mean) } else { format!("{} ± {}", number(mean), number(half)) }
}

/// A probability with the digits that matter.
pub(super) fn shown_p(p: f64) -> String {
    match p {
        p if p < 1e-4 => "< 0.0001".into(),
        p if p < 1e-3 => format!("{p:.4}"),
        p => format!("{p:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // scipy 1.17: stats.t.interval(.95, 4, loc=np.mean(x), scale=stats.sem(x)) for x = [1, 2, 3, 4, 6]
    // -> (0.8116, 5.5884), which is 3.2 ± 2.3884; stats.ttest_1samp(x, 0).pvalue -> 0.020476
    #[test]
    fn intervals_are_students() {
        let mean = Mean::of([1.0, 2.0, 3.0, 4.0, 6.0].into_iter());
        assert!((mean.mean - 3.2).abs() < 1e-12 && (mean.half - 2.3884).abs() < 1e-4, "{mean:?}");
        assert!((mean.p() - 0.020476).abs() < 1e-6, "{}", mean.p());
        assert_eq!(Mean::of([3.0].into_iter()), Mean { mean: 3.0, error: 0.0, half: 0.0, n: 1 });
        assert_eq!(Mean::of([0.0, 0.0].into_iter()).p(), 1.0);
        assert_eq!(Mean::of([2.0, 2.0].into_iter()).p(), 0.0);
    }

    // scipy 1.17: [round(stats.t.ppf(.975, d), 5) for d in (1, 2, 4, 9, 30, 1000)]
    // -> [12.7062, 4.30265, 2.77645, 2.26216, 2.04227, 1.96234]
    // [round(2 * stats.t.sf(t, d), 6) for t, d in ((1, 1), (2.5, 2), (2.5, 3), (4.2, 4), (0.7, 9))]
    // -> [0.5, 0.129612, 0.087707, 0.013696, 0.501619]
    #[test]
    fn quantiles_and_probabilities_are_students() {
        for (degrees, expected) in
            [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
        {
            assert!((quantile(degrees) - expected).abs() < 1e-5, "{degrees}: {}", quantile(degrees));
        }
        for (t, degrees, expected) in
            [(1.0, 1, 0.5), (2.5, 2, 0.129612), (2.5, 3, 0.087707), (4.2, 4, 0.013696), (0.7, 9, 0.501619)]
        {
            assert!((two_sided(t, degrees) - expected).abs() < 1e-6, "{t} {degrees}: {}", two_sided(t, degrees));
        }
    }

    // statsmodels 0.15: multipletests([0.01, 0.04, 0.03, 0.005], method="holm")[1] -> [0.03, 0.06, 0.06, 0.02]
    #[test]
    fn many_tests_are_corrected_as_holm_does() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.03, 0.06, 0.06, 0.02];
        assert!(corrected.iter().zip(expected).all(|(own, other)| (own - other).abs() < 1e-12), "{corrected:?}");
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    #[test]
    fn a_column_has_two_digits_of_its_middle_interval() {
        let of = |values: &[f64]| Mean::of(values.iter().copied());
        let column = [of(&[0.951, 0.957]), of(&[0.90, 0.92])];
        assert_eq!(decimals(&column), 2);
        assert_eq!(column.map(|mean| shown(mean, 2)), ["0.95 ± 0.04", "0.91 ± 0.13"]);
        // One line with a wide interval does not take the digits of all others.
        assert_eq!(decimals(&[column[0], column[1], of(&[0.1, 0.2]), column[0], column[0]]), 3);
        assert_eq!(decimals(&[of(&[128.0, 128.0])]), 0);
        assert_eq!(decimals(&[of(&[0.5]), of(&[0.25])]), 3);
        assert_eq!(decimals(&[of(&[183.234, 183.234])]), 0);
        assert_eq!(shown(of(&[-0.001, 0.0008]), 2), "0.00 ± 0.01");
        assert_eq!(shown(of(&[-0.5]), 2), "-0.50");
    }
}
