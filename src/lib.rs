//! Selective preference optimization as a dataflow pipeline over columnar data.
//!
//! ```text
//! cli -> pipeline -> stages -> { train, report } -> { model -> { kernels, text }, objective, columns, io } -> { error, monitor, plot }
//! ```
//!
//! A small oracle, trained with DPO, and its reference give every response token a reward, the difference of their
//! log-probabilities. The best tokens of the chosen and the worst tokens of the rejected response are key tokens; a
//! policy of any size trains on those alone (SePO, arXiv 2408.13518). The scored Parquet is the product: rewards are
//! stored, masks are derived.
//!
//! A program that embeds it goes the way of the command line: [`pipeline::Spec::parse`], [`Plan::new`](pipeline::Plan::new),
//! [`pipeline::run()`].

#![cfg_attr(feature = "tch", allow(deprecated, reason = "burn supports LibTorch up to 0.22"))]

pub mod cli;
#[cfg(test)]
mod close;
pub mod columns;
pub mod error;
pub mod io;
pub mod kernels;
pub mod model;
pub mod monitor;
pub mod objective;
pub mod pipeline;
pub mod plot;
pub mod report;
pub mod stages;
pub mod text;
pub mod train;

pub use error::{Error, Place, Problem, Result};
