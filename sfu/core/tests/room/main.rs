//! Scripted clients against a room: offers of Chromium in, messages and media commands out.

mod client;
mod joining;
mod publishing;
mod random;
mod staying;
