//! What an object carries, as headers: [`Meta`] to a request, and an answer to [`Head`].
//!
//! Nothing is inherited on COS: a copy with replaced metadata has what the request names and no more, so both directions here must be complete.
//! An access list goes along as grants where headers can say it, else the write is refused before anything changes.
//!
//! Source: COS API, "HEAD Object" (document 436/7745), "PUT Object" (436/7749), "ACL overview" (436/30752), read 2026-11.

use std::{collections::BTreeMap, time::SystemTime};

use percent_encoding::utf8_percent_encode;
use reqwest::header::HeaderMap;

use crate::store::{
    Acl, CommitToken, ETag, Error, Head, Key, Kind, Meta, ObjectVersion, Operation, Result, Sse, Tags, VersionId,
    cos::{request::Request, sign::ESCAPED},
};

const USER: &str = "x-cos-meta-";
const SSE: &str = "x-cos-server-side-encryption";
/// Tags and version ids of COS have some 40 bytes.
const LONGEST_TAG: usize = 256;
const LONGEST_CLASS: usize = 64;
const ALL_USERS: &str = "http://cam.qcloud.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://cam.qcloud.com/groups/global/AuthenticatedUsers";

/// Adds everything that the new object must be given.
///
/// # Errors
/// [`Kind::Unsupported`] for what was not read exactly, or cannot be said: nothing is sent then.
pub(super) fn send(meta: &Meta, request: &mut Request<'_>) -> Result<()> {
    let content = [
        ("content-type", &meta.content_type),
        ("cache-control", &meta.cache_control),
        ("content-disposition", &meta.content_disposition),
        ("content-encoding", &meta.content_encoding),
        ("content-language", &meta.content_language),
        ("expires", &meta.expires),
        ("x-cos-storage-class", &meta.class),
    ];
    for (name, value) in content {
        if let Some(value) = value {
            check_exact(request.operation, name, value)?;
            request.header(name, value)?;
        }
    }
    for (name, value) in &meta.user {
        check_exact(request.operation, name, value)?;
        request.header(&format!("{USER}{name}"), value)?;
    }
    if let Some(token) = &meta.token {
        request.header(&format!("{USER}{}", CommitToken::HEADER), token.as_str())?;
    }
    match &meta.sse {
        None => {}
        Some(Sse::Cos) => request.header(SSE, "AES256")?,
        Some(Sse::Kms(id)) => {
            request.header(SSE, "cos/kms")?;
            if let Some(id) = id {
                request.header(&format!("{SSE}-cos-kms-key-id"), id)?;
            }
        }
        Some(Sse::Customer) => {
            return Err(Error::new(Kind::Denied, request.operation.name(), "the object is encrypted with a customer's key"));
        }
    }
    if let Some(acl) = &meta.acl {
        send_acl(acl, request)?;
    }
    if let Some(Tags(tags)) = &meta.tags {
        if request.operation == Operation::Copy {
            request.header("x-cos-tagging-directive", "Replaced")?;
        }
        let encode = |text| utf8_percent_encode(text, ESCAPED);
        let pairs: Vec<_> = tags.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        request.header("x-cos-tagging", &pairs.join("&"))?;
    }
    Ok(())
}

/// A value that was no UTF-8 when it was read would come back as another.
fn check_exact(operation: Operation, name: &str, value: &str) -> Result<()> {
    if value.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Error::new(Kind::Unsupported, operation.name(), format!("{name} is not UTF-8 and cannot be sent again")));
    }
    Ok(())
}

/// The owner's own full control goes without saying; users go into grants, the two groups into the canned list.
fn send_acl(acl: &Acl, request: &mut Request<'_>) -> Result<()> {
    let mut canned = "private";
    let mut grants = BTreeMap::<&str, Vec<String>>::new();
    for grant in &acl.grants {
        let header = match grant.permission.as_str() {
            "READ" => "x-cos-grant-read",
            "WRITE" => "x-cos-grant-write",
            "READ_ACP" => "x-cos-grant-read-acp",
            "WRITE_ACP" => "x-cos-grant-write-acp",
            "FULL_CONTROL" => "x-cos-grant-full-control",
            _ => return Err(unsendable(request.operation, &grant.permission)),
        };
        match grant.grantee.as_str() {
            owner if owner == acl.owner => {}
            ALL_USERS if grant.permission == "READ" => canned = "public-read",
            AUTHENTICATED_USERS if grant.permission == "READ" && canned == "private" => canned = "authenticated-read",
            grantee => {
                let id = user_id(grantee).ok_or_else(|| unsendable(request.operation, grantee))?;
                grants.entry(header).or_default().push(format!("id=\"{id}\""));
            }
        }
    }
    if canned != "private" || grants.is_empty() {
        request.header("x-cos-acl", canned)?;
    }
    for (header, ids) in grants {
        request.header(header, &ids.join(","))?;
    }
    Ok(())
}

fn unsendable(operation: Operation, what: &str) -> Error {
    Error::new(Kind::Unsupported, operation.name(), format!("the access list has an entry that cannot be sent along: {what}"))
}

/// `qcs::cam::uin/O:uin/S` as grants want it: `O/S`, or `O` for the account itself.
fn user_id(grantee: &str) -> Option<String> {
    let (owner, user) = grantee.strip_prefix("qcs::cam::uin/")?.split_once(":uin/")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(owner) && digits(user)).then(|| if owner == user { owner.to_owned() } else { format!("{owner}/{user}") })
}

/// What a HEAD's answer says. `now` stands in for a missing `Date`.
pub(super) fn head(key: &Key, headers: &HeaderMap, now: SystemTime) -> Result<Head> {
    let corrupt = |what: &str| Error::new(Kind::Corrupt, Operation::Head.name(), format!("the answer has no {what}")).on(key);
    let date = time(headers, "date").unwrap_or(now);
    let etag = etag(headers).ok_or_else(|| corrupt("ETag"))?;
    let size = text(headers, "content-length").and_then(|size| size_of(&size)).ok_or_else(|| corrupt("Content-Length"))?;
    let meta = meta(headers);
    let deep = matches!(meta.class.as_deref(), Some("ARCHIVE" | "DEEP_ARCHIVE"));
    let restored = text(headers, "x-cos-restore").is_some_and(|state| state.contains("ongoing-request=\"false\""));
    Ok(Head {
        version: ObjectVersion { key: key.clone(), etag, size, version_id: version_id(headers) },
        last_modified: time(headers, "last-modified").ok_or_else(|| corrupt("Last-Modified"))?,
        crc64: crc64(headers),
        meta,
        archived: deep && !restored,
        date,
    })
}

fn meta(headers: &HeaderMap) -> Meta {
    let mut user = BTreeMap::new();
    let mut token = None;
    for name in headers.keys() {
        let Some(suffix) = name.as_str().strip_prefix(USER) else { continue };
        let value = text(headers, name.as_str()).unwrap_or_default();
        if suffix == CommitToken::HEADER {
            token = Some(CommitToken::parse(&value));
        } else {
            user.insert(suffix.to_owned(), value);
        }
    }
    Meta {
        content_type: text(headers, "content-type"),
        cache_control: text(headers, "cache-control"),
        content_disposition: text(headers, "content-disposition"),
        content_encoding: text(headers, "content-encoding"),
        content_language: text(headers, "content-language"),
        expires: text(headers, "expires"),
        user,
        class: text(headers, "x-cos-storage-class").and_then(|class| class_of(&class)),
        sse: sse(headers),
        acl: None,
        tags: None,
        token,
    }
}

/// Server-side encryption, as HEAD and the answers to writes show it.
pub(super) fn sse(headers: &HeaderMap) -> Option<Sse> {
    let customer = format!("{SSE}-customer-algorithm");
    match text(headers, SSE).as_deref() {
        _ if headers.contains_key(customer.as_str()) => Some(Sse::Customer),
        Some("AES256") => Some(Sse::Cos),
        Some(_) => Some(Sse::Kms(text(headers, &format!("{SSE}-cos-kms-key-id")))),
        None => None,
    }
}

/// A storage class; the standard one is the one that goes without saying.
pub(super) fn class_of(text: &str) -> Option<String> {
    Some(text.trim().to_ascii_uppercase()).filter(|class| (1..=LONGEST_CLASS).contains(&class.len()) && class != "STANDARD")
}

/// An object's size: one that the kernel can be told, too.
pub(super) fn size_of(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|size| i64::try_from(*size).is_ok())
}

/// An entity tag. It is kept with every version and is a part of names in the cache, so its length is bounded.
pub(super) fn tag_of(text: &str) -> Option<ETag> {
    Some(ETag::new(text)).filter(|tag| (1..=LONGEST_TAG).contains(&tag.as_str().len()))
}

/// A header's text. Foreign writers store UTF-8; what is not even that shows [`char::REPLACEMENT_CHARACTER`], which is never sent.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn time(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

pub(super) fn etag(headers: &HeaderMap) -> Option<ETag> {
    text(headers, "etag").and_then(|tag| tag_of(&tag))
}

pub(super) fn crc64(headers: &HeaderMap) -> Option<u64> {
    text(headers, "x-cos-hash-crc64ecma")?.trim().parse().ok()
}

/// The version's id. `null` names whatever was written last without versioning, so it pins nothing.
pub(super) fn version_id(headers: &HeaderMap) -> Option<VersionId> {
    text(headers, "x-cos-version-id").filter(|id| (1..=LONGEST_TAG).contains(&id.len()) && id != "null").map(|id| VersionId(id.into()))
}

#[cfg(test)]
mod tests {
    use reqwest::{Method, header::HeaderName};

    use super::*;
    use crate::store::Grant;

    fn answer(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn everything_a_head_shows_is_kept_apart() {
        let headers = answer(&[
            ("content-length", "5"),
            ("etag", "\"abc-2\""),
            ("last-modified", "Wed, 28 Oct 2020 20:30:00 GMT"),
            ("date", "Wed, 28 Oct 2020 20:30:01 GMT"),
            ("content-type", "text/x"),
            ("expires", "never"),
            ("x-cos-meta-mode", "33188"),
            ("x-cos-meta-cosmount-commit", "00ff"),
            ("x-cos-storage-class", "archive"),
            ("x-cos-hash-crc64ecma", "18446744073709551615"),
            ("x-cos-version-id", "null"),
            ("x-cos-server-side-encryption", "cos/kms"),
        ]);
        let head = head(&Key::new("a"), &headers, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((head.version.etag.as_str(), head.version.size, head.version.version_id.as_ref()), ("abc-2", 5, None));
        assert_eq!(head.date.duration_since(head.last_modified).unwrap().as_secs(), 1);
        assert_eq!(head.crc64, Some(u64::MAX));
        assert_eq!(head.meta.user, BTreeMap::from([("mode".to_owned(), "33188".to_owned())]));
        assert_eq!(head.meta.token, Some(CommitToken::parse("00ff")));
        assert_eq!((head.meta.class.as_deref(), head.archived), (Some("ARCHIVE"), true));
        assert_eq!(head.meta.sse, Some(Sse::Kms(None)));
    }

    #[test]
    fn an_answer_without_what_names_a_version_is_corrupt() {
        let all = [("content-length", "5"), ("etag", "\"a\""), ("last-modified", "Wed, 28 Oct 2020 20:30:00 GMT")];
        for missing in 0..all.len() {
            let lines: Vec<_> = all.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, line)| *line).collect();
            assert_eq!(head(&Key::new("a"), &answer(&lines), SystemTime::UNIX_EPOCH).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn what_was_not_read_exactly_is_not_sent_again() {
        let answered = |name: &'static str, value: &[u8]| {
            let mut headers = answer(&[("content-length", "5"), ("etag", "\"a\""), ("last-modified", "Wed, 28 Oct 2020 20:30:00 GMT")]);
            headers.append(HeaderName::from_static(name), reqwest::header::HeaderValue::from_bytes(value).unwrap());
            head(&Key::new("a"), &headers, SystemTime::UNIX_EPOCH).unwrap().meta
        };
        let sent = |meta: &Meta| send(meta, &mut Request::new(Operation::Put, Method::PUT, None));
        for name in ["x-cos-meta-k", "content-disposition"] {
            sent(&answered(name, "grün".as_bytes())).unwrap();
            assert_eq!(sent(&answered(name, b"gr\xfcn")).unwrap_err().kind(), Kind::Unsupported, "{name}");
        }
    }

    #[test]
    fn an_access_list_is_sent_as_grants_or_not_at_all() {
        let owner = "qcs::cam::uin/1:uin/1".to_owned();
        let grant = |grantee: &str, permission: &str| Grant { grantee: grantee.to_owned(), permission: permission.to_owned() };
        let sent = |grants: Vec<Grant>| {
            let mut request = Request::new(Operation::Put, Method::PUT, None);
            send_acl(&Acl { owner: owner.clone(), grants }, &mut request).map(|()| format!("{request:?}"))
        };
        assert!(sent(vec![grant(&owner, "FULL_CONTROL")]).unwrap().contains("\"x-cos-acl\", \"private\""));
        let shown = sent(vec![grant("qcs::cam::uin/1:uin/2", "READ"), grant("qcs::cam::uin/3:uin/3", "READ")]).unwrap();
        assert!(shown.contains("x-cos-grant-read") && shown.contains("1/2") && !shown.contains("x-cos-acl"), "{shown}");
        assert!(sent(vec![grant(ALL_USERS, "READ")]).unwrap().contains("public-read"));
        assert_eq!(sent(vec![grant(ALL_USERS, "WRITE")]).unwrap_err().kind(), Kind::Unsupported);
    }
}
