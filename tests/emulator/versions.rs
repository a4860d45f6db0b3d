//! Versions: what a bucket keeps in each of its three states, and how it is listed, read and removed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cosmount::emulator::{Action, Config, Op, Rule, Versioning};
use md5::{Digest as _, Md5};

use crate::http::{Answer, elements};
use crate::{BUCKET, Emulator};

fn set(emulator: &Emulator, status: &str) {
    let document = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    assert_eq!(emulator.put("/?versioning", document.as_bytes()).status, 200);
    assert_eq!(emulator.get("/?versioning").element("Status").as_deref(), Some(status));
}

fn versioned() -> Emulator {
    let emulator = Emulator::start();
    set(&emulator, "Enabled");
    emulator
}

/// Puts an object and tells the version id of the answer.
fn put(emulator: &Emulator, path: &str, body: &str) -> String {
    let answer = emulator.put(path, body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    id(&answer)
}

fn id(answer: &Answer) -> String {
    answer.header("x-cos-version-id").unwrap().to_owned()
}

fn delete(emulator: &Emulator, path: &str) -> Answer {
    let answer = emulator.call("DELETE", path, &[], None);
    assert_eq!(answer.status, 204, "{answer:?}");
    answer
}

/// The ids of a key's versions, newest first, `-` before a delete marker's.
fn stack(emulator: &Emulator, key: &str) -> Vec<String> {
    let mark = |version: cosmount::emulator::StoredVersion| format!("{}{}", if version.body.is_none() { "-" } else { "" }, version.id);
    emulator.0.versions(BUCKET, key).into_iter().map(mark).collect()
}

#[test]
fn bucket_without_versions_tells_none() {
    let emulator = Emulator::start();
    assert_eq!(emulator.get("/?versioning").element("Status"), None);
    assert_eq!(emulator.put("/k", b"x").header("x-cos-version-id"), None);
    assert_eq!(emulator.call("HEAD", "/k", &[], None).header("x-cos-version-id"), None);
    let text = emulator.get("/?versions").text();
    assert!(text.contains("<Version><Key>k</Key><VersionId/><IsLatest>true</IsLatest>"), "{text}");
    assert_eq!(emulator.get("/k?versionId=null").status, 200, "what it would be once versioning is on");
    assert_eq!(emulator.get("/k?versionId=MTg0NDUxNTc1NjIzMTQ1MDAwODg").code(), (404, "NoSuchVersion".into()));
    let gone = delete(&emulator, "/k");
    assert_eq!((gone.header("x-cos-delete-marker"), gone.header("x-cos-version-id")), (None, None));
    assert_eq!(stack(&emulator, "k"), [""; 0]);
    for body in ["", "<VersioningConfiguration/>", "<VersioningConfiguration><Status>Off</Status></VersioningConfiguration>"] {
        assert_eq!(emulator.put("/?versioning", body.as_bytes()).code(), (400, "MalformedXML".into()), "{body}");
    }
}

#[test]
fn replaced_and_deleted_objects_stay() {
    let emulator = Emulator::start();
    emulator.put("/k", b"before");
    set(&emulator, "Enabled");
    assert_eq!(id(&emulator.get("/k")), "null");
    let (one, two) = (put(&emulator, "/k", "one"), put(&emulator, "/k", "two"));
    let marker = delete(&emulator, "/k");
    assert_eq!(marker.header("x-cos-delete-marker"), Some("true"));
    assert_eq!(stack(&emulator, "k"), [format!("-{}", id(&marker)), two.clone(), one.clone(), "null".into()]);
    for (version, body) in [(&two, "two"), (&one, "one"), (&"null".to_owned(), "before")] {
        let path = format!("/k?versionId={version}");
        let get = emulator.get(&path);
        assert_eq!((get.status, get.text(), id(&get)), (200, body.into(), version.clone()));
        assert_eq!(id(&emulator.call("HEAD", &path, &[], None)), *version);
        assert_eq!(emulator.call("GET", &path, &[("Range", "bytes=1-1")], None).text(), body[1..2]);
    }
    assert_eq!(emulator.0.keys(BUCKET, ""), [""; 0]);
    let plain = emulator.get("/?prefix=k");
    assert_eq!(elements(&plain.text(), "Key"), [""; 0], "lists of objects show no versions");
    assert_eq!(emulator.call("HEAD", "/k", &[], None).status, 404);
    let absent = emulator.get("/k");
    assert_eq!((absent.code(), absent.header("x-cos-delete-marker")), ((404, "NoSuchKey".into()), Some("true")));
    let path = format!("/k?versionId={}", id(&marker));
    let refused = emulator.get(&path);
    assert_eq!((refused.code(), refused.header("x-cos-delete-marker")), ((405, "MethodNotAllowed".into()), Some("true")));
    let head = emulator.call("HEAD", &path, &[], None);
    assert_eq!((head.status, head.body.len()), (405, 0));
    assert_eq!(emulator.get("/k?versionId=nonsense").code(), (404, "NoSuchVersion".into()));
    // The marker goes: the object is back. The version goes: the one below shows.
    let removed = delete(&emulator, &path);
    assert_eq!((removed.header("x-cos-delete-marker"), id(&removed)), (Some("true"), id(&marker)));
    assert_eq!(emulator.get("/k").body, b"two");
    let removed = delete(&emulator, &format!("/k?versionId={two}"));
    assert_eq!((removed.header("x-cos-delete-marker"), id(&removed)), (None, two.clone()));
    assert_eq!(emulator.get("/k").body, b"one");
    delete(&emulator, "/k?versionId=null");
    delete(&emulator, &format!("/k?versionId={two}"));
    assert_eq!(stack(&emulator, "k"), [one]);
}

#[test]
fn suspended_bucket_has_one_null_version() {
    let emulator = versioned();
    let kept = put(&emulator, "/k", "kept");
    set(&emulator, "Suspended");
    assert_eq!(put(&emulator, "/k", "first"), "null");
    assert_eq!(put(&emulator, "/k", "second"), "null");
    assert_eq!(stack(&emulator, "k"), ["null".to_owned(), kept.clone()]);
    let marker = delete(&emulator, "/k");
    assert_eq!((id(&marker), marker.header("x-cos-delete-marker")), ("null".into(), Some("true")));
    assert_eq!(stack(&emulator, "k"), ["-null".to_owned(), kept.clone()], "the marker takes the null version's place");
    assert_eq!(emulator.get("/k").code(), (404, "NoSuchKey".into()));
    set(&emulator, "Enabled");
    let newest = put(&emulator, "/k", "newest");
    set(&emulator, "Suspended");
    assert_eq!(put(&emulator, "/k", "third"), "null");
    assert_eq!(stack(&emulator, "k"), ["null".to_owned(), newest, kept], "and so does the next one, wherever it lay");
}

#[test]
fn every_write_makes_a_version() {
    let emulator = versioned();
    let first = put(&emulator, "/k", "put");
    let copied = emulator.call("PUT", "/k", &[("x-cos-copy-source", "/b-125/k"), ("x-cos-metadata-directive", "Replaced")], Some(b""));
    assert_eq!((copied.status, copied.element("VersionId")), (200, Some(id(&copied))));
    assert_eq!(copied.header("x-cos-copy-source-version-id"), None);
    let upload = emulator.post("/k?uploads", b"").element("UploadId").unwrap();
    let etag = emulator.put(&format!("/k?partNumber=1&uploadId={upload}"), b"part").header("etag").unwrap().to_owned();
    let list = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>");
    let completed = emulator.post(&format!("/k?uploadId={upload}"), list.as_bytes());
    assert_eq!(stack(&emulator, "k"), [id(&completed), id(&copied), first.clone()]);
    // Back to the first, as it is: the same key, but not what it shows.
    let source = format!("b-125.cos.ap-x.myqcloud.com/k?versionId={first}");
    let back = emulator.call("PUT", "/k", &[("x-cos-copy-source", &source)], Some(b""));
    assert_eq!((back.status, back.header("x-cos-copy-source-version-id")), (200, Some(&*first)));
    assert_eq!(emulator.get("/k").body, b"put");
    let copy = |source: &str| emulator.call("PUT", "/k", &[("x-cos-copy-source", source)], Some(b"")).code();
    assert_eq!(copy(&format!("/b-125/k?versionId={}", id(&back))), (400, "InvalidRequest".into()), "that is what it shows");
    assert_eq!(copy("/b-125/k?versionId=nonsense"), (404, "NoSuchVersion".into()));
    let upload = emulator.post("/parts?uploads", b"").element("UploadId").unwrap();
    let part = emulator.call("PUT", &format!("/parts?partNumber=1&uploadId={upload}"), &[("x-cos-copy-source", &source)], Some(b""));
    assert_eq!((part.status, part.header("x-cos-copy-source-version-id")), (200, Some(&*first)));
    delete(&emulator, "/k");
    assert_eq!(copy("/b-125/k"), (404, "NoSuchKey".into()), "what is deleted is no source");
    assert_eq!(emulator.post("/log?append&position=0", b"x").code(), (409, "InvalidBucketState".into()));
}

#[test]
fn forbidden_overwrite_has_no_effect_where_versions_ever_were() {
    let emulator = versioned();
    emulator.put("/k", b"first");
    let put = || emulator.call("PUT", "/k", &[("x-cos-forbid-overwrite", "true")], Some(b"more")).status;
    assert_eq!(put(), 200);
    set(&emulator, "Suspended");
    assert_eq!((put(), put()), (200, 200));
    let copy = [("x-cos-copy-source", "/b-125/k"), ("x-cos-metadata-directive", "Replaced"), ("x-cos-forbid-overwrite", "true")];
    assert_eq!(emulator.call("PUT", "/k", &copy, Some(b"")).status, 200);
}

#[test]
fn tags_and_acl_belong_to_a_version() {
    let emulator = versioned();
    let (old, new) = (put(&emulator, "/k", "old"), put(&emulator, "/k", "new"));
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    assert_eq!(emulator.put(&format!("/k?tagging&VersionId={old}"), tags.as_bytes()).status, 200);
    assert_eq!(emulator.get(&format!("/k?tagging&versionId={old}")).element("Key").as_deref(), Some("a"));
    assert_eq!(emulator.get("/k?tagging").element("Key"), None);
    let acl = emulator.call("PUT", &format!("/k?acl&versionId={old}"), &[("x-cos-acl", "public-read")], Some(b""));
    assert_eq!(acl.status, 200);
    assert!(emulator.get(&format!("/k?acl&versionId={old}")).text().contains("AllUsers"));
    assert!(!emulator.get("/k?acl").text().contains("AllUsers"));
    assert_eq!(stack(&emulator, "k"), [new, old], "neither is a new version");
}

#[test]
fn multi_delete_names_versions() {
    let emulator = versioned();
    let (one, two) = (put(&emulator, "/a", "one"), put(&emulator, "/a", "two"));
    put(&emulator, "/b", "b");
    let delete = |body: &str| {
        let document = format!("<Delete>{body}</Delete>");
        let md5 = BASE64.encode(Md5::digest(&document));
        emulator.call("POST", "/?delete", &[("Content-MD5", &md5)], Some(document.as_bytes())).text()
    };
    let text = delete(&format!("<Object><Key>a</Key><VersionId>{one}</VersionId></Object><Object><Key>b</Key></Object>"));
    let marker = emulator.0.versions(BUCKET, "b")[0].id.clone();
    assert!(text.contains(&format!("<Deleted><Key>a</Key><VersionId>{one}</VersionId></Deleted>")), "{text}");
    let made =
        format!("<Deleted><Key>b</Key><DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>{marker}</DeleteMarkerVersionId></Deleted>");
    assert!(text.contains(&made), "{text}");
    assert_eq!(stack(&emulator, "a"), [two]);
    let text = delete(&format!("<Object><Key>b</Key><VersionId>{marker}</VersionId></Object>"));
    assert!(text.contains(&format!("<VersionId>{marker}</VersionId><DeleteMarker>true</DeleteMarker>")), "{text}");
    assert_eq!(emulator.get("/b").body, b"b");
}

#[test]
fn bucket_with_versions_is_not_empty() {
    let emulator = versioned();
    let version = put(&emulator, "/k", "x");
    let marker = id(&delete(&emulator, "/k"));
    let remove = || emulator.call("DELETE", "/", &[], None).code();
    assert_eq!(remove(), (409, "BucketNotEmpty".into()));
    delete(&emulator, &format!("/k?versionId={version}"));
    assert_eq!(remove(), (409, "BucketNotEmpty".into()), "a marker alone");
    delete(&emulator, &format!("/k?versionId={marker}"));
    assert_eq!(remove(), (204, String::new()));
}

/// A version or marker as a list shows it: key, id, latest, marker.
type Line = (String, String, bool, bool);

/// The lines of a page in the document's order, its common prefixes, and what the next page asks for.
fn page(emulator: &Emulator, query: &str) -> (Vec<Line>, Vec<String>, Option<(String, String)>) {
    let answer = emulator.get(&format!("/?versions&{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.text();
    let field = |part: &str, name: &str| elements(part, name).into_iter().next().unwrap_or_default();
    let mut lines = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("<Version>").into_iter().chain(rest.find("<DeleteMarker>")).min() {
        let part = &rest[at..at + rest[at..].find("</Owner>").unwrap()];
        lines.push((field(part, "Key"), field(part, "VersionId"), field(part, "IsLatest") == "true", part.starts_with("<Delete")));
        rest = &rest[at + 1..];
    }
    let own = text.split("<CommonPrefixes>").skip(1).map(|part| field(part, "Prefix")).collect();
    let next =
        (answer.element("IsTruncated").unwrap() == "true").then(|| (field(&text, "NextKeyMarker"), field(&text, "NextVersionIdMarker")));
    assert!(next.is_some() || text.contains("<NextKeyMarker/><NextVersionIdMarker/>"), "{text}");
    (lines, own, next)
}

#[test]
fn versions_are_listed_in_exact_pages() {
    let emulator = Emulator::start();
    emulator.put("/a", b"null");
    set(&emulator, "Enabled");
    for (key, times) in [("a", 2), ("d/x", 2), ("d/y", 1), ("e", 3), ("f/", 1)] {
        (0..times).for_each(|_| drop(put(&emulator, &format!("/{key}"), "x")));
    }
    delete(&emulator, "/e");
    delete(&emulator, "/never");
    let model = |prefix: &str, delimiter: bool| -> Vec<Result<Line, String>> {
        let mut all: Vec<Result<Line, String>> = Vec::new();
        for key in ["a", "d/x", "d/y", "e", "f/", "never"].into_iter().filter(|key| key.starts_with(prefix)) {
            let common = delimiter.then(|| key[prefix.len()..].find('/').map(|at| key[..=prefix.len() + at].to_owned())).flatten();
            match common {
                Some(common) if all.last() == Some(&Err(common.clone())) => {}
                Some(common) => all.push(Err(common)),
                None => {
                    let versions = emulator.0.versions(BUCKET, key).into_iter().enumerate();
                    all.extend(versions.map(|(at, v)| Ok((key.to_owned(), v.id, at == 0, v.body.is_none()))));
                }
            }
        }
        all
    };
    for prefix in ["", "d/", "e", "x"] {
        for delimiter in [false, true] {
            for limit in 1..=12 {
                let wanted = model(prefix, delimiter);
                let mut at = 0;
                let mut marker = String::new();
                loop {
                    let query = format!("prefix={prefix}&max-keys={limit}{}{marker}", if delimiter { "&delimiter=%2F" } else { "" });
                    let (lines, common, next) = page(&emulator, &query);
                    let count = lines.len() + common.len();
                    let due = &wanted[at..(at + limit).min(wanted.len())];
                    assert_eq!(lines, due.iter().flatten().cloned().collect::<Vec<_>>(), "{query}");
                    assert_eq!(common, due.iter().filter_map(|entry| entry.clone().err()).collect::<Vec<_>>(), "{query}");
                    at += count;
                    assert_eq!(next.is_some(), at < wanted.len(), "{query}");
                    let Some((key, id)) = next else { break };
                    let told = match due.last().unwrap() {
                        Ok((key, id, ..)) if emulator.0.versions(BUCKET, key).last().unwrap().id == *id => (key.clone(), String::new()),
                        Ok((key, id, ..)) => (key.clone(), id.clone()),
                        Err(common) => (common.clone(), String::new()),
                    };
                    assert_eq!((&key, &id), (&told.0, &told.1), "{query}");
                    marker = format!("&key-marker={key}&version-id-marker={id}");
                }
                assert_eq!(at, wanted.len());
            }
        }
    }
    // The key alone skips its versions; a marker that was deleted since still has its place.
    let versions = emulator.0.versions(BUCKET, "e");
    assert_eq!(page(&emulator, "key-marker=e").0.len(), 2);
    assert_eq!(page(&emulator, &format!("key-marker=e&version-id-marker={}", versions[1].id)).0.len(), 4);
    delete(&emulator, &format!("/e?versionId={}", versions[1].id));
    assert_eq!(page(&emulator, &format!("key-marker=e&version-id-marker={}", versions[1].id)).0[0].1, versions[2].id);
    assert_eq!(emulator.get("/?versions&key-marker=e&version-id-marker=x").code(), (400, "InvalidArgument".into()));
    assert_eq!(emulator.get("/?versions&delimiter=ab").code(), (400, "InvalidDelimiter".into()));
}

#[test]
fn listed_keys_are_encoded_on_request() {
    let emulator = versioned();
    put(&emulator, "/a%20b%3C", "x");
    assert_eq!(page(&emulator, "encoding-type=url").0[0].0, "a%20b%3C");
    assert_eq!(page(&emulator, "prefix=a").0[0].0, "a b&lt;");
}

#[test]
fn versions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(dir.path().to_owned()), ..Config::default() };
    let before = {
        let emulator = Emulator::with(config());
        emulator.put("/k", b"before");
        emulator.put("/plain", b"x");
        set(&emulator, "Enabled");
        put(&emulator, "/k", "one");
        delete(&emulator, "/k");
        put(&emulator, "/k", "two");
        delete(&emulator, "/gone");
        set(&emulator, "Suspended");
        put(&emulator, "/k", "null again");
        put(&emulator, "/s", "replaced");
        delete(&emulator, "/s");
        ["k", "plain", "gone", "s"].map(|key| emulator.0.versions(BUCKET, key))
    };
    assert_eq!(before.each_ref().map(Vec::len), [4, 1, 1, 1]);
    let files = || std::fs::read_dir(dir.path().join("data")).unwrap().count();
    let emulator = Emulator::with(config());
    assert_eq!(["k", "plain", "gone", "s"].map(|key| emulator.0.versions(BUCKET, key)), before);
    assert_eq!((emulator.get("/k").text(), emulator.get("/plain").text()), ("null again".into(), "x".into()));
    assert_eq!(emulator.get("/s").header("x-cos-delete-marker"), Some("true"));
    assert_eq!(emulator.get("/?versioning").element("Status").as_deref(), Some("Suspended"));
    assert_eq!(files(), 4, "before and replaced are gone");
    set(&emulator, "Enabled");
    let newest = put(&emulator, "/k", "newest");
    assert_eq!(stack(&emulator, "k")[0], newest, "newer than what was there");
    for key in ["k", "plain", "gone", "s"] {
        for version in emulator.0.versions(BUCKET, key) {
            delete(&emulator, &format!("/{key}?versionId={}", version.id));
        }
    }
    assert_eq!(emulator.call("DELETE", "/", &[], None).status, 204);
    assert_eq!(files(), 0);
}

#[test]
fn stale_listing_forgets_no_version_change() {
    let emulator = versioned();
    let old = put(&emulator, "/k", "old");
    let new = put(&emulator, "/k", "longer");
    emulator.0.faults().add(Rule::on(Op::ListObjects, Action::StaleList { age: std::time::Duration::from_secs(60) }));
    let size = || emulator.get("/").element("Size");
    delete(&emulator, &format!("/k?versionId={old}"));
    assert_eq!(size().as_deref(), Some("6"), "an older version that goes changes no listing");
    delete(&emulator, &format!("/k?versionId={new}"));
    assert_eq!((size().as_deref(), emulator.get("/k").status), (Some("6"), 404));
}

#[test]
fn server_steers_versioning_from_inside() {
    let emulator = Emulator::start();
    assert!(emulator.0.set_versioning(BUCKET, Versioning::Enabled) && !emulator.0.set_versioning("none-1", Versioning::Enabled));
    assert!(!emulator.0.set_versioning(BUCKET, Versioning::Never), "there is no way back");
    emulator.0.put(BUCKET, "k", "x", &[]).unwrap();
    assert!(emulator.0.delete(BUCKET, "k") && !emulator.0.delete(BUCKET, "k"));
    assert_eq!(emulator.0.versions(BUCKET, "k").len(), 3, "the object under two markers");
}
