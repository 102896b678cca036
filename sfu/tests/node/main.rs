//! Whole nodes in this process, asked over their sockets.

mod cluster;
mod http;
mod support;
