//! Generation with continuous batching: many prompts at once, one row per token.
//!
//! ```text
//! a pass: the last token of every unfinished answer, and as many tokens of new prompts as fit
//! ```
//!
//! On `cpu` a pass has at most 64 rows. Up to that number none of its operations lets the result of a row depend on the
//! other rows, so an answer is bitwise the same in any batch. On other devices a pass has as many rows as there are
//! tokens to compute, up to a bound, and LibTorch's choose the next tokens: the host sends random numbers and
//! penalties, and gets ids, in one copy a pass each.

mod config;
mod penalties;
mod random;
mod stop;

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::architectures::CausalLm;
use super::batch::PackedBatch;
use super::checkpoint::source::ModelSource;
use super::device::DeviceSpec;
use super::layers::cache::{KvCache, Place, Slot};
use super::room::on_device;
use crate::error::{Error, Result};
use crate::kernels::FEW_ROWS;
pub use crate::kernels::choice::Sampling;
use crate::kernels::choice::{self, Row, Rule};
use crate::kernels::precision::Precision;
pub use config::GenerationConfig;
pub use penalties::Penalties;
use random::AnswerRng;
pub use stop::Stops;

/// The most rows of a pass on devices other than `cpu`.
const ROWS: usize = 1024;

/// Settings of generation.
#[derive(Debug)]
pub struct Settings {
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// What is done to logits before that.
    pub penalties: Penalties,
    /// The largest number of tokens of an answer.
    pub max_tokens: usize,
    /// Answers per prompt.
    pub samples: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// The largest number of tokens in the cache, with answers counted at `max_tokens`; one prompt is always admitted.
    pub batch_tokens: usize,
    /// What ends an answer.
    pub stops: Stops,
}

/// A prompt.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// Token ids; never empty.
    pub ids: &'a [i32],
    /// The key of its random numbers.
    pub key: &'a str,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token or a stop text.
    Stop,
    /// The largest number of tokens, or of positions.
    Length,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Token ids, including the stop token.
    pub ids: Vec<i32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A model that generates answers.
pub struct Generator {
    model: CausalLm,
    spec: DeviceSpec,
    device: Device,
    precision: Precision,
    name: String,
    settings: Settings,
}

impl Generator {
    /// Loads the model.
    ///
    /// # Errors
    /// As for [`CausalLm::open`].
    pub fn load(source: &ModelSource, spec: DeviceSpec, precision: Precision, settings: Settings) -> Result<Self> {
        let (model, device, precision) = CausalLm::open(source, spec, precision)?;
        Ok(Self { model, spec, device, precision, name: source.to_string(), settings })
    }

    /// The most rows of a pass.
    fn rows(&self) -> usize {
        if self.spec == DeviceSpec::Cpu { FEW_ROWS } else { ROWS }
    }

    /// What is wanted of the logits of the token that follows `prompt` and the unfinished `answer`, with a random
    /// number for each token that is drawn from them.
    fn row(&self, prompt: &[i32], answer: &[i32], draws: Vec<f64>) -> Row {
        let Settings { penalties, stops, .. } = &self.settings;
        Row { edits: penalties.edits(prompt, answer, &stops.ids, self.model.vocab_size()), draws }
    }

    /// What ends its answers.
    pub fn stops(&self) -> &Stops {
        &self.settings.stops
    }

    /// The largest number of positions; `None` if positions are computed, not learned.
    pub fn position_limit(&self) -> Option<usize> {
        self.model.position_limit()
    }

    /// The answers to every prompt.
    ///
    /// # Errors
    /// A token id outside the vocabulary, or a prompt that leaves no position for an answer; a device that fails.
    pub fn answers(&self, prompts: &[Prompt]) -> Result<Vec<Vec<Answer>>> {
        let (vocabulary, limit) = (self.model.vocab_size(), self.model.position_limit().unwrap_or(usize::MAX));
        for prompt in prompts {
            if let Some(id) = prompt.ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocabulary)) {
                let message = format!("token id {id} is outside the vocabulary of {vocabulary}");
                return Err(Error::model(&self.name, message));
            }
            if prompt.ids.len() >= limit {
                let message = format!("a prompt of {} tokens leaves no room in {limit} positions", prompt.ids.len());
                return Err(Error::model(&self.name, message));
            }
        }
        self.precision.begin();
        self.decoded(prompts, limit, self.model.cache(&self.device))
    }

    /// The answers to `prompts`, which the model's `limit` positions have room for, by way of `cache`.
    fn decoded(&self, prompts: &[Prompt], limit: usize, cache: KvCache) -> Result<Vec<Vec<Answer>>> {
        let mut decoding = Decoding {
            generator: self,
            prompts,
            limit,
            cache,
            reserved: 0,
            waiting: (0..prompts.len()).collect(),
            reading: Vec::new(),
            writing: Vec::new(),
            done: vec![vec![None; self.settings.samples]; prompts.len()],
            unfinished: vec![self.settings.samples; prompts.len()],
        };
        while decoding.admit() {
            on_device(self.spec, || decoding.pass())?;
        }
        Ok(decoding.done.into_iter().map(|answers| answers.into_iter().flatten().collect()).collect())
    }
}

/// The state of generating answers to `prompts`.
struct Decoding<'a> {
    generator: &'a Generator,
    prompts: &'a [Prompt<'a>],
    /// Positions of the model.
    limit: usize,
    cache: KvCache,
    /// Cache tokens reserved for the admitted prompts and their answers.
    reserved: usize,
    /// Prompts that are not admitted yet.
    waiting: VecDeque<usize>,
    reading: Vec<Reading>,
    writing: Vec<Writing>,
    done: Vec<Vec<Option<Answer>>>,
    /// The number of unfinished answers of every prompt.
    unfinished: Vec<usize>,
}

/// A prompt that is being read.
struct Reading {
    prompt: usize,
    slot: Slot,
    read: usize,
}

/// An unfinished answer.
struct Writing {
    prompt: usize,
    sample: usize,
    place: Place,
    rng: AnswerRng,
    ids: Vec<i32>,
}

impl Decoding<'_> {
    /// Admits prompts while passes have rows for their answers and the cache has room; returns whether anything is left
    /// to do.
    fn admit(&mut self) -> bool {
        let settings = &self.generator.settings;
        while let Some(&prompt) = self.waiting.front() {
            let busy = self.writing.len() + self.reading.len() * settings.samples;
            let cost = self.cost(prompt);
            if busy > 0 && (busy >= self.generator.rows() || self.reserved + cost > settings.batch_tokens) {
                break;
            }
            self.waiting.pop_front();
            self.reserved += cost;
            self.reading.push(Reading { prompt, slot: self.cache.open(), read: 0 });
        }
        !(self.reading.is_empty() && self.writing.is_empty())
    }

    /// The largest number of cache tokens of a prompt and its answers.
    fn cost(&self, prompt: usize) -> usize {
        let settings = &self.generator.settings;
        self.prompts[prompt].ids.len() + settings.samples * settings.max_tokens
    }

    /// Runs a forward pass and samples the next tokens.
    fn pass(&mut self) -> Result<()> {
        let (generator, rows) = (self.generator, self.generator.rows());
        let (mut batch, mut places) = (PackedBatch::default(), Vec::new());
        let mut add = |id: i32, position: usize, place: Place, batch: &mut PackedBatch| {
            batch.ids.push(id);
            batch.positions.push(position as u32);
            places.push(place);
        };
        let active = self.writing.len().min(rows);
        for (row, writing) in self.writing[..active].iter().enumerate() {
            let position = self.prompts[writing.prompt].ids.len() + writing.ids.len() - 1;
            add(writing.ids[writing.ids.len() - 1], position, writing.place, &mut batch);
            batch.rows.push(row as i32);
        }
        let mut read = Vec::new();
        for (index, reading) in self.reading.iter_mut().enumerate() {
            let ids = self.prompts[reading.prompt].ids;
            let part = reading.read..ids.len().min(reading.read + rows - batch.len());
            for position in part.clone() {
                add(ids[position], position, Place { slot: reading.slot, prompt: None }, &mut batch);
            }
            reading.read = part.end;
            if part.end == ids.len() {
                batch.rows.push(batch.len() as i32 - 1);
                read.push(index);
            }
            if batch.len() == rows {
                break;
            }
        }
        self.cache.begin(places);
        if batch.rows.is_empty() {
            // The head needs at least one row; the logits of this one are not used.
            batch.rows.push(batch.len() as i32 - 1);
        }
        let logits = generator.model.next_logits(&batch, &mut self.cache, &generator.device);
        self.choose(logits, active, &read);
        for index in read.into_iter().rev() {
            self.reading.remove(index);
        }
        self.finish()
    }

    /// Continues the first `active` answers, whose logits come first, and begins those to the prompts that have been
    /// `read`.
    fn choose(&mut self, logits: Tensor<2>, active: usize, read: &[usize]) {
        let (generator, prompts) = (self.generator, self.prompts);
        let settings = &generator.settings;
        let continued = self.writing[..active].par_iter_mut();
        let mut rows: Vec<Row> = continued
            .map(|writing| generator.row(prompts[writing.prompt].ids, &writing.ids, vec![writing.rng.uniform()]))
            .collect();
        let mut begun = Vec::new();
        for index in read {
            let Reading { prompt, slot, .. } = self.reading[*index];
            let mut draws = Vec::new();
            for sample in 0..settings.samples {
                let mut rng = AnswerRng::new(settings.seed, prompts[prompt].key, sample);
                draws.push(rng.uniform());
                let place = Place { slot: self.cache.open(), prompt: Some(slot) };
                begun.push(Writing { prompt, sample, place, rng, ids: Vec::new() });
            }
            rows.push(generator.row(prompts[prompt].ids, &[], draws));
        }
        if !rows.is_empty() {
            let rule = Rule { sampling: settings.sampling, repetition: settings.penalties.repetition };
            let chosen = choice::choose(logits, rule, rows);
            let writing = self.writing[..active].iter_mut().chain(&mut begun);
            writing.zip(chosen).for_each(|(writing, id)| writing.ids.push(id));
        }
        self.writing.extend(begun);
    }

    /// Removes finished answers.
    fn finish(&mut self) -> Result<()> {
        let settings = &self.generator.settings;
        let mut index = 0;
        while index < self.writing.len() {
            let writing = &self.writing[index];
            let length = self.prompts[writing.prompt].ids.len() + writing.ids.len();
            let finish = if settings.stops.ends(&writing.ids)? {
                Finish::Stop
            } else if writing.ids.len() >= settings.max_tokens || length > self.limit {
                Finish::Length
            } else {
                index += 1;
                continue;
            };
            let Writing { prompt, sample, place, ids, .. } = self.writing.remove(index);
            self.cache.close(place.slot);
            self.done[prompt][sample] = Some(Answer { ids, finish });
            self.unfinished[prompt] -= 1;
            if self.unfinished[prompt] == 0 {
                place.prompt.into_iter().for_each(|slot| self.cache.close(slot));
                self.reserved -= self.cost(prompt);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
