//! wip
use super::*;
