//! What all targets share.
//!
//! With a nightly compiler: `cargo fuzz run listing`. With a stable one: `scripts/soak fuzz`, which says how.

pub use libfuzzer_sys;

/// A program that feeds what libFuzzer makes up to the target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run($name, data));
    };
}

/// Runs one target.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = cosmount::fuzzing::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of src/fuzzing.rs");
    target(data);
}
