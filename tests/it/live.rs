//! Objectives that compare a policy with a live reference, through both models, against what `tests/fixtures/make_live.py` found.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use sepo::model::{CausalLm, ModelSource, Precision, WeightFormat};
use sepo::objective::{Objective, Outcome, Pair, Response};
use serde::Deserialize;

use crate::close::assert_close;
use crate::parity::{F32, Gradient, device, expected, fixture, host, pack};

#[derive(Deserialize)]
struct Found {
    objective: Objective,
    loss: f64,
    gradients: BTreeMap<String, Gradient>,
}

#[test]
fn losses_and_gradients_are_those_of_transformers() {
    let found: Vec<Found> = serde_json::from_slice(&std::fs::read(fixture("live.json")).unwrap()).unwrap();
    let device = device();
    let source = |name: &str| ModelSource::folder(name, fixture(name));
    let other = source("gpt2-untied");
    let references = [
        CausalLm::load(&other, &device).unwrap(),
        CausalLm::frozen(&other, WeightFormat::Packed(Precision::F32), &device).unwrap(),
    ];
    let device = device.autodiff();
    let policy = CausalLm::load(&source("llama-tied"), &device).unwrap();
    let batch = pack(&expected("llama-tied").pairs);
    for (Found { objective, loss, gradients }, reference) in
        found.iter().flat_map(|found| references.iter().map(move |reference| (found, reference)))
    {
        let compared = policy.compared(policy.hidden(&batch, &device), reference, &batch, &device);
        let wide = |tensor: &Tensor<1>| host(tensor.clone()).into_iter().map(f64::from).collect::<Vec<_>>();
        let (logps, states, reference) =
            (wide(&compared.logps), wide(&compared.divergences), host(compared.reference.clone()));
        let outcome = |ranges: &[std::ops::Range<usize>]| {
            let [chosen, rejected] = [0, 1].map(|side: usize| Response {
                logps: &logps[ranges[side].clone()],
                reference: &reference[ranges[side].clone()],
                states: &states[ranges[side].clone()],
                ..Response::default()
            });
            objective.formula().evaluate(&Pair { chosen, rejected })
        };
        let outcomes: Vec<Outcome> = batch.responses.chunks(2).map(outcome).collect();
        let got: f64 = outcomes.iter().map(|outcome| outcome.loss).sum();
        assert_close(&format!("{objective:?}, loss"), &[got], &[*loss], 1e-5);

        let weighted = |values: Tensor<1>, slopes: fn(&Outcome) -> [&Vec<f64>; 2]| {
            let slopes: Vec<f32> = outcomes.iter().flat_map(slopes).flatten().map(|slope| *slope as f32).collect();
            let size = [slopes.len()];
            (values * Tensor::from_data(TensorData::new(slopes, size), &device)).sum()
        };
        let sum = weighted(compared.logps, |outcome| [&outcome.chosen_grad, &outcome.rejected_grad])
            + weighted(compared.divergences, |outcome| outcome.state_grads.each_ref());
        let mut seen = 0;
        policy.take_gradients(&mut sum.backward(), |parameter, gradient| {
            gradients[parameter].assert_is(&host(gradient), F32.gradients, &format!("{objective:?} {parameter}"));
            seen += 1;
        });
        assert_eq!(seen, gradients.len());
    }
}
