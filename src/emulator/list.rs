//! The listing of objects, and what all listings share: prefix, delimiter, marker and page.
//!
//! A page seeks: each entry is found from the last one, and below a common prefix nothing is looked at, so a page costs what it shows.
//!
//! Source: COS API, GET Bucket (document 436/7734), read 2026-11.

use std::borrow::Cow;
use std::ops::Bound;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::acl::OWNER_UIN;
use super::answer::Answer;
use super::call::Call;
use super::copy::iso_date;
use super::error::{Failure, Outcome};
use super::fault::Action;
use super::server::Core;
use super::state::{Object, View};
use super::target::Query;
use super::xml::Writer;

impl Core {
    pub(super) fn list_objects(&self, call: &Call) -> Outcome<Answer> {
        let query = &call.target.query;
        let encoding = Encoding::of(query)?;
        let prefix = query.bytes("prefix").unwrap_or_default();
        let marker = query.bytes("marker").unwrap_or_default();
        let delimiter = delimiter(query)?;
        let most = page_size(query, "max-keys", self.config.limits.max_page)?;
        let age = call.plan.find(|action| if let Action::StaleList { age } = action { Some(*age) } else { None });
        let bucket = call.bucket()?;
        let (document, region) = self.store.bucket(bucket, |state| {
            let view = state.view(age.filter(|age| *age > Duration::ZERO));
            let page = Page::of(&view, prefix, delimiter.as_deref(), marker, most);
            let document = Writer::new("ListBucketResult")
                .text("Name", bucket)
                .optional("EncodingType", encoding.name())
                .text("Prefix", &encoding.text(prefix))
                .text("Marker", &encoding.text(marker))
                .number("MaxKeys", most as u64)
                .optional("Delimiter", delimiter.as_deref().map(|d| encoding.text(d)).as_deref())
                .text("IsTruncated", if page.next.is_some() { "true" } else { "false" })
                .optional("NextMarker", page.next.as_deref().map(|next| encoding.text(next)).as_deref())
                .each(&page.common, |xml, common| xml.open("CommonPrefixes").text("Prefix", &encoding.text(common)).close())
                .each(&page.objects, |xml, (key, object)| {
                    xml.open("Contents")
                        .text("Key", &encoding.text(key))
                        .text("LastModified", &iso_date(object.modified, true))
                        .text("ETag", &format!("\"{}\"", object.etag))
                        .number("Size", object.content.len())
                        .open("Owner")
                        .text("ID", OWNER_UIN)
                        .text("DisplayName", OWNER_UIN)
                        .close()
                        .text("StorageClass", &object.meta.class)
                        .optional("StorageTier", object.meta.tier())
                        .optional("RestoreStatus", object.restore_status())
                        .close()
                });
            Ok((document.finish(), state.config.region.clone()))
        })?;
        Ok(Answer::xml(document).header("x-cos-bucket-region", &region))
    }
}

/// One page of a bucket.
#[derive(Debug, Default)]
struct Page<'a> {
    objects: Vec<(&'a [u8], &'a Object)>,
    common: Vec<&'a [u8]>,
    /// The last key or common prefix, if more follow.
    next: Option<Vec<u8>>,
}

impl<'a> Page<'a> {
    fn of(view: &View<'a>, prefix: &'a [u8], delimiter: Option<&[u8]>, marker: &'a [u8], most: usize) -> Self {
        let mut page = Self::default();
        let mut last: &[u8] = &[];
        // The end of what is below a common prefix: a key of its own, which the next seek borrows.
        let skip;
        let mut from = if common_prefix(marker, prefix, delimiter).is_some_and(|common| common == marker) {
            let Some(end) = after_prefix(marker) else { return page };
            skip = end;
            view.first(Bound::Included(&skip).map(|key| key.as_slice())).map(|(key, _)| key).map(Bound::Included)
        } else if marker < prefix {
            Some(Bound::Included(prefix))
        } else {
            Some(Bound::Excluded(marker))
        };
        while let Some(start) = from.take() {
            let Some((key, object)) = view.first(start) else { break };
            if !key.starts_with(prefix) {
                break;
            }
            if page.objects.len() + page.common.len() == most {
                page.next = Some(last.to_vec());
                break;
            }
            match Step::of(key, prefix, delimiter) {
                Step::Key(key) => {
                    page.objects.push((key, object));
                    last = key;
                    from = Some(Bound::Excluded(key));
                }
                Step::Common(common) => {
                    page.common.push(common);
                    last = common;
                    let end = after_prefix(common);
                    from = end.and_then(|end| view.first(Bound::Included(&end)).map(|(key, _)| Bound::Included(key)));
                }
            }
        }
        page
    }
}

/// What a key contributes to a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Key(&'a [u8]),
    Common(&'a [u8]),
}

impl<'a> Step<'a> {
    pub(super) fn of(key: &'a [u8], prefix: &[u8], delimiter: Option<&[u8]>) -> Self {
        common_prefix(key, prefix, delimiter).map_or(Self::Key(key), Self::Common)
    }
}

/// The part of a key up to the first delimiter after the prefix.
pub(super) fn common_prefix<'a>(key: &'a [u8], prefix: &[u8], delimiter: Option<&[u8]>) -> Option<&'a [u8]> {
    let delimiter = delimiter?;
    let rest = key.strip_prefix(prefix)?;
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// The first key after all that begin so; None if there can be none.
pub(super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut next = prefix[..=end].to_vec();
    next[end] += 1;
    Some(next)
}

/// The delimiter, which is one character.
pub(super) fn delimiter(query: &Query) -> Outcome<Option<Vec<u8>>> {
    let Some(bytes) = query.bytes("delimiter").filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    if std::str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == 1) {
        return Ok(Some(bytes.to_vec()));
    }
    Err(Failure::new(400, "InvalidDelimiter", "The delimiter must be one character."))
}

/// The size of a page: more than the most is cut.
pub(super) fn page_size(query: &Query, name: &str, most: usize) -> Outcome<usize> {
    match query.number(name, most as u64)? {
        0 => Err(Failure::invalid_argument(format!("{name} begins at 1."))),
        wanted => Ok(usize::try_from(wanted).unwrap_or(usize::MAX).min(most)),
    }
}

/// How keys appear in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As they are, even where that is no XML.
    Plain,
    Url,
}

impl Encoding {
    pub(super) fn of(query: &Query) -> Outcome<Self> {
        match query.text("encoding-type").as_deref() {
            None | Some("") => Ok(Self::Plain),
            Some("url") => Ok(Self::Url),
            Some(other) => Err(Failure::invalid_argument(format!("The encoding type {other} is unknown."))),
        }
    }

    pub(super) fn name(self) -> Option<&'static str> {
        (self == Self::Url).then_some("url")
    }

    pub(super) fn text(self, key: &[u8]) -> Cow<'_, str> {
        const BARE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
        match self {
            Self::Plain => String::from_utf8_lossy(key),
            Self::Url => percent_encode(key, BARE).into(),
        }
    }
}
