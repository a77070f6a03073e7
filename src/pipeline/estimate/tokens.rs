//! How many tokens a pass of a stage may have: for `batch_tokens: auto`, as many as the estimate of its memory has room for.

use super::memory::memory;
use crate::error::Result;
use crate::model::{BatchTokens, DeviceSpec};
use crate::pipeline::plan::{Node, Plan};
use crate::stages::{StageCost, Volume};

/// The tokens of a pass of the models of `node` on `device`, as `wanted`.
///
/// # Errors
/// A model whose size is not known.
pub(in crate::pipeline) fn batch_tokens(
    plan: &Plan,
    node: &Node,
    device: DeviceSpec,
    wanted: BatchTokens,
) -> Result<usize> {
    let (BatchTokens::Fitting(_), Some(free)) = (wanted, device.memory()) else { return Ok(wanted.at_least()) };
    let bytes = |tokens: usize| -> Result<Option<u64>> {
        let cost = node.operation().cost(&Volume::default()).map(|cost| StageCost { batch_tokens: tokens, ..cost });
        Ok(cost.map(|cost| memory(plan, node, &cost)).transpose()?.flatten().map(|memory| memory.bytes()))
    };
    // The estimate grows with the tokens from some number of them on.
    let (some, more) = (bytes(BatchTokens::USUAL)?, bytes(2 * BatchTokens::USUAL)?);
    let tokens = some.zip(more).map_or(wanted.at_least(), |(some, more)| BatchTokens::fitting(free, some, more));
    tracing::info!("stage `{}`: passes of {tokens} tokens at most for the memory of `{device}`", node.id);
    Ok(tokens)
}
