//! The names under which mount(8), umount(8) and autofs call this program.
//!
//! `mount -t cosmount SOURCE DIR` runs `/sbin/mount.cosmount SOURCE DIR [-sfnvrw] [-o OPTIONS] [-t TYPE]`, `mount -t fuse.cosmount` the same under
//! `/sbin/mount.fuse.cosmount`, and `umount DIR`, which sees the type `fuse.cosmount`, runs `/sbin/umount.fuse.cosmount DIR [-nlfvr] [-t TYPE]`
//! (mount(8) and umount(8), "external helpers", util-linux 2.38). [`words`] turns what they say into the words of this program's own commands, so
//! that there is one meaning and one message for each.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

/// What a helper is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Run these words, as if they had been typed behind `cosmount`.
    Run(Vec<OsString>),
    /// `mount -f`: all but the mount. There is nothing to do before it.
    Nothing,
}

/// The words behind the program's name, in the terms of its own commands.
///
/// # Errors
/// A sentence about a word that no helper is called with.
pub(super) fn words(program: &OsStr, words: Vec<OsString>) -> Result<Wanted, String> {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    match &*name {
        "mount.cosmount" | "mount.fuse.cosmount" => Said::read(words, "sfnvrwh", "otN").and_then(Said::mount),
        "umount.cosmount" | "umount.fuse.cosmount" => Said::read(words, "nlfvrh", "tN").and_then(Said::umount),
        _ => Ok(Wanted::Run(words)),
    }
}

/// The words of a helper, taken apart.
#[derive(Debug, Default)]
struct Said {
    flags: String,
    options: Vec<(char, OsString)>,
    plain: Vec<OsString>,
}

impl Said {
    fn read(words: Vec<OsString>, flags: &str, options: &str) -> Result<Self, String> {
        let mut said = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let letters = word.to_str().and_then(|word| word.strip_prefix('-')).filter(|letters| !letters.is_empty()).map(str::to_owned);
            let Some(letters) = letters else {
                said.plain.push(word);
                continue;
            };
            for (at, letter) in letters.char_indices() {
                if flags.contains(letter) {
                    said.flags.push(letter);
                } else if options.contains(letter) {
                    let rest = &letters[at + letter.len_utf8()..];
                    let value = if rest.is_empty() { words.next() } else { Some(rest.into()) };
                    said.options.push((letter, value.ok_or_else(|| format!("-{letter} lacks its value"))?));
                    break;
                } else {
                    return Err(format!("-{letter} is not a word that mount(8) calls its helpers with"));
                }
            }
        }
        if said.options.iter().any(|(letter, _)| *letter == 'N') {
            return Err("-N (another mount namespace) is not supported: enter it first, with nsenter(1)".to_owned());
        }
        Ok(said)
    }

    fn mount(self) -> Result<Wanted, String> {
        let Self { flags, options, plain } = self;
        if flags.contains('h') {
            return Ok(Wanted::Run(vec!["mount".into(), "--help".into()]));
        }
        let [source, directory] = <[OsString; 2]>::try_from(plain).map_err(|_| "give a source and a directory".to_owned())?;
        if flags.contains('f') {
            return Ok(Wanted::Nothing);
        }
        let mut words: Vec<OsString> = vec!["mount".into()];
        for (letter, value) in options {
            if letter == 'o' {
                words.extend(["-o".into(), value]);
            }
        }
        for (letter, option) in [('r', "ro"), ('w', "rw")] {
            if flags.contains(letter) {
                words.extend(["-o".into(), option.into()]);
            }
        }
        if flags.contains('s') {
            words.push("--sloppy".into());
        }
        words.extend(["--".into(), source, directory]);
        Ok(Wanted::Run(words))
    }

    fn umount(self) -> Result<Wanted, String> {
        let Self { flags, plain, .. } = self;
        let [directory] = <[OsString; 1]>::try_from(plain).map_err(|_| "give one directory".to_owned())?;
        let mut words: Vec<OsString> = vec!["umount".into()];
        for (letter, option) in [('l', "--lazy"), ('f', "--force")] {
            if flags.contains(letter) {
                words.push(option.into());
            }
        }
        words.extend(["--".into(), directory]);
        Ok(Wanted::Run(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(program: &str, line: &str) -> Result<Wanted, String> {
        words(program.as_ref(), line.split(' ').map(OsString::from).collect())
    }

    fn run(line: &str) -> Result<Wanted, String> {
        Ok(Wanted::Run(line.split(' ').map(OsString::from).collect()))
    }

    #[test]
    fn other_names_change_nothing() {
        assert_eq!(said("/usr/bin/cosmount", "mount -o ro a b"), run("mount -o ro a b"));
    }

    #[test]
    fn what_mount_says_becomes_our_own_words() {
        let helper = "/sbin/mount.cosmount";
        assert_eq!(said(helper, "b-125 /mnt -o rw,region=ap-x"), run("mount -o rw,region=ap-x -- b-125 /mnt"));
        assert_eq!(said(helper, "b-125 /mnt -sn -oro -t fuse.cosmount"), run("mount -o ro --sloppy -- b-125 /mnt"));
        assert_eq!(said("mount.fuse.cosmount", "b-125 /mnt -r"), run("mount -o ro -- b-125 /mnt"));
        assert_eq!(said(helper, "b-125 /mnt -f"), Ok(Wanted::Nothing));
    }

    #[test]
    fn what_umount_says_becomes_our_own_words() {
        let helper = "/sbin/umount.fuse.cosmount";
        assert_eq!(said(helper, "/mnt"), run("umount -- /mnt"));
        assert_eq!(said(helper, "/mnt -l -v -t fuse.cosmount"), run("umount --lazy -- /mnt"));
        assert_eq!(said(helper, "/mnt -f"), run("umount --force -- /mnt"));
    }

    #[test]
    fn words_of_nobody_are_refused() {
        for line in ["b-125 /mnt -x", "b-125", "b-125 /mnt /srv", "b-125 /mnt -o", "b-125 /mnt -N 7"] {
            assert!(said("mount.cosmount", line).is_err(), "{line}");
        }
    }
}
