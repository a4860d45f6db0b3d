//! The read path below extents: pattern, cache, fetch.

mod fetch;
mod reader;
mod window;

pub(crate) use fetch::{Blocks, Origin};
pub use reader::Reader;
