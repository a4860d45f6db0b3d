//! What is said over the socket. Programs read the same through `--json`, so fields are added and not renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vfs;

/// A question; the only line that a client writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What is not in COS, what memory is used for, what was asked of COS. Answered by [`Reply::File`]s, [`Reply::RefusedChange`]s and a [`Reply::Stats`].
    Stats,
    /// Sends changes. Answered by [`Reply::Progress`] again and again, a [`Reply::File`] for each that is left, and [`Reply::Done`].
    Sync {
        /// The file, or the directory with everything below it, as a path below the mount point; empty for all.
        below: String,
        /// What to do where somebody else's object is in the way; as the mount does, if it is not said.
        on_conflict: Option<OnConflict>,
    },
}

/// What to do where somebody else's object is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// Keep the changes here.
    Fail,
    /// Put them beside it.
    KeepBoth,
    /// Put them over it.
    LastWriter,
}

impl From<OnConflict> for vfs::OnConflict {
    fn from(asked: OnConflict) -> Self {
        match asked {
            OnConflict::Fail => Self::Fail,
            OnConflict::KeepBoth => Self::KeepBoth,
            OnConflict::LastWriter => Self::LastWriter,
        }
    }
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A file with changes that are not in COS.
    File(File),
    /// The end of the answer to [`Request::Stats`].
    Stats(Stats),
    /// How far a sync is.
    Progress(Progress),
    /// The end of the answer to [`Request::Sync`].
    Done(Outcome),
    /// A change that was answered and that COS then refused.
    RefusedChange(RefusedChange),
    /// The question is not answered, and this is why.
    Refused(String),
}

/// A file with changes that are not in COS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Its path below the mount point.
    pub path: String,
    /// Somebody else's object has taken the name, and the file is here alone.
    pub lost: bool,
    /// All of its bytes that are not in COS as this file.
    pub bytes: u64,
    /// Those of them in memory.
    pub memory: u64,
    /// Those in staging.
    pub staged: u64,
    /// Those that COS has as parts of an open upload.
    pub uploaded: u64,
    /// When the first of the changes was made, in seconds since 1970.
    pub since: u64,
    /// Why they are not in COS, if that was tried.
    pub reason: Option<Reason>,
    /// Seconds until it is tried again; `None` if it is not, but by a program or by `cosmount sync`.
    pub next_try: Option<u64>,
}

/// Why a file could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What the program saw, such as `EACCES`.
    pub errno: String,
    /// In words.
    pub text: String,
    /// COS's code.
    pub code: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The request's id.
    pub request_id: Option<String>,
}

/// How a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Files with changes that are not in COS.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Removals that were answered and are on their way.
    pub removals: usize,
    /// Objects whose changed attributes are on their way.
    pub attributes: usize,
    /// What memory is used for.
    pub memory: Memory,
    /// Counters by name: requests by operation and ending (`store_put_object_ok`), bytes both ways.
    pub counters: BTreeMap<String, u64>,
}

/// A change that was answered and that COS then refused for good; the name or the old attributes are there again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedChange {
    /// The object's key.
    pub key: String,
    /// What was to be done: `delete` or `attributes`.
    pub what: String,
    /// What COS said.
    pub text: String,
}

/// What the memory of a mount is used for, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `--memory-limit`.
    pub limit: u64,
    /// On their way to programs.
    pub reading: u64,
    /// Buffers of commits.
    pub committing: u64,
    /// Set aside for inodes, listings and the index.
    pub names: u64,
    /// Written and in no staging file.
    pub dirty: u64,
    /// What dirty bytes may take at most.
    pub dirty_limit: u64,
    /// What is left to cached blocks.
    pub idle: u64,
}

/// How far a sync is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files there were to be sent.
    pub files: usize,
    /// Those that were tried, arrived or not.
    pub files_done: usize,
    /// Those of them that could not be sent.
    pub failed: usize,
    /// Bytes there were to be sent.
    pub bytes: u64,
    /// Bytes that have left.
    pub bytes_done: u64,
}

/// What came of a sync, but for the files that are left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Removals and changes of attributes that could not be sent: they are tried again.
    pub pending: usize,
    /// Those that COS refused for good meanwhile.
    pub refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_what_a_person_could_type() {
        let line = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(line(&Request::Stats), r#""stats""#);
        let sync = Request::Sync { below: "a/b".to_owned(), on_conflict: Some(OnConflict::KeepBoth) };
        assert_eq!(line(&sync), r#"{"sync":{"below":"a/b","on_conflict":"keep-both"}}"#);
        assert_eq!(serde_json::from_str::<Request>(&line(&sync)).unwrap(), sync);
        assert!(serde_json::from_str::<Request>(r#""reboot""#).is_err());
    }
}
