//! How these tests compare computed numbers: an empty result, one of another length and NaN never pass.

/// Asserts that `got` has as many numbers as `want`, at least one, each with `|got - want| <= limit`.
#[track_caller]
pub(crate) fn assert_close<G, W>(name: &str, got: &[G], want: &[W], limit: f64)
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    assert_eq!(got.len(), want.len(), "{name}: as many numbers as expected");
    assert!(!got.is_empty(), "{name}: no number to compare");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want): (f64, f64) = ((*got).into(), (*want).into());
        // A difference that is NaN is within no limit.
        assert!((got - want).abs() <= limit, "{name}: number {index} is {got}, not {want} within {limit:e}");
    }
}

#[test]
fn numbers_within_the_limit_pass() {
    assert_close("close", &[1.0f32, -2.0], &[1.0f64, -2.125], 0.125);
}

#[test]
#[should_panic(expected = "number 0 is NaN")]
fn a_result_that_is_nan_fails() {
    assert_close("NaN", &[f64::NAN, 1.0], &[1.0f64, 1.0], f64::MAX);
}

#[test]
#[should_panic(expected = "not NaN")]
fn an_expectation_that_is_nan_fails() {
    assert_close("NaN", &[1.0f64], &[f64::NAN], 1.0);
}

#[test]
#[should_panic(expected = "no number to compare")]
fn an_empty_result_fails() {
    assert_close::<f64, f64>("empty", &[], &[], 1.0);
}

#[test]
#[should_panic(expected = "as many numbers as expected")]
fn a_result_of_another_length_fails() {
    assert_close("short", &[1.0f64], &[1.0f64, 1.0], 1.0);
}
