//! Saves models: whole models and adapters.

mod adapter;
mod card;
mod files;
mod whole;

pub use adapter::adapted;
pub use card::Card;
pub use whole::{sharded, whole};
