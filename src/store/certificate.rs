//! Names and lifetime of a certificate, for a person who looks for what is wrong with it.
//!
//! Only that: nothing here decides whom to trust. DER is walked from the outside in, each element a slice of the one around it (RFC 5280, 4.1), and what
//! is not as expected ends the walk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a person wants to know of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host names and addresses it is for.
    pub names: Vec<String>,
    /// From when it is good.
    pub begins: SystemTime,
    /// Until when.
    pub ends: SystemTime,
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`: the certificate's version.
const VERSION: u8 = 0xa0;
/// `[3]`: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[2]` and `[7]` of a GeneralName.
const DNS_NAME: u8 = 0x82;
const ADDRESS: u8 = 0x87;
/// 2.5.29.17, subjectAltName.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

impl Certificate {
    /// Reads a DER certificate; `None` if it is not one.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let mut whole = Elements(der).expect(SEQUENCE)?;
        let mut fields = whole.expect(SEQUENCE)?;
        let first = fields.next()?;
        if first.0 == VERSION {
            fields.expect(INTEGER)?;
        }
        // The signature's algorithm and the issuer.
        fields.expect(SEQUENCE)?;
        fields.expect(SEQUENCE)?;
        let mut validity = fields.expect(SEQUENCE)?;
        let (begins, ends) = (time(validity.next()?)?, time(validity.next()?)?);
        let extensions = fields.find_map(|(tag, content)| (tag == EXTENSIONS).then_some(content)).unwrap_or_default();
        Some(Self { names: names(extensions).unwrap_or_default(), begins, ends })
    }
}

fn names(extensions: &[u8]) -> Option<Vec<String>> {
    for (_, extension) in Elements(extensions).expect(SEQUENCE)? {
        let mut fields = Elements(extension);
        if fields.expect(OBJECT_ID)?.0 != ALTERNATIVE_NAMES {
            continue;
        }
        // A flag may stand between.
        let (_, value) = fields.find(|(tag, _)| *tag == OCTET_STRING)?;
        let names = Elements(value).expect(SEQUENCE)?;
        return Some(names.filter_map(|(tag, content)| name(tag, content)).collect());
    }
    None
}

fn name(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        DNS_NAME => Some(String::from_utf8_lossy(content).into_owned()),
        ADDRESS => <[u8; 4]>::try_from(content)
            .map(|bytes| std::net::Ipv4Addr::from(bytes).to_string())
            .or_else(|_| <[u8; 16]>::try_from(content).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()))
            .ok(),
        _ => None,
    }
}

/// The elements in a row of bytes.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// What is in the next element, which must be of this kind.
    fn expect(&mut self, tag: u8) -> Option<Self> {
        self.next().filter(|element| element.0 == tag).map(|(_, content)| Self(content))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // The length of the length; four bytes of it are more than any certificate has.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time((tag, text): (u8, &[u8])) -> Option<SystemTime> {
    let text = text.strip_suffix(b"Z")?;
    let mut digits = text.chunks_exact(2).map(|two| std::str::from_utf8(two).ok()?.parse::<u64>().ok());
    let mut two = || digits.next().flatten();
    let year = match tag {
        UTC_TIME => two().map(|year| if year < 50 { 2000 + year } else { 1900 + year })?,
        GENERALIZED_TIME => two()? * 100 + two()?,
        _ => return None,
    };
    let (month, day, hour, minute, second) = (two()?, two()?, two()?, two()?, two()?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970, with years that begin in March so that the leap day is the last (Howard Hinnant, "chrono-compatible date algorithms").
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

/// Any bytes as a certificate.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(certificate) = Certificate::parse(data) {
        assert!(certificate.begins >= UNIX_EPOCH && certificate.ends >= UNIX_EPOCH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read() {
        let mut params = rcgen::CertificateParams::new(vec!["*.cos.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2061, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap();
        let found = Certificate::parse(der.der()).unwrap();
        assert_eq!(found.names, ["*.cos.example", "127.0.0.1"]);
        assert_eq!(httpdate::fmt_http_date(found.begins), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(httpdate::fmt_http_date(found.ends), "Sat, 31 Dec 2061 00:00:00 GMT");
        for cut in 0..der.der().len() {
            // Whatever it says: it ends, and does not panic.
            drop(Certificate::parse(&der.der()[..cut]));
        }
    }

    #[test]
    fn times_of_both_kinds() {
        let read = |tag, text: &str| time((tag, text.as_bytes())).map(httpdate::fmt_http_date);
        assert_eq!(read(UTC_TIME, "700101000000Z").as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        assert_eq!(read(UTC_TIME, "491231235959Z").as_deref(), Some("Fri, 31 Dec 2049 23:59:59 GMT"));
        assert_eq!(read(GENERALIZED_TIME, "20000301120000Z").as_deref(), Some("Wed, 01 Mar 2000 12:00:00 GMT"));
        for bad in ["", "Z", "701301000000Z", "70010100000Z", "7001010000xxZ"] {
            assert_eq!(read(UTC_TIME, bad), None, "{bad}");
        }
    }
}
