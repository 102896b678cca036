//! The media node: sockets, threads, HTTP and Redis around the decisions of `sfu-core`.

pub mod rtc;
