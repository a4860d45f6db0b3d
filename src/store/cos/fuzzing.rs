//! What is fuzzed of the dialect: the answers of a server that may send anything.

use std::time::SystemTime;

use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use crate::store::{
    Head, Key, ListRequest, Operation, Page,
    cos::{answers, error::Document, meta, request::Request},
};

/// Files with credentials, and the answers of a role's service.
pub(crate) fn credentials(data: &[u8]) {
    super::credentials::fuzz(data);
}

/// Every kind of document; which, says the first byte.
pub(crate) fn documents(data: &[u8]) {
    let Some((kind, document)) = data.split_first() else { return };
    match kind % 10 {
        0 => drop(answers::buckets(document)),
        1 => drop(answers::made(document, "CopyObjectResult")),
        2 => drop(answers::made(document, "CompleteMultipartUploadResult")),
        3 => drop(answers::upload_id(document)),
        4 => drop(answers::refused_deletes(document)),
        5 => {
            let after = u32::from(*kind);
            if let Ok((parts, next)) = answers::parts(document, after) {
                assert!(parts.first().is_none_or(|part| part.number.0 > after));
                assert!(parts.is_sorted_by(|one, next| one.number < next.number));
                assert!(next.is_none_or(|next| next > after && parts.len() <= 10_000));
            }
        }
        6 => {
            let after = ("a".to_owned(), "b".to_owned());
            if let Ok((_, Some(next))) = answers::uploads(document, Some(&after)) {
                assert!(next.0 >= after.0 && next != after);
            }
        }
        7 => {
            drop(answers::acl(document));
            drop(answers::tags(document));
        }
        8 => drop(answers::versioning(document)),
        _ => drop(Document::parse(document)),
    }
}

/// A page of keys. The first byte says what was asked for.
pub(crate) fn listing(data: &[u8]) {
    let Some((asked, document)) = data.split_first() else { return };
    let request = ListRequest {
        prefix: if asked & 1 == 0 { "dir/" } else { "" }.to_owned(),
        delimited: asked & 2 == 0,
        after: (asked & 4 != 0).then(|| Key::new("dir/m")),
        limit: None,
    };
    if let Ok(page) = answers::page(document, &request) {
        check(&page, &request);
    }
}

fn check(page: &Page, request: &ListRequest) {
    let behind = |key: &Key| request.after.as_ref().is_none_or(|after| key > after);
    let objects = page.objects.iter().map(|listed| &listed.version.key);
    assert!(objects.clone().is_sorted_by(|one, next| one < next) && page.prefixes.is_sorted_by(|one, next| one < next));
    for key in objects.clone() {
        let below = key.as_str().strip_prefix(request.prefix.as_str()).expect("a page holds only what has the prefix");
        assert!(behind(key) && !(request.delimited && below.contains('/')), "{key:?}");
    }
    for folded in &page.prefixes {
        let below = folded.as_str().strip_prefix(request.prefix.as_str()).expect("a page holds only what has the prefix");
        assert!(request.delimited && below.find('/') == Some(below.len() - 1), "{folded:?}");
    }
    for listed in &page.objects {
        assert!(i64::try_from(listed.version.size).is_ok() && !listed.version.etag.as_str().is_empty());
    }
    if let Some(next) = &page.next {
        assert!(behind(next) && objects.chain(&page.prefixes).all(|key| key <= next));
    }
}

/// What HEAD makes of `name: value` lines.
pub(crate) fn head(data: &[u8]) -> Option<Head> {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(1200) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) else { continue };
        headers.append(name, value);
    }
    let head = meta::head(&Key::new("key"), &headers, SystemTime::UNIX_EPOCH).ok()?;
    assert!(i64::try_from(head.version.size).is_ok());
    // Whatever was understood is sent with the next edit, or refused, and never splits a request.
    let mut request = Request::new(Operation::Put, Method::PUT, None);
    if meta::send(&head.meta, &mut request).is_ok() {
        assert!(!format!("{request:?}").contains("\\n"), "a line end goes out in a header");
    }
    Some(head)
}
