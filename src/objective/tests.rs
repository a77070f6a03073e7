//! Values and gradients against PyTorch, finite differences, and properties.

use proptest::prelude::*;

use super::*;

const CHOSEN: [f64; 3] = [-0.5, -1.25, -2.0];
const REJECTED: [f64; 2] = [-0.75, -3.0];
const CHOSEN_REFERENCE: [f32; 3] = [-0.75, -1.0, -2.5];
const REJECTED_REFERENCE: [f32; 2] = [-0.5, -2.0];

fn pair<'a>(chosen: &'a [f64], rejected: &'a [f64]) -> Pair<'a> {
    let response = |logps, reference| Response { logps, reference };
    Pair { chosen: response(chosen, &CHOSEN_REFERENCE[..]), rejected: response(rejected, &REJECTED_REFERENCE[..]) }
}

#[track_caller]
fn assert_outcome(objective: Objective, pair: &Pair, loss: f64, chosen_grad: &[f64], rejected_grad: &[f64]) {
    let outcome = objective.evaluate(pair);
    let close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(&[outcome.loss], &[loss]), "loss {}", outcome.loss);
    assert!(close(&outcome.chosen_grad, chosen_grad), "{:?}", outcome.chosen_grad);
    assert!(close(&outcome.rejected_grad, rejected_grad), "{:?}", outcome.rejected_grad);
}

// Numbers of PyTorch 2.15.0:
//
// import torch, torch.nn.functional as F
// torch.set_default_dtype(torch.float64)
// w = torch.tensor([-0.5, -1.25, -2.0], requires_grad=True); l = torch.tensor([-0.75, -3.0], requires_grad=True)
// rw = torch.tensor([-0.75, -1.0, -2.5]); rl = torch.tensor([-0.5, -2.0])
// d = (w.sum() - rw.sum()) - (l.sum() - rl.sum())
// dpo = -F.logsigmoid(0.1 * d)
// dpo_smooth = -(1 - 0.1) * F.logsigmoid(0.1 * d) - 0.1 * F.logsigmoid(-0.1 * d)
// simpo = -F.logsigmoid(2.0 * (w.mean() - l.mean()) - 1.0)
// mw = torch.tensor([1., 0, 1.]); ml = torch.tensor([0., 1.])
// u = 2.0 * ((w * mw).sum() / mw.sum() - (l * ml).sum() / ml.sum())
// sepo = -F.logsigmoid(u); sepo_margin = -F.logsigmoid(u - 0.5)
// for loss in ...: print(loss.item(), torch.autograd.grad(loss, (w, l), retain_graph=True))

#[test]
fn dpo_is_pytorchs() {
    let pair = pair(&CHOSEN, &REJECTED);
    let plain = Objective::Dpo(Dpo::default());
    assert_outcome(plain, &pair, 0.6094704306630468, &[-0.04563613127629212; 3], &[0.04563613127629212; 2]);
    let smooth = Objective::Dpo(Dpo { beta: 0.1, label_smoothing: 0.1 });
    assert_outcome(smooth, &pair, 0.6269704306630468, &[-0.035636131276292116; 3], &[0.035636131276292116; 2]);
}

#[test]
fn simpo_is_pytorchs() {
    let objective = Objective::Simpo(Simpo::default());
    let pair = pair(&CHOSEN, &REJECTED);
    assert_outcome(objective, &pair, 0.5759394198788436, &[-0.29188233274280123; 3], &[0.4378234991142019; 2]);
}

#[test]
fn sepo_is_pytorchs() {
    let key = [CHOSEN[0], CHOSEN[2]];
    let pair = pair(&key, &REJECTED[1..]);
    let plain = Objective::Sepo(Sepo::default());
    assert_outcome(plain, &pair, 0.029750418272620566, &[-0.029312230751356316; 2], &[0.05862446150271263]);
    let margin = Objective::Sepo(Sepo { gamma: 2.0, margin: 0.5 });
    assert_outcome(margin, &pair, 0.04858735157374206, &[-0.04742587317756679; 2], &[0.09485174635513358]);
}

#[test]
fn sft_counts_tokens() {
    let objective = Objective::Sft(Sft::default());
    assert_outcome(objective, &pair(&CHOSEN, &[]), 3.75, &[-1.0; 3], &[]);
    assert_eq!(objective.weight(3), 3.0);
    assert_eq!(Objective::Sepo(Sepo::default()).weight(3), 1.0);
}

#[test]
fn a_side_without_tokens_has_no_say() {
    let outcome = Objective::Sepo(Sepo::default()).evaluate(&pair(&[-1.0], &[]));
    assert!((outcome.loss + log_sigmoid(-2.0)).abs() < 1e-15);
    assert!(outcome.rejected_grad.is_empty());
}

#[test]
fn settings_without_sense_are_named() {
    let wrong = Objective::Dpo(Dpo { beta: 0.0, label_smoothing: 0.5 });
    let fields: Vec<&str> = wrong.problems().iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, ["beta", "label_smoothing"]);
    assert!(Objective::Sepo(Sepo { gamma: f64::NAN, margin: 0.0 }).problems()[0].1.contains("above 0"));
    assert_eq!(Objective::Simpo(Simpo::default()).problems(), []);
}

fn objectives() -> impl Strategy<Value = Objective> {
    prop_oneof![
        (0.01..5.0, 0.0..0.49).prop_map(|(beta, label_smoothing)| Objective::Dpo(Dpo { beta, label_smoothing })),
        (0.1..5.0, 0.0..2.0).prop_map(|(beta, margin)| Objective::Simpo(Simpo { beta, margin })),
        (0.1..5.0, 0.0..2.0).prop_map(|(gamma, margin)| Objective::Sepo(Sepo { gamma, margin })),
        Just(Objective::Sft(Sft {})),
    ]
}

fn logps() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-6.0..-0.01f64, 1..6)
}

proptest! {
    #[test]
    fn gradients_match_finite_differences(objective in objectives(), chosen in logps(), rejected in logps()) {
        let loss = |chosen: &[f64], rejected: &[f64]| objective.evaluate(&pair(chosen, rejected)).loss;
        let outcome = objective.evaluate(&pair(&chosen, &rejected));
        let h = 1e-6;
        for (index, grad) in outcome.chosen_grad.iter().enumerate() {
            let (mut up, mut down) = (chosen.clone(), chosen.clone());
            up[index] += h;
            down[index] -= h;
            let numeric = (loss(&up, &rejected) - loss(&down, &rejected)) / (2.0 * h);
            prop_assert!((numeric - grad).abs() < 1e-6 * (1.0 + grad.abs()), "{} {}", numeric, grad);
        }
        for (index, grad) in outcome.rejected_grad.iter().enumerate() {
            let (mut up, mut down) = (rejected.clone(), rejected.clone());
            up[index] += h;
            down[index] -= h;
            let numeric = (loss(&chosen, &up) - loss(&chosen, &down)) / (2.0 * h);
            prop_assert!((numeric - grad).abs() < 1e-6 * (1.0 + grad.abs()), "{} {}", numeric, grad);
        }
    }

    #[test]
    fn swapping_sides_flips_the_margin(chosen in logps(), rejected in logps(), gamma in 0.1..5.0f64) {
        let objective = Objective::Sepo(Sepo { gamma, margin: 0.0 });
        let margin = |outcome: Outcome| outcome.chosen_reward - outcome.rejected_reward;
        let (there, back) = (objective.evaluate(&pair(&chosen, &rejected)), objective.evaluate(&pair(&rejected, &chosen)));
        prop_assert_eq!(margin(there), -margin(back));
    }

    #[test]
    fn sepo_on_all_tokens_is_simpo(chosen in logps(), rejected in logps(), scale in 0.1..5.0f64, margin in 0.0..2.0f64) {
        let pair = pair(&chosen, &rejected);
        let sepo = Objective::Sepo(Sepo { gamma: scale, margin }).evaluate(&pair);
        prop_assert_eq!(sepo, Objective::Simpo(Simpo { beta: scale, margin }).evaluate(&pair));
    }
}
