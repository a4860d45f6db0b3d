//! What is in credential files and answers. Pure; no error repeats anything of what was read, since any of it may be a secret.
//!
//! JSON as the metadata service of a CVM, STS and their SDKs write it, `NAME=VALUE` lines, COSFS's password file, coscmd's INI and coscli's YAML.
//! Names are compared without case, `_` and `-` and without the prefixes that tools put before them, so `TmpSecretId`, `COS_SECRET_ID` and
//! `secretid` are one name. Of YAML only what coscli writes is read: mappings by indentation, plain and quoted scalars, lists to be skipped.
//!
//! Sources: COS API (CVM role metadata, document 436/6227; COSFS, 436/6883; COSCMD, 436/10976; COSCLI, 436/63144), STS API AssumeRoleWithWebIdentity; read 2026-11.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::store::cos::{answers::iso8601, credentials::Credentials};

/// What was read, or a clause that says what is wrong with it.
type Read<T> = Result<T, String>;

/// JSON, at whatever depth the credentials are in it.
pub(super) fn json(text: &[u8]) -> Read<Credentials> {
    let document: Value =
        serde_json::from_slice(text).map_err(|error| format!("no JSON (line {}, column {})", error.line(), error.column()))?;
    if let Some(refusal) = refusal(&document) {
        return Err(refusal);
    }
    let mut fields = Fields::default();
    fields.collect(&document, 0);
    fields.credentials()
}

/// What an answer says went wrong: `{"Code": "..."}` of the metadata service, `{"Error": {...}}` of STS.
fn refusal(document: &Value) -> Option<String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(shortened);
    if let Some(code) = text(document, "Code").filter(|code| code != "Success") {
        return Some(format!("its code is {code}, not Success"));
    }
    let error = document.get("Error").or_else(|| document.get("Response")?.get("Error"))?;
    let (code, message) = (text(error, "Code").unwrap_or_default(), text(error, "Message").unwrap_or_default());
    Some(format!("refused: {code}: {message}"))
}

/// What somebody else said, fit to be shown.
pub(super) fn shortened(text: &str) -> String {
    let short: String = text.trim().chars().take(300).collect();
    short.escape_debug().to_string()
}

/// `NAME=VALUE` lines, with `export`, quotes and comments as a shell has them; or JSON.
pub(super) fn token(text: &str) -> Read<Credentials> {
    if text.trim_start().starts_with('{') {
        return json(text.as_bytes());
    }
    let mut fields = Fields::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let line = line.strip_prefix("export ").unwrap_or(line);
        if let Some((name, value)) = line.split_once('=') {
            fields.note(name, unquoted(value.trim()));
        }
    }
    fields.credentials()
}

/// COSFS's password file: `BUCKET:ID:KEY` before `ID:KEY`, or its form for temporary keys. `None`: it has nothing for this bucket.
pub(super) fn passwd(text: &str, bucket: Option<&str>) -> Read<Option<Credentials>> {
    let lines = || text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_end_matches('\r'))).filter(|(_, line)| !line.is_empty());
    let lines = || lines().filter(|(_, line)| !line.starts_with('#'));
    if lines().all(|(_, line)| line.contains('=') && !line.contains(':') || line.to_ascii_lowercase().starts_with("cosaccess"))
        && lines().next().is_some()
    {
        return token(text).map(Some);
    }
    let mut default = None;
    let mut own = None;
    for (number, line) in lines() {
        if line.starts_with('[') || line.contains(char::is_whitespace) {
            return Err(format!("line {number} begins with a bracket or has a blank in it"));
        }
        match *line.split(':').collect::<Vec<_>>() {
            [id, key] => default = default.or(Some((id, key))),
            [name, id, key] if Some(name) == bucket => own = own.or(Some((id, key))),
            [_, _, _] => {}
            _ => return Err(format!("line {number} is neither ID:KEY nor BUCKET-APPID:ID:KEY")),
        }
    }
    Ok(own.or(default).map(|(id, key)| Credentials::new(id, key)))
}

/// coscmd's file. `None`: it does not have the section.
pub(super) fn coscmd(text: &str, section: &str) -> Read<Option<Credentials>> {
    let mut inside = false;
    let mut found = false;
    let mut fields = Fields::default();
    let mut anonymous = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == section;
            found |= inside;
        } else if inside && let Some(at) = line.find(['=', ':']) {
            let (name, value) = (line[..at].trim(), line[at + 1..].trim());
            match name {
                "anonymous" => anonymous = value.eq_ignore_ascii_case("true"),
                "access_id" => fields.note("secret_id", value),
                _ => fields.note(name, value),
            }
        }
    }
    match (found, anonymous) {
        (false, _) => Ok(None),
        (true, true) => Ok(Some(Credentials::anonymous())),
        (true, false) => fields.credentials().map(Some),
    }
}

/// What coscli's file says.
#[derive(Debug)]
pub(super) enum Coscli {
    /// It does not have the section.
    Nothing,
    /// The keys.
    Keys(Credentials),
    /// To take the role of this machine; its name, if it is named.
    Role(Option<String>),
    /// Keys under coscli's own encryption, which hides them from nobody and which we do not undo.
    Obfuscated,
}

/// coscli's file.
pub(super) fn coscli(text: &str, section: &str) -> Read<Coscli> {
    let mut fields = Fields::default();
    let (mut mode, mut role, mut plain, mut id) = (String::new(), String::new(), false, String::new());
    let mut found = false;
    scalars(text, |path, value| {
        let [top, base, name] = path else { return };
        if *top != section || *base != "base" {
            return;
        }
        found = true;
        match name.to_ascii_lowercase().as_str() {
            "mode" => value.clone_into(&mut mode),
            "cvmrolename" => value.clone_into(&mut role),
            "disableencryption" => plain = value.eq_ignore_ascii_case("true"),
            name => {
                if name == "secretid" {
                    value.clone_into(&mut id);
                }
                fields.note(name, value);
            }
        }
    })?;
    if !found {
        Ok(Coscli::Nothing)
    } else if mode.eq_ignore_ascii_case("CvmRole") {
        Ok(Coscli::Role(Some(role).filter(|role| !role.is_empty())))
    } else if plain || id.is_empty() || id.starts_with("AKID") {
        fields.credentials().map(Coscli::Keys)
    } else {
        Ok(Coscli::Obfuscated)
    }
}

/// Calls `tell` with the path and value of each scalar in YAML's mappings. Lists are skipped.
fn scalars(text: &str, mut tell: impl FnMut(&[&str], &str)) -> Read<()> {
    // The open mappings: their indentation and the name that leads into them.
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut list: Option<usize> = None;
    for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_end())) {
        let rest = line.trim_start_matches(' ');
        let indent = line.len() - rest.len();
        if rest.is_empty() || rest.starts_with('#') || rest == "---" {
            continue;
        }
        if list.is_some_and(|list| indent > list || (indent == list && rest.starts_with('-'))) {
            continue;
        }
        list = (rest == "-" || rest.starts_with("- ")).then_some(indent);
        if list.is_some() {
            continue;
        }
        let strange = || format!("line {number} is not the YAML that coscli writes");
        let (name, value) = rest.split_once(':').filter(|(_, value)| value.is_empty() || value.starts_with(' ')).ok_or_else(strange)?;
        while open.last().is_some_and(|(at, _)| *at >= indent) {
            open.pop();
        }
        let value = value.trim();
        open.push((indent, unquoted(name.trim())));
        if value.is_empty() {
            continue;
        }
        if value.starts_with(['{', '[', '&', '*', '|', '>', '!']) && !matches!(value, "{}" | "[]") {
            return Err(strange());
        }
        let value = if value.starts_with(['"', '\'']) { value } else { value.split(" #").next().unwrap_or(value).trim_end() };
        let path: Vec<&str> = open.iter().map(|(_, name)| *name).collect();
        tell(&path, unquoted(value));
    }
    Ok(())
}

fn unquoted(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// The four things that make credentials.
#[derive(Default)]
struct Fields {
    id: Option<String>,
    key: Option<String>,
    token: Option<String>,
    /// In any spelling; a number of seconds is preferred.
    expires: Option<String>,
}

impl Fields {
    /// Takes a field if it is one of the four. The first of two spellings counts.
    fn note(&mut self, name: &str, value: &str) {
        let name: String = name.trim().chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
        let name = ["tencentcloud", "cosn", "cos"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        let field = match name.strip_prefix("tmp").unwrap_or(name) {
            "secretid" | "accesskeyid" => &mut self.id,
            "secretkey" | "secretaccesskey" => &mut self.key,
            "token" | "sessiontoken" | "securitytoken" | "accesstoken" => &mut self.token,
            "expiredtime" | "expiration" | "expires" | "accesstokenexpire" => &mut self.expires,
            _ => return,
        };
        if !value.is_empty() && field.is_none() {
            *field = Some(value.to_owned());
        }
    }

    fn collect(&mut self, value: &Value, depth: usize) {
        let Value::Object(fields) = value else { return };
        for (name, value) in fields {
            match value {
                Value::String(text) => self.note(name, text),
                Value::Number(number) => self.note(name, &number.to_string()),
                Value::Object(_) if depth < 4 => self.collect(value, depth + 1),
                _ => {}
            }
        }
    }

    fn credentials(self) -> Read<Credentials> {
        let expires = match self.expires.as_deref() {
            None => None,
            Some(text) => Some(time(text).ok_or_else(|| "its time of expiry is none".to_owned())?),
        };
        let (id, key) = match (self.id, self.key) {
            (Some(id), Some(key)) => (id, key),
            (None, None) => return Err("there is neither an id nor a key in it".to_owned()),
            (Some(_), None) => return Err("there is an id in it, but no key".to_owned()),
            (None, Some(_)) => return Err("there is a key in it, but no id".to_owned()),
        };
        let credentials = Credentials::new(id, key).until(expires);
        Ok(match self.token {
            Some(token) => credentials.with_token(token),
            None => credentials,
        })
    }
}

/// Seconds since 1970, `2021-03-12T23:00:47Z`, `…+08:00`, or COSFS's `… GMT`.
fn time(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok().filter(|seconds| *seconds < 1 << 40)?));
    }
    let text = text.strip_suffix(" GMT").unwrap_or(text);
    let zone = text.get(text.find('T')?..)?.find(['+', '-']).map(|at| at + text.find('T').unwrap_or(0));
    let Some(at) = zone else { return iso8601(text) };
    let (hours, minutes) = text[at + 1..].split_once(':')?;
    let (hours, minutes) = (hours.parse::<u64>().ok()?, minutes.parse::<u64>().ok()?);
    let shift = Duration::from_secs(hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?);
    let local = iso8601(&text[..at])?;
    if text[at..].starts_with('+') { local.checked_sub(shift) } else { local.checked_add(shift) }
}

/// Any text as each kind of file, and as what a role's service answers.
#[cfg(any(test, fuzzing))]
pub(in crate::store) fn fuzz(data: &[u8]) {
    drop(json(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(token(text));
    drop(passwd(text, None));
    drop(passwd(text, Some("b-1")));
    drop(coscmd(text, "common"));
    drop(coscli(text, "b"));
    let _ = time(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = (String, String, Option<String>, Option<u64>);

    fn plain(credentials: &Credentials) -> Plain {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let expires = credentials.expires.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        (credentials.id().to_owned(), text(credentials.secret()), credentials.token().map(text), expires)
    }

    fn expected(token: Option<&str>, expires: Option<u64>) -> Plain {
        ("AKIDx".to_owned(), "key/x=".to_owned(), token.map(str::to_owned), expires)
    }

    #[test]
    fn json_as_the_metadata_service_sts_and_their_sdks_write_it() {
        for (text, expires) in [
            (
                r#"{"TmpSecretId":"AKIDx","TmpSecretKey":"key/x=","ExpiredTime":1615590047,"Expiration":"2021-03-12T23:00:47Z","Token":"t","Code":"Success"}"#,
                1_615_590_047,
            ),
            (
                r#"{"Response":{"Credentials":{"Token":"t","TmpSecretId":"AKIDx","TmpSecretKey":"key/x="},"ExpiredTime":1543914376,"RequestId":"r"}}"#,
                1_543_914_376,
            ),
            (r#"{"credentials":{"tmpSecretId":"AKIDx","tmpSecretKey":"key/x=","sessionToken":"t"},"expiredTime":7,"startTime":1}"#, 7),
            (r#"{"secretId":"AKIDx","secretKey":"key/x=","token":"t","expiration":"2021-03-13T07:00:47+08:00"}"#, 1_615_590_047),
        ] {
            assert_eq!(plain(&json(text.as_bytes()).unwrap()), expected(Some("t"), Some(expires)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_saying_what_was_read() {
        for (text, words) in [
            (r#"{"Code":"InternalError","TmpSecretId":"hush","TmpSecretKey":"hush"}"#, "its code is InternalError"),
            (r#"{"Response":{"Error":{"Code":"AuthFailure","Message":"no\nsuch role"}}}"#, r"refused: AuthFailure: no\nsuch role"),
            (r#"{"TmpSecretId":"hush"}"#, "no key"),
            (r#"{"TmpSecretKey":"hush"}"#, "no id"),
            (r#"{"TmpSecretId":"hush","TmpSecretKey":"hush","Expiration":"hush"}"#, "time of expiry"),
            ("[]", "neither an id nor a key"),
            (r#"{"TmpSecretKey":hush}"#, "no JSON (line 1, column"),
        ] {
            let error = json(text.as_bytes()).unwrap_err();
            assert!(error.contains(words) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn lines_of_names_and_values() {
        for text in [
            "COSAccessKeyId=AKIDx\nCOSSecretKey=key/x=\nCOSAccessToken=t\nCOSAccessTokenExpire=2021-03-12T23:00:47 GMT\n",
            "# a comment\nexport TENCENTCLOUD_SECRET_ID='AKIDx'\nexport TENCENTCLOUD_SECRET_KEY=\"key/x=\"\nTENCENTCLOUD_TOKEN=t\nexpiration=1615590047",
            "COS_SECRET_ID = AKIDx\r\nCOS_SECRET_KEY = key/x=\r\nCOS_SESSION_TOKEN = t\r\nEXPIRES = 1615590047\r\nOTHER = x",
        ] {
            assert_eq!(plain(&token(text).unwrap()), expected(Some("t"), Some(1_615_590_047)), "{text}");
        }
    }

    #[test]
    fn password_files_have_a_line_for_the_bucket_or_for_all() {
        let text = "# mine\nother-125:AKIDo:o\n\nAKIDx:key/x=\nphotos-125:AKIDp:p\n";
        let of = |bucket| passwd(text, bucket).unwrap().map(|found| found.id().to_owned());
        assert_eq!(of(Some("photos-125")).as_deref(), Some("AKIDp"));
        assert_eq!(of(Some("else-125")).as_deref(), Some("AKIDx"));
        assert_eq!(of(None).as_deref(), Some("AKIDx"));
        assert!(passwd("other-125:AKIDo:o\n", Some("photos-125")).unwrap().is_none());
        assert!(passwd("# nothing\n", None).unwrap().is_none());
        let temporary = "COSAccessKeyId=AKIDx\nCOSSecretKey=key/x=\nCOSAccessToken=t\nCOSAccessTokenExpire=2021-03-12T23:00:47 GMT\n";
        assert_eq!(plain(&passwd(temporary, None).unwrap().unwrap()), expected(Some("t"), Some(1_615_590_047)));
        for bad in ["hush", "a:b:c:hush", "[hush]", "AKIDx: hush"] {
            let error = passwd(bad, None).unwrap_err();
            assert!(error.contains("line 1") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn the_file_of_coscmd() {
        let text = "; written by coscmd\n[common]\nsecret_id = AKIDx\nsecret_key = key/x=\ntoken =\nregion = ap-guangzhou\n[work]\naccess_id: AKIDw\nsecret_key: w\n\
            [public]\nanonymous = True\n";
        assert_eq!(plain(&coscmd(text, "common").unwrap().unwrap()), expected(None, None));
        assert_eq!(coscmd(text, "work").unwrap().unwrap().id(), "AKIDw");
        assert!(coscmd(text, "public").unwrap().unwrap().is_anonymous());
        assert!(coscmd(text, "home").unwrap().is_none());
        assert!(coscmd("[common]\nsecret_id = hush\n", "common").unwrap_err().contains("no key"));
    }

    #[test]
    fn the_file_of_coscli() {
        let text = "cos:\n  base:\n    secretid: AKIDx\n    secretkey: \"key/x=\" \n    sessiontoken: \"\"\n    protocol: https # plain\n    mode: SecretKey\n\
            \x20   disableencryption: \"true\"\n  buckets:\n  - name: b-125\n    secretid: AKIDno\n    alias: data\nwork:\n  base:\n    mode: CvmRole\n    cvmrolename: reader\n";
        let Coscli::Keys(found) = coscli(text, "cos").unwrap() else { panic!("no keys") };
        assert_eq!(plain(&found), expected(None, None));
        assert!(matches!(coscli(text, "work").unwrap(), Coscli::Role(Some(name)) if name == "reader"));
        assert!(matches!(coscli(text, "home").unwrap(), Coscli::Nothing));
        let hidden = "cos:\n  base:\n    secretid: 3Zl2lc9zGQ==\n    secretkey: 3Zl2lc9zGQ==\n";
        assert!(matches!(coscli(hidden, "cos").unwrap(), Coscli::Obfuscated));
        for bad in ["cos:\n  base: {secretid: hush}\n", "hush\n", "cos:\n  base:\n    secretkey: |\n      hush\n"] {
            let error = coscli(bad, "cos").unwrap_err();
            assert!(error.contains("line") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn times_in_every_spelling() {
        let at = |text: &str| time(text).map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        for text in [
            "1615590047",
            "2021-03-12T23:00:47Z",
            "2021-03-12T23:00:47.5Z",
            "2021-03-13T07:00:47+08:00",
            "2021-03-12T20:00:47-03:00",
            "2021-03-12T23:00:47 GMT",
        ] {
            assert_eq!(at(text), Some(1_615_590_047), "{text}");
        }
        for bad in ["", "soon", "2021", "-5", "99999999999999999999", "2021-03-12T23:00:47+x", "2021-03-12T23:00:47+5124095576030431:59"] {
            assert_eq!(at(bad).filter(|seconds| *seconds != 2021), None, "{bad}");
        }
    }
}
