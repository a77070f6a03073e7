//! The integration tests, as one binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod parity;
