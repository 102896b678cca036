//! Scripted clients against a room: offers of Chromium in, messages and media commands out.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]

mod administration;
mod agents;
mod client;
mod codecs;
mod control;
mod data;
mod forwards;
mod joining;
mod publishing;
mod random;
mod reconnecting;
mod staying;
