//! Axes with ticks at round numbers.

/// From where to where an axis goes.
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    step: f64,
}

impl Axis {
    /// An axis with room for all finite `values`; none without one.
    pub(super) fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (least, most) = values.filter(|value| value.is_finite()).fold(None, |ends, value| {
            let (least, most): (f64, f64) = ends.unwrap_or((value, value));
            Some((least.min(value), most.max(value)))
        })?;
        let room = if most > least { most - least } else { 1.0 };
        let rough = room / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * unit).into_iter().find(|step| *step >= rough)?;
        // A value that is a tick but for its rounding needs no step more.
        let (first, last) = ((least / step + 1e-9).floor(), (most / step - 1e-9).ceil());
        Some(Self { from: first * step, to: last.max(first + 1.0) * step, step })
    }

    /// Where `value` lies: 0 at the beginning of the axis, 1 at its end.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.to - self.from) / self.step).round() as usize;
        (0..=count).map(|index| self.from + index as f64 * self.step)
    }

    /// A tick with as many decimals as the step between two of them needs.
    pub(super) fn shown(&self, tick: f64) -> String {
        let decimals = -self.step.log10().floor();
        if !(-6.0..=6.0).contains(&decimals) {
            return format!("{tick:.0e}");
        }
        // The tick at 0 may have come out as a very small number.
        let tick = if tick.abs() < self.step / 2.0 { 0.0 } else { tick };
        format!("{tick:.*}", decimals.max(0.0) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_begin_and_end_at_round_numbers() {
        let axis = Axis::over([0.031, 0.094].into_iter()).unwrap();
        assert!((axis.from - 0.02).abs() < 1e-12 && (axis.to - 0.1).abs() < 1e-12, "{} {}", axis.from, axis.to);
        let flat = Axis::over([0.5, 0.5].into_iter()).unwrap();
        assert!(flat.to > flat.from && flat.share(0.5).is_finite());
        let small = Axis::over([1e-5, 3e-5].into_iter()).unwrap();
        let ticks: Vec<String> = small.ticks().map(|tick| small.shown(tick)).collect();
        assert_eq!(ticks, ["0.000010", "0.000015", "0.000020", "0.000025", "0.000030"]);
    }
}
