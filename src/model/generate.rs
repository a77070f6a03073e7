//! Answers from a model: many prompts at once, each token at the cost of one row.
//!
//! ```text
//! a pass: the last token of every answer under way, and as many tokens of new prompts as there is room for
//! ```
//!
//! A pass takes at most 64 rows. Within that limit no operation of the `cpu` device lets one row's result depend on
//! the rows beside it, so an answer is the same, to the last bit, whatever else is under way.

mod sample;
mod stop;

use std::collections::VecDeque;

use burn::tensor::Device;
use rayon::prelude::*;

use super::architectures::CausalLm;
use super::batch::PackedBatch;
use super::checkpoint::source::ModelSource;
use super::device::DeviceSpec;
use super::layers::cache::{KvCache, Place, Slot, host};
use crate::error::{Error, Result};
use crate::kernels::FEW_ROWS;
use crate::kernels::precision::Precision;
use sample::Dice;
pub use sample::Sampling;
pub use stop::Stops;

/// How to answer.
#[derive(Debug)]
pub struct Settings {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens after which an answer is cut.
    pub max_tokens: usize,
    /// Answers to every prompt.
    pub samples: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Most tokens in the cache, prompts and answers at their longest; one prompt always has room.
    pub batch_tokens: usize,
    /// What ends an answer.
    pub stops: Stops,
}

/// A prompt.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// Token ids; never empty.
    pub ids: &'a [i32],
    /// A name that decides its random numbers.
    pub key: &'a str,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token or a stop text.
    Stop,
    /// As many tokens as allowed, or as the model has positions.
    Length,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Token ids, the one that ended it included.
    pub ids: Vec<i32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A model that answers.
pub struct Generator {
    model: CausalLm,
    device: Device,
    name: String,
    settings: Settings,
}

impl Generator {
    /// Loads the model.
    pub fn load(source: &ModelSource, device: DeviceSpec, precision: Precision, settings: Settings) -> Result<Self> {
        let (model, device, _) = CausalLm::open(source, device, precision)?;
        Ok(Self { model, device, name: source.to_string(), settings })
    }

    /// What ends its answers.
    pub fn stops(&self) -> &Stops {
        &self.settings.stops
    }

    /// The longest sequence that the model can take; none where positions are computed.
    pub fn position_limit(&self) -> Option<usize> {
        self.model.position_limit()
    }

    /// The answers to every prompt.
    ///
    /// # Errors
    /// A token id that the model has no embedding for, or no position left for an answer.
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
        let mut work = Work {
            generator: self,
            prompts,
            limit,
            cache: self.model.cache(),
            reserved: 0,
            waiting: (0..prompts.len()).collect(),
            reading: Vec::new(),
            writing: Vec::new(),
            done: vec![vec![None; self.settings.samples]; prompts.len()],
            unfinished: vec![self.settings.samples; prompts.len()],
        };
        while work.admit() {
            work.pass()?;
        }
        Ok(work.done.into_iter().map(|answers| answers.into_iter().flatten().collect()).collect())
    }
}

/// Prompts on their way to answers.
struct Work<'a> {
    generator: &'a Generator,
    prompts: &'a [Prompt<'a>],
    /// Positions of the model.
    limit: usize,
    cache: KvCache,
    /// Tokens that the prompts under way may put into the cache.
    reserved: usize,
    /// Prompts that nothing was read of.
    waiting: VecDeque<usize>,
    reading: Vec<Reading>,
    writing: Vec<Writing>,
    done: Vec<Vec<Option<Answer>>>,
    /// Answers of every prompt that are not done.
    unfinished: Vec<usize>,
}

/// A prompt that is read in parts.
struct Reading {
    prompt: usize,
    slot: Slot,
    read: usize,
}

/// An answer under way.
struct Writing {
    prompt: usize,
    sample: usize,
    place: Place,
    dice: Dice,
    ids: Vec<i32>,
}

impl Work<'_> {
    /// Takes up prompts while passes have room for their answers and the cache for their tokens; false when all are done.
    fn admit(&mut self) -> bool {
        let settings = &self.generator.settings;
        while let Some(&prompt) = self.waiting.front() {
            let busy = self.writing.len() + self.reading.len() * settings.samples;
            let cost = self.cost(prompt);
            if busy > 0 && (busy >= FEW_ROWS || self.reserved + cost > settings.batch_tokens) {
                break;
            }
            self.waiting.pop_front();
            self.reserved += cost;
            self.reading.push(Reading { prompt, slot: self.cache.open(), read: 0 });
        }
        !(self.reading.is_empty() && self.writing.is_empty())
    }

    /// Tokens that a prompt and its answers may put into the cache.
    fn cost(&self, prompt: usize) -> usize {
        let settings = &self.generator.settings;
        self.prompts[prompt].ids.len() + settings.samples * settings.max_tokens
    }

    /// One pass through the model, and what follows from it.
    fn pass(&mut self) -> Result<()> {
        let Generator { model, device, settings, .. } = self.generator;
        let (mut batch, mut places) = (PackedBatch::default(), Vec::new());
        let mut add = |id: i32, position: usize, place: Place, batch: &mut PackedBatch| {
            batch.ids.push(id);
            batch.positions.push(position as u32);
            places.push(place);
        };
        let active = self.writing.len().min(FEW_ROWS);
        for (row, writing) in self.writing[..active].iter().enumerate() {
            let position = self.prompts[writing.prompt].ids.len() + writing.ids.len() - 1;
            add(writing.ids[writing.ids.len() - 1], position, writing.place, &mut batch);
            batch.rows.push(row as i32);
        }
        let mut read = Vec::new();
        for (index, reading) in self.reading.iter_mut().enumerate() {
            let ids = self.prompts[reading.prompt].ids;
            let part = reading.read..ids.len().min(reading.read + FEW_ROWS - batch.len());
            for position in part.clone() {
                add(ids[position], position, Place { slot: reading.slot, prompt: None }, &mut batch);
            }
            reading.read = part.end;
            if part.end == ids.len() {
                batch.rows.push(batch.len() as i32 - 1);
                read.push(index);
            }
            if batch.len() == FEW_ROWS {
                break;
            }
        }
        self.cache.begin(places);
        if batch.rows.is_empty() {
            // The head needs a row; what it says of the last one is of no use yet.
            batch.rows.push(batch.len() as i32 - 1);
        }
        let logits = host(model.next_logits(&batch, &mut self.cache, device));
        let logits: Vec<&[f32]> = logits.chunks_exact(model.vocab_size()).collect();

        self.writing[..active].par_iter_mut().zip(&logits).for_each(|(writing, logits)| {
            let next = settings.sampling.next(logits, &mut writing.dice);
            writing.ids.push(next);
        });
        for (logits, index) in logits[active..].iter().zip(&read) {
            let Reading { prompt, slot, .. } = self.reading[*index];
            for sample in 0..settings.samples {
                let mut dice = Dice::new(settings.seed, self.prompts[prompt].key, sample);
                let ids = vec![settings.sampling.next(logits, &mut dice)];
                let place = Place { slot: self.cache.open(), prompt: Some(slot) };
                self.writing.push(Writing { prompt, sample, place, dice, ids });
            }
        }
        for index in read.into_iter().rev() {
            self.reading.remove(index);
        }
        self.finish()
    }

    /// Takes the answers that are done out of the way.
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
