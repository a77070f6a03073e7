pub mod columns;
pub mod error;
pub mod model;
pub mod monitor;
pub use error::{Error, Place, Problem, Result};
