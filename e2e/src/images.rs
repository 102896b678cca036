//! Container images assembled from programs, without a container engine.
//!
//! An image is a list of files; [`archive`] writes it as a `docker save` archive, which both
//! kind and containerd load. The same files give the same bytes.

pub mod archive;
pub mod files;
pub mod programs;

pub use archive::{Image, write_archive};
pub use files::{Content, FileTree};
