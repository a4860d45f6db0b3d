//! Multipart uploads: initiate, part, complete, abort, and what is listed of them.
//!
//! Source: COS API, documents 436/7746 (initiate), 436/7750 (part), 436/7751 (complete, read with its early 200), 436/7740 (abort),
//! 436/7747 (parts), 436/7736 (uploads), read 2026-11.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::acl::{OWNER, OWNER_UIN};
use super::answer::{Answer, Length};
use super::auth::hex;
use super::call::Call;
use super::content::{Content, combine_crc};
use super::copy::iso_date;
use super::error::{Failure, Outcome};
use super::list::{Encoding, Step, after_prefix, common_prefix, delimiter, page_size};
use super::objects::{check_key, forbids};
use super::server::Core;
use super::state::{Object, Part, Upload};
use super::xml::{self, Element, Writer};

impl Core {
    pub(super) fn initiate_upload(&self, call: &Call) -> Outcome<Answer> {
        check_key(call.key(), self.config.limits.max_key)?;
        let meta = self.new_meta(call)?;
        let id = format!("{:010}{}{}", call.now, self.random_hex(), self.random_hex());
        let bucket = call.bucket()?;
        let upload = Upload { initiated: call.now, meta: meta.clone(), parts: BTreeMap::new() };
        self.store.begin_upload(bucket, call.key(), &id, upload)?;
        let key = String::from_utf8_lossy(call.key());
        let xml = Writer::new("InitiateMultipartUploadResult").text("Bucket", bucket).text("Key", &key).text("UploadId", &id);
        let mut answer = Answer::xml(xml.finish());
        meta.describe_encryption(&mut answer.headers);
        Ok(answer)
    }

    /// Number and upload id of a part, both checked.
    pub(super) fn part_of(&self, call: &Call) -> Outcome<(u32, String)> {
        let number = call.target.query.text("partNumber").and_then(|text| text.parse::<u32>().ok());
        let number = number.filter(|number| (1..=self.config.limits.max_parts).contains(number));
        let number = number.ok_or_else(|| Failure::invalid_argument(format!("Part numbers are 1 to {}.", self.config.limits.max_parts)))?;
        let id = upload_id(call)?;
        self.store.upload(call.bucket()?, call.key(), &id, |_| Ok(()))?;
        Ok((number, id))
    }

    pub(super) async fn upload_part(&self, call: &mut Call) -> Outcome<Answer> {
        call.require_length()?;
        let (number, id) = self.part_of(call)?;
        let meta = self.store.upload(call.bucket()?, call.key(), &id, |upload| Ok(upload.meta.clone()))?;
        meta.check_customer_key(&call.headers, "x-cos-")?;
        let received = call.receive(self.config.limits.max_put).await?;
        let files = self.store.stage(&received.content)?;
        let etag = self.etag_of(&meta, &received);
        let crc = received.crc;
        let part = Part { content: received.content, etag: etag.clone(), crc, modified: call.now, files };
        self.store.put_part(call.bucket()?, call.key(), &id, number, part)?;
        let mut answer = Answer::ok().etag(&etag).crc(Some(crc));
        meta.describe_encryption(&mut answer.headers);
        Ok(answer)
    }

    pub(super) async fn complete_upload(&self, call: &mut Call) -> Outcome<Answer> {
        let document = call.document().await?;
        let id = upload_id(call)?;
        let (bucket, key) = (call.bucket()?, call.key());
        self.store.upload(bucket, key, &id, |_| Ok(()))?;
        let wanted = part_list(&xml::parse(&document, "CompleteMultipartUpload")?)?;
        let etag = format!("{}-{}", self.random_hex(), wanted.len());
        let object = self.store.complete(bucket, key, &id, |bucket, upload| {
            if forbids(call) {
                bucket.check_absent(key)?;
            }
            assemble(upload, &wanted, self.config.limits.min_part, etag, call.now)
        })?;
        let text = String::from_utf8_lossy(key);
        let xml = Writer::new("CompleteMultipartUploadResult")
            .text("Location", &format!("http://{}/{text}", call.header("host").unwrap_or_default()))
            .text("Bucket", bucket)
            .text("Key", &text)
            .text("ETag", &format!("\"{}\"", object.etag));
        let mut answer = Answer { length: Length::Chunked, ..Answer::xml(xml.finish()).crc(object.crc).version(object.version.as_deref()) };
        object.meta.describe_encryption(&mut answer.headers);
        Ok(answer)
    }

    pub(super) fn abort_upload(&self, call: &Call) -> Outcome<Answer> {
        self.store.abort(call.bucket()?, call.key(), &upload_id(call)?)?;
        Ok(Answer::no_content())
    }

    pub(super) fn list_parts(&self, call: &Call) -> Outcome<Answer> {
        let query = &call.target.query;
        let id = upload_id(call)?;
        let most = page_size(query, "max-parts", self.config.limits.max_page)?;
        let after = u32::try_from(query.number("part-number-marker", 0)?).unwrap_or(u32::MAX);
        let encoding = Encoding::of(query)?;
        let bucket = call.bucket()?;
        self.store.upload(bucket, call.key(), &id, |upload| {
            let range = (Bound::Excluded(after), Bound::Unbounded);
            let page: Vec<_> = upload.parts.range(range).take(most).collect();
            let last = page.last().map_or(after, |(number, _)| **number);
            let truncated = upload.parts.range((Bound::Excluded(last), Bound::Unbounded)).next().is_some();
            let xml = Writer::new("ListPartsResult")
                .text("Bucket", bucket)
                .optional("EncodingType", encoding.name())
                .text("Key", &encoding.text(call.key()))
                .text("UploadId", &id);
            let xml = people(xml)
                .number("PartNumberMarker", u64::from(after))
                .each(page, |xml, (number, part)| {
                    xml.open("Part")
                        .number("PartNumber", u64::from(*number))
                        .text("LastModified", &iso_date(part.modified, true))
                        .text("ETag", &format!("\"{}\"", part.etag))
                        .number("Size", part.content.len())
                        .close()
                })
                .optional("NextPartNumberMarker", truncated.then(|| last.to_string()).as_deref())
                .text("StorageClass", &upload.meta.class)
                .number("MaxParts", most as u64)
                .text("IsTruncated", if truncated { "true" } else { "false" });
            Ok(Answer::xml(xml.finish()))
        })
    }

    pub(super) fn list_uploads(&self, call: &Call) -> Outcome<Answer> {
        let query = &call.target.query;
        let most = page_size(query, "max-uploads", self.config.limits.max_page)?;
        let encoding = Encoding::of(query)?;
        let prefix = query.bytes("prefix").unwrap_or_default();
        let delimiter = delimiter(query)?;
        let key_marker = query.bytes("key-marker").unwrap_or_default();
        let id_marker = query.text("upload-id-marker").filter(|_| !key_marker.is_empty()).unwrap_or_default();
        let bucket = call.bucket()?;
        self.store.bucket(bucket, |state| {
            let rolled = common_prefix(key_marker, prefix, delimiter.as_deref()).is_some_and(|common| common == key_marker);
            let mut from = if rolled {
                after_prefix(key_marker).map(|key| Bound::Included((key, String::new())))
            } else if key_marker < prefix {
                Some(Bound::Included((prefix.to_vec(), String::new())))
            } else if id_marker.is_empty() {
                // Every id of that key is before this.
                Some(Bound::Included(([key_marker, b"\0"].concat(), String::new())))
            } else {
                Some(Bound::Excluded((key_marker.to_vec(), id_marker.to_string())))
            };
            let mut xml = Writer::new("ListMultipartUploadsResult")
                .text("Bucket", bucket)
                .optional("Encoding-Type", encoding.name())
                .text("KeyMarker", &encoding.text(key_marker))
                .text("UploadIdMarker", &id_marker)
                .number("MaxUploads", most as u64)
                .text("Prefix", &encoding.text(prefix))
                .optional("Delimiter", delimiter.as_deref().map(|d| encoding.text(d)).as_deref());
            let (mut count, mut last, mut truncated) = (0, (Vec::new(), String::new()), false);
            while let Some(start) = from.take() {
                let Some(((key, id), upload)) = state.uploads.range((start, Bound::Unbounded)).next() else { break };
                if !key.starts_with(prefix) {
                    break;
                }
                if count == most {
                    truncated = true;
                    break;
                }
                count += 1;
                match Step::of(key, prefix, delimiter.as_deref()) {
                    Step::Common(common) => {
                        xml = xml.open("CommonPrefixes").text("Prefix", &encoding.text(common)).close();
                        last = (common.to_vec(), String::new());
                        from = after_prefix(common).map(|key| Bound::Included((key, String::new())));
                    }
                    Step::Key(key) => {
                        xml = xml.open("Upload").text("Key", &encoding.text(key)).text("UploadId", id);
                        xml = people(xml)
                            .text("StorageClass", &upload.meta.class)
                            .text("Initiated", &iso_date(upload.initiated, true))
                            .close();
                        last = (key.to_vec(), id.clone());
                        from = Some(Bound::Excluded((key.to_vec(), id.clone())));
                    }
                }
            }
            xml = xml.text("IsTruncated", if truncated { "true" } else { "false" });
            if truncated {
                xml = xml.text("NextKeyMarker", &encoding.text(&last.0)).text("NextUploadIdMarker", &last.1);
            }
            Ok(Answer::xml(xml.finish()))
        })
    }
}

fn people(xml: Writer) -> Writer {
    let person = |xml: Writer, role| xml.open(role).text("ID", OWNER).text("DisplayName", OWNER_UIN).close();
    person(person(xml, "Initiator"), "Owner")
}

fn upload_id(call: &Call) -> Outcome<String> {
    let id = call.target.query.text("uploadId").map(|id| id.into_owned()).unwrap_or_default();
    if id.is_empty() { Err(Failure::new(400, "ListPartUploadIdIsEmpty", "The upload id is empty.")) } else { Ok(id) }
}

/// Numbers and ETags of a complete, ascending and without gaps.
fn part_list(tree: &Element) -> Outcome<Vec<(u32, String)>> {
    let mut list: Vec<(u32, String)> = Vec::new();
    for part in tree.all("Part") {
        let number = part.text_of("PartNumber").and_then(|text| text.trim().parse().ok());
        let number: u32 = number.ok_or_else(|| Failure::malformed_xml("A Part has no PartNumber."))?;
        let etag = part.text_of("ETag").ok_or_else(|| Failure::malformed_xml("A Part has no ETag."))?;
        if list.last().is_some_and(|(last, _)| *last >= number) {
            return Err(Failure::new(400, "InvalidPartOrder", "The parts are not in ascending order."));
        }
        list.push((number, etag.trim().trim_matches('"').to_owned()));
    }
    if list.is_empty() {
        return Err(Failure::malformed_xml("No Part is named."));
    }
    if list.iter().zip(1..).any(|((number, _), expected)| *number != expected) {
        return Err(Failure::new(400, "InvalidPart", "The part numbers have gaps."));
    }
    Ok(list)
}

/// The object that a complete makes.
fn assemble(upload: &Upload, wanted: &[(u32, String)], min_part: u64, etag: String, now: u64) -> Outcome<Object> {
    let mut pieces = Vec::new();
    let mut files = Vec::new();
    let mut crc = 0;
    for (index, (number, etag)) in wanted.iter().enumerate() {
        let part = upload.parts.get(number).filter(|part| part.etag == *etag);
        let part = part.ok_or_else(|| Failure::new(400, "InvalidPart", format!("Part {number} is missing or has another ETag.")))?;
        if part.content.len() < min_part && index + 1 < wanted.len() {
            return Err(Failure::new(400, "EntityTooSmall", format!("Part {number} has fewer than {min_part} bytes and is not the last.")));
        }
        crc = combine_crc(crc, part.crc, part.content.len());
        pieces.extend(part.content.pieces().cloned());
        files.extend(part.files.iter().cloned());
    }
    let (content, meta) = (Content::new(pieces), upload.meta.clone());
    Ok(Object { content, etag, crc: Some(crc), modified: now, meta, files, ..Object::default() })
}

/// 32 hex digits of anything.
pub(super) fn hex_of(number: u128) -> String {
    hex(&number.to_be_bytes())
}
