//! The listing of versions and delete markers.
//!
//! Ordered by key, then newest first; common prefixes, versions and markers count alike. A page that ends at a common prefix or at the
//! oldest version of a key has no `NextVersionIdMarker`, and the next request names the key alone.
//!
//! Source: COS API, GET Bucket Object versions (document 436/35521), read 2026-11.

use std::ops::Bound;

use super::acl::OWNER_UIN;
use super::answer::Answer;
use super::call::Call;
use super::copy::iso_date;
use super::error::{Failure, Outcome};
use super::list::{Encoding, Step, after_prefix, common_prefix, delimiter, page_size};
use super::server::Core;
use super::state::Bucket;
use super::versions::{Version, VersionId};
use super::xml::Writer;

impl Core {
    pub(super) fn list_versions(&self, call: &Call) -> Outcome<Answer> {
        let query = &call.target.query;
        let encoding = Encoding::of(query)?;
        let delimiter = delimiter(query)?;
        let key_marker = query.bytes("key-marker").unwrap_or_default();
        let id_marker = query.text("version-id-marker").filter(|_| !key_marker.is_empty()).unwrap_or_default();
        let below = VersionId::parse(&id_marker);
        if below == Some(VersionId::Nonsense) {
            return Err(Failure::invalid_argument("The version-id-marker is no version's id."));
        }
        let wanted = Wanted {
            prefix: query.bytes("prefix").unwrap_or_default(),
            delimiter: delimiter.as_deref(),
            marker: key_marker,
            below,
            most: page_size(query, "max-keys", self.config.limits.max_page)?,
        };
        let bucket = call.bucket()?;
        self.store.bucket(bucket, |state| {
            let page = Page::of(state, &wanted);
            let (next_key, next_id) = page.next.unwrap_or_default();
            let xml = Writer::new("ListVersionsResult")
                .optional("EncodingType", encoding.name())
                .text("Name", bucket)
                .text("Prefix", &encoding.text(wanted.prefix))
                .text("KeyMarker", &encoding.text(key_marker))
                .text("VersionIdMarker", &id_marker)
                .number("MaxKeys", wanted.most as u64)
                .text("IsTruncated", if next_key.is_empty() { "false" } else { "true" })
                .text("NextKeyMarker", &encoding.text(&next_key))
                .text("NextVersionIdMarker", &next_id)
                .optional("Delimiter", wanted.delimiter.map(|d| encoding.text(d)).as_deref())
                .each(&page.common, |xml, common| xml.open("CommonPrefixes").text("Prefix", &encoding.text(common)).close())
                .each(&page.versions, |xml, line| describe(xml, line, &encoding.text(line.key), state));
            Ok(Answer::xml(xml.finish()))
        })
    }
}

fn describe(xml: Writer, line: &Line<'_>, key: &str, state: &Bucket) -> Writer {
    let begin = |xml: Writer, name, modified| {
        xml.open(name)
            .text("Key", key)
            .text("VersionId", &state.told(line.version.stamp()).unwrap_or_default())
            .text("IsLatest", if line.latest { "true" } else { "false" })
            .text("LastModified", &iso_date(modified, true))
    };
    let xml = match &line.version {
        Version::Marker(marker) => begin(xml, "DeleteMarker", marker.modified),
        Version::Object(object) => begin(xml, "Version", object.modified)
            .text("ETag", &format!("\"{}\"", object.etag))
            .number("Size", object.content.len())
            .text("StorageClass", &object.meta.class)
            .optional("StorageTier", object.meta.tier())
            .optional("RestoreStatus", object.restore_status()),
    };
    xml.open("Owner").text("ID", OWNER_UIN).text("DisplayName", OWNER_UIN).close().close()
}

/// Which page is asked for.
struct Wanted<'a> {
    prefix: &'a [u8],
    delimiter: Option<&'a [u8]>,
    /// After this key or common prefix; its versions come again if `below` is given.
    marker: &'a [u8],
    below: Option<VersionId>,
    most: usize,
}

/// One version in a page.
struct Line<'a> {
    key: &'a [u8],
    version: Version,
    latest: bool,
}

/// One page of a bucket's versions.
#[derive(Default)]
struct Page<'a> {
    common: Vec<&'a [u8]>,
    versions: Vec<Line<'a>>,
    /// The last key or common prefix, and the version id, if more follow.
    next: Option<(Vec<u8>, String)>,
}

impl<'a> Page<'a> {
    fn of(state: &'a Bucket, wanted: &Wanted<'_>) -> Self {
        let Wanted { prefix, delimiter, marker, .. } = *wanted;
        let mut page = Self::default();
        let mut last = (Vec::new(), String::new());
        let mut from = if common_prefix(marker, prefix, delimiter).is_some_and(|common| common == marker) {
            after_prefix(marker).map(Bound::Included)
        } else if marker < prefix {
            Some(Bound::Included(prefix.to_vec()))
        } else if wanted.below.is_some() {
            Some(Bound::Included(marker.to_vec()))
        } else {
            Some(Bound::Excluded(marker.to_vec()))
        };
        while let Some(start) = from.take() {
            let next = state.next_key(start.as_ref().map(Vec::as_slice));
            let Some(key) = next.filter(|key| key.starts_with(prefix)) else { break };
            if let Step::Common(common) = Step::of(key, prefix, delimiter) {
                if page.is_full(wanted.most) {
                    page.next = Some(last);
                    break;
                }
                page.common.push(common);
                last = (common.to_vec(), String::new());
                from = after_prefix(common).map(Bound::Included);
                continue;
            }
            let stack: Vec<Version> = state.stack(key).collect();
            let skipped = wanted.below.filter(|_| key == marker).map_or(0, |below| position_below(&stack, below));
            for (at, version) in stack.iter().enumerate().skip(skipped) {
                if page.is_full(wanted.most) {
                    page.next = Some(last);
                    return page;
                }
                let oldest = at + 1 == stack.len();
                last = (key.to_vec(), if oldest { String::new() } else { version.stamp().id() });
                page.versions.push(Line { key, version: version.clone(), latest: at == 0 });
            }
            from = Some(Bound::Excluded(key.to_vec()));
        }
        page
    }

    fn is_full(&self, most: usize) -> bool {
        self.common.len() + self.versions.len() == most
    }
}

/// Where a stack goes on after a version, also if that was deleted since. Where a null version was cannot be told when it is gone: then
/// all are listed, since a client that empties a bucket page by page must not miss one.
fn position_below(stack: &[Version], below: VersionId) -> usize {
    match below {
        VersionId::Made(made) => stack.partition_point(|version| version.stamp().made >= made),
        _ => stack.iter().position(|version| below.names(version.stamp())).map_or(0, |at| at + 1),
    }
}
