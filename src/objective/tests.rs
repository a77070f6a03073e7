//! Values and gradients against PyTorch, finite differences, and properties.

use proptest::prelude::*;
use serde_json::json;

use super::contrast::log_sigmoid;
use super::*;
use crate::close::{Tolerance, assert_close};

/// One response with everything that an objective may read.
#[derive(Debug, Clone, Default, Deserialize)]
struct Side {
    logps: Vec<f64>,
    reference: Vec<f32>,
    rewards: Vec<f32>,
    states: Vec<f64>,
    key: Vec<bool>,
}

impl Side {
    fn response(&self, length: usize) -> Response<'_> {
        Response {
            logps: &self.logps,
            reference: &self.reference,
            rewards: &self.rewards,
            states: &self.states,
            length,
        }
    }

    /// The tokens that the mask marks, or all.
    fn taken<T: Copy>(&self, tokens: Tokens, values: &[T]) -> Vec<T> {
        let wanted = |index: usize| match tokens {
            Tokens::All => true,
            Tokens::Key => self.key[index],
            Tokens::Nothing => false,
        };
        values.iter().enumerate().filter_map(|(index, value)| wanted(index).then_some(*value)).collect()
    }
}

/// The objective's outcome, as the trainer asks for it.
fn evaluate(formula: &dyn Formula, sides: [&Side; 2]) -> Outcome {
    let needs = formula.needs();
    let [chosen, rejected] = [0, 1].map(|index| {
        let (side, tokens) = (sides[index], needs.tokens[index]);
        let asked = |wanted: bool| if wanted { tokens } else { Tokens::Nothing };
        Side {
            logps: side.taken(tokens, &side.logps),
            reference: side.taken(asked(needs.reference), &side.reference),
            rewards: side.taken(asked(needs.rewards), &side.rewards),
            states: side.taken(asked(needs.states != States::Nothing), &side.states),
            key: side.key.clone(),
        }
    });
    let pair =
        Pair { chosen: chosen.response(sides[0].logps.len()), rejected: rejected.response(sides[1].logps.len()) };
    formula.evaluate(&pair)
}

fn objective(settings: serde_json::Value) -> Objective {
    serde_json::from_value(settings).unwrap()
}

/// What `tests/fixtures/objectives.py` found.
#[derive(Deserialize)]
struct Found {
    pairs: Vec<[Side; 2]>,
    outcomes: Vec<FoundOutcome>,
}

#[derive(Deserialize)]
struct FoundOutcome {
    objective: Objective,
    pair: usize,
    loss: f64,
    gradients: [Vec<f64>; 2],
    #[serde(default)]
    state_gradients: [Vec<f64>; 2],
}

#[test]
fn every_objective_is_pytorchs() {
    let found: Found = serde_json::from_str(include_str!("../../tests/fixtures/objectives.json")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for FoundOutcome { objective, pair, loss, gradients, state_gradients } in &found.outcomes {
        let [chosen, rejected] = &found.pairs[*pair];
        let outcome = evaluate(objective.formula(), [chosen, rejected]);
        // An objective that reads no token of a response has no gradient there.
        let check = |got: &[f64], want: &[f64], of: &str| {
            assert_eq!(got.is_empty(), want.is_empty(), "{objective:?}, pair {pair}, {of}");
            if !want.is_empty() {
                assert_close(got, want, Tolerance::Relative(1e-9), format_args!("{objective:?}, pair {pair}, {of}"));
            }
        };
        check(&[outcome.loss], &[*loss], "loss");
        let tokens = objective.formula().needs().tokens;
        for (index, got) in [&outcome.chosen_grad, &outcome.rejected_grad].into_iter().enumerate() {
            let want = found.pairs[*pair][index].taken(tokens[index], &gradients[index]);
            check(got, &want, "gradients");
        }
        for (got, want) in outcome.state_grads.iter().zip(state_gradients) {
            check(got, want, "states");
        }
        seen.insert(objective.name());
    }
    let schema = schemars::schema_for!(Objective).to_value();
    assert_eq!(Some(seen.len()), schema["oneOf"].as_array().map(Vec::len), "{seen:?}");
}

#[test]
fn a_mean_is_over_pairs_but_for_sft() {
    assert_eq!(Sft::default().weight(3), 3.0);
    assert_eq!(Sepo::default().weight(3), 1.0);
}

// TRL's DPOTrainer logs `beta * (logps.sum() - ref_logps.sum())` of each response, for the loss types `ipo` and `sigmoid` alike:
// 0.1 * ((-1 - 2 - 3) - (-2 - 2 - 4)) = 0.2, and 0.1 * (-4 - -1) = -0.3.
#[test]
fn rewards_of_ipo_are_those_of_dpo() {
    let side =
        |logps: &[f64], reference: &[f32]| Side { logps: logps.into(), reference: reference.into(), ..Side::default() };
    let (chosen, rejected) = (side(&[-1.0, -2.0, -3.0], &[-2.0, -2.0, -4.0]), side(&[-4.0], &[-1.0]));
    for settings in [json!({"ipo": {}}), json!({"ipo": {"length_normalized": false}}), json!({"dpo": {"beta": 0.1}})] {
        let outcome = evaluate(objective(settings.clone()).formula(), [&chosen, &rejected]);
        let rewards = [outcome.chosen_reward, outcome.rejected_reward];
        assert!((rewards[0] - 0.2).abs() < 1e-12 && (rewards[1] + 0.3).abs() < 1e-12, "{settings}: {rewards:?}");
    }
}

#[test]
fn a_side_without_tokens_has_no_say() {
    let side = |logps: &[f64], key: &[bool]| Side { logps: logps.into(), key: key.into(), ..Side::default() };
    let outcome = evaluate(&Sepo::default(), [&side(&[-1.0], &[true]), &side(&[-2.0], &[false])]);
    assert!((outcome.loss + log_sigmoid(-2.0)).abs() < 1e-15);
    assert!(outcome.rejected_grad.is_empty());
}

#[test]
fn baselines_that_are_far_apart_are_cut_off() {
    let side = |states: [f64; 2]| Side {
        logps: vec![-1.0; 2],
        reference: vec![-1.0; 2],
        states: states.into(),
        ..Side::default()
    };
    let objective = TbpoQ { beta: 1.0, generator: Generator::Lr, ..TbpoQ::default() };
    let outcome = evaluate(&objective, [&side([0.0, 40.0]), &side([40.0, 0.0])]);
    assert!((outcome.loss + (log_sigmoid(10.0) + log_sigmoid(-10.0)) / 2.0).abs() < 1e-12, "{outcome:?}");
    assert_eq!(outcome.state_grads, [[0.0; 2], [0.0; 2]]);
}

#[test]
fn settings_without_sense_are_named() {
    let problems = |settings| -> Vec<String> {
        let problems = objective(settings).formula().problems();
        problems.iter().map(|problem| format!("{}: {}", problem.path.join("."), problem.message)).collect()
    };
    assert_eq!(
        problems(json!({"dpo": {"beta": 0.0, "label_smoothing": 0.5}})),
        ["beta: beta is 0; it must be above 0", "label_smoothing: label_smoothing is 0.5; it must be in [0, 0.5)"]
    );
    assert_eq!(
        problems(json!({"t_reg": {"base": {"simpo": {"beta": -1.0}}, "alpha": -0.1}})),
        ["alpha: alpha is -0.1; it must be 0 or more", "base.simpo.beta: beta is -1; it must be above 0"]
    );
    assert_eq!(
        problems(json!({"tis_dpo": {"weights": {"rank": {"range": [1.3, 0.7]}}}})),
        ["weights.rank.range: range is [1.3, 0.7]; it must be two numbers of 0 or more, the lower one first"]
    );
    assert_eq!(
        problems(json!({"tis_dpo": {"weights": {"clip": {"limit": 1.0, "range": [0.0, 0.0]}}}})),
        ["weights.clip.range: range is 0; it must be above 0 at its end: no token has a weight"]
    );
    assert_eq!(
        problems(json!({"sepo": {"normalizer": {"response_share": [0.3, 0.0]}}})),
        ["normalizer: normalizer is 0; it must be in (0, 1]"]
    );
    assert_eq!(
        problems(json!({"tbpo_q": {"width": 0, "generator": {"sba": {"lambda": -1.0, "scale": 0.0}}}})),
        [
            "width: width is 0; it must be from 1 to 65536",
            "generator.sba.lambda: lambda is -1; it must be 0 or more",
            "generator.sba.scale: scale is 0; it must be above 0"
        ]
    );
    let [official] = &problems(json!({"sepo": {"official": true, "margin": 0.5}}))[..] else { panic!() };
    assert!(official.starts_with("official: "), "{official}");
    for fine in
        [json!({"sepo": {"official": true}}), json!({"d2po": {"gamma": 1.0}}), json!({"simpo": {"margin": 0.0}})]
    {
        assert_eq!(problems(fine), [""; 0]);
    }
}

fn generators() -> impl Strategy<Value = Generator> {
    prop_oneof![
        Just(Generator::Lr),
        Just(Generator::Kliep),
        Just(Generator::Lsif),
        (0.0..1.0).prop_map(|lambda| Generator::Ba { lambda }),
        (0.0..1.0, 1.0..5.0).prop_map(|(lambda, scale)| Generator::Sba { lambda, scale }),
    ]
}

fn objectives() -> impl Strategy<Value = Objective> {
    let base = prop_oneof![
        (0.01..5.0, 0.0..0.49).prop_map(|(beta, e)| json!({"dpo": {"beta": beta, "label_smoothing": e}})),
        (0.1..5.0, 0.0..2.0).prop_map(|(beta, margin)| json!({"simpo": {"beta": beta, "margin": margin}})),
    ];
    let weights = prop_oneof![
        (0.0..1.0, 1.0..2.0).prop_map(|(low, high)| json!({"rank": {"range": [low, high]}})),
        (0.1..2.0, 0.0..1.0, 1.0..2.0)
            .prop_map(|(limit, low, high)| json!({"clip": {"limit": limit, "range": [low, high]}})),
        (0.0..2.0f64, 0.1..2.0f64).prop_map(|(mu, limit)| json!({"exp": {"mu": mu, "clamp": [-limit, limit]}})),
    ];
    // Losses that are exponential in beta stay of a size at which finite differences see small gradients.
    let tbpo = (prop_oneof![Just("tbpo_a"), Just("tbpo_q")], 0.01..0.2f64, generators(), 0.0..0.49).prop_map(
        |(name, beta, generator, e)| json!({name: {"beta": beta, "generator": generator, "label_smoothing": e}}),
    );
    let scale = 0.1..5.0f64;
    let settings = prop_oneof![
        Just(json!({"sft": {}})),
        (scale.clone(), 0.0..0.49, any::<bool>())
            .prop_map(|(beta, e, robust)| json!({"dpo": {"beta": beta, "label_smoothing": e, "robust": robust}})),
        (scale.clone(), any::<bool>())
            .prop_map(|(beta, mean)| json!({"ipo": {"beta": beta, "length_normalized": mean}})),
        scale.clone().prop_map(|beta| json!({"hinge": {"beta": beta}})),
        (scale.clone(), 0.0..2.0, 0.0..0.49)
            .prop_map(|(beta, margin, e)| json!({"simpo": {"beta": beta, "margin": margin, "label_smoothing": e}})),
        (0.0..2.0).prop_map(|weight| json!({"rrhf": {"sft_weight": weight}})),
        (scale.clone(), 0.0..2.0).prop_map(|(gamma, margin)| json!({"sepo": {"gamma": gamma, "margin": margin}})),
        (scale.clone(), 0.1..1.0, 0.1..1.0)
            .prop_map(|(gamma, w, l)| json!({"sepo": {"gamma": gamma, "normalizer": {"response_share": [w, l]}}})),
        (scale.clone(), 0.0..2.0, any::<bool>())
            .prop_map(|(beta, alpha, clamp)| json!({"tgdpo": {"beta": beta, "alpha": alpha, "clamp": clamp}})),
        (base.clone(), 0.0..1.0)
            .prop_map(|(base, alpha)| json!({"t_reg": {"base": base, "alpha": alpha, "sequence_weight": false}})),
        scale.clone().prop_map(|beta| json!({"tdpo1": {"beta": beta}})),
        (scale.clone(), 0.0..1.0).prop_map(|(beta, alpha)| json!({"tdpo2": {"beta": beta, "alpha": alpha}})),
        tbpo,
        (scale, weights).prop_map(|(beta, weights)| json!({"tis_dpo": {"beta": beta, "weights": weights}})),
        (base, 0.5..1.0).prop_map(|(base, gamma)| json!({"d2po": {"base": base, "gamma": gamma}})),
    ];
    settings.prop_map(objective)
}

fn side() -> impl Strategy<Value = Side> {
    let token = (-6.0..-0.01f64, -6f32..0.0, -2f32..2.0, any::<bool>(), 0.0..3.0f64);
    prop::collection::vec(token, 1..6).prop_map(|tokens| Side {
        logps: tokens.iter().map(|token| token.0).collect(),
        reference: tokens.iter().map(|token| token.1).collect(),
        rewards: tokens.iter().map(|token| token.2).collect(),
        key: tokens.iter().map(|token| token.3).collect(),
        states: tokens.iter().map(|token| token.4).collect(),
    })
}

/// Margins where a hinge bends have no derivative.
fn is_at_a_bend(objective: Objective, outcome: &Outcome) -> bool {
    let margin = outcome.chosen_reward - outcome.rejected_reward;
    match objective {
        Objective::Hinge(_) => (margin - 1.0).abs() < 1e-4,
        Objective::Rrhf(_) => margin.abs() < 1e-4,
        _ => false,
    }
}

/// What changes when the sides change places: the rewards' signs, so that they agree with the labels again.
fn swapped([chosen, rejected]: &[Side; 2]) -> [Side; 2] {
    let negated = |side: &Side| Side { rewards: side.rewards.iter().map(|reward| -reward).collect(), ..side.clone() };
    [negated(rejected), negated(chosen)]
}

fn margin(objective: Objective, [chosen, rejected]: &[Side; 2]) -> f64 {
    let outcome = evaluate(objective.formula(), [chosen, rejected]);
    outcome.chosen_reward - outcome.rejected_reward
}

proptest! {
    #[test]
    fn gradients_match_finite_differences(objective in objectives(), sides in [side(), side()]) {
        let formula = objective.formula();
        let outcome = evaluate(formula, sides.each_ref());
        prop_assume!(!is_at_a_bend(objective, &outcome));
        let tokens = formula.needs().tokens;
        for (index, grads) in [&outcome.chosen_grad, &outcome.rejected_grad].into_iter().enumerate() {
            let places: Vec<usize> = (0..sides[index].logps.len()).collect();
            let places = sides[index].taken(tokens[index], &places);
            prop_assert_eq!(places.len(), grads.len());
            for (place, grad) in places.into_iter().zip(grads) {
                let loss = |step: f64| {
                    let mut moved = sides.clone();
                    moved[index].logps[place] += step;
                    evaluate(formula, moved.each_ref()).loss
                };
                let numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6;
                prop_assert!((numeric - grad).abs() < 1e-5 * (1.0 + grad.abs()), "{:?}: {} {}", objective, numeric, grad);
            }
        }
        for (index, grads) in outcome.state_grads.iter().enumerate() {
            // No gradient flows through the chosen response's divergence there.
            if matches!((objective, index), (Objective::Tdpo2(_), 0)) {
                prop_assert!(grads.iter().all(|grad| *grad == 0.0));
                continue;
            }
            for (place, grad) in grads.iter().enumerate() {
                let loss = |step: f64| {
                    let mut moved = sides.clone();
                    moved[index].states[place] += step;
                    evaluate(formula, moved.each_ref()).loss
                };
                let numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6;
                prop_assert!((numeric - grad).abs() < 1e-5 * (1.0 + grad.abs()), "{:?}: {} {}", objective, numeric, grad);
            }
        }
    }

    /// Scaled generators have the slope of DPO where the policy is its reference.
    #[test]
    fn generators_agree_where_the_ratio_is_one(scale in 1.0..5.0f64) {
        let slope = |generator: Generator| generator.loss(0.0).slope;
        prop_assert_eq!(slope(Generator::default()), slope(Generator::Lr));
        let [one, none] = [1.0, 0.0].map(|lambda| slope(Generator::Sba { lambda, scale }));
        prop_assert!((one - none).abs() < 1e-15);
        let [near, at] = [1e-7, 0.0].map(|lambda| Generator::Sba { lambda, scale }.loss(0.7));
        prop_assert!((near.slope - at.slope).abs() < 1e-5);
        prop_assert_eq!(Generator::Ba { lambda: 0.0 }.loss(0.7), Generator::Kliep.loss(0.7));
    }

    /// What all states of a response share cancels.
    #[test]
    fn shifted_baselines_change_nothing(generator in generators(), sides in [side(), side()], shift in -3.0..3.0f64) {
        let objective = TbpoQ { generator, ..TbpoQ::default() };
        let mut moved = sides.clone();
        moved[0].states.iter_mut().for_each(|state| *state += shift);
        let [own, other] = [&sides, &moved].map(|sides| evaluate(&objective, sides.each_ref()).loss);
        prop_assert!((own - other).abs() < 1e-9 * (1.0 + own.abs()));
    }

    /// No gradient flows through the weight of a pair, so it multiplies the regulariser's gradient.
    #[test]
    fn the_sequence_weight_is_a_factor(beta in 0.1..5.0f64, alpha in 0.1..1.0f64, sides in [side(), side()]) {
        let base = Base::Dpo(Dpo { beta, ..Dpo::default() });
        let of = |formula: &dyn Formula| evaluate(formula, sides.each_ref());
        let plain = of(base.contrast());
        let weight = log_sigmoid(plain.rejected_reward - plain.chosen_reward).exp();
        let [weighted, constant] = [true, false].map(|sequence_weight| of(&TReg { base, alpha, sequence_weight }));
        let all = |outcome: Outcome| [vec![outcome.loss], outcome.chosen_grad, outcome.rejected_grad].concat();
        let (plain, weighted, constant) = (all(plain), all(weighted), all(constant));
        prop_assert_eq!(plain.len(), constant.len());
        let want = plain.iter().zip(&constant).map(|(plain, constant)| plain + weight * (constant - plain));
        let want: Vec<f64> = want.collect();
        assert_close(&weighted, &want, Tolerance::Absolute(1e-12), format_args!("a weight of {weight}"));
    }

    #[test]
    fn swapping_sides_flips_the_margin(objective in objectives(), sides in [side(), side()]) {
        let has_equal_sides = match objective {
            Objective::Sft(_) => false,
            Objective::Sepo(sepo) => sepo.normalizer == Normalizer::Selected,
            _ => true,
        };
        prop_assume!(has_equal_sides);
        let (there, back) = (margin(objective, &sides), margin(objective, &swapped(&sides)));
        prop_assert!((there + back).abs() < 1e-12 * (1.0 + there.abs()), "{} {}", there, back);
    }

    #[test]
    fn without_its_own_term_an_objective_is_its_base(beta in 0.1..5.0f64, sides in [side(), side()]) {
        let dpo = json!({"dpo": {"beta": beta}});
        let simpo = json!({"simpo": {"beta": beta, "margin": 0.5}});
        let cases = [
            (json!({"tgdpo": {"beta": beta, "alpha": 0.0}}), &dpo),
            (json!({"tis_dpo": {"beta": beta, "weights": {"rank": {"range": [1.0, 1.0]}}}}), &dpo),
            (json!({"dpo": {"beta": beta, "robust": true}}), &dpo),
            (json!({"t_reg": {"base": dpo, "alpha": 0.0}}), &dpo),
            (json!({"tdpo2": {"beta": beta, "alpha": 0.0}}), &dpo),
            (json!({"t_reg": {"base": simpo, "alpha": 0.0}}), &simpo),
            (json!({"d2po": {"base": dpo, "gamma": 1.0}}), &dpo),
            (json!({"d2po": {"base": simpo, "gamma": 1.0}}), &simpo),
        ];
        let all = |outcome: Outcome| [vec![outcome.loss], outcome.chosen_grad, outcome.rejected_grad].concat();
        for (own, base) in cases {
            let [own_values, base_values] =
                [own.clone(), base.clone()].map(|it| all(evaluate(objective(it).formula(), sides.each_ref())));
            assert_close(&own_values, &base_values, Tolerance::Relative(1e-12), format_args!("{own}"));
        }
    }

    #[test]
    fn sepo_on_all_tokens_is_simpo(sides in [side(), side()], scale in 0.1..5.0f64, margin in 0.0..2.0f64, share in 0.1..1.0) {
        let sides = sides.map(|side| Side { key: vec![true; side.logps.len()], ..side });
        let simpo = Simpo { beta: scale, margin, ..Simpo::default() };
        for normalizer in [Normalizer::Selected, Normalizer::ResponseShare([share; 2])] {
            let sepo = Sepo { gamma: scale, margin, normalizer, official: false };
            prop_assert_eq!(evaluate(&sepo, sides.each_ref()), evaluate(&simpo, sides.each_ref()));
        }
        let official = Sepo { official: true, ..Sepo::default() };
        let bare = Simpo { beta: 1.0, margin: 0.0, ..Simpo::default() };
        prop_assert_eq!(evaluate(&official, sides.each_ref()), evaluate(&bare, sides.each_ref()));
    }
}
