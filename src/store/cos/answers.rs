//! The XML documents COS answers with, as the store's nouns. Pure.
//!
//! A page is believed only if it is one: keys carry the prefix asked for, lie behind where the page began, come once and in order, and the next
//! page begins further on. Published samples disagree on spellings (`Encoding-Type`, `UploadID`); all are understood.
//!
//! Source: COS API, "GET Bucket" (document 436/7734), "List Parts" (436/7747), "List Multipart Uploads" (436/7736), read 2026-11.

use std::time::{Duration, SystemTime};

use percent_encoding::percent_decode_str;

use crate::store::{
    Acl, BucketInfo, BucketName, ETag, Grant, Key, ListRequest, Listed, ObjectVersion, OpenUpload, Page, Part, PartNumber, Tags, UploadId,
    Versioning,
    cos::{
        error::Document,
        meta::{class_of, size_of, tag_of},
    },
    xml::{Step, walk},
};

/// A key has 850 bytes; other stores that speak this dialect allow 1,024.
const LONGEST_KEY: usize = 1024;

/// An upload's id has some 60 bytes.
const LONGEST_ID: usize = 1024;

/// Parts are numbered from 1.
const LAST_PART: u32 = 10_000;

/// What a document says, or that it is an error document after all, or why it says nothing.
pub(super) type Read<T> = Result<T, Bad>;

/// A document that is not what was asked for.
#[derive(Debug)]
pub(super) enum Bad {
    /// An error document.
    Error(Document),
    /// Something else.
    Corrupt(String),
}

impl From<String> for Bad {
    fn from(why: String) -> Self {
        Self::Corrupt(why)
    }
}

/// Visits a document whose root must be `root`.
fn read(document: &[u8], root: &str, visit: impl FnMut(Step<'_>)) -> Read<()> {
    let found = walk(document, visit)?;
    if found == root {
        Ok(())
    } else if found == "Error" {
        Err(Bad::Error(Document::parse(document)))
    } else {
        Err(Bad::Corrupt(format!("the answer is a {found:?}, not a {root}")))
    }
}

/// A page of the account's buckets, and where the next begins.
pub(super) fn buckets(document: &[u8]) -> Read<(Vec<BucketInfo>, Option<String>)> {
    let (mut found, mut truncated, mut next) = (Vec::new(), false, None);
    let (mut name, mut region, mut created) = (String::new(), String::new(), String::new());
    read(document, "ListAllMyBucketsResult", |step| {
        let Step::Close(path, text) = step else { return };
        let text = text.trim();
        let (outside, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        let in_bucket = outside == "Bucket" || outside.ends_with("/Bucket");
        match leaf {
            "Name" if in_bucket => text.clone_into(&mut name),
            "Location" if in_bucket => text.clone_into(&mut region),
            "CreationDate" if in_bucket => text.clone_into(&mut created),
            "Bucket" => match BucketName::parse(&name) {
                Ok(name) => found.push(BucketInfo { name, region: std::mem::take(&mut region), created: std::mem::take(&mut created) }),
                Err(_) => tracing::warn!(name = %name.escape_debug(), "a listed bucket has no name that is one"),
            },
            "IsTruncated" => truncated = text == "true",
            "NextMarker" => next = Some(text.to_owned()).filter(|next| !next.is_empty()),
            _ => {}
        }
    })?;
    let next = next.or_else(|| found.last().map(|info| info.name.as_str().to_owned())).filter(|_| truncated);
    Ok((found, next))
}

/// A page of keys, checked against what was asked.
pub(super) fn page(document: &[u8], request: &ListRequest) -> Read<Page> {
    let mut page = Page::default();
    let (mut truncated, mut encoded, mut next) = (false, false, None::<String>);
    let mut entry = Entry::default();
    let mut prefix = String::new();
    let mut bad = None::<String>;
    // Names are decoded at the end: the encoding may be told behind them.
    let (mut entries, mut prefixes) = (Vec::new(), Vec::new());
    read(document, "ListBucketResult", |step| {
        let Step::Close(path, text) = step else { return };
        match path {
            "Contents/Key" => text.clone_into(&mut entry.key),
            "Contents/ETag" => text.clone_into(&mut entry.etag),
            "Contents/Size" => entry.size = size_of(text),
            "Contents/LastModified" => entry.last_modified = iso8601(text.trim()),
            "Contents/StorageClass" => entry.class = class_of(text),
            "Contents" => entries.push(std::mem::take(&mut entry)),
            "CommonPrefixes/Prefix" => text.clone_into(&mut prefix),
            "CommonPrefixes" => prefixes.push(std::mem::take(&mut prefix)),
            "IsTruncated" => truncated = text.trim() == "true",
            "EncodingType" | "Encoding-Type" | "Encoding-type" => encoded = text.trim() == "url",
            "NextMarker" => next = Some(text.to_owned()).filter(|next| !next.is_empty()),
            _ => {}
        }
    })?;
    let decode = |text: &str| decoded(text, encoded);
    let listed = entries.len() + prefixes.len();
    for entry in entries {
        let Some(key) = decode(&entry.key) else { continue };
        match entry.listed(Key::new(key)) {
            Some(listed) => page.objects.push(listed),
            None => bad = Some(format!("the entry of {:?} lacks size, time or ETag", shortened(&entry.key))),
        }
    }
    page.prefixes = prefixes.iter().filter_map(|text| decode(text)).map(Key::new).collect();
    if let Some(bad) = bad {
        return Err(Bad::Corrupt(bad));
    }
    page.hidden = listed - page.objects.len() - page.prefixes.len();
    if page.hidden > 0 {
        // Once a page: a bucket full of them must not fill the log.
        tracing::warn!(hidden = page.hidden, prefix = %request.prefix.escape_debug(), "listed keys that are not UTF-8, or longer than any key, are not shown");
    }
    let last = page.objects.last().map(|listed| &listed.version.key).max(page.prefixes.last()).cloned();
    if truncated {
        // A marker that cannot be shown cannot be sent either; the last name that can be does, at the price of some hidden ones seen again.
        let marker = next.as_deref().and_then(decode).map(Key::new);
        let behind_all =
            || next.as_deref().filter(|_| encoded && page.hidden > 0).and_then(|next| beyond(percent_decode_str(next).collect()));
        page.next = marker.or_else(|| last.clone()).or_else(behind_all);
    }
    check(&page, request, truncated, last.as_ref())?;
    Ok(page)
}

fn check(page: &Page, request: &ListRequest, truncated: bool, last: Option<&Key>) -> Result<(), String> {
    let after = request.after.as_ref();
    let prefix = request.prefix.as_str();
    let mut before = None::<&Key>;
    for key in page.objects.iter().map(|listed| &listed.version.key) {
        let Some(below) = key.as_str().strip_prefix(prefix) else {
            return Err(format!("the key {key:?} does not begin with the prefix asked for"));
        };
        if request.delimited && below.contains('/') {
            return Err(format!("the key {key:?} lies deeper than what was asked for"));
        }
        if after.is_some_and(|after| key <= after) || before.is_some_and(|before| key <= before) {
            return Err(format!("the key {key:?} is out of order"));
        }
        before = Some(key);
    }
    let mut before = None::<&Key>;
    for folded in &page.prefixes {
        let text = folded.as_str();
        // One component and its slash.
        let one = text.strip_prefix(prefix).is_some_and(|below| below.find('/').is_some_and(|slash| slash + 1 == below.len()));
        if !request.delimited || !one {
            return Err(format!("the common prefix {folded:?} does not belong to what was asked for"));
        }
        // A page that begins inside a common prefix may show it again.
        let inside = after.is_some_and(|after| after != folded && after.as_str().starts_with(text));
        if (after.is_some_and(|after| folded <= after) && !inside) || before.is_some_and(|before| folded <= before) {
            return Err(format!("the common prefix {folded:?} is out of order"));
        }
        before = Some(folded);
    }
    match &page.next {
        Some(next) if after.is_some_and(|after| next <= after) || last.is_some_and(|last| next < last) => {
            Err(format!("the next page begins at {next:?}, which is no progress"))
        }
        None if truncated => Err("there are more pages, but none says where".to_owned()),
        _ => Ok(()),
    }
}

#[derive(Debug, Default)]
struct Entry {
    key: String,
    etag: String,
    size: Option<u64>,
    last_modified: Option<SystemTime>,
    class: Option<String>,
}

impl Entry {
    fn listed(&self, key: Key) -> Option<Listed> {
        let version = ObjectVersion { key, etag: tag_of(&self.etag)?, size: self.size?, version_id: None };
        Some(Listed { version, last_modified: self.last_modified?, class: self.class.clone() })
    }
}

/// A name as it was before `encoding-type=url`; `+` is a plus. `None` for what is no key.
fn decoded(text: &str, encoded: bool) -> Option<String> {
    let name = if encoded { percent_decode_str(text.trim()).decode_utf8().ok()?.into_owned() } else { text.to_owned() };
    (name.len() <= LONGEST_KEY).then_some(name)
}

/// The least key behind one that is no UTF-8. (As a marker it leaves out itself: a key of that name is missed, if a whole page before it was hidden.)
fn beyond(mut raw: Vec<u8>) -> Option<Key> {
    raw.truncate(LONGEST_KEY);
    let mut valid =
        String::from_utf8_lossy(&raw[..std::str::from_utf8(&raw).map_or_else(|error| error.valid_up_to(), str::len)]).into_owned();
    loop {
        // Characters are ordered as their bytes are.
        let rest = &raw[valid.len()..];
        let (mut low, mut high) = (0, u32::from(char::MAX) + 1);
        let at = |number: u32| char::from_u32(number).unwrap_or('\u{e000}');
        while low < high {
            let middle = low.midpoint(high);
            if at(middle).encode_utf8(&mut [0; 4]).as_bytes() > rest { high = middle } else { low = middle + 1 }
        }
        if low <= u32::from(char::MAX) {
            valid.push(at(low));
            return Some(Key::new(valid));
        }
        // Nothing begins so and is greater: what is behind differs one character earlier.
        valid.pop()?;
    }
}

/// The beginning of what may be megabytes long, for an error.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(200)]
}

/// What a copy made.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) etag: Option<ETag>,
    pub(super) crc64: Option<u64>,
    pub(super) last_modified: Option<SystemTime>,
}

/// The answer to a copy, a part copy or a complete: a result with an ETag, or an error under a 200.
pub(super) fn made(document: &[u8], root: &str) -> Read<Copied> {
    let mut copied = Copied::default();
    read(document, root, |step| match step {
        Step::Close("ETag", text) => copied.etag = tag_of(text),
        Step::Close("CRC64", text) => copied.crc64 = text.trim().parse().ok(),
        Step::Close("LastModified", text) => copied.last_modified = iso8601(text.trim()),
        _ => {}
    })?;
    if copied.etag.is_some() { Ok(copied) } else { Err(Bad::Corrupt(format!("the {root} has no ETag"))) }
}

/// The upload's id.
pub(super) fn upload_id(document: &[u8]) -> Read<UploadId> {
    let mut id = None;
    read(document, "InitiateMultipartUploadResult", |step| {
        if let Step::Close("UploadId" | "UploadID", text) = step {
            id = Some(UploadId(text.trim().into())).filter(|id| !id.0.is_empty() && id.0.len() <= LONGEST_ID);
        }
    })?;
    id.ok_or_else(|| Bad::Corrupt("the answer has no UploadId".to_owned()))
}

/// The refusals in a multi-delete's answer: key, code, message.
pub(super) fn refused_deletes(document: &[u8]) -> Read<Vec<(String, Document)>> {
    let mut refused = Vec::new();
    let (mut key, mut error) = (String::new(), Document::default());
    read(document, "DeleteResult", |step| match step {
        Step::Close("Error/Key", text) => text.clone_into(&mut key),
        Step::Close("Error/Code", text) => error.code = Some(text.trim().to_owned()),
        Step::Close("Error/Message", text) => error.message = Some(text.trim().to_owned()),
        Step::Close("Error", _) => refused.push((std::mem::take(&mut key), std::mem::take(&mut error))),
        _ => {}
    })?;
    Ok(refused)
}

/// A page of parts, and the number behind which the next begins.
pub(super) fn parts(document: &[u8], after: u32) -> Read<(Vec<Part>, Option<u32>)> {
    let (mut parts, mut truncated, mut next) = (Vec::<Part>::new(), false, None);
    let (mut number, mut etag, mut size, mut crc64) = (None, String::new(), None, None);
    let mut whole = true;
    read(document, "ListPartsResult", |step| {
        let Step::Close(path, text) = step else { return };
        match path {
            "Part/PartNumber" => number = text.trim().parse().ok(),
            "Part/ETag" => text.clone_into(&mut etag),
            "Part/Size" => size = size_of(text),
            "Part/CRC64" => crc64 = text.trim().parse().ok(),
            "Part" => match (number.take(), size.take()) {
                (Some(number), Some(size)) => {
                    parts.push(Part { number: PartNumber(number), etag: ETag::new(&std::mem::take(&mut etag)), size, crc64: crc64.take() });
                }
                _ => whole = false,
            },
            "IsTruncated" => truncated = text.trim() == "true",
            "NextPartNumberMarker" => next = text.trim().parse().ok(),
            _ => {}
        }
    })?;
    let mut before = after;
    for part in &parts {
        whole &= part.number.0 > before && part.number.0 <= LAST_PART;
        before = part.number.0;
    }
    let next = next.or_else(|| parts.last().map(|part| part.number.0)).filter(|_| truncated);
    if !whole || (truncated && next.is_none_or(|next| next <= after || next > LAST_PART)) {
        return Err(Bad::Corrupt("the list of parts is not one".to_owned()));
    }
    Ok((parts, next))
}

/// Where a page of uploads goes on: behind this key and, in it, this upload.
pub(super) type UploadMarker = (String, String);

/// A page of open uploads.
pub(super) fn uploads(document: &[u8], after: Option<&UploadMarker>) -> Read<(Vec<OpenUpload>, Option<UploadMarker>)> {
    let (mut found, mut truncated, mut encoded) = (Vec::new(), false, false);
    let (mut next_key, mut next_id) = (String::new(), String::new());
    let (mut key, mut id, mut initiated) = (String::new(), String::new(), String::new());
    read(document, "ListMultipartUploadsResult", |step| {
        let Step::Close(path, text) = step else { return };
        match path {
            "Upload/Key" => text.clone_into(&mut key),
            "Upload/UploadId" | "Upload/UploadID" => text.trim().clone_into(&mut id),
            "Upload/Initiated" => text.trim().clone_into(&mut initiated),
            "Upload" => found.push((std::mem::take(&mut key), std::mem::take(&mut id), std::mem::take(&mut initiated))),
            "EncodingType" | "Encoding-Type" | "Encoding-type" => encoded = text.trim() == "url",
            "IsTruncated" => truncated = text.trim() == "true",
            "NextKeyMarker" => text.clone_into(&mut next_key),
            "NextUploadIdMarker" | "NextUploadIDMarker" => text.trim().clone_into(&mut next_id),
            _ => {}
        }
    })?;
    let mut uploads = Vec::with_capacity(found.len());
    for (key, id, initiated) in found {
        let (Some(key), 1..=LONGEST_ID) = (decoded(&key, encoded), id.len()) else { continue };
        uploads.push(OpenUpload { key: Key::new(key), id: UploadId(id.into()), initiated });
    }
    if !truncated {
        return Ok((uploads, None));
    }
    let next = (decoded(&next_key, encoded).unwrap_or_default(), next_id);
    if next.0.is_empty() || next.1.len() > LONGEST_ID || after.is_some_and(|after| next.0 < after.0 || next == *after) {
        return Err(Bad::Corrupt("the next page of uploads is no progress".to_owned()));
    }
    Ok((uploads, Some(next)))
}

/// An object's access list.
pub(super) fn acl(document: &[u8]) -> Read<Acl> {
    let mut acl = Acl::default();
    let mut grant = Grant { grantee: String::new(), permission: String::new() };
    read(document, "AccessControlPolicy", |step| match step {
        Step::Close("Owner/ID", text) => text.trim().clone_into(&mut acl.owner),
        Step::Close("AccessControlList/Grant/Grantee/ID" | "AccessControlList/Grant/Grantee/URI", text) => {
            text.trim().clone_into(&mut grant.grantee);
        }
        Step::Close("AccessControlList/Grant/Permission", text) => text.trim().clone_into(&mut grant.permission),
        Step::Close("AccessControlList/Grant", _) => {
            let next = Grant { grantee: String::new(), permission: String::new() };
            acl.grants.push(std::mem::replace(&mut grant, next));
        }
        _ => {}
    })?;
    Ok(acl)
}

/// An object's tags.
pub(super) fn tags(document: &[u8]) -> Read<Tags> {
    let mut tags = Vec::new();
    let (mut name, mut value) = (String::new(), String::new());
    read(document, "Tagging", |step| match step {
        Step::Close("TagSet/Tag/Key", text) => text.clone_into(&mut name),
        Step::Close("TagSet/Tag/Value", text) => text.clone_into(&mut value),
        Step::Close("TagSet/Tag", _) => tags.push((std::mem::take(&mut name), std::mem::take(&mut value))),
        _ => {}
    })?;
    Ok(Tags(tags))
}

/// A bucket's versioning state.
pub(super) fn versioning(document: &[u8]) -> Read<Versioning> {
    let mut state = Versioning::Never;
    read(document, "VersioningConfiguration", |step| match step {
        Step::Close("Status", text) if text.trim() == "Enabled" => state = Versioning::Enabled,
        Step::Close("Status", text) if text.trim() == "Suspended" => state = Versioning::Suspended,
        _ => {}
    })?;
    Ok(state)
}

/// `2020-12-10T03:37:30.000Z`, with or without fraction and zone (always UTC).
pub(super) fn iso8601(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.trim_end_matches('Z').split(':');
    let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
    let second = time.next()?.split('.').next()?.parse::<u64>().ok()?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    // Days since 1970 by the civil calendar, years beginning in March so that a leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(key: &str) -> String {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2020-12-10T03:37:30.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>37</Size>\
             <Owner><ID>1</ID></Owner><StorageClass>STANDARD_IA</StorageClass></Contents>"
        )
    }

    fn listing(body: &str) -> String {
        format!("<ListBucketResult><EncodingType>url</EncodingType>{body}</ListBucketResult>")
    }

    fn request(after: Option<&str>) -> ListRequest {
        ListRequest { prefix: "dir/".to_owned(), delimited: true, after: after.map(Key::new), limit: None }
    }

    #[test]
    fn a_page_is_read() {
        let folded = "<CommonPrefixes><Prefix>dir/sub/</Prefix></CommonPrefixes>";
        let more = "<IsTruncated>true</IsTruncated><NextMarker>dir/sub/</NextMarker>";
        let document = listing(&format!("{more}{folded}{}", contents("dir/%E7%85%A7+.jpg").replace("%E7%85%A7", "a")));
        let page = page(document.as_bytes(), &request(None)).unwrap();
        assert_eq!(page.objects[0].version.key, Key::new("dir/a+.jpg"));
        assert_eq!((page.objects[0].version.size, page.objects[0].class.as_deref()), (37, Some("STANDARD_IA")));
        let seconds = page.objects[0].last_modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds, 1_607_571_450);
        assert_eq!((page.prefixes, page.next), (vec![Key::new("dir/sub/")], Some(Key::new("dir/sub/"))));
    }

    #[test]
    fn without_a_marker_the_greatest_name_is_one() {
        let document = listing(&format!("<IsTruncated>true</IsTruncated>{}", contents("dir/x")));
        assert_eq!(page(document.as_bytes(), &request(None)).unwrap().next, Some(Key::new("dir/x")));
    }

    #[test]
    fn pages_that_lie_are_refused() {
        let truncated = "<IsTruncated>true</IsTruncated>";
        let size = contents("dir/a").replace("<Size>37", "<Size>-1");
        for (after, body) in [
            (None, contents("other/a")),
            (None, contents("dir/b") + &contents("dir/a")),
            (None, contents("dir/b") + &contents("dir/b")),
            (Some("dir/c"), contents("dir/b")),
            (Some("dir/b"), contents("dir/b")),
            (None, "<CommonPrefixes><Prefix>dir/</Prefix></CommonPrefixes>".to_owned()),
            (Some("dir/s/"), "<CommonPrefixes><Prefix>dir/s/</Prefix></CommonPrefixes>".to_owned()),
            (None, truncated.to_owned()),
            (Some("dir/c"), format!("{truncated}<NextMarker>dir/c</NextMarker>")),
            (None, format!("{truncated}<NextMarker>dir/a</NextMarker>{}", contents("dir/b"))),
            (None, size),
            (None, contents("dir/a").replace("<Size>37", "<Size>9223372036854775808")),
            (None, contents("dir/a").replace("&quot;e&quot;", &"e".repeat(1000))),
            (None, contents("dir/a/b")),
            (None, "<CommonPrefixes><Prefix>dir/a/b/</Prefix></CommonPrefixes>".to_owned()),
        ] {
            let document = listing(&body);
            assert!(matches!(page(document.as_bytes(), &request(after)), Err(Bad::Corrupt(_))), "{body}");
        }
    }

    #[test]
    fn keys_that_are_none_are_left_out() {
        let document = listing(&(contents("dir/%FF") + &contents(&format!("dir/{}", "a".repeat(LONGEST_KEY))) + &contents("dir/b")));
        let page = page(document.as_bytes(), &request(None)).unwrap();
        assert_eq!(page.objects.len(), 1);
        assert_eq!(page.objects[0].version.key, Key::new("dir/b"));
    }

    #[test]
    fn a_page_of_keys_that_are_none_leads_on() {
        for (raw, next) in [("dir/%C3%28", "dir/\u{c0}"), ("dir/a%FF", "dir/b"), ("dir/%ED%A0%80", "dir/\u{e000}"), ("dir/%F5jrn", "dir0")]
        {
            let document = listing(&format!("<IsTruncated>true</IsTruncated><NextMarker>{raw}</NextMarker>{}", contents(raw)));
            let page = page(document.as_bytes(), &request(None)).unwrap();
            assert_eq!((page.objects.len(), page.hidden, page.next), (0, 1, Some(Key::new(next))), "{raw}");
        }
    }

    #[test]
    fn an_error_under_a_200_is_an_error() {
        let error = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>";
        for root in ["CopyObjectResult", "CompleteMultipartUploadResult", "CopyPartResult"] {
            assert!(matches!(made(error, root), Err(Bad::Error(document)) if document.code.as_deref() == Some("InternalError")));
        }
        assert!(matches!(made(b"<CopyObjectResult></CopyObjectResult>", "CopyObjectResult"), Err(Bad::Corrupt(_))));
        let made = made(
            b" \n<CopyPartResult><ETag>\"e\"</ETag><LastModified>2017-09-04T04:45:45</LastModified></CopyPartResult>",
            "CopyPartResult",
        );
        assert!(made.unwrap().last_modified.is_some());
    }

    #[test]
    fn buckets_are_collected_at_any_depth_and_trimmed() {
        let document = b"<ListAllMyBucketsResult><Owner><ID>x</ID></Owner><Buckets><Bucket><Name>a-1 </Name><Location>ap-x</Location>\
            <CreationDate>d</CreationDate><New/></Bucket></Buckets><Buckets><Bucket><Name>b-1</Name></Bucket></Buckets>\
            <IsTruncated>true</IsTruncated></ListAllMyBucketsResult>";
        let (found, next) = buckets(document).unwrap();
        assert_eq!(found.iter().map(|info| (info.name.as_str(), info.region.as_str())).collect::<Vec<_>>(), [("a-1", "ap-x"), ("b-1", "")]);
        assert_eq!(next.as_deref(), Some("b-1"));
    }

    #[test]
    fn parts_and_uploads_must_advance() {
        let part = "<Part><PartNumber>2</PartNumber><ETag>\"e\"</ETag><Size>5</Size></Part>";
        let more = "<NextPartNumberMarker>2</NextPartNumberMarker><IsTruncated>true</IsTruncated>";
        let document = format!("<ListPartsResult>{part}{more}</ListPartsResult>");
        assert_eq!(parts(document.as_bytes(), 1).unwrap().1, Some(2));
        assert!(parts(document.as_bytes(), 2).is_err());
        let document = "<ListMultipartUploadsResult><Encoding-Type>url</Encoding-Type><Upload><Key>a%20b</Key><UploadID>u</UploadID>\
            <Initiated>Wed Jan 18 16:04:17 2017</Initiated></Upload><IsTruncated>true</IsTruncated><NextKeyMarker>a%20b</NextKeyMarker>\
            <NextUploadIdMarker>u</NextUploadIdMarker></ListMultipartUploadsResult>";
        let (found, next) = uploads(document.as_bytes(), None).unwrap();
        assert_eq!((found[0].key.as_str(), next.clone()), ("a b", Some(("a b".to_owned(), "u".to_owned()))));
        assert!(uploads(document.as_bytes(), next.as_ref()).is_err());
    }

    #[test]
    fn days_are_counted_right() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799),
            ("2020-12-09T15:28:19Z", 1_607_527_699),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400),
        ] {
            assert_eq!(iso8601(text), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "2020-13-01T00:00:00Z", "2020-01-01", "x-y-zT1:2:3", "2020-01-01T25:00:00Z"] {
            assert_eq!(iso8601(bad), None, "{bad}");
        }
    }
}
