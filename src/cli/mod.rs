//! Typed words: flags, environment, help and sub-commands become `mount::Settings`.
