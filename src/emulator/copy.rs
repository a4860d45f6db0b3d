//! Copies: whole objects and parts of them.
//!
//! Source: COS API, PUT Object - Copy (document 436/10881) and Upload Part - Copy (436/8287), read 2026-11.

use std::sync::Arc;

use super::answer::{Answer, Length};
use super::auth::hex;
use super::call::Call;
use super::conditions::{Verdict, check};
use super::content::Content;
use super::error::{Failure, Outcome};
use super::meta::{Encryption, Meta};
use super::objects::{check_key, parse_range};
use super::server::Core;
use super::state::{Object, Part};
use super::target::copy_source;
use super::xml::Writer;

/// What a copy's conditions and customer's key are called.
const PREFIX: &str = "x-cos-copy-source-";

impl Core {
    pub(super) fn copy_object(&self, call: &Call) -> Outcome<Answer> {
        check_key(call.key(), self.config.limits.max_key)?;
        let (bucket, key, source) = self.source(call)?;
        if source.content.len() > self.config.limits.max_put {
            return Err(Failure::too_large(self.config.limits.max_put));
        }
        let replaced = directive(call, "x-cos-metadata-directive")?;
        let onto_itself = bucket == call.bucket()? && key == call.key();
        if onto_itself && !replaced {
            return Err(Failure::new(400, "InvalidRequest", "A copy onto itself must replace the metadata."));
        }
        let meta = self.copied_meta(call, &source, replaced)?;
        // An MD5 stays one; anything else is as opaque as it was, but another object's.
        let plain =
            source.etag.len() == 32 && source.meta.encryption == Encryption::None && !meta.encryption.hides_md5() && !source.appendable;
        let etag = if plain { source.etag.clone() } else { self.random_hex() };
        let files = self.store.stage(&source.content)?;
        let object = Object { content: source.content.clone(), etag, crc: source.crc, modified: call.now, appendable: false, meta, files };
        let forbid = call.header("x-cos-forbid-overwrite").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let object = self.store.put(call.bucket()?, call.key(), object, |before| {
            if forbid && before.is_some() { Err(Failure::already_exists()) } else { Ok(()) }
        })?;
        let crc = object.crc.map(|crc| crc.to_string());
        let document = Writer::new("CopyObjectResult")
            .text("ETag", &format!("\"{}\"", object.etag))
            .optional("CRC64", crc.as_deref())
            .text("LastModified", &iso_date(object.modified, false));
        let mut answer = Answer { length: Length::Chunked, ..Answer::xml(document.finish()) };
        object.meta.describe_encryption(&mut answer.headers);
        Ok(answer)
    }

    /// Headers and tags go along unless they are replaced; class, ACL and encryption never do.
    fn copied_meta(&self, call: &Call, source: &Object, replaced: bool) -> Outcome<Meta> {
        let mut meta = Meta::default();
        meta.take_properties(&call.headers)?;
        if replaced {
            meta.take_headers(&call.headers, &self.config.limits)?;
        } else {
            meta.headers.clone_from(&source.meta.headers);
        }
        if directive(call, "x-cos-tagging-directive")? {
            meta.take_tags(&call.headers)?;
        } else {
            meta.tags.clone_from(&source.meta.tags);
        }
        Ok(meta)
    }

    pub(super) fn copy_part(&self, call: &Call) -> Outcome<Answer> {
        let (number, id) = self.part_of(call)?;
        let (_, _, source) = self.source(call)?;
        let size = source.content.len();
        let range = match call.header("x-cos-copy-source-range") {
            None => 0..size,
            Some(text) => {
                let wanted =
                    parse_range(text).ok_or_else(|| Failure::invalid_argument(format!("The range {text} cannot be understood.")))?;
                wanted.within(size).ok_or_else(|| Failure::new(416, "InvalidRange", "The source ends before this range."))?
            }
        };
        if range.end - range.start > self.config.limits.max_put {
            return Err(Failure::too_large(self.config.limits.max_put));
        }
        let content = Content::new(source.content.slice(range));
        let files = self.store.stage(&content)?;
        let mut md5 = <md5::Md5 as md5::Digest>::new();
        content.pieces().for_each(|piece| md5::Digest::update(&mut md5, piece));
        let etag = hex(&md5::Digest::finalize(md5));
        let part = Part { crc: content.crc(), content, etag: etag.clone(), modified: call.now, files };
        self.store.put_part(call.bucket()?, call.key(), &id, number, part)?;
        let document = Writer::new("CopyPartResult").text("ETag", &format!("\"{etag}\"")).text("LastModified", &iso_date(call.now, true));
        Ok(Answer { length: Length::Chunked, ..Answer::xml(document.finish()) })
    }

    /// The object that a copy reads, after its conditions.
    fn source(&self, call: &Call) -> Outcome<(String, Vec<u8>, Arc<Object>)> {
        let text = call.headers.get("x-cos-copy-source").map(super::meta::to_latin1).unwrap_or_default();
        let (bucket, key, version) = copy_source(&text, &self.config.service_hosts)?;
        if version.is_some_and(|version| !version.is_empty()) {
            return Err(Failure::new(404, "NoSuchVersion", "The bucket never had versions."));
        }
        let source = self.store.object(&bucket, &key)?;
        match check(&call.headers, PREFIX, &source) {
            Verdict::Holds => {}
            Verdict::NotModified => return Err(Failure::precondition("x-cos-copy-source-If-None-Match or -If-Modified-Since")),
            Verdict::Fails(header) => return Err(Failure::precondition(header)),
        }
        source.meta.check_customer_key(&call.headers, PREFIX)?;
        Ok((bucket, key, source))
    }
}

/// Whether a directive says `Replaced`; both spellings, any case.
fn directive(call: &Call, name: &str) -> Outcome<bool> {
    match call.header(name).map(str::to_ascii_lowercase).as_deref() {
        None | Some("copy") => Ok(false),
        Some("replaced" | "replace") => Ok(true),
        Some(other) => Err(Failure::invalid_argument(format!("{name} cannot be {other}."))),
    }
}

/// `2020-12-09T15:28:19Z`, with `.000` where listings have it.
pub(super) fn iso_date(seconds: u64, fraction: bool) -> String {
    let days = seconds / 86_400;
    // Civil date from days since 1970, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = if fraction { ".000" } else { "" };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(iso_date(0, false), "1970-01-01T00:00:00Z");
        assert_eq!(iso_date(951_782_399, true), "2000-02-28T23:59:59.000Z");
        assert_eq!(iso_date(951_782_400, false), "2000-02-29T00:00:00Z");
        assert_eq!(iso_date(1_607_527_699, false), "2020-12-09T15:28:19Z");
        assert_eq!(iso_date(4_107_542_400, false), "2100-03-01T00:00:00Z");
    }
}
