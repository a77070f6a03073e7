//! The integration tests, as one binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![cfg_attr(feature = "tch", allow(deprecated, reason = "burn supports LibTorch up to 0.22"))]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]
#![allow(clippy::disallowed_methods, reason = "a test makes and removes folders of its own")]

mod azure;
#[cfg(feature = "tch")]
mod bf16;
mod boundary;
mod checkpoints;
mod close;
mod columns;
mod conformance;
mod damaged;
mod devices;
mod disagreements;
mod engines;
mod files;
#[cfg(all(unix, feature = "flight"))]
mod flight;
mod formats;
mod front;
mod generation;
mod harness;
#[cfg(feature = "tch")]
mod hook;
#[cfg(unix)]
mod hostile_arrow;
mod hostile_files;
#[cfg(unix)]
mod hostile_hub;
mod hostile_names;
#[cfg(unix)]
mod hostile_text;
mod hostile_tokenizers;
#[cfg(unix)]
mod hub;
#[cfg(unix)]
mod hub_push;
mod hub_server;
mod hub_upload;
mod inputs;
#[cfg(feature = "tch")]
mod launches;
mod live;
mod lora;
mod mistakes;
mod numbers;
mod objectives;
mod ownership;
mod parity;
mod pipeline;
mod plans;
mod processors;
#[cfg(feature = "tch")]
mod profile;
mod proxy;
mod quickstart_data;
mod rejects;
mod report;
mod reproduction;
mod resume;
mod s3;
mod seaweed;
mod secrets;
mod shell;
mod silent;
mod stopping;
mod sweep;
mod tidy;
mod together;
mod tokens;
mod trainers;
mod units;
mod web;
mod words;
