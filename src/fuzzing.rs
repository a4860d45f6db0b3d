//! What is fuzzed: for each parser of outside input a function that takes any bytes.
//!
//! Each lives beside its parser, calls it as the program does, and checks the laws that must hold for whatever it accepts; a law that is broken
//! is a panic. `fuzz/` has a target for each, made for libFuzzer; the tests below run the same functions over the corpus that is kept there and
//! some thousand mutations of it. Built for tests and with `--cfg fuzzing` only.

use std::str::FromStr;

use crate::local;
use crate::mount::Source;
use crate::store::{self, Proxies};
use crate::support::ByteSize;
use crate::vfs;

/// A parser that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus, too.
pub const TARGETS: [(&str, Target); 9] = [
    ("documents", store::cos::fuzzing::documents),
    ("listing", store::cos::fuzzing::listing),
    ("headers", headers),
    ("journal", local::fuzzing::journal),
    ("ledger", local::fuzzing::ledger),
    ("keymap", vfs::fuzzing::keys),
    ("words", words),
    ("credentials", store::cos::fuzzing::credentials),
    ("certificate", store::fuzz_certificate),
];

/// What HEAD answers, down to the attributes that programs see.
fn headers(data: &[u8]) {
    if let Some(head) = store::cos::fuzzing::head(data) {
        vfs::fuzzing::attributes(&head);
    }
}

/// What stands on the command line and in the environment.
fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(source) = Source::parse(text) {
        assert!(source.prefix.is_empty() || source.prefix.ends_with('/'), "{source}");
        // What is shown is what could be typed, if nothing in it had to be escaped.
        let same = |again: Source| (again.bucket, again.prefix) == (source.bucket.clone(), source.prefix.clone());
        assert!(source.prefix.contains(|c: char| c.escape_debug().len() > 1) || Source::parse(&source.to_string()).is_ok_and(same));
    }
    if let Ok(size) = ByteSize::from_str(text) {
        assert_eq!(ByteSize::from_str(&size.to_string()), Ok(size), "{text}");
    }
    let lines: Vec<&str> = text.lines().collect();
    drop(store::cos::Endpoints::parse(lines.first().copied(), &lines, false));
    let value =
        |name: &str| Proxies::variables().position(|known| known == name).and_then(|at| lines.get(at)).map(|line| (*line).to_owned());
    if let Ok(proxies) = Proxies::parse(value) {
        store::fuzz_proxies(&proxies, lines.last().copied().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Mutations of each target's corpus here; `scripts/soak fuzz` has ten minutes for each.
    const MUTATIONS: usize = 6000;

    /// What parsers look for.
    const WORDS: [&[u8]; 24] = [
        b"<",
        b"</",
        b"/>",
        b"&amp;",
        b"&#0;",
        b"<!DOCTYPE a [",
        b"]]>",
        b"<![CDATA[",
        b"Contents",
        b"<Key>",
        b"</Key>",
        b"true",
        b"%",
        b"%2F",
        b"%00",
        b"..",
        b"@cos:",
        b"18446744073709551615",
        b"-1",
        b"\xf5jrn",
        b"\xff",
        b"\0",
        b"\r\n",
        b"\xe2\x80\xae",
    ];

    /// Xorshift: the same mutations at every run.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % (limit.max(1) as u64)).unwrap()
        }

        fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(40)).min(bytes.len());
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                2 => drop(bytes.drain(at..end)),
                3 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                4 => bytes.truncate(at),
                5 => {
                    let part = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    drop(bytes.splice(to..to, part));
                }
                _ => {
                    let from = self.below(other.len() + 1);
                    drop(bytes.splice(at..end, other[from..].iter().copied().take(200)));
                }
            }
        }
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} has no corpus", directory.display());
        files.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    fn run(name: &str) {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
        let corpus = corpus(name);
        target(b"");
        corpus.iter().for_each(|bytes| target(bytes));
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for n in 0..MUTATIONS {
            let mut bytes = corpus[n % corpus.len()].clone();
            for _ in 0..=chance.below(6) {
                let other = chance.below(corpus.len());
                chance.mutate(&mut bytes, &corpus[other]);
            }
            let told = bytes.clone();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "mutation {n} of {name}: {}", told.escape_ascii());
        }
    }

    #[test]
    fn documents() {
        run("documents");
    }

    #[test]
    fn listings() {
        run("listing");
    }

    #[test]
    fn headers_of_answers() {
        run("headers");
    }

    #[test]
    fn journals() {
        run("journal");
    }

    #[test]
    fn ledgers() {
        run("ledger");
    }

    #[test]
    fn keys_and_names() {
        run("keymap");
    }

    #[test]
    fn words_that_are_typed() {
        run("words");
    }

    #[test]
    fn files_and_answers_with_credentials() {
        run("credentials");
    }

    #[test]
    fn certificates() {
        run("certificate");
    }

    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            assert!(!corpus(name).is_empty());
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
            assert!(fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap().contains(&format!("\"{name}\"")));
        }
    }
}
