//! What a mount has in the bucket that must not outlive it: open uploads, objects set aside for open files, renames half done.
//!
//! COS does not say whose an upload is, so the only proof that one is ours is a record made before its first part. [`Ledger::note`] makes
//! it durable; [`Entry::settled`] takes it back when the upload was completed or aborted, or the object deleted. What is noted and not settled
//! at a crash is handed to the next mount of the same source by [`Ledger::open`]. A settled entry that a crash brings back is harmless: aborting
//! an upload that is gone and deleting a helper object that is gone are no errors. (Of a rename that is not so: [`Entry::settled_for_good`].)
//!
//! Each source has a file of its own, so that mounts of several may use one directory one after the other.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::local::{Disk, Durable, Journal, JournalError};

/// A ledger longer than this, and than its live entries explain, is written anew when an entry is settled.
const COMPACT_AT: u64 = 256 << 10;
/// More than an entry takes, but for extreme keys.
const ENTRY_SIZE: u64 = 512;

/// Something in the bucket that is this mount's to clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leftover {
    /// An open multipart upload.
    Upload {
        /// The key it would become.
        key: String,
        /// The store's name for it.
        id: String,
    },
    /// A helper object of ours, such as the bytes of a file that was removed while open.
    Helper {
        /// Its key.
        key: String,
    },
    /// A file being renamed: its object is copied, then deleted. The copy proves itself by its token.
    Move {
        /// The key it has.
        from: String,
        /// The key of the copy.
        to: String,
        /// The commit token of the copy.
        token: String,
    },
    /// A directory being renamed: all objects are copied, then all are deleted.
    Tree {
        /// The prefix of the objects, ending in `/`.
        from: String,
        /// The prefix of the copies, ending in `/`.
        to: String,
        /// The commit token of every copy.
        token: String,
        /// An empty directory is replaced.
        over: bool,
        /// All copies were made: from here on the rename goes forward, before it back.
        copied: bool,
    },
}

/// The list of what must be cleaned up, kept on this host's disk.
#[derive(Debug)]
pub struct Ledger {
    disk: Arc<dyn Disk>,
    file: String,
    journal: Journal,
    next: AtomicU64,
    live: Mutex<BTreeMap<u64, Leftover>>,
}

/// One noted thing. Dropping it unsettled leaves it for the next mount.
#[derive(Debug)]
#[must_use = "an entry that is not settled is cleaned up by the next mount"]
pub struct Entry {
    ledger: Arc<Ledger>,
    number: u64,
}

#[derive(Serialize, Deserialize)]
enum Record {
    Noted(u64, Leftover),
    Settled(u64),
}

impl Ledger {
    /// Opens the ledger of the mount that `identity` names. Returns what an earlier mount left, as entries to settle once that is cleaned up.
    ///
    /// # Errors
    /// Those of the journal; an unreadable record in it is logged and passed over.
    pub async fn open(disk: Arc<dyn Disk>, identity: &str) -> Result<(Arc<Self>, Vec<(Entry, Leftover)>), JournalError> {
        let file = file_of(identity);
        let (journal, replay) = Journal::open(Arc::clone(&disk), &file, identity).await?;
        if !replay.damaged.is_empty() {
            tracing::warn!(
                places = replay.damaged.len(),
                "the ledger of open uploads is damaged; `cosmount uploads` lists what it no longer names"
            );
        }
        let (live, next) = noted(&replay.records);
        let ledger = Arc::new(Self { disk, file, journal, next: AtomicU64::new(next), live: Mutex::new(live.clone()) });
        let left = live.into_iter().map(|(number, leftover)| (Entry { ledger: Arc::clone(&ledger), number }, leftover)).collect();
        Ok((ledger, left))
    }

    /// What is noted and not settled in the ledger of that mount in `directory`, whoever owns it; nothing if there is none.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn peek(directory: &Path, identity: &str) -> Result<Vec<Leftover>, JournalError> {
        let records = Journal::peek(&directory.join(file_of(identity)), identity)?;
        Ok(noted(&records).0.into_values().collect())
    }

    /// Notes `leftover`; durable when this returns.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn note(self: &Arc<Self>, leftover: Leftover) -> Result<Entry, JournalError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // The entry exists from the first poll on, so that a caller dropped while waiting leaves it noted, not forgotten.
        let entry = Entry { ledger: Arc::clone(self), number };
        match self.write(number, leftover).await {
            Ok(()) => Ok(entry),
            Err(error) => {
                entry.settled();
                Err(error)
            }
        }
    }

    /// Notes `leftover` where there is a ledger that can be written. Where not, it is made all the same, and only a crash would leave it behind:
    /// a full disk must not keep what is dirty from leaving.
    pub async fn note_if(ledger: Option<&Arc<Self>>, leftover: Leftover) -> Option<Entry> {
        let noted = ledger?.note(leftover.clone()).await;
        noted
            .inspect_err(|error| tracing::warn!(%error, ?leftover, "not in the ledger: it stays in the bucket if this process is killed"))
            .ok()
    }

    async fn write(&self, number: u64, leftover: Leftover) -> Result<(), JournalError> {
        let record = encode(&Record::Noted(number, leftover.clone()));
        let durable = {
            let mut live = self.live.lock();
            live.insert(number, leftover);
            self.journal.append(record)
        };
        if durable.await.is_ok() {
            return Ok(());
        }
        // Only a new file heals a journal whose disk has failed once.
        let anew = {
            let live = self.live.lock();
            self.journal.compact(live_records(&live))
        };
        anew.await
    }

    /// Removes the file if nothing is noted any more. The last call.
    pub async fn end(&self) {
        if !self.is_empty() {
            return;
        }
        // Behind all that is queued, so that nothing is written afterwards.
        let ended = async {
            self.journal.compact(Vec::new()).await?;
            Ok::<_, JournalError>(self.disk.remove(&self.file).await?)
        };
        if let Err(error) = ended.await {
            tracing::debug!(%error, "the ledger stays");
        }
    }

    /// How many entries are not settled.
    pub fn len(&self) -> usize {
        self.live.lock().len()
    }

    /// Whether nothing is left to clean up.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    /// The thing is gone, or is an object that stays.
    pub fn settled(self) {
        // Nobody waits: a record lost at a crash is cleaned up once more.
        drop(self.settle());
    }

    /// As [`Entry::settled`]; when this returns, no crash brings it back.
    pub async fn settled_for_good(self) {
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "the ledger of this mount cannot be written");
        }
    }

    /// It is something else from now on; durable when this returns.
    ///
    /// # Errors
    /// Those of the journal: which of both a crash leaves is not known.
    pub async fn becomes(&self, leftover: Leftover) -> Result<(), JournalError> {
        self.ledger.write(self.number, leftover).await
    }

    fn settle(&self) -> Durable {
        let Ledger { journal, live, .. } = &*self.ledger;
        let mut live = live.lock();
        live.remove(&self.number);
        if journal.size() > COMPACT_AT + ENTRY_SIZE * live.len() as u64 {
            journal.compact(live_records(&live))
        } else {
            journal.append(encode(&Record::Settled(self.number)))
        }
    }
}

/// What the records come to, and the number of the next one.
fn noted(records: &[Bytes]) -> (BTreeMap<u64, Leftover>, u64) {
    let (mut live, mut next) = (BTreeMap::new(), 0);
    for record in records {
        match serde_json::from_slice(record) {
            Ok(Record::Noted(number, leftover)) => {
                next = next.max(number.saturating_add(1));
                live.insert(number, leftover);
            }
            Ok(Record::Settled(number)) => drop(live.remove(&number)),
            Err(error) => tracing::warn!(%error, "a record of the ledger cannot be read"),
        }
    }
    (live, next)
}

/// The file of the source that `identity` names.
fn file_of(identity: &str) -> String {
    let hash: String = Sha256::digest(identity).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("ledger-{hash}")
}

fn live_records(live: &BTreeMap<u64, Leftover>) -> Vec<Vec<u8>> {
    live.iter().map(|(number, leftover)| encode(&Record::Noted(*number, leftover.clone()))).collect()
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("numbers and strings always become JSON")
}

/// Any bytes as a record: what is understood is written as it was read.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(data) {
        let written = encode(&record);
        let again: Record = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(encode(&again), written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::SimDisk;

    fn upload(id: &str) -> Leftover {
        Leftover::Upload { key: "k".to_owned(), id: id.to_owned() }
    }

    #[tokio::test]
    async fn what_is_not_settled_is_handed_to_the_next_mount() {
        let disk = Arc::new(SimDisk::new());
        let (ledger, left) = Ledger::open(Arc::<SimDisk>::clone(&disk), "b").await.unwrap();
        assert!(left.is_empty());
        let first = ledger.note(upload("1")).await.unwrap();
        let second = ledger.note(upload("2")).await.unwrap();
        first.settled();
        // A later durable record carries the settled one with it.
        let third = ledger.note(Leftover::Helper { key: "h".to_owned() }).await.unwrap();
        assert_eq!(ledger.len(), 2);
        drop((second, third, ledger));
        disk.crash();

        let (ledger, left) = Ledger::open(Arc::<SimDisk>::clone(&disk), "b").await.unwrap();
        let (entries, leftovers): (Vec<_>, Vec<_>) = left.into_iter().unzip();
        assert_eq!(leftovers, [upload("2"), Leftover::Helper { key: "h".to_owned() }]);
        entries.into_iter().for_each(Entry::settled);
        assert!(ledger.is_empty());
        let (_, left) = Ledger::open(Arc::<SimDisk>::clone(&disk), "another bucket").await.unwrap();
        assert!(left.is_empty());
        ledger.end().await;
        assert_eq!(disk.list().await.unwrap(), [file_of("another bucket")], "an empty ledger leaves nothing");
    }

    #[tokio::test]
    async fn an_entry_becomes_another_and_is_settled_for_good() {
        let disk = Arc::new(SimDisk::new());
        let (ledger, _) = Ledger::open(Arc::<SimDisk>::clone(&disk), "b").await.unwrap();
        let first = ledger.note(upload("1")).await.unwrap();
        let second = ledger.note(upload("2")).await.unwrap();
        second.becomes(upload("3")).await.unwrap();
        first.settled_for_good().await;
        drop((second, ledger));
        disk.crash();
        let (_, left) = Ledger::open(disk, "b").await.unwrap();
        assert_eq!(left.into_iter().map(|(_, leftover)| leftover).collect::<Vec<_>>(), [upload("3")]);
    }

    #[tokio::test]
    async fn it_does_not_grow_for_ever() {
        let disk = Arc::new(SimDisk::new());
        let (ledger, _) = Ledger::open(Arc::<SimDisk>::clone(&disk), "b").await.unwrap();
        let kept = ledger.note(upload("kept")).await.unwrap();
        for n in 0..5000 {
            ledger.note(upload(&format!("{n:0>100}"))).await.unwrap().settled();
        }
        assert!(ledger.journal.size() < 2 * COMPACT_AT, "{}", ledger.journal.size());
        drop((kept, ledger));
        let (_, left) = Ledger::open(disk, "b").await.unwrap();
        assert!(left.len() <= 2, "the kept one, and the last settled one if its record was lost");
    }
}
