//! Histograms, moments and correlations of a stream of numbers: exact, in memory that does not grow with it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Most columns of a histogram.
const MOST_COLUMNS: i64 = 48;

/// The finest width of a column, as a power of two.
const FINEST: i32 = -20;

/// Integers that a float holds exactly.
const EXACT: f64 = (1_i64 << 52) as f64;

/// What is known of the numbers of one column.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Column {
    /// How many.
    pub(super) count: u64,
    /// The sum of what was given with them.
    pub(super) sum: f64,
}

/// A histogram whose columns have one width, a power of two, with an edge at 0: column `k` holds the numbers in
/// `[k * width, (k + 1) * width)`. Where a number lies too far away, the width doubles and every two columns become one, which
/// is exact.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grid {
    power: i32,
    columns: BTreeMap<i64, Column>,
}

impl Default for Grid {
    fn default() -> Self {
        Self { power: FINEST, columns: BTreeMap::new() }
    }
}

impl Grid {
    /// A histogram whose columns are no finer than 1, for counts.
    pub(super) fn of_counts() -> Self {
        Self { power: 0, columns: BTreeMap::new() }
    }

    /// Width of a column.
    pub(super) fn width(&self) -> f64 {
        2f64.powi(self.power)
    }

    /// Adds the finite number `value`, with `weight` for the column's sum.
    pub(super) fn add(&mut self, value: f64, weight: f64) {
        while (value / self.width()).abs() > EXACT {
            self.coarsen();
        }
        let mut key = (value / self.width()).floor() as i64;
        while self.spread(key) > MOST_COLUMNS {
            self.coarsen();
            key = key.div_euclid(2);
        }
        let column = self.columns.entry(key).or_default();
        column.count += 1;
        column.sum += weight;
    }

    /// Columns between the first and the last one, were there one at `key`.
    fn spread(&self, key: i64) -> i64 {
        let ends = self.columns.first_key_value().zip(self.columns.last_key_value());
        let (first, last) = ends.map_or((key, key), |((first, _), (last, _))| (key.min(*first), key.max(*last)));
        last - first + 1
    }

    fn coarsen(&mut self) {
        self.power += 1;
        for (key, column) in std::mem::take(&mut self.columns) {
            let into = self.columns.entry(key.div_euclid(2)).or_default();
            into.count += column.count;
            into.sum += column.sum;
        }
    }

    /// The left ends of all columns that hold a number, from left to right, with what is known of them.
    pub(super) fn columns(&self) -> impl Iterator<Item = (f64, Column)> + '_ {
        self.columns.iter().map(|(key, column)| (*key as f64 * self.width(), *column))
    }

    /// The same histogram with columns of `width` or wider.
    pub(super) fn at_least(mut self, width: f64) -> Self {
        while self.width() < width {
            self.coarsen();
        }
        self
    }
}

/// Count, mean, spread and ends of a stream of numbers (Welford's recurrence).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Moments {
    /// How many.
    pub(super) count: u64,
    /// Their mean.
    pub(super) mean: f64,
    #[serde(skip)]
    squares: f64,
    /// The smallest.
    pub(super) min: f64,
    /// The largest.
    pub(super) max: f64,
}

impl Moments {
    /// Adds a number.
    pub(super) fn add(&mut self, value: f64) {
        (self.min, self.max) = match self.count {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.count += 1;
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
    }

    /// The standard deviation of the numbers themselves, not of a population that they are drawn from.
    pub(super) fn deviation(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }
}

/// Pearson's correlation of a stream of pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Correlation {
    x: Moments,
    y: Moments,
    products: f64,
}

impl Correlation {
    /// Adds a pair.
    pub(super) fn add(&mut self, x: f64, y: f64) {
        let off = x - self.x.mean;
        self.x.add(x);
        self.y.add(y);
        self.products += off * (y - self.y.mean);
    }

    /// The correlation; none where one of the two never changes.
    pub(super) fn value(&self) -> Option<f64> {
        let spread = (self.x.squares * self.y.squares).sqrt();
        (spread > 0.0).then(|| self.products / spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(grid: &Grid) -> Vec<(f64, u64, f64)> {
        grid.columns().map(|(from, column)| (from, column.count, column.sum)).collect()
    }

    #[test]
    fn columns_are_powers_of_two_wide_and_every_number_is_in_its_own() {
        let mut grid = Grid::of_counts();
        for value in [0.0, 1.0, 1.5, -0.5, 47.0] {
            grid.add(value, 1.0);
        }
        // From -1 to 48 are 49 columns of 1, so they are 2 wide.
        assert_eq!(grid.width(), 2.0);
        assert_eq!(shown(&grid), [(-2.0, 1, 1.0), (0.0, 3, 3.0), (46.0, 1, 1.0)]);
        grid.add(1e300, 0.5);
        assert!(grid.width() > 1e298, "{}", grid.width());
        assert_eq!(grid.columns().map(|(_, column)| column.count).sum::<u64>(), 6);
    }

    #[test]
    fn the_order_of_numbers_does_not_matter() {
        let values: Vec<f64> = (0..500).map(|i| f64::from(i * 7919 % 500) / 37.0 - 3.0).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let [one, other] = [values, sorted].map(|values| {
            let mut grid = Grid::default();
            values.iter().for_each(|value| grid.add(*value, 0.0));
            grid
        });
        assert_eq!(one, other);
        let width = one.width();
        for (from, column) in one.columns() {
            let inside = (0..500).map(|i| f64::from(i) / 37.0 - 3.0).filter(|v| (from..from + width).contains(v));
            assert_eq!(column.count, inside.count() as u64);
        }
    }

    // numpy 2.3: np.std([1, 2, 4, 7]) -> 2.29128784747792, np.corrcoef([1, 2, 4, 7], [2, 1, 5, 6])[0, 1] -> 0.8997354108424372
    #[test]
    fn moments_are_those_of_numpy() {
        let (mut moments, mut correlation) = (Moments::default(), Correlation::default());
        for (x, y) in [(1.0, 2.0), (2.0, 1.0), (4.0, 5.0), (7.0, 6.0)] {
            moments.add(x);
            correlation.add(x, y);
        }
        assert_eq!((moments.count, moments.mean, moments.min, moments.max), (4, 3.5, 1.0, 7.0));
        assert!((moments.deviation() - 2.29128784747792).abs() < 1e-12, "{}", moments.deviation());
        assert!((correlation.value().unwrap() - 0.8997354108424372).abs() < 1e-12, "{correlation:?}");
        let mut flat = Correlation::default();
        flat.add(1.0, 2.0);
        flat.add(1.0, 3.0);
        assert_eq!(flat.value(), None);
    }
}
