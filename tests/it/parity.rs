//! The models against `transformers`, on the checkpoints that `tests/fixtures/make_checkpoints.py` made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use sepo::model::{CausalLm, DeviceSpec, ModelSource, Needed, PackedBatch, Response};
use sepo::objective::{self, Dpo, Formula, Pair};
use serde::Deserialize;

use crate::close::assert_close;

/// Every folder of the fixtures that holds a checkpoint.
pub(crate) fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().path());
    let names = folders.filter(|path| path.join("config.json").is_file());
    let mut names: Vec<String> = names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) pairs: Vec<Row>,
    loss: f64,
    gradients: BTreeMap<String, Gradient>,
}

impl Expected {
    /// The log-probabilities of all responses, in the order of a packed batch.
    pub(crate) fn logps(&self) -> Vec<f64> {
        self.pairs.iter().flat_map(|row| row.chosen_logps.iter().chain(&row.rejected_logps)).copied().collect()
    }
}

#[derive(Deserialize)]
pub(crate) struct Row {
    prompt: Vec<i32>,
    chosen: Vec<i32>,
    rejected: Vec<i32>,
    chosen_logps: Vec<f64>,
    rejected_logps: Vec<f64>,
}

/// What a script says of a parameter's gradient.
#[derive(Deserialize)]
pub(crate) struct Gradient {
    norm: f64,
    stride: usize,
    entries: Vec<f64>,
}

impl Gradient {
    #[track_caller]
    pub(crate) fn assert_is(&self, got: &[f32], limit: f64, name: &str) {
        let norm = got.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert_close(&format!("{name}, norm"), &[norm], &[self.norm], limit * self.norm);
        let entries: Vec<f32> = got.iter().copied().step_by(self.stride).take(6).collect();
        assert_close(name, &entries, &self.entries, limit * self.norm);
    }
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn expected(name: &str) -> Expected {
    let text = std::fs::read(fixture(name).join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The device under test: `SEPO_TEST_DEVICE` names another back end of this build.
pub(crate) fn device() -> Device {
    let name = std::env::var("SEPO_TEST_DEVICE").unwrap_or("cpu".into());
    name.parse::<DeviceSpec>().unwrap().open().unwrap()
}

pub(crate) fn pack(rows: &[Row]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for row in rows {
        let response = |ids| Response { ids, needed: Needed::All };
        batch.push(&row.prompt, &[response(&row.chosen), response(&row.rejected)]);
    }
    batch
}

pub(crate) fn host(logps: Tensor<1>) -> Vec<f32> {
    logps.into_data().convert::<f32>().try_into_vec::<f32>().unwrap()
}

/// How far numbers may be from those of `transformers`: log-probabilities, the loss, and gradients as a share of their norm.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) logps: f64,
    pub(crate) loss: f64,
    pub(crate) gradients: f64,
}

/// What f32 gives.
pub(crate) const F32: Limits = Limits { logps: 1e-4, loss: 1e-4, gradients: 1e-3 };

/// The log-probabilities and the gradients of one DPO step must be those of `expected`, which calls a parameter what
/// `rename` makes of its name.
pub(crate) fn assert_parity(
    name: &str,
    expected: &Expected,
    load: impl Fn(&Device) -> CausalLm,
    rename: impl Fn(&str) -> String,
) {
    assert_parity_within(F32, &device(), name, expected, load, rename);
}

/// As [`assert_parity`], on `device`.
pub(crate) fn assert_parity_within(
    limits: Limits,
    device: &Device,
    name: &str,
    expected: &Expected,
    load: impl Fn(&Device) -> CausalLm,
    rename: impl Fn(&str) -> String,
) {
    let batch = pack(&expected.pairs);
    let logps = host(load(device).token_logps(&batch, device));
    assert_close(name, &logps, &expected.logps(), limits.logps);

    let device = device.clone().autodiff();
    let model = load(&device);
    let logps = model.token_logps(&batch, &device);
    let values: Vec<f64> = host(logps.clone().inner()).into_iter().map(f64::from).collect();
    let (mut coefficients, mut loss) = (Vec::new(), 0.0);
    for (row, ranges) in expected.pairs.iter().zip(batch.responses.chunks(2)) {
        let reference = |logps: &[f64]| logps.iter().map(|logp| (0.9 * logp) as f32).collect::<Vec<_>>();
        let (chosen, rejected) = (reference(&row.chosen_logps), reference(&row.rejected_logps));
        let response = |side: usize, reference| objective::Response {
            logps: &values[ranges[side].clone()],
            reference,
            ..Default::default()
        };
        let outcome = Dpo::default().evaluate(&Pair { chosen: response(0, &chosen), rejected: response(1, &rejected) });
        loss += outcome.loss;
        coefficients.extend(outcome.chosen_grad.iter().chain(&outcome.rejected_grad).map(|c| *c as f32));
    }
    assert_close(&format!("{name}, loss"), &[loss], &[expected.loss], limits.loss);
    let size = coefficients.len();
    let coefficients = Tensor::<1>::from_data(TensorData::new(coefficients, [size]), &device);
    let mut gradients = (logps * coefficients).sum().backward();
    let mut seen = 0;
    model.take_gradients(&mut gradients, |parameter, gradient| {
        expected.gradients[&rename(parameter)].assert_is(
            &host(gradient),
            limits.gradients,
            &format!("{name} {parameter}"),
        );
        seen += 1;
    });
    assert_eq!(seen, expected.gradients.len(), "{name}");
}

#[test]
fn every_architecture_is_that_of_transformers() {
    let cases = cases();
    assert!(cases.len() >= 16, "{cases:?}");
    for name in cases {
        let source = ModelSource::folder(&name, fixture(&name));
        assert_parity(&name, &expected(&name), |device| CausalLm::load(&source, device).unwrap(), str::to_owned);
    }
}

#[test]
fn sharing_a_batch_or_a_prompt_changes_nothing() {
    let device = device();
    for name in cases() {
        let model = CausalLm::load(&ModelSource::folder(&name, fixture(&name)), &device).unwrap();
        let rows = expected(&name).pairs;
        let together = host(model.token_logps(&pack(&rows), &device));
        let mut alone = Vec::new();
        for row in &rows {
            for ids in [&row.chosen, &row.rejected] {
                let mut batch = PackedBatch::default();
                batch.push(&row.prompt, &[Response { ids, needed: Needed::All }]);
                alone.extend(host(model.token_logps(&batch, &device)));
            }
        }
        assert_close(&name, &together, &alone, 2e-5);

        let masks: Vec<[Vec<bool>; 2]> = rows
            .iter()
            .map(|row| [&row.chosen, &row.rejected].map(|ids| (0..ids.len()).map(|i| i % 3 == 1).collect()))
            .collect();
        let mut batch = PackedBatch::default();
        for (row, [chosen, rejected]) in rows.iter().zip(&masks) {
            let response = |ids, mask| Response { ids, needed: Needed::Mask(mask) };
            batch.push(&row.prompt, &[response(&row.chosen, chosen), response(&row.rejected, rejected)]);
        }
        let wanted = masks.iter().flatten().flatten().zip(&together).filter(|(key, _)| **key);
        let wanted: Vec<f32> = wanted.map(|(_, logp)| *logp).collect();
        assert_close(&name, &host(model.token_logps(&batch, &device)), &wanted, 2e-5);
    }
}
