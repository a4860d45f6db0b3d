//! Copies: whole objects and parts of them.
//!
//! Source: COS API, PUT Object - Copy (document 436/10881) and Upload Part - Copy (436/8287), read 2026-11.

use super::answer::{Answer, Length};
use super::call::Call;
use super::conditions::{Verdict, check};
use super::config::ETags;
use super::error::{Failure, Outcome};
use super::meta::{Encryption, Meta};
use super::objects::{check_key, forbids, parse_range};
use super::server::Core;
use super::state::{Bucket, Object, Part};
use super::target::copy_source;
use super::versions::{Found, VersionId};
use super::xml::Writer;

/// What a copy's conditions and customer's key are called.
const PREFIX: &str = "x-cos-copy-source-";

impl Core {
    pub(super) fn copy_object(&self, call: &Call) -> Outcome<Answer> {
        check_key(call.key(), self.config.limits.max_key)?;
        let source = self.source(call)?;
        let found = &source.found;
        if found.content.len() > self.config.limits.max_put {
            return Err(Failure::too_large(self.config.limits.max_put));
        }
        let replaced = directive(call, "x-cos-metadata-directive")?;
        // An older version may be copied on top of its key as it is.
        let shown = || self.store.object(call.bucket()?, call.key(), None);
        let same_key = source.bucket == call.bucket()? && source.key == call.key();
        if same_key && !replaced && shown().is_ok_and(|shown| shown.stamp == found.stamp) {
            return Err(Failure::new(400, "InvalidRequest", "A copy onto itself must replace the metadata."));
        }
        let meta = self.copied_meta(call, found, replaced)?;
        // A sum stays one; anything else is as opaque as it was, but another object's.
        let plain = ETags::says_bytes(&found.etag)
            && found.meta.encryption == Encryption::None
            && !meta.encryption.hides_md5()
            && !found.appendable;
        let etag = if plain { found.etag.clone() } else { self.random_hex() };
        let files = self.store.stage(&found.content)?;
        let object = Object { content: found.content.clone(), etag, crc: found.crc, modified: call.now, meta, files, ..Object::default() };
        let check = |bucket: &Bucket| if forbids(call) { bucket.check_absent(call.key()) } else { Ok(()) };
        let object = self.store.put(call.bucket()?, call.key(), object, check)?;
        let crc = object.crc.map(|crc| crc.to_string());
        let document = Writer::new("CopyObjectResult")
            .text("ETag", &format!("\"{}\"", object.etag))
            .optional("CRC64", crc.as_deref())
            .text("LastModified", &iso_date(object.modified, false))
            .optional("VersionId", object.version.as_deref());
        let answer = Answer { length: Length::Chunked, ..Answer::xml(document.finish()) };
        let mut answer = source.named(answer).version(object.version.as_deref());
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
        meta.settle_class(self.store.bucket(call.bucket()?, |bucket| Ok(bucket.config.multi_az))?)?;
        if source.meta.class.starts_with("MAZ_") && source.meta.class != meta.class {
            let message = format!("An object of class {} is copied to the same class only.", source.meta.class);
            return Err(Failure::new(400, "NotSupportedStorageClass", message));
        }
        Ok(meta)
    }

    pub(super) fn copy_part(&self, call: &Call) -> Outcome<Answer> {
        let (number, id) = self.part_of(call)?;
        let source = self.source(call)?;
        let size = source.found.content.len();
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
        let content = source.found.content.cut(range);
        let files = self.store.stage(&content)?;
        let crc = content.crc();
        let md5 = (self.config.etags == ETags::Md5).then(|| content.md5().into());
        let etag = self.config.etags.of(md5.as_ref(), crc);
        let part = Part { crc, content, etag: etag.clone(), modified: call.now, files };
        self.store.put_part(call.bucket()?, call.key(), &id, number, part)?;
        let document = Writer::new("CopyPartResult").text("ETag", &format!("\"{etag}\"")).text("LastModified", &iso_date(call.now, true));
        Ok(source.named(Answer { length: Length::Chunked, ..Answer::xml(document.finish()) }))
    }

    /// The object that a copy reads, after its conditions.
    fn source(&self, call: &Call) -> Outcome<Source> {
        let text = call.headers.get("x-cos-copy-source").map(super::meta::to_latin1).unwrap_or_default();
        let (bucket, key, version) = copy_source(&text, &self.config.service_hosts)?;
        let version = version.filter(|version| !version.is_empty());
        let found = self.store.object(&bucket, &key, version.as_deref().and_then(VersionId::parse))?;
        match check(&call.headers, PREFIX, &found) {
            Verdict::Holds => {}
            Verdict::NotModified => return Err(Failure::precondition("x-cos-copy-source-If-None-Match or -If-Modified-Since")),
            Verdict::Fails(header) => return Err(Failure::precondition(header)),
        }
        found.check_readable()?;
        found.meta.check_customer_key(&call.headers, PREFIX)?;
        Ok(Source { bucket, key, version, found })
    }
}

/// What a copy reads.
struct Source {
    bucket: String,
    key: Vec<u8>,
    /// As it was named.
    version: Option<String>,
    found: Found,
}

impl Source {
    /// Says which version was copied, if one was named.
    fn named(&self, answer: Answer) -> Answer {
        match &self.version {
            Some(id) => answer.header("x-cos-copy-source-version-id", id),
            None => answer,
        }
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
