//! The four `If-*` headers, plain and of a copy's source.
//!
//! In the order of RFC 9110: `If-Match` before `If-Unmodified-Since`, `If-None-Match` before `If-Modified-Since`.

use std::time::UNIX_EPOCH;

use hyper::HeaderMap;

use super::meta::text;
use super::state::Object;

/// What the conditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    /// 304 to a read, 412 to a copy.
    NotModified,
    /// The condition that does not hold.
    Fails(&'static str),
}

/// Holds the conditions of a request, whose names begin with `prefix`, against an object.
pub(super) fn check(headers: &HeaderMap, prefix: &str, object: &Object) -> Verdict {
    let header = |name: &str| text_of(headers, prefix, name);
    let date = |name: &str| header(name).and_then(seconds);
    if let Some(tags) = header("if-match") {
        if !matches(tags, &object.etag) {
            return Verdict::Fails("If-Match");
        }
    } else if date("if-unmodified-since").is_some_and(|date| object.modified > date) {
        return Verdict::Fails("If-Unmodified-Since");
    }
    if let Some(tags) = header("if-none-match") {
        if matches(tags, &object.etag) {
            return Verdict::NotModified;
        }
    } else if date("if-modified-since").is_some_and(|date| object.modified <= date) {
        return Verdict::NotModified;
    }
    Verdict::Holds
}

fn text_of<'a>(headers: &'a HeaderMap, prefix: &str, name: &str) -> Option<&'a str> {
    text(headers, &format!("{prefix}{name}"))
}

/// Whether a list of tags, quoted or not, holds this one.
fn matches(tags: &str, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    tags.split(',').map(plain).any(|tag| tag == "*" || tag == etag)
}

/// Dates that cannot be read are ignored, as HTTP wants it.
fn seconds(date: &str) -> Option<u64> {
    httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::meta::header_map;
    use super::super::objects::http_date;
    use super::*;

    #[test]
    fn tags_come_before_dates() {
        let object = Object { etag: "aa".into(), modified: 1000, ..Object::default() };
        let (before, same) = (http_date(999), http_date(1000));
        for (pairs, verdict) in [
            (vec![("if-match", "\"aa\"")], Verdict::Holds),
            (vec![("if-match", "bb, aa")], Verdict::Holds),
            (vec![("if-match", "*")], Verdict::Holds),
            (vec![("if-match", "\"bb\"")], Verdict::Fails("If-Match")),
            (vec![("if-match", "aa"), ("if-unmodified-since", &before)], Verdict::Holds),
            (vec![("if-unmodified-since", &before)], Verdict::Fails("If-Unmodified-Since")),
            (vec![("if-unmodified-since", &same)], Verdict::Holds),
            (vec![("if-none-match", "\"aa\"")], Verdict::NotModified),
            (vec![("if-none-match", "bb"), ("if-modified-since", &same)], Verdict::Holds),
            (vec![("if-modified-since", &same)], Verdict::NotModified),
            (vec![("if-modified-since", &before)], Verdict::Holds),
            (vec![("if-modified-since", "yesterday")], Verdict::Holds),
        ] {
            assert_eq!(check(&header_map(&pairs).unwrap(), "", &object), verdict, "{pairs:?}");
        }
        let headers = header_map(&[("x-cos-copy-source-if-match", "bb")]).unwrap();
        assert_eq!(check(&headers, "x-cos-copy-source-", &object), Verdict::Fails("If-Match"));
        assert_eq!(check(&headers, "", &object), Verdict::Holds);
    }
}
