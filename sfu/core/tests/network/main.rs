//! The media engine behind networks as they are: publishers and subscribers of our own around
//! the engine's public interface, joined to it by links that delay, lose, reorder, queue and are
//! shared with other traffic. Time is virtual and every choice is seeded, so that a row of a
//! scenario table gives the same result on every machine.
//!
//! `NETWORK_SERIES=<directory>` writes the time series of every scenario there, a file each.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]

mod assembler;
mod audit;
mod cross;
mod encoder;
mod endpoint;
mod feedback;
mod in_order;
mod link;
mod playout;
mod properties;
mod publisher;
mod reception;
mod remb;
mod report;
mod scalable;
mod scenario;
mod scenarios;
mod subscriber;
mod vp8;
mod world;
