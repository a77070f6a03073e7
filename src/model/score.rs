//! Log-probabilities of many rows, in batches of rows of similar length within the room of the device; results are in the order of the
//! rows.

mod divergence;

use burn::tensor::{Device, Tensor};

use super::architectures::CausalLm;
use super::batch::{Needed, PackedBatch, PairIds, Response};
use super::checkpoint::source::ModelSource;
use super::cost::{Cost, Workload};
use super::device::DeviceSpec;
use super::room::Room;
use crate::error::{Error, Result};
use crate::kernels::precision::Precision;

pub use super::room::budget;

/// The log-probability of every response token, `[chosen, rejected]` for every pair.
pub type Logps = Vec<[Vec<f32>; 2]>;

/// A frozen model that computes log-probabilities.
pub struct Scorer {
    model: CausalLm,
    device: Device,
    precision: Precision,
    name: String,
    room: Room,
    cost: Cost,
}

impl Scorer {
    /// Loads the model; a forward pass takes at most `batch_tokens` tokens, or one pair.
    ///
    /// # Errors
    /// As for [`CausalLm::open`].
    pub fn load(source: &ModelSource, spec: DeviceSpec, precision: Precision, batch_tokens: usize) -> Result<Self> {
        let (model, device, precision) = CausalLm::open(source, spec, precision)?;
        let (name, cost) = (source.to_string(), Cost::of(&source.describe()?.sizes));
        let room = Room::new(spec, batch_tokens);
        Ok(Self { model, device, precision, name, room, cost })
    }

    /// The precision in use; f32 if the processor has no products in the requested one.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Floating-point operations of a forward pass over `workload`.
    pub fn operations(&self, workload: Workload) -> f64 {
        self.cost.forward(workload)
    }

    /// The log-probabilities of `pairs`.
    ///
    /// # Errors
    /// A token id outside the vocabulary, or more tokens than the model has positions.
    pub fn logps(&self, pairs: &[PairIds]) -> Result<Logps> {
        let [own] = self.passes(pairs, |batch| [self.model.token_logps(batch, &self.device)])?;
        Ok(own)
    }

    /// As [`Self::logps`], of this model and of `other` on the same device. Their first `common` layers, which are equal
    /// ([`ModelSource::common_layers`]), run once.
    ///
    /// # Errors
    /// As for [`Self::logps`], for either model.
    pub fn logps_beside(&self, other: &Self, common: usize, pairs: &[PairIds]) -> Result<[Logps; 2]> {
        if common == 0 {
            return Ok([self.logps(pairs)?, other.logps(pairs)?]);
        }
        for pair in pairs {
            check(pair, &other.model, &other.name)?;
        }
        let models = [&self.model, &other.model];
        self.passes(pairs, |batch| {
            let [own, others] = CausalLm::hidden_of_both(models, common, batch, &self.device);
            [self.model.logps_of(own, batch), other.model.logps_of(others, batch)]
        })
    }

    /// Floating-point operations that [`Self::logps_beside`] saves on `workload`.
    pub fn saved(&self, common: usize, workload: Workload) -> f64 {
        self.cost.trunk(common, workload)
    }

    /// Packs `pairs` into batches and collects the results of `pass` for all response tokens.
    fn passes<const N: usize>(
        &self,
        pairs: &[PairIds],
        pass: impl Fn(&PackedBatch) -> [Tensor<1>; N],
    ) -> Result<[Logps; N]> {
        for pair in pairs {
            check(pair, &self.model, &self.name)?;
        }
        self.precision.begin();
        let mut out = [(); N].map(|()| vec![Default::default(); pairs.len()]);
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_key(|index| cost(&pairs[*index]));
        let costs: Vec<usize> = order.iter().map(|index| cost(&pairs[*index])).collect();
        self.room.batches(&costs, |range| {
            let mut batch = PackedBatch::default();
            for index in &order[range.clone()] {
                let pair = &pairs[*index];
                batch.push(pair.prompt, &pair.responses.map(|ids| Response { ids, needed: Needed::All }));
            }
            // One copy from the device, whatever the number of models.
            let logps = Tensor::cat(pass(&batch).to_vec(), 0).into_data().convert::<f32>().try_into_vec::<f32>();
            let logps = logps.map_err(|error| Error::model(&self.name, format!("{error:?}")))?;
            let each = batch.targets.len();
            for (out, logps) in out.iter_mut().zip((0..N).map(|model| &logps[model * each..(model + 1) * each])) {
                for (index, ranges) in order[range.clone()].iter().zip(batch.responses.chunks_exact(2)) {
                    out[*index] = [&ranges[0], &ranges[1]].map(|range| logps[range.clone()].to_vec());
                }
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// Checks that all token ids are in the vocabulary, and that the model has enough positions.
///
/// # Errors
/// A token id or a length that the model cannot take.
pub fn check(pair: &PairIds, model: &CausalLm, name: &str) -> Result<()> {
    let vocabulary = model.vocab_size();
    let ids = pair.prompt.iter().chain(pair.responses[0]).chain(pair.responses[1]);
    if let Some(id) = ids.copied().find(|id| usize::try_from(*id).map_or(true, |id| id >= vocabulary)) {
        let help = "the data was tokenized for another model";
        return Err(Error::model(name, format!("token id {id} is outside the vocabulary of {vocabulary}; {help}")));
    }
    let longest = pair.prompt.len() + pair.responses.map(<[i32]>::len).into_iter().max().unwrap_or_default();
    match model.position_limit() {
        Some(limit) if longest > limit => {
            let help = "set the `tokenize` stage's max_length to that or less";
            Err(Error::model(name, format!("a row has {longest} tokens, the model {limit} positions; {help}")))
        }
        _ => Ok(()),
    }
}

fn cost(pair: &PairIds) -> usize {
    pair.prompt.len() + pair.responses[0].len() + pair.responses[1].len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::room::with_memory_for;

    #[test]
    fn rows_come_out_the_same_where_memory_is_scarce() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-tied");
        let source = ModelSource::folder("llama-tied", folder);
        let answers: Vec<Vec<i32>> = (0..20).map(|row| (3..5 + row % 7).collect()).collect();
        let pairs: Vec<PairIds> =
            answers.iter().map(|ids| PairIds { prompt: &[7, 9], responses: [ids, &ids[..1]] }).collect();
        let scorer = || Scorer::load(&source, DeviceSpec::Cpu, Precision::F32, 512).unwrap();
        let all = scorer().logps(&pairs).unwrap();
        let scarce = scorer();
        let own = with_memory_for(30, || scarce.logps(&pairs)).unwrap();
        assert!(scarce.room.tokens() <= 30, "{}", scarce.room.tokens());
        for (own, all) in own.iter().flatten().flatten().zip(all.iter().flatten().flatten()) {
            assert!((own - all).abs() < 1e-5, "{own} {all}");
        }
        assert_eq!(own.iter().map(|row| row.each_ref().map(Vec::len)).collect::<Vec<_>>(), lengths(&pairs));
    }

    fn lengths(pairs: &[PairIds]) -> Vec<[usize; 2]> {
        pairs.iter().map(|pair| pair.responses.map(<[i32]>::len)).collect()
    }
}
