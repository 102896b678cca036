//! What the benchmarks have in common: where server and load run, and what they use.

mod namespaces;
mod usage;

pub use namespaces::{Namespaces, STRANGERS, Side};
pub use usage::Usage;
