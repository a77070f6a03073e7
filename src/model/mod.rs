//! Causal language models: from a Hugging Face folder or a configuration to token log-probabilities, and back to a
//! folder.
//!
//! ```text
//! ModelSource --load--> CausalLm --token_logps(PackedBatch)--> one log-probability per needed token
//! ```
//!
//! An adapter of the source is merged into the weights ([`CausalLm::load`]) or trained on them ([`CausalLm::load_adapted`]). Every
//! architecture has a file, with fields named as in the checkpoint. Operations that burn computes slowly are in
//! [`kernels`](crate::kernels). Columns and data files are unknown here.

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
pub mod room;
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
pub use device::{DeviceChoice, DeviceSpec};
pub use generate::Generator;
pub use layers::lora::Lora;
pub use layers::weight::WeightFormat;
pub use pass::{Memory, Pass};
pub use room::{BatchTokens, Room, on_device};
pub use score::Scorer;
