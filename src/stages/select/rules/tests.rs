//! Every rule on rewards small enough to check by eye, and what holds for any rewards.

use arrow::array::RecordBatch;
use arrow::datatypes::Float32Type;
use proptest::prelude::*;

use super::*;
use crate::columns::lists::{floats, from_rows};

fn masks_of(rows: &[&[f32]], pick: Pick, rule: Rule, side: Side) -> Masks {
    let batch = RecordBatch::try_from_iter([("x", from_rows::<Float32Type>(rows))]).unwrap();
    let keys: Vec<String> = (0..rows.len()).map(|row| format!("row {row}")).collect();
    masks(floats(&batch, "x").unwrap(), pick, rule, side, &keys)
}

fn places(rewards: &[f32], pick: Pick, rule: Rule) -> Vec<usize> {
    let mask = masks_of(&[rewards], pick, rule, Side::Chosen).rows.remove(0);
    mask.iter().enumerate().filter_map(|(index, key)| key.then_some(index)).collect()
}

#[test]
fn shares_round_half_up_and_ties_go_to_the_lower_index() {
    let rewards = [0.5, 2.0, -1.0, 2.0, 0.0];
    assert_eq!(places(&rewards, Pick::Top(0.3), Rule::Share), [1, 3]);
    assert_eq!(places(&rewards, Pick::Top(0.2), Rule::Share), [1]);
    assert_eq!(places(&rewards, Pick::Bottom(0.3), Rule::Share), [2, 4]);
    assert_eq!(places(&rewards, Pick::Largest(0.6), Rule::Share), [1, 2, 3]);
    assert_eq!(places(&[1.0], Pick::Top(0.1), Rule::Share), [0]);
    assert_eq!(places(&[0.0, -0.0, 0.0], Pick::Top(0.3), Rule::Share), [0]);
    assert!(places(&[], Pick::Top(0.1), Rule::Share).is_empty());
}

// >>> from decimal import Decimal, ROUND_HALF_UP
// >>> [int((Decimal(k) * n).to_integral_value(ROUND_HALF_UP)) for k, n in
// ...  [("0.7", 45), ("0.29", 50), ("0.3", 5), ("0.3", 4), ("0.145", 100), ("1.0", 7), ("1e-30", 9), ("0.1", 12345675)]]
// [32, 15, 2, 1, 15, 7, 0, 1234568]
// >>> (Decimal("0.9999999999999999") * (2**64 - 1)).to_integral_value(ROUND_HALF_UP) - (2**64 - 1)
// Decimal('-1845')
#[test]
fn shares_are_rounded_as_they_are_written() {
    for (share, n, expected) in [
        (0.7, 45, 32),
        (0.29, 50, 15),
        (0.3, 5, 2),
        (0.3, 4, 1),
        (0.145, 100, 15),
        (1.0, 7, 7),
        (1e-30, 9, 0),
        (0.1, 12_345_675, 1_234_568),
        (5e-324, usize::MAX, 0),
        (0.999_999_999_999_999_9, usize::MAX, usize::MAX - 1845),
    ] {
        assert_eq!(part(share, n), expected, "{share} of {n}");
    }
    assert_eq!(places(&[0.0; 45], Pick::Top(0.7), Rule::Share).len(), 32);
    let of_batch = masks_of(&[&[0.0; 20], &[0.0; 25]], Pick::Top(0.7), Rule::BatchShare, Side::Chosen);
    assert_eq!(of_batch.rows.iter().flatten().filter(|key| **key).count(), 32);
}

// int(float(k) * N) with N = R - 1, the first response token never scored (token_score.py of the authors):
// >>> [int(0.3 * n) for n in (0, 2, 3, 4, 9)], int(0.7 * 90), int(0.35 * 20)
// ([0, 0, 0, 1, 2], 62, 7)
#[test]
fn the_official_rule_truncates_and_skips_the_first_token() {
    for (tokens, expected) in [(1, 0), (3, 0), (4, 0), (5, 1), (10, 2)] {
        let falling: Vec<f32> = (0..tokens).map(|i| -(i as f32)).collect();
        let found = places(&falling, Pick::Top(0.3), Rule::Official);
        assert_eq!(found, (1..1 + expected).collect::<Vec<_>>(), "{tokens}");
    }
    assert_eq!(places(&[0.0; 91], Pick::Top(0.7), Rule::Official).len(), 62);
    assert_eq!(places(&[0.0; 21], Pick::Top(0.35), Rule::Official).len(), 7);
}

#[test]
fn thresholds_take_what_lies_beyond_them() {
    let rewards = [0.5, 2.0, -1.0, 0.75];
    assert_eq!(places(&rewards, Pick::Above(0.5), Rule::Share), [1, 3]);
    assert_eq!(places(&rewards, Pick::Below(0.5), Rule::Share), [2]);
    assert_eq!(places(&rewards, Pick::Above(0.5), Rule::Random).len(), 2);
    // Nothing lies beyond 3: the nearest token stands in.
    let none = masks_of(&[&rewards, &[4.0, 0.0]], Pick::Above(3.0), Rule::Share, Side::Chosen);
    assert_eq!(none, Masks { rows: vec![vec![false, true, false, false], vec![true, false]], stand_ins: 1, ties: 0 });
}

#[test]
fn a_share_of_the_reward_takes_the_fewest_tokens_that_hold_it() {
    let rewards = [1.0, 4.0, -6.0, 3.0, 2.0, -2.0];
    // Positive: 10 in all; 4 + 3 hold 0.7 of it, and 0.71 needs the 2 as well.
    assert_eq!(places(&rewards, Pick::Top(0.7), Rule::RewardShare), [1, 3]);
    assert_eq!(places(&rewards, Pick::Top(0.71), Rule::RewardShare), [1, 3, 4]);
    assert_eq!(places(&rewards, Pick::Top(1.0), Rule::RewardShare), [0, 1, 3, 4]);
    assert_eq!(places(&rewards, Pick::Bottom(0.75), Rule::RewardShare), [2]);
    // Absolute: 18 in all; 6 + 4 + 3 + 2 = 15 hold 0.8 of it (14.4), 13 do not.
    assert_eq!(places(&rewards, Pick::Largest(0.8), Rule::RewardShare), [1, 2, 3, 4]);
    assert_eq!(places(&[-1.0, -2.0], Pick::Top(0.5), Rule::RewardShare), [0]);
}

#[test]
fn a_share_of_the_batch_goes_where_the_rewards_are() {
    let rows: [&[f32]; 3] = [&[5.0, 4.0, 1.0], &[3.0, 0.0], &[0.5, 2.0, 0.0, -1.0, 0.0]];
    let found = masks_of(&rows, Pick::Top(0.3), Rule::BatchShare, Side::Chosen);
    // Three of ten tokens: 5, 4, 3; the last row has none of them and keeps its first.
    let expected = vec![vec![true, true, false], vec![true, false], vec![false, true, false, false, false]];
    assert_eq!(found, Masks { rows: expected, stand_ins: 1, ties: 0 });
}

// >>> import torch
// >>> logps = torch.tensor([-0.1, -2.0, -0.5, -3.0, -1.0])
// >>> (logps < logps.exp().mean().log()).tolist()
// [False, True, False, True, True]
#[test]
fn confidence_takes_tokens_below_the_mean_probability() {
    let logps = [-0.1, -2.0, -0.5, -3.0, -1.0];
    assert_eq!(places(&logps, Pick::Top(0.3), Rule::Confidence), [1, 3, 4]);
    assert_eq!(places(&[-1.0, -1.0], Pick::Top(0.3), Rule::Confidence), [0]);
    // Nothing is below a mean that all tokens have: the first one stands in, whatever the rounding of their probability.
    for logp in [-1.0f32, -0.1, -0.3, -7.7, -200.0] {
        let found = masks_of(&[&[logp; 7]], Pick::Top(0.3), Rule::Confidence, Side::Chosen);
        assert_eq!((found.rows[0].iter().filter(|key| **key).count(), found.stand_ins), (1, 1), "{logp}");
    }
    // Probabilities too small for a float still have a mean.
    assert_eq!(places(&[-900.0, -800.0, -900.0], Pick::Top(0.3), Rule::Confidence), [0, 2]);
    assert_eq!(Rule::Confidence.reads(Side::Rejected), "rejected_ref_logps");
    assert_eq!(Rule::Share.reads(Side::Rejected), "rejected_token_rewards");
}

#[test]
fn controls_keep_one_side_or_everything() {
    let one_side = |rule, side| masks_of(&[&[1.0, 2.0, 3.0]], Pick::Top(0.3), rule, side).rows.remove(0);
    assert_eq!(one_side(Rule::ChosenOnly, Side::Chosen), [false, false, true]);
    assert_eq!(one_side(Rule::ChosenOnly, Side::Rejected), [false; 3]);
    assert_eq!(one_side(Rule::RejectedOnly, Side::Chosen), [false; 3]);
    assert_eq!(one_side(Rule::All, Side::Chosen), [true; 3]);
}

#[test]
fn masks_that_ties_decided_are_counted() {
    let same: [&[f32]; 3] = [&[0.0, -0.0, 0.0, 0.0], &[0.5, 0.5, 0.5], &[1.0, -1.0, 1.0]];
    let ties = |pick, rule| masks_of(&same, pick, rule, Side::Chosen).ties;
    assert_eq!(ties(Pick::Top(0.5), Rule::Share), 2);
    assert_eq!(ties(Pick::Largest(0.5), Rule::Share), 3);
    // Of 3 scored tokens 1 is taken; of 2, in the other rows, as well.
    assert_eq!(ties(Pick::Top(0.5), Rule::Official), 2);
    // Nothing was decided where all tokens are taken, or none, or where chance decides.
    assert_eq!(ties(Pick::Top(1.0), Rule::Share), 0);
    assert_eq!(ties(Pick::Above(0.1), Rule::Share), 0);
    assert_eq!(ties(Pick::Top(0.5), Rule::All), 0);
    assert_eq!(ties(Pick::Top(0.5), Rule::Random), 0);
}

#[test]
fn a_threshold_is_no_share() {
    assert!(Pick::Above(0.5).problem(Rule::Share).is_none());
    assert!(Pick::Above(0.5).problem(Rule::RewardShare).unwrap().contains("needs a share"));
    assert!(Pick::Below(f64::NAN).problem(Rule::Share).unwrap().contains("must be a number"));
    assert!(Pick::Largest(1.5).problem(Rule::Share).unwrap().contains("(0, 1]"));
}

fn rewards() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-3f32..3.0, 1..60)
}

proptest! {
    #[test]
    fn no_token_outside_beats_one_inside(rewards in rewards(), k in 0.01..1.0f64) {
        for pick in [Pick::Top(k), Pick::Bottom(k), Pick::Largest(k)] {
            for rule in [Rule::Share, Rule::RewardShare, Rule::BatchShare] {
                let mask = masks_of(&[&rewards], pick, rule, Side::Chosen).rows.remove(0);
                let count = mask.iter().filter(|key| **key).count();
                prop_assert!(count >= 1);
                if rule != Rule::RewardShare {
                    prop_assert!((count as f64 - k * rewards.len() as f64).abs() <= 0.5 + 1e-9 || count == 1);
                }
                let worth = |inside: bool| rewards.iter().zip(&mask).filter(move |(_, key)| **key == inside).map(|(r, _)| pick.worth(*r));
                prop_assert!(worth(true).all(|inside| worth(false).all(|outside| inside >= outside)));
            }
        }
    }

    #[test]
    fn the_selected_reward_reaches_the_share_and_one_token_less_does_not(rewards in rewards(), k in 0.01..1.0f64) {
        let mask = masks_of(&[&rewards], Pick::Largest(k), Rule::RewardShare, Side::Chosen).rows.remove(0);
        let held: Vec<f64> = rewards.iter().zip(&mask).filter(|(_, key)| **key).map(|(r, _)| f64::from(r.abs())).collect();
        let wanted = k * rewards.iter().map(|r| f64::from(r.abs())).sum::<f64>();
        let sum: f64 = held.iter().sum();
        prop_assert!(sum >= wanted - 1e-9);
        prop_assert!(sum - held.iter().copied().fold(f64::INFINITY, f64::min) < wanted + 1e-9);
    }

    #[test]
    fn random_masks_are_as_large_and_repeat(rewards in rewards(), k in 0.01..1.0f64) {
        let of = |rule| masks_of(&[&rewards], Pick::Top(k), rule, Side::Rejected).rows.remove(0);
        let count = |mask: &[bool]| mask.iter().filter(|key| **key).count();
        prop_assert_eq!(of(Rule::Random), of(Rule::Random));
        prop_assert_eq!(count(&of(Rule::Random)), count(&of(Rule::Share)));
    }
}
