//! How tests compare computed numbers: an empty result, one of another length and NaN never pass.

use std::fmt;

/// How far a number may be from the expected one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tolerance {
    /// `|got - want| <= limit`.
    Absolute(f64),
    /// `|got - want| <= limit * (1 + |want|)`.
    Relative(f64),
}

/// Asserts that `got` has as many numbers as `want`, at least one, each within the tolerance. `context` heads the message.
#[track_caller]
pub(crate) fn assert_close<G, W>(got: &[G], want: &[W], tolerance: Tolerance, context: fmt::Arguments)
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    assert_eq!(got.len(), want.len(), "{context}: as many numbers as expected");
    assert!(!got.is_empty(), "{context}: no number to compare");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want): (f64, f64) = ((*got).into(), (*want).into());
        let limit = match tolerance {
            Tolerance::Absolute(limit) => limit,
            Tolerance::Relative(limit) => limit * (1.0 + want.abs()),
        };
        // A difference that is NaN is within no limit.
        assert!((got - want).abs() <= limit, "{context}: number {index} is {got}, not {want} within {limit:e}");
    }
}

#[cfg(test)]
mod tests {
    use super::Tolerance::{Absolute, Relative};
    use super::*;

    #[test]
    fn numbers_within_the_tolerance_pass() {
        assert_close(&[1.0f32, -2.0], &[1.0f64, -2.125], Absolute(0.125), format_args!("absolute"));
        assert_close(&[10.5f64], &[10.0f64], Relative(0.05), format_args!("relative"));
    }

    #[test]
    #[should_panic(expected = "number 1 is 2.5, not 2 within 1e-1")]
    fn a_number_too_far_away_fails() {
        assert_close(&[1.0f64, 2.5], &[1.0f64, 2.0], Absolute(0.1), format_args!("far"));
    }

    #[test]
    #[should_panic(expected = "number 0 is NaN")]
    fn a_result_that_is_nan_fails() {
        assert_close(&[f64::NAN, 1.0], &[1.0f64, 1.0], Absolute(f64::MAX), format_args!("NaN"));
    }

    #[test]
    #[should_panic(expected = "not NaN")]
    fn an_expectation_that_is_nan_fails() {
        assert_close(&[1.0f64], &[f64::NAN], Relative(1.0), format_args!("NaN"));
    }

    #[test]
    #[should_panic(expected = "no number to compare")]
    fn an_empty_result_fails() {
        assert_close::<f64, f64>(&[], &[], Absolute(1.0), format_args!("empty"));
    }

    #[test]
    #[should_panic(expected = "as many numbers as expected")]
    fn a_result_of_another_length_fails() {
        assert_close(&[1.0f64], &[1.0f64, 1.0], Absolute(1.0), format_args!("short"));
    }
}
