//! See `src/fuzzing.rs`.
#![no_main]

cosmount_fuzz::target!("credentials");
