//! What every store must do, whoever it is.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use cosmount::store::{
    Acl, BucketName, ETag, Grant, Key, Kind, ListRequest, Meta, ObjectVersion, PartNumber, Payload, Replaces, Segment, Source, Sse, Tags,
    Upload, UploadId,
};

use crate::{Stage, key, meta, name, noise};

/// Each case runs on every store, as `case::memory` and `case::cos`.
macro_rules! on_every_store {
    ($(async fn $case:ident($stage:ident) $body:block)*) => {$(
        mod $case {
            use super::*;

            async fn case($stage: Stage) $body

            #[tokio::test]
            async fn memory() {
                case(Stage::memory().await).await;
            }

            #[tokio::test]
            async fn cos() {
                case(Stage::cos().await).await;
            }
        }
    )*};
}

/// Every page of a listing: keys, then common prefixes, and how many pages there were.
async fn pages(stage: &Stage, prefix: &str, delimited: bool, limit: u16) -> (Vec<String>, Vec<String>, usize) {
    let mut request = ListRequest { prefix: prefix.to_owned(), delimited, after: None, limit: Some(limit) };
    let (mut keys, mut prefixes, mut count) = (Vec::new(), Vec::new(), 0);
    loop {
        let page = stage.bucket.list(&stage.cx, &request).await.unwrap();
        assert!(page.objects.len() + page.prefixes.len() <= usize::from(limit));
        keys.extend(page.objects.iter().map(|listed| listed.version.key.to_string()));
        prefixes.extend(page.prefixes.iter().map(Key::to_string));
        count += 1;
        match page.next {
            Some(next) => request.after = Some(next),
            None => return (keys, prefixes, count),
        }
    }
}

/// An object that is to be deleted whatever it is.
fn unseen(name: &str) -> ObjectVersion {
    ObjectVersion { key: key(name), etag: ETag::new("unseen"), size: 0, version_id: None }
}

async fn upload_of(stage: &Stage, to: &str, parts: &[Bytes]) -> (Upload, Vec<cosmount::store::Part>) {
    let upload = stage.bucket.create_upload(&stage.cx, &key(to), &meta(9)).await.unwrap();
    let mut sent = Vec::new();
    for (number, bytes) in (1..).zip(parts) {
        let payload = Payload::from(bytes.clone());
        sent.push(stage.bucket.upload_part(&stage.cx, &upload, PartNumber(number), payload).await.unwrap());
    }
    (upload, sent)
}

#[derive(Debug)]
struct Staged(Bytes);

#[async_trait::async_trait]
impl Source for Staged {
    async fn read(&self, range: Range<u64>) -> std::io::Result<Bytes> {
        Ok(self.0.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()))
    }
}

on_every_store! {
    async fn what_was_put_is_read_back(stage) {
        let bytes = noise(3_000_000);
        let stored = stage.put("dir/a b", bytes.clone()).await;
        assert_eq!(stored.version.size, 3_000_000);
        assert_eq!(stage.read(&stored.version).await.unwrap(), bytes);
        let body = stage.bucket.get(&stage.cx, &stored.version, 1_000_001..1_000_004).await.unwrap();
        assert_eq!(body.collect().await.unwrap(), bytes.slice(1_000_001..1_000_004));
        let head = stage.bucket.head(&stage.cx, &key("dir/a b")).await.unwrap();
        assert!(head.version.same_bytes(&stored.version));
        assert!(head.crc64.is_some() && head.crc64 == stored.crc64);
    }

    async fn an_empty_object_is_an_object(stage) {
        let stored = stage.put("empty/", Bytes::new()).await;
        assert_eq!((stored.version.size, stored.crc64), (0, Some(0)));
        assert_eq!(stage.bucket.head(&stage.cx, &key("empty/")).await.unwrap().version, stored.version);
    }

    async fn everything_that_was_given_is_kept(stage) {
        let given = Meta {
            content_type: Some("text/x-test; charset=utf-8".to_owned()),
            cache_control: Some("max-age=5".to_owned()),
            content_disposition: Some("attachment; filename=\"a\"".to_owned()),
            content_encoding: Some("gzip".to_owned()),
            expires: Some("Wed, 28 Oct 2030 20:30:00 GMT".to_owned()),
            user: BTreeMap::from([("mode".to_owned(), "33188".to_owned()), ("x-y".to_owned(), "a%20b, c".to_owned())]),
            class: Some("STANDARD_IA".to_owned()),
            sse: Some(Sse::Cos),
            ..meta(3)
        };
        stage.bucket.put(&stage.cx, &key("a"), &given, Bytes::from_static(b"x").into(), &Replaces::Anything).await.unwrap();
        let head = stage.bucket.head(&stage.cx, &key("a")).await.unwrap();
        assert_eq!(head.meta, given);
        assert!(head.date.duration_since(head.last_modified).unwrap_or_default() < Duration::from_secs(5));
        let page = stage.bucket.list(&stage.cx, &ListRequest::default()).await.unwrap();
        assert_eq!((page.objects[0].class.as_deref(), page.objects[0].last_modified), (Some("STANDARD_IA"), head.last_modified));
        assert_eq!(page.objects[0].version.etag, head.version.etag);
    }

    async fn what_is_not_there_is_not_found(stage) {
        assert_eq!(stage.bucket.head(&stage.cx, &key("no")).await.unwrap_err().kind(), Kind::NotFound);
        let version = stage.put("yes", "x").await.version;
        let missing = ObjectVersion { key: key("no"), ..version };
        let error = stage.bucket.get(&stage.cx, &missing, 0..1).await.unwrap_err();
        assert_eq!((error.kind(), error.status(), error.tries()), (Kind::NotFound, Some(404), 1));
        assert!(error.request_id().is_some() && error.to_string().contains("no"), "{error}");
    }

    async fn a_replaced_version_is_not_read(stage) {
        let old = stage.put("a", "old").await.version;
        stage.foreign(&key("a"), "newer");
        assert_eq!(stage.bucket.get(&stage.cx, &old, 0..3).await.unwrap_err().kind(), Kind::Precondition);
        assert_eq!(stage.bucket.copy(&stage.cx, &old, &key("b"), &meta(2), &Replaces::Absent).await.unwrap_err().kind(), Kind::Precondition);
        assert_eq!(stage.peek(&key("b")), None);
    }

    async fn a_range_outside_is_refused(stage) {
        let version = stage.put("a", "abc").await.version;
        for range in [0..4, 3..3, 3..4] {
            assert_eq!(stage.bucket.get(&stage.cx, &version, range).await.unwrap_err().kind(), Kind::Invalid);
        }
    }

    async fn payloads_may_be_bytes_zeros_and_sources(stage) {
        let staged: Arc<dyn Source> = Arc::new(Staged(noise(1_000_000)));
        let payload = Payload::new(vec![
            Segment::Bytes(Bytes::from_static(b"head")),
            Segment::Bytes(Bytes::new()),
            Segment::Zeros(600_000),
            Segment::Source(Arc::clone(&staged), 10..700_010),
        ]);
        let expected = [&b"head"[..], &vec![0; 600_000], &noise(1_000_000)[10..700_010]].concat();
        assert_eq!(payload.len(), expected.len() as u64);
        stage.bucket.put(&stage.cx, &key("a"), &meta(1), payload, &Replaces::Absent).await.unwrap();
        assert_eq!(stage.peek(&key("a")).unwrap(), expected);
    }

    async fn a_put_that_must_find_nothing_finds_something(stage) {
        stage.foreign(&key("a"), "theirs");
        let error = stage.bucket.put(&stage.cx, &key("a"), &meta(1), Bytes::from_static(b"x").into(), &Replaces::Absent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(stage.peek(&key("a")).unwrap(), "theirs");
    }

    async fn a_listing_shows_each_entry_once(stage) {
        for name in ["d/", "d/a", "d/b/1", "d/b/2", "d/b/c/3", "d/b-", "d/c/4", "d/z", "e", "d0"] {
            stage.foreign(&key(name), "x");
        }
        for limit in 1..6 {
            let (keys, prefixes, _) = pages(&stage, "d/", true, limit).await;
            assert_eq!((keys, prefixes), (["d/", "d/a", "d/b-", "d/z"].map(str::to_owned).to_vec(), ["d/b/", "d/c/"].map(str::to_owned).to_vec()));
            let (keys, prefixes, count) = pages(&stage, "d/b", false, limit).await;
            assert_eq!((keys.len(), prefixes.len()), (4, 0));
            assert_eq!(count, 4_usize.div_ceil(usize::from(limit)));
        }
        assert_eq!(pages(&stage, "", true, 1000).await.1, ["d/"]);
        assert_eq!(pages(&stage, "nothing", true, 10).await, (vec![], vec![], 1));
    }

    async fn a_listing_goes_on_over_many_pages(stage) {
        let mut expected = Vec::new();
        for index in 0..1203 {
            expected.push(format!("many/{index:05} ü"));
            stage.foreign(&key(&expected[index]), "x");
        }
        let (keys, _, count) = pages(&stage, "many/", true, 1000).await;
        assert_eq!((keys, count), (expected, 2));
    }

    async fn every_key_is_its_own(stage) {
        let keys = [
            "a/b", "a//b", "a/./b", "a/../b", "a/..", "./a", "../a", "a/", "a b", "a+b", "a%20b", "a%2Fb", "ü/报告.txt", "😀", "a?b=c&d#e", "\u{1}\u{7f}",
            "line\nfeed\ttab", "'\"<>&;:@$,[]{}|^`!()*~=", "...", "%", "a\\b", ".hidden", "x/.%2F", "-", "&amp;", " lead", "trail ",
        ];
        for (index, name) in keys.iter().enumerate() {
            stage.put(name, format!("{index}")).await;
        }
        for (index, name) in keys.iter().enumerate() {
            let head = stage.bucket.head(&stage.cx, &key(name)).await.unwrap();
            assert_eq!(stage.read(&head.version).await.unwrap(), format!("{index}"), "{name:?}");
        }
        let mut sorted = keys.map(str::to_owned).to_vec();
        sorted.sort();
        assert_eq!(pages(&stage, "", false, 7).await.0, sorted);
        let copied = stage.bucket.head(&stage.cx, &key("a/../b")).await.unwrap().version;
        stage.bucket.copy(&stage.cx, &copied, &key("copy of a/../b"), &meta(2), &Replaces::Absent).await.unwrap();
        assert_eq!(stage.peek(&key("copy of a/../b")).unwrap(), "3");
        let refused = stage.bucket.delete_many(&stage.cx, &keys.map(unseen)).await.unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(pages(&stage, "", false, 1000).await.0, ["copy of a/../b"]);
    }

    async fn a_copy_has_exactly_what_it_was_given(stage) {
        let first = Meta { content_type: Some("text/a".to_owned()), class: Some("STANDARD_IA".to_owned()), ..meta(1) };
        let source = stage.bucket.put(&stage.cx, &key("a"), &first, noise(5000).into(), &Replaces::Absent).await.unwrap();
        let given = Meta { user: BTreeMap::from([("k".to_owned(), "v".to_owned())]), ..meta(2) };
        let copied = stage.bucket.copy(&stage.cx, &source.version, &key("b/ü"), &given, &Replaces::Absent).await.unwrap();
        let head = stage.bucket.head(&stage.cx, &key("b/ü")).await.unwrap();
        assert!(head.version.same_bytes(&copied.version));
        assert_eq!((&head.meta.user, &head.meta.class, &head.meta.token), (&given.user, &None, &given.token));
        assert_ne!(head.meta.content_type.as_deref(), Some("text/a"));
        assert_eq!(copied.last_modified, Some(head.last_modified));
        assert_eq!(stage.read(&head.version).await.unwrap(), noise(5000));
        // Onto itself: the way to change metadata.
        let own = stage.bucket.copy(&stage.cx, &source.version, &key("a"), &given, &Replaces::Version(source.version.clone())).await.unwrap();
        let head = stage.bucket.head(&stage.cx, &key("a")).await.unwrap();
        assert_eq!((head.meta.token, head.version.size), (given.token, own.version.size));
    }

    async fn a_copy_of_nothing_is_not_found(stage) {
        let version = stage.put("a", "x").await.version;
        stage.bucket.delete(&stage.cx, &key("a"), Some(&version)).await.unwrap();
        assert_eq!(stage.bucket.copy(&stage.cx, &version, &key("b"), &meta(2), &Replaces::Absent).await.unwrap_err().kind(), Kind::NotFound);
    }

    async fn a_delete_is_done_twice(stage) {
        let version = stage.put("a", "x").await.version;
        stage.bucket.delete(&stage.cx, &key("a"), Some(&version)).await.unwrap();
        stage.bucket.delete(&stage.cx, &key("a"), Some(&version)).await.unwrap();
        stage.bucket.delete(&stage.cx, &key("never"), None).await.unwrap();
        assert_eq!(stage.peek(&key("a")), None);
    }

    async fn many_deletes_leave_the_rest(stage) {
        for index in 0..30 {
            stage.foreign(&key(&format!("d/{index:02}")), "x");
        }
        let gone: Vec<_> = (0..29).map(|index| unseen(&format!("d/{index:02}"))).chain([unseen("d/never")]).collect();
        assert!(stage.bucket.delete_many(&stage.cx, &gone).await.unwrap().is_empty());
        assert_eq!(pages(&stage, "", false, 1000).await.0, ["d/29"]);
        assert_eq!(stage.bucket.delete_many(&stage.cx, &[]).await.unwrap_err().kind(), Kind::Invalid);
        let too_many = vec![unseen("d/29"); 1001];
        assert_eq!(stage.bucket.delete_many(&stage.cx, &too_many).await.unwrap_err().kind(), Kind::Invalid);
    }

    async fn parts_become_an_object(stage) {
        let bytes = noise((2 << 20) + 77);
        let pieces = [bytes.slice(..1 << 20), bytes.slice(1 << 20..2 << 20), bytes.slice(2 << 20..)];
        let (upload, parts) = upload_of(&stage, "big", &pieces).await;
        let mut listed = stage.bucket.list_parts(&stage.cx, &upload).await.unwrap();
        listed.iter_mut().zip(&parts).for_each(|(listed, part)| listed.crc64 = part.crc64);
        assert_eq!(listed, parts);
        let open = stage.bucket.list_uploads(&stage.cx, "bi").await.unwrap();
        assert_eq!((open.len(), &open[0].key, &open[0].id), (1, &key("big"), &upload.id));
        assert!(stage.bucket.list_uploads(&stage.cx, "x").await.unwrap().is_empty());
        assert_eq!(stage.peek(&key("big")), None);
        let stored = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap();
        assert_eq!(stored.version.size, bytes.len() as u64);
        let head = stage.bucket.head(&stage.cx, &key("big")).await.unwrap();
        assert!(head.version.same_bytes(&stored.version) && head.crc64 == stored.crc64 && head.crc64.is_some());
        assert_eq!(head.meta.token, upload.token);
        assert_eq!(stage.read(&head.version).await.unwrap(), bytes);
        assert!(stage.bucket.list_uploads(&stage.cx, "").await.unwrap().is_empty());
    }

    async fn a_completed_upload_is_completed_again(stage) {
        let (upload, parts) = upload_of(&stage, "a", &[noise(100)]).await;
        let first = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap();
        // As after a crash between the answer and the journal's record of it: the token says that it is done.
        let again = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap();
        assert_eq!(again.version, first.version);
    }

    async fn parts_come_from_objects_on_the_server(stage) {
        let bytes = noise((3 << 20) + 5);
        let base = stage.put("base", bytes.clone()).await.version;
        let upload = stage.bucket.create_upload(&stage.cx, &key("edited"), &meta(4)).await.unwrap();
        let edit = Bytes::from(vec![7; 1 << 20]);
        let parts = [
            stage.bucket.copy_part(&stage.cx, &upload, PartNumber(1), &base, 0..1 << 20).await.unwrap(),
            stage.bucket.upload_part(&stage.cx, &upload, PartNumber(2), edit.clone().into()).await.unwrap(),
            stage.bucket.copy_part(&stage.cx, &upload, PartNumber(3), &base, 2 << 20..base.size).await.unwrap(),
        ];
        let stored = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap();
        let expected = [&bytes[..1 << 20], &edit, &bytes[2 << 20..]].concat();
        assert_eq!(stage.read(&stored.version).await.unwrap(), expected);
    }

    async fn a_part_of_a_replaced_object_is_not_copied(stage) {
        let base = stage.put("base", noise(2000)).await.version;
        stage.foreign(&key("base"), noise(3000));
        let upload = stage.bucket.create_upload(&stage.cx, &key("a"), &meta(4)).await.unwrap();
        let error = stage.bucket.copy_part(&stage.cx, &upload, PartNumber(1), &base, 0..2000).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
    }

    async fn wrong_lists_of_parts_make_no_object(stage) {
        let (upload, parts) = upload_of(&stage, "a", &[noise(100), noise(50)]).await;
        let small = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap_err();
        assert_eq!(small.kind(), Kind::Invalid, "{small}");
        let turned = [parts[1].clone(), parts[0].clone()];
        assert_eq!(stage.bucket.complete_upload(&stage.cx, &upload, &turned, &Replaces::Absent).await.unwrap_err().kind(), Kind::Invalid);
        let mut foreign = parts[..1].to_vec();
        foreign[0].etag = cosmount::store::ETag::new("0123");
        assert_eq!(stage.bucket.complete_upload(&stage.cx, &upload, &foreign, &Replaces::Absent).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(stage.peek(&key("a")), None);
        assert!(stage.bucket.complete_upload(&stage.cx, &upload, &parts[..1], &Replaces::Absent).await.is_ok());
    }

    async fn an_upload_that_is_gone_is_gone(stage) {
        let (upload, parts) = upload_of(&stage, "a", &[noise(100)]).await;
        stage.bucket.abort_upload(&stage.cx, &upload).await.unwrap();
        stage.bucket.abort_upload(&stage.cx, &upload).await.unwrap();
        let error = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSuchUpload);
        let payload = Payload::from(noise(10));
        assert_eq!(stage.bucket.upload_part(&stage.cx, &upload, PartNumber(2), payload).await.unwrap_err().kind(), Kind::NoSuchUpload);
        assert_eq!(stage.bucket.list_parts(&stage.cx, &upload).await.unwrap_err().kind(), Kind::NoSuchUpload);
        let other = Upload { id: UploadId("never".into()), ..upload };
        stage.bucket.abort_upload(&stage.cx, &other).await.unwrap();
    }

    async fn a_complete_that_must_find_nothing_finds_something(stage) {
        let (upload, parts) = upload_of(&stage, "a", &[noise(100)]).await;
        stage.foreign(&key("a"), "theirs");
        let error = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(stage.peek(&key("a")).unwrap(), "theirs");
    }

    async fn tags_and_grants_go_along(stage) {
        let owner = stage.bucket.put(&stage.cx, &key("plain"), &meta(1), Bytes::new().into(), &Replaces::Absent).await.map(|_| ());
        owner.unwrap();
        assert_eq!(stage.bucket.tags(&stage.cx, &key("plain")).await.unwrap(), Tags::default());
        let owner = stage.bucket.acl(&stage.cx, &key("plain")).await.unwrap().owner;
        assert!(!owner.is_empty());
        let grant = Grant { grantee: "qcs::cam::uin/100000000001:uin/100000000011".to_owned(), permission: "READ".to_owned() };
        let acl = Acl { owner: owner.clone(), grants: vec![grant.clone()] };
        let tags = Tags(vec![("k".to_owned(), "v w".to_owned()), ("ü".to_owned(), String::new())]);
        let given = Meta { acl: Some(acl), tags: Some(tags.clone()), ..meta(2) };
        let stored = stage.bucket.put(&stage.cx, &key("a"), &given, Bytes::new().into(), &Replaces::Absent).await.unwrap();
        assert_eq!(stage.bucket.tags(&stage.cx, &key("a")).await.unwrap(), tags);
        let shown = stage.bucket.acl(&stage.cx, &key("a")).await.unwrap();
        assert!(shown.grants.contains(&grant), "{shown:?}");
        // A copy keeps the tags unless others are named, and no grants.
        stage.bucket.copy(&stage.cx, &stored.version, &key("b"), &meta(3), &Replaces::Absent).await.unwrap();
        assert_eq!(stage.bucket.tags(&stage.cx, &key("b")).await.unwrap(), tags);
        assert!(!stage.bucket.acl(&stage.cx, &key("b")).await.unwrap().grants.contains(&grant));
        let other = Tags(vec![("z".to_owned(), "1".to_owned())]);
        let given = Meta { tags: Some(other.clone()), ..meta(4) };
        stage.bucket.copy(&stage.cx, &stored.version, &key("c"), &given, &Replaces::Absent).await.unwrap();
        assert_eq!(stage.bucket.tags(&stage.cx, &key("c")).await.unwrap(), other);
    }

    async fn limits_are_told_apart(stage) {
        let put = async |name: String, meta: Meta| {
            stage.bucket.put(&stage.cx, &key(&name), &meta, Bytes::new().into(), &Replaces::Anything).await
        };
        assert!(put("k".repeat(850), meta(1)).await.is_ok());
        assert_eq!(put("k".repeat(851), meta(1)).await.unwrap_err().kind(), Kind::KeyTooLong);
        for bad in ["", "/a", "\\a"] {
            assert_eq!(put(bad.to_owned(), meta(1)).await.unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
        let long = Meta { user: BTreeMap::from([("x".to_owned(), "y".repeat(2100))]), ..meta(1) };
        assert_eq!(put("a".to_owned(), long).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(stage.peek(&key("a")), None);
    }

    async fn buckets_come_and_go(stage) {
        let other = BucketName::parse("other-1250000000").unwrap();
        stage.service.create_bucket(&stage.cx, &other).await.unwrap();
        assert_eq!(stage.service.create_bucket(&stage.cx, &other).await.unwrap_err().kind(), Kind::Exists);
        let names: Vec<_> = stage.service.buckets(&stage.cx).await.unwrap().into_iter().map(|info| info.name).collect();
        assert_eq!(names, [name(), other.clone()]);
        let bucket = stage.service.open(&stage.cx, &other).await.unwrap();
        assert_eq!(bucket.name(), &other);
        bucket.put(&stage.cx, &key("a"), &meta(1), Bytes::new().into(), &Replaces::Absent).await.unwrap();
        assert_eq!(stage.service.delete_bucket(&stage.cx, &other).await.unwrap_err().kind(), Kind::NotEmpty);
        bucket.delete(&stage.cx, &key("a"), None).await.unwrap();
        stage.service.delete_bucket(&stage.cx, &other).await.unwrap();
        assert_eq!(stage.service.open(&stage.cx, &other).await.unwrap_err().kind(), Kind::NoSuchBucket);
    }

    async fn requests_are_counted(stage) {
        let version = stage.put("a", noise(1000)).await.version;
        stage.read(&version).await.unwrap();
        let _missing = stage.bucket.head(&stage.cx, &key("no")).await.unwrap_err();
        let counts = stage.metrics.snapshot();
        for (name, value) in [
            ("store_put_ok", 1),
            ("store_get_ok", 1),
            ("store_head_refused", 1),
            ("store_head_failed", 0),
            ("store_bytes_sent", 1000),
            ("store_bytes_received", 1000),
        ] {
            assert_eq!(counts[name], value, "{name}");
        }
    }
}
