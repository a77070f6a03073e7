//! From a YAML file to results, in three phases with three types.
//!
//! ```text
//! text --Spec::parse--> Spec (what was written) --Plan::new--> Plan (names resolved, columns checked) --run--> Report
//! ```
//!
//! Every mistake is found before a row is read, and all of them are reported in one go, with positions.

mod devices;
mod doubtful;
pub mod estimate;
pub mod flow;
mod foreign;
mod hub;
mod limits;
mod models;
mod order;
mod places;
pub mod plan;
pub mod planned;
mod rejects;
pub mod report;
pub mod run;
pub mod schema;
pub mod sources;
pub mod spec;
pub mod starter;
mod step;
pub mod suite;
mod supplies;
pub mod sweep;
mod tokenizers;
pub mod tree;
mod vocabulary;

pub use plan::Plan;
pub use planned::Planned;
pub use report::Report;
pub use run::{Assignment, Options, Share, run};
pub use sources::Sources;
pub use spec::Spec;
pub use suite::Suite;
