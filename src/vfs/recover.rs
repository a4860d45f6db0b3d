//! Finishes what a mount that died left in the bucket, by its ledger.
//!
//! An upload is aborted, a helper object deleted. A rename ends with one name (V5): that of a file goes forward once its copy is there; that of a
//! directory goes back until all copies were made, and forward from then on. Neither ever deletes what is not there twice: a copy proves itself
//! by the token of its rename, and its source by having the same bytes and being no younger than the copy. What somebody changed or made since
//! has another token or is younger, and is left alone. Whichever of a pair is deleted is deleted as the version that was looked at. (A marker
//! that another tool keeps under a key without the slash is not found again: it stays beside its copy.)
//!
//! A delete or a change of attributes that a program was told is done is done now, if the object is exactly the one that was meant.
//!
//! To be called before programs can use the mount, as far as these and renames go: they must not see both names, nor what they have removed. Renames first: a
//! source that was given attributes would no longer pass for older than its copy.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{TryStreamExt, stream};

use crate::data::{self, Data};

use crate::local::{Known, Leftover};

use crate::store::{Bucket, Head, Key, Kind, ListRequest, Meta, Replaces, Upload, UploadId};

use crate::support::Ctx;

use crate::vfs::{Error, Result, keymap::RESERVED, pages::Pages};

/// Pairs of a directory that are looked at at once.
const AT_ONCE: usize = 32;
/// How far a write's `Date` may be before its Last-Modified.
const SLACK: Duration = Duration::from_secs(2);

/// Cleans one thing up. That it is gone already is success.
///
/// # Errors
/// The store's. It may be tried again at any time.
pub async fn recover(cx: &Ctx, bucket: &Arc<dyn Bucket>, data: &Data, leftover: &Leftover) -> Result<()> {
    match leftover {
        Leftover::Upload { key, id } => {
            let upload = Upload { key: Key::new(key), id: UploadId(id.as_str().into()), token: None };
            Ok(bucket.abort_upload(cx, &upload).await?)
        }
        // The ledger lies on a disk: nothing but a helper object is deleted because of what it says.
        Leftover::Helper { key } if !key.split('/').any(|part| part == RESERVED) => {
            Err(Error::Invalid("the ledger names a helper object where none of ours is"))
        }
        Leftover::Helper { key } => delete(cx, bucket, &Key::new(key), None).await,
        Leftover::Move { from, to, token } => {
            let Some(pair) = pair(cx, bucket, Key::new(from), Key::new(to), token).await? else { return Ok(()) };
            pair.go_forward(cx, bucket).await
        }
        Leftover::Tree { from, to, token, over, copied } => {
            let tree = Tree { from, to, token, over: *over, copied: *copied };
            tree.recover(cx, bucket).await
        }
        Leftover::Delete(object) => match meant(cx, bucket, object).await? {
            // A write of our own may be known by the date of its answer only.
            Some((head, modified)) if head.last_modified <= modified + SLACK => delete(cx, bucket, &head.version.key, Some(&head)).await,
            _ => Ok(()),
        },
        Leftover::Attributes { object, user, full } => match meant(cx, bucket, object).await? {
            Some((head, modified)) if head.last_modified == modified => give(cx, bucket, data, head, user, *full).await,
            _ => Ok(()),
        },
    }
}

/// The object as it is now, if it has the bytes of the one that is meant; and when that was written.
async fn meant(cx: &Ctx, bucket: &Arc<dyn Bucket>, object: &Known) -> Result<Option<(Head, SystemTime)>> {
    let Known { key, etag, size, modified } = object;
    let head = find(cx, bucket, &Key::new(key)).await?;
    let head = head.filter(|head| head.version.etag.as_str() == etag && head.version.size == *size);
    Ok(head.zip(SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(*modified))))
}

/// Gives an object other user metadata, by a copy of itself.
async fn give(cx: &Ctx, bucket: &Arc<dyn Bucket>, data: &Data, head: Head, user: &BTreeMap<String, String>, full: bool) -> Result<()> {
    let mut meta = Meta { user: user.clone(), token: None, ..head.meta };
    if full {
        let (acl, tags) = tokio::try_join!(bucket.acl(cx, &head.version.key), bucket.tags(cx, &head.version.key))?;
        (meta.acl, meta.tags) = (Some(acl), Some(tags));
    }
    let replaces = Replaces::Version(head.version.clone());
    match data.copy_object(cx, bucket, &head.version, &head.version.key, &meta, &replaces).await {
        // Replaced since it was looked at.
        Err(data::Error::Stale) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// A copy that a rename has made, and its source.
struct Pair {
    copy: Head,
    source: Head,
}

impl Pair {
    async fn go_forward(&self, cx: &Ctx, bucket: &Arc<dyn Bucket>) -> Result<()> {
        let Self { copy, source } = self;
        let same = source.version.size == copy.version.size
            && source.last_modified <= copy.last_modified
            && match (source.crc64, copy.crc64) {
                (Some(source), Some(copy)) => source == copy,
                _ => source.version.etag == copy.version.etag,
            };
        if same { delete(cx, bucket, &source.version.key, Some(source)).await } else { Ok(()) }
    }

    async fn go_back(&self, cx: &Ctx, bucket: &Arc<dyn Bucket>) -> Result<()> {
        delete(cx, bucket, &self.copy.version.key, Some(&self.copy)).await
    }
}

/// A directory's rename.
struct Tree<'a> {
    from: &'a str,
    to: &'a str,
    token: &'a str,
    over: bool,
    copied: bool,
}

impl Tree<'_> {
    async fn recover(&self, cx: &Ctx, bucket: &Arc<dyn Bucket>) -> Result<()> {
        let mut pages = Pages::new(ListRequest { prefix: self.to.to_owned(), ..ListRequest::default() });
        while let Some(page) = pages.next(cx, bucket).await? {
            cx.progressed();
            let copies = page.objects.into_iter().map(|object| Ok(object.version.key));
            stream::iter(copies).try_for_each_concurrent(AT_ONCE, |copy| self.recover_one(cx, bucket, copy)).await?;
        }
        Ok(())
    }

    async fn recover_one(&self, cx: &Ctx, bucket: &Arc<dyn Bucket>, copy: Key) -> Result<()> {
        let Some(name) = copy.as_str().strip_prefix(self.to) else { return Ok(()) };
        let is_marker = name.is_empty();
        let source = Key::new(format!("{}{name}", self.from));
        let Some(pair) = pair(cx, bucket, source, copy, self.token).await? else { return Ok(()) };
        cx.progressed();
        match self.copied {
            true => pair.go_forward(cx, bucket).await,
            // The empty directory that was to be replaced stays, under this marker.
            false if is_marker && self.over => Ok(()),
            false => pair.go_back(cx, bucket).await,
        }
    }
}

/// The copy at `to` and its source, if the copy is this rename's and the source is still there.
async fn pair(cx: &Ctx, bucket: &Arc<dyn Bucket>, from: Key, to: Key, token: &str) -> Result<Option<Pair>> {
    let Some(copy) = find(cx, bucket, &to).await? else { return Ok(None) };
    if copy.meta.token.as_ref().is_none_or(|carried| carried.as_str() != token) {
        return Ok(None);
    }
    Ok(find(cx, bucket, &from).await?.map(|source| Pair { copy, source }))
}

async fn find(cx: &Ctx, bucket: &Arc<dyn Bucket>, key: &Key) -> Result<Option<Head>> {
    match bucket.head(cx, key).await {
        Ok(head) => Ok(Some(head)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn delete(cx: &Ctx, bucket: &Arc<dyn Bucket>, key: &Key, seen: Option<&Head>) -> Result<()> {
    match bucket.delete(cx, key, seen.map(|head| &head.version)).await {
        Err(error) if matches!(error.kind(), Kind::NotFound) => Ok(()),
        answer => Ok(answer?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CommitToken, Payload, memory::MemoryBucket};
    use crate::support::{Budget, ByteSize, Clock, Metrics, SystemClock, TaskGroup};

    #[tokio::test]
    async fn nothing_but_a_helper_is_deleted_on_the_ledgers_word() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let memory = MemoryBucket::new(Arc::clone(&clock));
        let bucket: Arc<dyn Bucket> = Arc::<MemoryBucket>::clone(&memory);
        let cx = Ctx::new(Arc::clone(&clock), Duration::from_secs(5), 0, 0);
        let tasks = Arc::new(TaskGroup::new(tokio::runtime::Handle::current()));
        let data = Data::new(data::Config::default(), Budget::new(ByteSize::mib(64)), None, None, clock, tasks, &Metrics::default());
        for (key, helper) in [("precious", false), ("a.cosmount/b", false), ("p/.cosmount/open/h/1", true), (".cosmount/open/h/1", true)] {
            let payload = Payload::from(bytes::Bytes::from_static(b"x"));
            let meta = Meta { token: Some(CommitToken::from_bytes([1; 16])), ..Meta::default() };
            bucket.put(&cx, &Key::new(key), &meta, payload, &Replaces::Anything).await.unwrap();
            let outcome = recover(&cx, &bucket, &data, &Leftover::Helper { key: key.to_owned() }).await;
            assert_eq!((outcome.is_ok(), memory.peek(&Key::new(key)).is_none()), (helper, helper), "{key}");
        }
    }
}
