//! What stands behind `-o`: this program's options, the words of mount(8) and those of COSFS.
//!
//! A list is what fstab has: `name` or `name=value` between commas, where `\,` is a comma that belongs to a value and `\\` a backslash. Of a name that
//! is given twice the last counts, as for mount(8). Words of mount(8) that tell *it* what to do (`noauto`, `_netdev`, `x-systemd.automount`) reach
//! its helpers too and are taken in silence; those that ask for what a mount here cannot give are taken with a notice, or refused where taking them
//! would be a lie that costs something.

use anyhow::bail;

use crate::cli::cosfs;
use crate::cli::merge::{Catalogue, Given, Origin};

/// Words of mount(8) for an option of this program: word, option, value.
const SWITCHES: &[(&str, &str, &str)] = &[("ro", "read-only", "true"), ("exec", "noexec", "false")];

/// Words of mount(8) and fuse(8) that are true of every mount here, or are no file system's business.
const SILENT: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "comment",
    "noatime",
    "nodiratime",
    "relatime",
    "norelatime",
    "atime",
    "diratime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "nodev",
    "nosuid",
    "async",
    "loud",
    "silent",
    "default_permissions",
];

/// Words that ask for something a mount does not do, each with what it does instead.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("dev", "device nodes never open here"),
    ("suid", "set-user-ID bits never count here"),
    ("sync", "close and fsync wait for COS, single writes do not"),
    ("dirsync", "changes of directories wait for COS in any case"),
    ("strictatime", "times of access are not kept"),
    ("mand", "the kernel has no mandatory locks"),
    ("nonempty", "a mount point need not be empty"),
    ("fsname", "mount shows the source"),
    ("subtype", "the type is fuse.cosmount"),
    ("big_writes", "writes are always as large as the kernel makes them"),
    ("kernel_cache", "the kernel's pages stay while their object does"),
    ("auto_unmount", "a mount whose process died is cleared by cosmount umount"),
];

/// What a list of options says.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// In the order typed; names that are unknown are among them.
    pub(super) given: Vec<Given>,
    /// What the user should know.
    pub(super) notices: Vec<String>,
}

/// Reads the lists behind every `-o`. `place` is where a COSFS directory for temporary files gets one for this mount.
///
/// # Errors
/// A word that cannot be taken.
pub(super) fn read(lists: &[String], catalogue: &Catalogue, mount_point: &str) -> anyhow::Result<Read> {
    let mut read = Read::default();
    let mut theirs = cosfs::Translation::new(mount_point);
    for (name, value) in lists.iter().flat_map(|list| split(list)) {
        let plain = name.replace('-', "_");
        let own = |option: &str, value: Option<&str>| Given {
            name: option.to_owned(),
            value: value.map(str::to_owned),
            origin: Origin::MountOption(name.clone()),
        };
        if catalogue.find(&name).is_some() {
            read.given.push(own(&name, value.as_deref()));
        } else if let Some((_, option, set)) = SWITCHES.iter().find(|(word, ..)| *word == plain) {
            if value.is_some() {
                bail!("in -o {name}: it takes no value");
            }
            read.given.push(own(option, Some(set)));
        } else if plain == "rw" {
            // mount(8) says it of every mount that is not `ro`: it takes back what stands before it and is no word against a file.
            read.given.retain(|given| given.name.replace('_', "-") != "read-only");
        } else if theirs.take(&name, value.as_deref())? || SILENT.contains(&plain.as_str()) || name.to_ascii_lowercase().starts_with("x-") {
            // Nothing to do, or to do below.
        } else if let Some((_, instead)) = WITHOUT_EFFECT.iter().find(|(word, _)| *word == plain) {
            read.notices.push(format!("-o {name} has no effect: {instead}"));
        } else if matches!(name.as_str(), "remount" | "bind" | "rbind" | "move") {
            bail!("-o {name}: a mount here cannot be changed or moved while it lives; unmount it and mount it again");
        } else {
            read.given.push(own(&name, value.as_deref()));
        }
    }
    let (given, notice) = theirs.finish(&read.given);
    // What is spelled in this program's own words counts more than what was made of COSFS's.
    read.given.splice(..0, given);
    read.notices.extend(notice);
    Ok(read)
}

/// Every word that can stand behind `-o` beside this program's options.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    SILENT
        .iter()
        .copied()
        .chain(WITHOUT_EFFECT.iter().map(|(word, _)| *word))
        .chain(SWITCHES.iter().map(|(word, ..)| *word))
        .chain(cosfs::names())
}

/// Takes a list apart. Empty places between commas are nothing.
fn split(list: &str) -> Vec<(String, Option<String>)> {
    let mut words = vec![String::new()];
    let mut letters = list.chars().peekable();
    while let Some(letter) = letters.next() {
        let escaped = (letter == '\\').then(|| letters.next_if(|next| matches!(next, ',' | '\\'))).flatten();
        match (escaped, letter, words.last_mut()) {
            (None, ',', _) | (_, _, None) => words.push(String::new()),
            (escaped, letter, Some(word)) => word.push(escaped.unwrap_or(letter)),
        }
    }
    let word = |word: String| match word.split_once('=') {
        Some((name, value)) => (name.trim().to_owned(), Some(value.to_owned())),
        None => (word.trim().to_owned(), None),
    };
    words.into_iter().map(word).filter(|(name, _)| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::definition;

    fn said(list: &str) -> (Vec<String>, Vec<String>) {
        let read = read(&[list.to_owned()], &Catalogue::of(&definition()), "/mnt/data").unwrap();
        let shown = |given: &Given| format!("{}={}", given.name, given.value.as_deref().unwrap_or("-"));
        (read.given.iter().map(shown).collect(), read.notices)
    }

    #[test]
    fn commas_can_be_escaped() {
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            split(r"a,b=c,,d=e\,f\\g\h=i, ro ,"),
            [pair("a", None), pair("b", Some("c")), pair("d", Some(r"e,f\g\h=i")), pair("ro", None)]
        );
    }

    #[test]
    fn words_of_mount_mean_what_they_mean_there() {
        assert_eq!(said("ro").0, ["read-only=true"]);
        assert_eq!(said("noexec").0, ["noexec=-"]);
        assert_eq!(said("exec").0, ["noexec=false"]);
        assert_eq!(said("read_only,ro,rw").0, [] as [&str; 0]);
        assert_eq!(said("rw,ro").0, ["read-only=true"]);
        let line = "rw,defaults,noauto,nofail,_netdev,user,users,owner,group,noatime,relatime,nodiratime,nodev,nosuid,exec,async,\
                    x-systemd.automount,x-systemd.requires=a.service,comment=hello,user=jane";
        assert_eq!(said(line), (vec!["noexec=false".to_owned()], vec![]));
        for word in ["dev", "suid", "sync", "dirsync"] {
            let (given, notices) = said(word);
            assert!(given.is_empty() && notices.len() == 1 && notices[0].contains(word), "{word}: {notices:?}");
        }
        assert!(read(&["remount,ro".to_owned()], &Catalogue::of(&definition()), "/").is_err());
    }

    #[test]
    fn options_go_by_either_spelling_and_unknown_ones_stay() {
        assert_eq!(said("metadata_ttl=60s,part-size=16M,direct_io").0, ["metadata_ttl=60s", "part-size=16M", "direct_io=-"]);
        assert_eq!(said("metdata_ttl=60s").0, ["metdata_ttl=60s"]);
    }
}
