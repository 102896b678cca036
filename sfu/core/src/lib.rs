//! The decisions of the media node, without I/O: rooms and signalling, negotiation, the media
//! engine, placement.
//!
//! Nothing here opens a socket, reads a clock, draws random numbers of its own or awaits:
//! bytes, messages, `now` and a random source come in, values go out. The shell (`sfu`) turns
//! them into effects.
//!
//! A room and the media engine know each other only by [`media::MediaCommand`] (what shall be) and [`media::MediaEvent`] (what happened).

// Tests begin their own time at some real moment.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod media;
pub mod placement;
pub mod room;
pub mod sdp;
pub mod signal;
pub mod time;
