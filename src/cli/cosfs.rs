//! COSFS's options behind `-o`, so that its lines in fstab go on working: read as this program's own, with one notice that says as which.
//!
//! Some differ in more than name. (1) COSFS's `umask` makes *every* mode 0777 without these bits; here stored permissions stay, and what has none
//! gets 0777 without them. (2) Its `default_permission` is the mode of what has none stored, so no umask is taken from it. (3) `tmpdir` may be
//! shared and is `/tmp` by habit; `--staging` belongs to one mount, so it becomes a directory in it. (4) `parallel_count` counts the parts of one
//! upload, `--connections` the requests of the mount. (5) `multipart_size` and `ensure_diskfree` are numbers of MB, `stat_cache_expire` of seconds.
//!
//! Source: COSFS 1.0, `s3fs.cpp` (options and their units), and "COSFS tool" (document 436/6883), read 2026-11.

use anyhow::{Context, anyhow, bail};

use crate::cli::merge::{Given, Origin};

/// Names that are read as something else.
const TRANSLATED: &[&str] = &[
    "url",
    "passwd_file",
    "cam_role",
    "public_bucket",
    "multipart_size",
    "parallel_count",
    "parallel_upload",
    "stat_cache_expire",
    "dbglevel",
    "tmpdir",
    "default_permission",
    "use_path_request_style",
];
/// Names whose feature is not there yet.
const NOT_YET: &[&str] = &["use_cache", "ensure_diskfree", "del_cache"];
/// Names of what is decided otherwise here, or needs no decision.
const WITHOUT_EFFECT: &[&str] = &[
    "max_stat_cache_size",
    "enable_noobj_cache",
    "multireq_max",
    "max_prefetch_bytes",
    "retries",
    "connect_timeout",
    "readwrite_timeout",
    "singlepart_copy_limit",
    "enable_content_md5",
    "disable_content_md5",
    "nodnscache",
    "nosscache",
    "noxattr",
    "mp_umask",
];

/// Every name of COSFS's that is understood and not this program's, too.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    [TRANSLATED, NOT_YET, WITHOUT_EFFECT].into_iter().flatten().copied()
}

/// What COSFS's names come to.
#[derive(Debug)]
pub(super) struct Translation<'a> {
    mount_point: &'a str,
    given: Vec<Given>,
    /// For the notice: a piece for each name.
    said: Vec<String>,
}

impl<'a> Translation<'a> {
    pub(super) fn new(mount_point: &'a str) -> Self {
        Self { mount_point, given: Vec::new(), said: Vec::new() }
    }

    /// Takes a name that is COSFS's; says whether it is.
    ///
    /// # Errors
    /// COSFS would not take the value, or it asks for what is never done here.
    pub(super) fn take(&mut self, name: &str, value: Option<&str>) -> anyhow::Result<bool> {
        let text = || value.filter(|value| !value.is_empty()).with_context(|| format!("in -o {name}: it needs a value"));
        let number = || {
            let value = text()?;
            value.parse::<u32>().map_err(|_| anyhow!("in -o {name}: {value:?} is not a whole number"))
        };
        match name {
            "url" => self.url(text()?),
            "passwd_file" => self.read(name, &[("credentials", format!("passwd:{}", text()?))], value),
            // With this role COSFS reads temporary keys from the password file; here its lines tell.
            "cam_role" if value == Some("sts") => self.said.push("cam_role=sts: no effect".to_owned()),
            "cam_role" => self.read(name, &[("credentials", format!("role:{}", text()?))], value),
            "public_bucket" => match text()? {
                "1" => self.read(name, &[("credentials", "anonymous".to_owned())], value),
                "0" => {}
                other => bail!("in -o public_bucket: {other:?} is neither 0 nor 1"),
            },
            "multipart_size" => self.read(name, &[("part-size", format!("{}M", number()?))], value),
            "parallel_count" | "parallel_upload" => self.read(name, &[("connections", number()?.to_string())], value),
            "stat_cache_expire" => self.read(name, &[("metadata-ttl", format!("{}s", number()?))], value),
            "dbglevel" => self.read(name, &[("log-level", level(text()?)?.to_owned())], value),
            "tmpdir" => {
                let of_this_mount = self.mount_point.trim_matches('/').replace('/', "-");
                let directory = format!("{}/cosmount-{of_this_mount}", text()?.trim_end_matches('/'));
                self.read(name, &[("staging", directory)], value);
            }
            "default_permission" => {
                let mode = permission(text()?)?;
                // Who may read a directory may also enter it.
                let directory = mode | (mode & 0o444) >> 2;
                let modes = [("file-mode", format!("{mode:04o}")), ("dir-mode", format!("{directory:04o}")), ("umask", "0000".to_owned())];
                self.read(name, &modes, value);
            }
            "use_path_request_style" => self.read(name, &[("path-style", "true".to_owned())], None),
            "no_check_certificate" => bail!("-o {name}: certificates are always checked; name the authority's with ca_file=FILE"),
            "ssl_verify_hostname" if value == Some("0") => bail!("-o {name}: host names are always checked"),
            name if NOT_YET.contains(&name) => self.said.push(format!("{}: there is no cache on disk yet", typed(name, value))),
            name if WITHOUT_EFFECT.contains(&name) => self.said.push(format!("{}: no effect", typed(name, value))),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The options, to stand before `own` ones, and the notice, if a name of COSFS's was among them.
    pub(super) fn finish(mut self, own: &[Given]) -> (Vec<Given>, Option<String>) {
        if self.said.is_empty() {
            return (self.given, None);
        }
        let has = |given: &[Given], name: &str| given.iter().any(|given| given.name.replace('_', "-") == name);
        for Given { name, value, .. } in own {
            let modes = [("umask", value.clone().unwrap_or_default()), ("file-mode", "0777".to_owned()), ("dir-mode", "0777".to_owned())];
            match name.as_str() {
                "umask" if !has(&self.given, "file-mode") => self.read(name, &modes, value.as_deref()),
                "umask" | "uid" | "gid" => self.said.push(typed(name, value.as_deref())),
                _ => continue,
            }
            if let Some(said) = self.said.last_mut() {
                said.push_str(" (only of what has none stored)");
            }
        }
        (self.given, Some(format!("options of COSFS: {}", self.said.join("; "))))
    }

    fn read(&mut self, name: &str, as_these: &[(&str, String)], value: Option<&str>) {
        let flags: Vec<String> = as_these
            .iter()
            .map(|(option, value)| if value == "true" { format!("--{option}") } else { format!("--{option} {value}") })
            .collect();
        self.said.push(format!("{} as {}", typed(name, value), flags.join(" ")));
        let given = |(option, value): &(&str, String)| Given {
            name: (*option).to_owned(),
            value: Some(value.clone()),
            origin: Origin::MountOption(name.to_owned()),
        };
        self.given.extend(as_these.iter().map(given));
    }

    /// A URL of COS's own names the region as well.
    fn url(&mut self, url: &str) {
        let url = url.trim_end_matches('/');
        let (scheme, host) = url.split_once("://").unwrap_or(("http", url));
        let region = host.strip_prefix("cos.").or_else(|| host.strip_prefix("cos-internal."));
        let region = region.and_then(|rest| rest.strip_suffix(".myqcloud.com").or_else(|| rest.strip_suffix(".tencentcos.cn")));
        let mut options = Vec::new();
        if let Some(region) = region.filter(|region| !region.contains('.')) {
            options.push(("region", region.to_owned()));
        }
        if options.is_empty() || scheme != "https" || host.starts_with("cos-internal.") {
            options.push(("endpoint", format!("{scheme}://{host}")));
        }
        self.read("url", &options, Some(url));
    }
}

fn typed(name: &str, value: Option<&str>) -> String {
    value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"))
}

fn level(text: &str) -> anyhow::Result<&'static str> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "silent" | "critical" | "crit" | "error" | "err" => "error",
        "wan" | "warn" | "warning" => "warn",
        "inf" | "info" | "information" => "info",
        "dbg" | "debug" => "debug",
        _ => bail!("in -o dbglevel: {text:?} is none of crit, err, warn, info, dbg"),
    })
}

fn permission(text: &str) -> anyhow::Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.with_context(|| format!("in -o default_permission: {text:?} is not between 0 and 777"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::definition;
    use crate::cli::merge::Catalogue;
    use crate::cli::mount_options;

    fn said(list: &str) -> anyhow::Result<(Vec<String>, String)> {
        let read = mount_options::read(&[list.to_owned()], &Catalogue::of(&definition()), "/mnt/data/")?;
        let shown = |given: &Given| format!("{}={}", given.name, given.value.as_deref().unwrap_or("-"));
        assert!(read.notices.len() <= 1, "one notice: {:?}", read.notices);
        Ok((read.given.iter().map(shown).collect(), read.notices.concat()))
    }

    #[test]
    fn each_name_is_read_in_its_unit() {
        for (theirs, ours) in [
            ("url=https://cos.ap-guangzhou.myqcloud.com", &["region=ap-guangzhou"][..]),
            ("url=http://cos.ap-guangzhou.myqcloud.com/", &["region=ap-guangzhou", "endpoint=http://cos.ap-guangzhou.myqcloud.com"]),
            ("url=https://cos-internal.ap-x.tencentcos.cn", &["region=ap-x", "endpoint=https://cos-internal.ap-x.tencentcos.cn"]),
            ("url=http://127.0.0.1:9000", &["endpoint=http://127.0.0.1:9000"]),
            ("passwd_file=/etc/passwd-cosfs", &["credentials=passwd:/etc/passwd-cosfs"]),
            ("passwd_file=/tmp/sts,cam_role=sts", &["credentials=passwd:/tmp/sts"]),
            ("cam_role=reader", &["credentials=role:reader"]),
            ("public_bucket=1", &["credentials=anonymous"]),
            ("multipart_size=16", &["part-size=16M"]),
            ("parallel_count=20", &["connections=20"]),
            ("stat_cache_expire=7", &["metadata-ttl=7s"]),
            ("dbglevel=dbg", &["log-level=debug"]),
            ("dbglevel=crit", &["log-level=error"]),
            ("tmpdir=/tmp/", &["staging=/tmp/cosmount-mnt-data"]),
            ("default_permission=640", &["file-mode=0640", "dir-mode=0750", "umask=0000"]),
            ("use_cache=/c,ensure_diskfree=500,del_cache", &[]),
        ] {
            let (given, notice) = said(theirs).unwrap();
            assert_eq!(given, ours, "{theirs}");
            assert!(theirs.split(',').all(|word| notice.contains(word.trim_end_matches('/'))), "{notice}");
        }
        assert_eq!(said("public_bucket=0").unwrap(), (vec![], String::new()));
        for wrong in ["multipart_size=x", "url", "public_bucket=2", "dbglevel=loud", "default_permission=1777", "no_check_certificate"] {
            assert!(said(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_umask_in_a_line_of_cosfs_is_taken_from_0777() {
        let (given, notice) = said("url=https://cos.ap-x.myqcloud.com,umask=027,uid=7,allow_other").unwrap();
        assert_eq!(given, ["region=ap-x", "umask=027", "file-mode=0777", "dir-mode=0777", "umask=027", "uid=7", "allow_other=-"]);
        assert!(notice.contains("umask=027 as --umask 027 --file-mode 0777 --dir-mode 0777 (only"), "{notice}");
        assert!(notice.contains("uid=7 (only"), "{notice}");
        assert_eq!(said("umask=027,uid=7").unwrap(), (vec!["umask=027".to_owned(), "uid=7".to_owned()], String::new()), "ours alone");
        let (given, _) = said("default_permission=750,umask=007,url=https://cos.ap-x.myqcloud.com").unwrap();
        assert_eq!(given, ["file-mode=0750", "dir-mode=0750", "umask=0000", "region=ap-x", "umask=007"], "the last umask counts");
    }

    #[test]
    fn what_is_spelled_in_our_words_counts_more() {
        assert_eq!(said("part_size=32M,multipart_size=16").unwrap().0, ["part-size=16M", "part_size=32M"]);
    }
}
