//! The training loop: batch, forward, objective, backward, step, log.
//!
//! An optimizer step takes `batch_size` pairs in micro-batches that the device has room for. The model gives the
//! log-probabilities of the tokens that the objective reads, the objective their derivatives `c_i`, and
//! `sum(c_i logp_i)` is back-propagated: the gradient is exact whatever the objective. Numbers of states, where an objective
//! reads them, go the same way.

pub mod checkpoint;
pub mod example;
pub mod kept;
pub mod log;
pub mod optimizer;
pub mod policy;
pub mod schedule;
pub mod stream;
mod sums;

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::io::Claim;
use crate::kernels::upload::upload;
use crate::model::cost::{Cost, Workload};
use crate::model::room::budget;
use crate::model::score::check;
use crate::model::{CausalLm, DeviceSpec, Memory, Needed, PackedBatch, Precision, Response, Room, on_device};
use crate::monitor::Monitor;
use crate::objective::{self, Objective, Outcome, Pair, Tokens};
pub use checkpoint::Checkpoints;
use checkpoint::Cursor;
pub use example::Example;
use kept::Kept;
use log::Log;
use optimizer::{AdamW, Gradients};
pub use policy::Policy;
use policy::PolicyOutput;
use schedule::Schedule;
use sums::StepSums;

/// How to train.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to minimise.
    pub objective: Objective,
    /// Passes over the data.
    pub epochs: u32,
    /// Stop after this many optimizer steps, if that is earlier.
    pub max_steps: Option<u64>,
    /// Pairs of an optimizer step.
    pub batch_size: usize,
    /// The numbers of the passes: f32, tf32, or bf16 with parameters in f32.
    pub precision: Precision,
    /// Whether the layers' own weights stay as they are, below adapters.
    pub frozen: bool,
    /// What a pass may keep for its way back.
    pub memory: Memory,
    /// Learning rate over time.
    pub schedule: Schedule,
    /// Largest norm of the whole gradient; larger ones are scaled down to it.
    pub max_grad_norm: f64,
    /// AdamW's numbers.
    pub optimizer: AdamW,
    /// What AdamW keeps of a parameter.
    pub kept: Kept,
    /// Steps between two looks at the held-out data.
    pub eval_every: Option<u64>,
    /// Steps between two lines of progress and metrics.
    pub log_every: u64,
    /// Seed of what is trained beside the model, and of stochastic rounding.
    pub seed: u64,
}

impl Settings {
    /// Optimizer steps of a training whose epochs have `examples` examples each.
    pub fn steps(&self, examples: u64) -> u64 {
        let planned = examples.div_ceil(self.batch_size.max(1) as u64) * u64::from(self.epochs);
        self.max_steps.map_or(planned, |most| most.min(planned))
    }

    /// What a forward and backward pass costs, in forward passes. On its way back a layer has two products for one, or one
    /// where its weights are frozen.
    pub fn passes(&self) -> f64 {
        let back = if self.frozen { 1.0 } else { 2.0 };
        let again = if self.memory == Memory::Low { 1.0 } else { 0.0 };
        1.0 + back + again
    }
}

/// Examples of one epoch, and of the held-out data.
pub trait Feed {
    /// The examples of epoch `epoch`, from 0, in their order.
    fn epoch(&self, epoch: u32) -> Box<dyn Iterator<Item = Result<Example>>>;
    /// The held-out examples, where there are any.
    fn held_out(&self) -> Option<Box<dyn Iterator<Item = Result<Example>>>>;
    /// How many examples an epoch has: what the learning rate's schedule counts on. Where `max_steps` ends the training, any
    /// number that is enough for these steps will do.
    fn examples(&self) -> u64;
}

/// One training: what to do, with what, and whom to tell.
pub struct Job<'a> {
    /// Name in messages.
    pub name: &'a str,
    /// Where the model is.
    pub spec: DeviceSpec,
    /// The same, with autodiff.
    pub device: &'a Device,
    /// The room for forward and backward passes.
    pub room: &'a Room,
    /// How to train.
    pub settings: &'a Settings,
    /// The reference at work beside the policy, without autodiff, where the objective needs one.
    pub reference: Option<&'a CausalLm>,
    /// The examples.
    pub feed: &'a dyn Feed,
    /// Where an interrupted training goes on.
    pub checkpoints: &'a Checkpoints,
    /// What the model's passes cost, where that is known.
    pub cost: Option<Cost>,
    /// Folder of the metrics.
    pub log: &'a Claim,
    /// Who watches.
    pub monitor: &'a dyn Monitor,
}

/// What a training made.
pub struct Trained {
    /// The model, without autodiff.
    pub model: CausalLm,
    /// What the last steps said, and what all of them computed.
    pub metrics: Map<String, Value>,
    /// Seconds of all steps, those of the runs before this one included.
    pub seconds: f64,
}

impl Job<'_> {
    /// Trains `model`, which was loaded on the job's device, from the newest checkpoint on where there is one.
    ///
    /// # Errors
    /// Rows that the objective cannot use, a loss that is not finite, a checkpoint that does not fit; a store that
    /// fails; a stop on request.
    pub fn run(&self, model: CausalLm) -> Result<Trained> {
        let Self { name, spec, device, room, settings, reference, feed, checkpoints, monitor, .. } = *self;
        let steps = self.steps(&model)?;
        let (policy, optimizer, mut at) = self.restored(model)?;
        let mut log = Log::open(self.log, at.step)?;
        let mut trainer = Trainer { policy, reference, name, spec, device, room, settings, optimizer };
        let (mut last, mut since) = (Map::new(), Instant::now());
        let (start, before) = (Instant::now(), at.seconds);
        monitor.begin(name, Some(steps), "steps");
        monitor.advance(at.step, "");
        for epoch in at.epoch..settings.epochs {
            let mut examples = feed.epoch(epoch);
            if epoch != at.epoch {
                (at.epoch, at.taken) = (epoch, 0);
            }
            for example in examples.by_ref().take(at.taken as usize) {
                example?;
            }
            while at.step < steps {
                let pairs: Vec<Example> = examples.by_ref().take(settings.batch_size).collect::<Result<_>>()?;
                if pairs.is_empty() {
                    break;
                }
                let rate = settings.schedule.rate(at.step, steps);
                let taken;
                (trainer, taken) = trainer.step(&pairs, rate)?;
                at.step += 1;
                at.taken += pairs.len() as u64;
                at.tokens += taken.work.tokens as u64;
                at.gflop += self.operations(taken.work) / 1e9;
                at.seconds = before + start.elapsed().as_secs_f64();
                monitor.advance(1, &format!("loss {:.4}", taken.loss));
                if at.step % settings.log_every == 0 || at.step == steps {
                    last = taken.metrics(&settings.objective);
                    last.insert("learning_rate".into(), json!(rate));
                    let mut line = last.clone();
                    line.insert("seconds".into(), json!(since.elapsed().as_secs_f64()));
                    log.write(at.step, "train", &line)?;
                    since = Instant::now();
                }
                let looks = settings.eval_every.is_some_and(|every| at.step % every == 0) || at.step == steps;
                if let Some(examples) = looks.then(|| feed.held_out()).flatten() {
                    let held_out = trainer.held_out(examples)?;
                    log.write(at.step, "eval", &held_out)?;
                    last.extend(held_out.into_iter().map(|(key, value)| (format!("eval_{key}"), value)));
                    since = Instant::now();
                }
                if at.step == steps {
                    break;
                }
                let stopping = monitor.stopping();
                if stopping || at.step % checkpoints.every == 0 {
                    log.publish()?;
                    checkpoints.save(&trainer.policy, &trainer.optimizer, at)?;
                }
                if stopping {
                    return Err(Error::Interrupted);
                }
            }
        }
        monitor.end();
        log.publish()?;
        if at.step < steps {
            let message =
                format!("the rows ended after {} of {steps} steps: they changed during the training", at.step);
            return Err(Error::stage(name, message));
        }
        if trainer.optimizer.is_idle() {
            let message = format!("the gradients of all {steps} steps were 0: the model is the one that it began with");
            return Err(Error::stage(name, message));
        }
        last.insert("steps".into(), json!(at.step));
        last.insert("tokens".into(), json!(at.tokens));
        last.insert("gflop".into(), json!(at.gflop));
        let Trainer { policy, optimizer, .. } = trainer;
        let policy = policy.map_parameters(|name, values| optimizer.master(name).cloned().unwrap_or(values));
        Ok(Trained { model: policy.model().valid(), metrics: last, seconds: at.seconds })
    }

    /// The policy, its optimizer and the position in the training, from the newest checkpoint if there is one.
    fn restored(&self, model: CausalLm) -> Result<(Policy, optimizer::State, Cursor)> {
        let Self { device, settings, checkpoints, .. } = *self;
        let mut optimizer = optimizer::State::new(settings.kept, settings.seed);
        let policy = Policy::new(model, settings.objective.formula().needs().states, settings.seed, device);
        let (policy, at) = checkpoints.restore(policy, &mut optimizer, &device.clone().without_autodiff())?;
        let narrows = settings.precision == Precision::Bf16 && !settings.frozen;
        Ok((if narrows { optimizer.narrowed(policy) } else { policy }, optimizer, at))
    }

    /// The steps of the training.
    ///
    /// # Errors
    /// Nothing to do, or a reference that does not fit `model`.
    fn steps(&self, model: &CausalLm) -> Result<u64> {
        let Self { name, settings, reference, feed, .. } = *self;
        match reference.map(CausalLm::vocab_size) {
            None if settings.objective.formula().needs().live_reference() => {
                return Err(Error::stage(name, "the objective needs a live reference"));
            }
            Some(entries) if entries != model.vocab_size() => {
                let own = model.vocab_size();
                let message = format!("the reference has {entries} entries in its vocabulary, the policy {own}");
                return Err(Error::stage(name, format!("{message}; name another reference")));
            }
            _ => {}
        }
        let steps = settings.steps(feed.examples());
        if steps == 0 || settings.schedule.rates(steps)[1] as f32 == 0.0 {
            let (rows, rate) = (feed.examples(), settings.schedule.peak);
            let message = format!("nothing to train: {steps} steps over {rows} rows, with a learning rate of {rate:e}");
            return Err(Error::stage(name, message));
        }
        Ok(steps)
    }

    /// Floating-point operations of a step over `work`, there and back.
    fn operations(&self, work: Workload) -> f64 {
        self.cost.map_or(0.0, |cost| cost.forward(work)) * self.settings.passes()
    }
}

struct Trainer<'a> {
    policy: Policy,
    reference: Option<&'a CausalLm>,
    name: &'a str,
    spec: DeviceSpec,
    device: &'a Device,
    room: &'a Room,
    settings: &'a Settings,
    optimizer: optimizer::State,
}

impl Trainer<'_> {
    /// One optimizer step, in place; the loss is the mean over the step.
    fn step(self, examples: &[Example], rate: f64) -> Result<(Self, StepSums)> {
        self.settings.precision.begin();
        let weights = self.weights(examples);
        let total: f64 = weights.iter().sum();
        let (mut seen, gradients) = loop {
            // A pass that ran out of memory may have left some of its gradients: the step begins again.
            if let Some(passes) = self.passes(examples, &weights, total)? {
                break passes;
            }
        };
        seen.loss /= total;
        let norm = on_device(self.spec, || Ok(gradients.norm()))?;
        if !(norm.is_finite() && seen.loss.is_finite()) {
            let message = format!(
                "loss {} and gradient norm {norm} at step {}: lower the learning rate",
                seen.loss,
                self.optimizer.steps() + 1
            );
            return Err(Error::stage(self.name, message));
        }
        seen.grad_norm = Some(norm);
        let clip = (self.settings.max_grad_norm / (norm + 1e-6)).min(1.0);
        let Self { spec, policy, mut optimizer, settings, .. } = self;
        let policy = on_device(spec, || Ok(optimizer.step(policy, gradients, &settings.optimizer, rate, clip)))?;
        Ok((Self { policy, optimizer, ..self }, seen))
    }

    /// The sums and the gradients of `examples`, which have `weights`, `total` in all; none where the device ran out of memory, which
    /// leaves less room.
    fn passes(&self, examples: &[Example], weights: &[f64], total: f64) -> Result<Option<(StepSums, Gradients)>> {
        let (mut seen, mut gradients) = (StepSums::default(), Gradients::default());
        let costs: Vec<usize> = examples.iter().map(|example| self.cost(example)).collect();
        for range in budget(costs.iter().copied(), self.room.tokens()) {
            let (examples, weights) = (&examples[range.clone()], &weights[range.clone()]);
            let pass = || self.pass(examples, weights, total, &mut seen, &mut gradients);
            if self.room.attempt(&costs[range], pass)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some((seen, gradients)))
    }

    /// A forward and backward pass over `examples`, which have `weights` of `total`, into `seen` and `gradients`.
    fn pass(
        &self,
        examples: &[Example],
        weights: &[f64],
        total: f64,
        seen: &mut StepSums,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let batch = self.pack(examples)?;
        if batch.targets.is_empty() {
            seen.add_all(&self.evaluate(examples, &batch, None)?, weights);
            return Ok(());
        }
        let pass = self.policy.model().pass(&batch, self.device, self.settings.memory);
        let output = self.policy.forward(pass.hidden(), self.reference, &batch, self.device);
        let outcomes = self.evaluate(examples, &batch, Some(&output))?;
        seen.work = seen.work + batch.workload();
        seen.add_all(&outcomes, weights);
        let weighted = |values: Tensor<1>, slopes: fn(&Outcome) -> [&Vec<f64>; 2]| {
            let slopes = outcomes.iter().flat_map(slopes).flatten().map(|slope| (slope / total) as f32);
            (values * upload(slopes.collect(), [batch.targets.len()], self.device)).sum()
        };
        let mut sum = weighted(output.logps, |outcome| [&outcome.chosen_grad, &outcome.rejected_grad]);
        if let Some(states) = output.states {
            sum = sum + weighted(states, |outcome| outcome.state_grads.each_ref());
        }
        pass.backward(sum, |own| gradients.add(&self.policy, own));
        Ok(())
    }

    /// The objective on held-out examples, without a step.
    fn held_out(&self, mut examples: Box<dyn Iterator<Item = Result<Example>>>) -> Result<Map<String, Value>> {
        let (policy, device) = (self.policy.valid(), self.device.clone().without_autodiff());
        let mut seen = StepSums::default();
        loop {
            let part: Vec<Example> = examples.by_ref().take(64).collect::<Result<_>>()?;
            if part.is_empty() {
                break;
            }
            let costs: Vec<usize> = part.iter().map(|example| self.cost(example)).collect();
            self.room.batches(&costs, |range| {
                let examples = &part[range];
                let batch = self.pack(examples)?;
                let output = (!batch.targets.is_empty())
                    .then(|| policy.forward(policy.model().hidden(&batch, &device), self.reference, &batch, &device));
                seen.add_all(&self.evaluate(examples, &batch, output.as_ref())?, &self.weights(examples));
                if output.is_some() {
                    seen.work = seen.work + batch.workload();
                }
                Ok(())
            })?;
        }
        seen.loss /= seen.weight.max(1.0);
        Ok(seen.metrics(&self.settings.objective))
    }

    /// The shares of `examples` in the denominator of their mean.
    fn weights(&self, examples: &[Example]) -> Vec<f64> {
        let objective = self.settings.objective.formula();
        examples.iter().map(|example| objective.weight(example.length(0))).collect()
    }

    fn needed<'e>(&self, example: &'e Example) -> [Response<'e>; 2] {
        let tokens = self.settings.objective.formula().needs().tokens;
        std::array::from_fn(|side| Response {
            ids: &example.responses[side],
            needed: match (tokens[side], &example.masks) {
                (Tokens::Key, Some(masks)) => Needed::Mask(&masks[side]),
                (Tokens::All, _) | (Tokens::Key, None) => {
                    example.own[side].as_deref().map_or(Needed::All, Needed::Mask)
                }
                (Tokens::Nothing, _) => Needed::Nothing,
            },
        })
    }

    fn cost(&self, example: &Example) -> usize {
        PackedBatch::cost(&example.prompt, &self.needed(example))
    }

    fn pack(&self, examples: &[Example]) -> Result<PackedBatch> {
        let mut batch = PackedBatch::default();
        for example in examples {
            check(&example.ids(), self.policy.model(), self.name)?;
            batch.push(&example.prompt, &self.needed(example));
        }
        Ok(batch)
    }

    /// The numbers of `said` in one copy from the device: log-probabilities, states, log-probabilities of the reference.
    fn host(&self, output: &PolicyOutput) -> Result<[Option<Vec<f32>>; 3]> {
        let output = [Some(&output.logps), output.states.as_ref(), output.reference.as_ref()];
        let plain = |tensor: &Tensor<1>| match tensor.is_autodiff() {
            true => tensor.clone().inner(),
            false => tensor.clone(),
        };
        let tensors: Vec<Tensor<1>> = output.iter().flatten().map(|tensor| plain(tensor)).collect();
        let all = Tensor::cat(tensors, 0).into_data().convert::<f32>().try_into_vec::<f32>();
        let all = all.map_err(|error| Error::stage(self.name, format!("{error:?}")))?;
        let mut rest = &all[..];
        Ok(output.map(|tensor| {
            tensor.map(|tensor| {
                let (own, others) = rest.split_at(tensor.dims()[0]);
                rest = others;
                own.to_vec()
            })
        }))
    }

    /// What the objective makes of `examples`. The policy says nothing about a batch of which no token is read: its pairs have
    /// empty responses, and the loss that the formula gives those.
    fn evaluate(
        &self,
        examples: &[Example],
        batch: &PackedBatch,
        output: Option<&PolicyOutput>,
    ) -> Result<Vec<Outcome>> {
        let [logps, states, reference] = output.map(|output| self.host(output)).transpose()?.unwrap_or_default();
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
        let (logps, states) = (wide(logps.unwrap_or_default()), states.map(wide));
        let outcome = |(example, ranges): (&Example, &[std::ops::Range<usize>])| {
            let response = |side: usize| objective::Response {
                logps: &logps[ranges[side].clone()],
                reference: match (&reference, &example.reference) {
                    (Some(live), _) => &live[ranges[side].clone()],
                    (None, Some(stored)) => &stored[side],
                    (None, None) => &[],
                },
                states: states.as_ref().map_or(&[], |states| &states[ranges[side].clone()]),
                rewards: example.rewards.as_ref().map_or(&[], |rewards| &rewards[side][..]),
                length: example.length(side),
            };
            self.settings.objective.formula().evaluate(&Pair { chosen: response(0), rejected: response(1) })
        };
        Ok(examples.iter().zip(batch.responses.chunks_exact(2)).map(outcome).collect())
    }
}
