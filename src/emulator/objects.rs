//! Objects: HEAD, GET, PUT, append, delete, multi-delete, ACL and tags.
//!
//! Source: COS API, documents 436/7745 (HEAD), 436/7753 (GET), 436/7749 (PUT), 436/7741 (APPEND), 436/7743 and 436/8289 (DELETE), read
//! 2026-11.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::HeaderValue;
use sha1::{Digest as _, Sha1};

use super::acl::Acl;
use super::answer::{Answer, Length};
use super::auth::hex;
use super::call::{Call, Received};
use super::conditions::{Verdict, check};
use super::content::{Content, combine_crc};
use super::error::{Failure, Outcome};
use super::fault::Action;
use super::meta::{Meta, check_tags, traffic_limit};
use super::server::Core;
use super::state::{Bucket, BucketConfig, Object};
use super::versions::{Deleted, Found, VersionId, Versioning};
use super::xml::{self, Element, Writer};

impl Core {
    pub(super) fn head_object(&self, call: &Call) -> Outcome<Answer> {
        let object = self.store.object(call.bucket()?, call.key(), call.version())?;
        match check(&call.headers, "", &object) {
            Verdict::Holds => {}
            Verdict::NotModified => return Ok(Answer { length: Length::None, ..Answer::new(StatusCode::NOT_MODIFIED) }),
            Verdict::Fails(header) => return Err(Failure::precondition(header)),
        }
        object.meta.check_customer_key(&call.headers, "x-cos-")?;
        let kind = if object.appendable { "appendable" } else { "normal" };
        let answer = Answer { length: Length::Told(object.content.len()), ..described(&object) };
        Ok(answer.header("x-cos-object-type", kind))
    }

    pub(super) fn get_object(&self, call: &Call) -> Outcome<Answer> {
        let object = self.store.object(call.bucket()?, call.key(), call.version())?;
        match check(&call.headers, "", &object) {
            Verdict::Holds => {}
            Verdict::NotModified => {
                let answer = Answer { length: Length::None, ..Answer::new(StatusCode::NOT_MODIFIED) };
                return Ok(answer.etag(&object.etag).crc(object.crc));
            }
            Verdict::Fails(header) => return Err(Failure::precondition(header)),
        }
        object.check_readable()?;
        object.meta.check_customer_key(&call.headers, "x-cos-")?;
        let size = object.content.len();
        let mut answer = described(&object);
        answer.limit = match call.header("x-cos-traffic-limit") {
            Some(value) => traffic_limit(Some(value))?,
            None => traffic_limit(call.target.query.text("x-cos-traffic-limit").as_deref())?,
        };
        let range = call.header("range").filter(|_| !call.plan.has(&Action::IgnoreRange)).and_then(parse_range);
        let range = match range {
            Some(wanted) => {
                let range = wanted.within(size).ok_or_else(|| {
                    Failure::new(416, "InvalidRange", "The requested range is not satisfiable.")
                        .with_header("content-range", &format!("bytes */{size}"))
                })?;
                answer.status = StatusCode::PARTIAL_CONTENT;
                answer = answer.header("content-range", &format!("bytes {}-{}/{size}", range.start, range.end - 1));
                range
            }
            None => 0..size,
        };
        answer.body = object.content.slice(range);
        override_headers(call, &mut answer)?;
        Ok(answer)
    }

    pub(super) async fn put_object(&self, call: &mut Call) -> Outcome<Answer> {
        call.require_length()?;
        check_key(call.key(), self.config.limits.max_key)?;
        let meta = self.new_meta(call)?;
        self.forbid_overwrite(call)?;
        let received = call.receive(self.config.limits.max_put).await?;
        let etag = self.etag_of(&meta, &received);
        let files = self.store.stage(&received.content)?;
        let (content, crc) = (received.content, Some(received.crc));
        let object = Object { content, etag, crc, modified: call.now, meta, files, ..Object::default() };
        let check = |bucket: &Bucket| if forbids(call) { bucket.check_absent(call.key()) } else { Ok(()) };
        let object = self.store.put(call.bucket()?, call.key(), object, check)?;
        let mut answer = Answer::ok().etag(&object.etag).crc(object.crc).version(object.version.as_deref());
        object.meta.describe_encryption(&mut answer.headers);
        Ok(answer)
    }

    /// What a request gives a new object.
    pub(super) fn new_meta(&self, call: &Call) -> Outcome<Meta> {
        let mut meta = Meta::from_request(&call.headers, &self.config.limits)?;
        meta.settle_class(self.store.bucket(call.bucket()?, |bucket| Ok(bucket.config.multi_az))?)?;
        Ok(meta)
    }

    /// Refuses a forbidden overwrite before the body is read.
    fn forbid_overwrite(&self, call: &Call) -> Outcome<()> {
        if forbids(call) { self.store.bucket(call.bucket()?, |bucket| bucket.check_absent(call.key())) } else { Ok(()) }
    }

    /// The ETag of the bytes, unless encryption hides it.
    pub(super) fn etag_of(&self, meta: &Meta, received: &Received) -> String {
        if meta.encryption.hides_md5() { self.random_hex() } else { received.etag.clone() }
    }

    pub(super) async fn append_object(&self, call: &mut Call) -> Outcome<Answer> {
        call.require_length()?;
        check_key(call.key(), self.config.limits.max_key)?;
        let position = call.target.query.text("position").and_then(|text| text.parse::<u64>().ok());
        let position = position.ok_or_else(|| Failure::invalid_argument("The position is missing or no number."))?;
        let meta = self.new_meta(call)?;
        self.store.bucket(call.bucket()?, |bucket| check_appendable(&bucket.config, &meta))?;
        let limit = self.config.limits.max_put;
        let received = call.receive(limit).await?;
        let mut sha1 = Sha1::new();
        received.content.pieces().for_each(|piece| sha1.update(piece.bytes()));
        let files = self.store.stage(&received.content)?;
        let (bucket, key, now) = (call.bucket()?, call.key(), call.now);
        let etag = self.random_hex();
        let staged = files.clone();
        let appended = if self.store.bucket(bucket, |bucket| Ok(bucket.objects.contains_key(key)))? {
            self.store.update(bucket, key, None, |before| {
                if !before.appendable {
                    return Err(Failure::new(409, "ObjectNotAppendable", "The object is not appendable."));
                }
                check_position(position, before.content.len())?;
                let (added, size) = (received.content.len(), before.content.len());
                if size + added > limit {
                    return Err(Failure::too_large(limit));
                }
                let pieces = before.content.pieces().chain(received.content.pieces()).cloned();
                Ok(Object {
                    content: Content::new(pieces),
                    crc: before.crc.map(|crc| combine_crc(crc, received.crc, added)),
                    etag,
                    modified: now,
                    files: [before.files.clone(), files].concat(),
                    ..before.clone()
                })
            })
        } else {
            let (content, crc) = (received.content, Some(received.crc));
            let object = Object { content, etag, crc, modified: now, appendable: true, meta, files, ..Object::default() };
            self.store.put(bucket, key, object, |bucket| {
                check_position(position, 0)?;
                if bucket.objects.contains_key(key) { Err(Failure::path_conflict()) } else { Ok(()) }
            })
        };
        let object = appended.inspect_err(|_| self.store.unstage(&staged))?;
        let answer = Answer::ok().header("etag", &object.etag).crc(object.crc);
        Ok(answer
            .header("x-cos-next-append-position", &object.content.len().to_string())
            .header("x-cos-content-sha1", &hex(&sha1.finalize())))
    }

    pub(super) fn delete_object(&self, call: &Call) -> Outcome<Answer> {
        let deleted = self.store.delete(call.bucket()?, call.key(), call.version())?;
        let named = call.target.query.text("versionId").filter(|id| !id.is_empty());
        let answer = Answer::no_content().version(named.as_deref().or(deleted.marker.as_deref()));
        Ok(if deleted.marker.is_some() { answer.header("x-cos-delete-marker", "true") } else { answer })
    }

    pub(super) async fn delete_many(&self, call: &mut Call) -> Outcome<Answer> {
        let document = call.guarded_document().await?;
        let tree = xml::parse(&document, "Delete")?;
        let quiet = tree.text_of("Quiet").is_some_and(|quiet| quiet.trim().eq_ignore_ascii_case("true"));
        let named =
            |object: &'_ Element| Some((object.text_of("Key")?.to_owned(), object.text_of("VersionId").unwrap_or_default().to_owned()));
        let keys: Vec<(String, String)> = tree.all("Object").filter_map(named).collect();
        if keys.is_empty() || keys.len() > self.config.limits.max_delete {
            return Err(Failure::malformed_xml(format!("One to {} objects may be named.", self.config.limits.max_delete)));
        }
        let bucket = call.bucket()?;
        self.store.bucket(bucket, |_| Ok(()))?;
        let mut xml = Writer::new("DeleteResult");
        for (key, id) in &keys {
            // COS leaves keys with a leading slash where they are, and says nothing.
            let left = key.starts_with('/');
            let outcome = if left { Ok(Deleted::default()) } else { self.store.delete(bucket, key.as_bytes(), VersionId::parse(id)) };
            let id = Some(id.as_str()).filter(|id| !id.is_empty());
            xml = match outcome {
                Ok(_) if quiet => xml,
                Ok(deleted) => {
                    let marker = deleted.marker.as_deref();
                    xml.open("Deleted")
                        .text("Key", key)
                        .optional("VersionId", id)
                        .optional("DeleteMarker", marker.map(|_| "true"))
                        .optional("DeleteMarkerVersionId", marker)
                        .close()
                }
                Err(failure) => xml
                    .open("Error")
                    .text("Key", key)
                    .optional("VersionId", id)
                    .text("Code", &failure.code)
                    .text("Message", &failure.message)
                    .close(),
            };
        }
        Ok(Answer::xml(xml.finish()))
    }

    pub(super) fn get_object_acl(&self, call: &Call) -> Outcome<Answer> {
        let object = self.store.object(call.bucket()?, call.key(), call.version())?;
        Ok(match &object.meta.acl {
            Some(acl) => Answer::xml(acl.document()),
            None => Answer::xml(Acl::default().document()).header("x-cos-acl", "default"),
        })
    }

    pub(super) async fn put_object_acl(&self, call: &mut Call) -> Outcome<Answer> {
        let document = call.document().await?;
        let acl = match &document[..] {
            [] => Acl::of_object(&call.headers)?,
            text => Some(Acl::from_document(&xml::parse(text, "AccessControlPolicy")?)?),
        };
        self.change_meta(call, |meta| meta.acl = acl)?;
        Ok(Answer::ok())
    }

    pub(super) fn get_object_tags(&self, call: &Call) -> Outcome<Answer> {
        let object = self.store.object(call.bucket()?, call.key(), call.version())?;
        Ok(Answer::xml(tags_document(&object.meta.tags)).version(object.version.as_deref()))
    }

    pub(super) async fn put_object_tags(&self, call: &mut Call) -> Outcome<Answer> {
        // The documentation wants Content-MD5 here; the Python SDK sends none, and COS takes it.
        let tags = check_tags(parse_tags(&call.document().await?)?, 10)?;
        self.change_meta(call, |meta| meta.tags = tags)?;
        Ok(Answer::ok())
    }

    pub(super) fn delete_object_tags(&self, call: &Call) -> Outcome<Answer> {
        self.change_meta(call, |meta| meta.tags.clear())?;
        Ok(Answer::no_content())
    }

    /// Changes ACL or tags: the object stays the same version.
    fn change_meta(&self, call: &Call, change: impl FnOnce(&mut Meta)) -> Outcome<()> {
        self.store.update(call.bucket()?, call.key(), call.version(), |before| {
            let mut object = before.clone();
            change(&mut object.meta);
            Ok(object)
        })?;
        Ok(())
    }
}

/// The headers that HEAD and GET share.
fn described(object: &Found) -> Answer {
    let mut answer = Answer::ok().header("content-type", "application/octet-stream").etag(&object.etag).crc(object.crc);
    object.meta.describe(&mut answer.headers);
    object.describe_restore(&mut answer.headers);
    answer.header("last-modified", &http_date(object.modified)).header("accept-ranges", "bytes").version(object.version.as_deref())
}

/// RFC 1123.
pub(super) fn http_date(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// `response-content-type=…` and its kin.
fn override_headers(call: &Call, answer: &mut Answer) -> Outcome<()> {
    const OVERRIDES: &[&str] = &["content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding"];
    for name in OVERRIDES {
        if let Some(value) = call.target.query.bytes(&format!("response-{name}")) {
            let value = HeaderValue::from_bytes(value).map_err(|_| Failure::invalid_argument(format!("response-{name} is no header.")))?;
            answer.headers.insert(*name, value);
        }
    }
    Ok(())
}

/// Appends go only where each object is one object in one place (COS API, APPEND Object, which names the cases but not the codes).
fn check_appendable(bucket: &BucketConfig, meta: &Meta) -> Outcome<()> {
    if bucket.versioning != Versioning::Never {
        return Err(Failure::new(409, "InvalidBucketState", "A bucket with versioning takes no appends."));
    }
    if bucket.multi_az {
        return Err(Failure::new(400, "OAZOperationNotSupportOnMAZBucket", "A bucket of several zones takes no appends."));
    }
    if meta.tier().is_some() {
        return Err(Failure::new(400, "NotSupportedStorageClass", "A class with tiers takes no appends."));
    }
    Ok(())
}

/// Whether a write may replace nothing.
pub(super) fn forbids(call: &Call) -> bool {
    call.header("x-cos-forbid-overwrite").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn check_position(position: u64, size: u64) -> Outcome<()> {
    if position == size {
        return Ok(());
    }
    Err(Failure::new(409, "AppendPositionErr", format!("The object is {size} bytes long, the position was {position}.")))
}

/// Whether a key may be written.
pub(super) fn check_key(key: &[u8], longest: usize) -> Outcome<()> {
    if key.len() > longest {
        return Err(Failure::new(400, "KeyTooLong", "Your key is too long."));
    }
    let refused = std::str::from_utf8(key).is_err()
        || matches!(key.first(), None | Some(b'/' | b'\\'))
        || key.iter().any(|b| (0x18..=0x1b).contains(b));
    if refused { Err(Failure::new(400, "InvalidObjectName", "This key cannot be an object's.")) } else { Ok(()) }
}

/// The pairs of a `<Tagging>`.
pub(super) fn parse_tags(document: &[u8]) -> Outcome<Vec<(String, String)>> {
    let tree = xml::parse(document, "Tagging")?;
    let set = tree.child("TagSet").ok_or_else(|| Failure::malformed_xml("TagSet is missing."))?;
    let text = |tag: &Element, name: &str| tag.text_of(name).unwrap_or_default().to_owned();
    Ok(set.all("Tag").map(|tag| (text(tag, "Key"), text(tag, "Value"))).collect())
}

/// A `<Tagging>`.
pub(super) fn tags_document(tags: &[(String, String)]) -> String {
    let set = Writer::new("Tagging").open("TagSet");
    set.each(tags, |xml, (key, value)| xml.open("Tag").text("Key", key).text("Value", value).close()).finish()
}

/// The header of a range, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Closed(u64, u64),
    From(u64),
    Last(u64),
}

impl Wanted {
    /// The range in an object of that size; None if it lies outside.
    pub(super) fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Closed(first, last) => first..last.saturating_add(1).min(size),
            Self::From(first) => first..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// One range of bytes; anything else is ignored, as HTTP wants it.
pub(super) fn parse_range(value: &str) -> Option<Wanted> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", last) => last.parse().ok().map(Wanted::Last),
        (first, "") => first.parse().ok().map(Wanted::From),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Wanted::Closed(first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clamped_or_outside() {
        let within = |text: &str, size| parse_range(text).map(|wanted| wanted.within(size));
        assert_eq!(within("bytes=0-9", 5), Some(Some(0..5)));
        assert_eq!(within("bytes=2-3", 5), Some(Some(2..4)));
        assert_eq!(within("bytes=4-", 5), Some(Some(4..5)));
        assert_eq!(within("bytes=-2", 5), Some(Some(3..5)));
        assert_eq!(within("bytes=-9", 5), Some(Some(0..5)));
        for (text, size) in [("bytes=5-", 5), ("bytes=5-9", 5), ("bytes=-0", 5), ("bytes=0-0", 0), ("bytes=-1", 0)] {
            assert_eq!(within(text, size), Some(None), "{text} of {size}");
        }
        assert_eq!(within("bytes=0-18446744073709551615", 5), Some(Some(0..5)));
        for text in ["bytes=3-2", "bytes=a-", "items=0-1", "bytes=0-1,3-4", "bytes=-", "bytes"] {
            assert_eq!(within(text, 5), None, "{text}");
        }
    }

    #[test]
    fn keys_have_rules() {
        for good in ["a", "a//b", "a/../b", "dir/", "\u{1}\n", &"k".repeat(850)] {
            assert!(check_key(good.as_bytes(), 850).is_ok(), "{good:?}");
        }
        for (bad, code) in [
            (&b"/a"[..], "InvalidObjectName"),
            (b"\\a", "InvalidObjectName"),
            (b"a\x1b", "InvalidObjectName"),
            (b"\xff", "InvalidObjectName"),
        ] {
            assert_eq!(check_key(bad, 850).unwrap_err().code, code);
        }
        assert_eq!(check_key(&[b'k'; 851], 850).unwrap_err().code, "KeyTooLong");
    }
}
