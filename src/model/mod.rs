//! Causal language models: from a Hugging Face folder or a configuration to token log-probabilities, and back to a
//! folder.
//!
//! ```text
//! ModelSource --load--> CausalLm --token_logps(PackedBatch)--> one log-probability per needed token
//! ```
//!
//! An adapter on the source is merged into the weights ([`CausalLm::load`]) or trains above them
//! ([`CausalLm::load_adapted`]). One file an architecture, fields spelt as in the checkpoint. What burn does slowly is
//! in [`kernels`](crate::kernels). Nothing here knows about columns or files of data.

pub mod architectures;
pub mod baseline;
pub mod batch;
mod causal_lm;
pub mod checkpoint;
pub mod cost;
pub mod device;
mod footprint;
pub mod generate;
pub mod layers;
pub mod pass;
pub mod positions;
pub mod save;
pub mod score;
pub mod sizes;
mod trunk;

pub use crate::kernels::precision::Precision;
pub use crate::kernels::token_kl::Compared;
pub use architectures::CausalLm;
pub use baseline::Baseline;
pub use batch::{Needed, PackedBatch, PairIds, Response};
pub use checkpoint::source::{ModelSource, Weights};
pub use device::DeviceSpec;
pub use generate::Generator;
pub use layers::lora::Lora;
pub use layers::weight::Kept;
pub use pass::{Memory, Pass};
pub use score::Scorer;
