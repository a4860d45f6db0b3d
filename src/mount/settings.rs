//! What a mount is started with: the sum of the rooms' settings, checked before anything starts.

use std::{ffi::OsString, fmt, path::PathBuf, time::Duration};

use anyhow::bail;

use crate::data;
use crate::mount::session::Audience;
use crate::store::{
    BucketName, Capabilities, Proxies,
    cos::{Endpoints, Sources as Credentials},
};
use crate::support::ByteSize;
use crate::vfs;

/// Least memory a mount works with: below it a commit has no room for two parts (architecture, section 5).
const LEAST_MEMORY: ByteSize = ByteSize::mib(32);

/// Everything.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is mounted.
    pub source: Source,
    /// Where, as an absolute path.
    pub mount_point: PathBuf,
    /// How the bucket is reached.
    pub store: Access,
    /// Who may use the mount.
    pub audience: Audience,
    /// No program is run from it.
    pub noexec: bool,
    /// The memory of the whole mount.
    pub memory_limit: ByteSize,
    /// How long a program waits while nothing moves.
    pub io_timeout: Duration,
    /// How long stopping waits while nothing moves.
    pub drain_timeout: Duration,
    /// Where bytes go that must survive this process.
    pub staging: Staging,
    /// Most bytes there; by default a tenth of that disk.
    pub staging_limit: Option<ByteSize>,
    /// Of the bytes.
    pub data: data::Config,
    /// Of the names; `prefix` and `mount_id` are filled in here.
    pub vfs: vfs::Config,
    /// Where running mounts register, a directory of this user's.
    pub runtime_directory: PathBuf,
    /// The socket of the service manager that started this process, if one did (sd_notify(3)).
    pub notify_socket: Option<OsString>,
}

/// A bucket, or what lies under a prefix of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The bucket.
    pub bucket: BucketName,
    /// Empty, or ending in `/`.
    pub prefix: String,
    /// The region, where the host name of the bucket was written out.
    pub region: Option<String>,
    /// As it was written: what `mount` shows, so that `mount -a` finds a line of fstab mounted already.
    pub typed: String,
}

/// How a bucket is reached.
#[derive(Clone)]
pub struct Access {
    /// The region, unless an endpoint says it.
    pub region: Option<String>,
    /// `URL`, `REGION=URL`, `service=URL`, `metadata=URL`, `sts=URL`.
    pub endpoints: Vec<String>,
    /// The bucket goes into the path.
    pub path_style: bool,
    /// Trusted beside the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Most requests in flight.
    pub connections: usize,
    /// On the way there.
    pub proxies: Proxies,
    /// Whether reads that are late are asked for twice; off only to see what it is good for.
    pub hedging: bool,
    /// What one request and one upload may have.
    pub limits: Capabilities,
    /// Where credentials may come from.
    pub credentials: Credentials,
}

/// Where bytes are staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Staging {
    /// Nowhere.
    None,
    /// In a directory of this mount's own below this one.
    Below(PathBuf),
    /// In this directory, which no other mount may use.
    In(PathBuf),
}

impl Settings {
    /// Says what does not go together.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.memory_limit < LEAST_MEMORY {
            bail!("--memory-limit {} is too little: a mount needs at least {LEAST_MEMORY}", self.memory_limit);
        }
        if !self.mount_point.is_absolute() {
            bail!("the mount point {} is not an absolute path", self.mount_point.display());
        }
        for (option, time) in [("--io-timeout", self.io_timeout), ("--drain-timeout", self.drain_timeout)] {
            if time < Duration::from_secs(1) {
                bail!("{option} must be at least one second");
            }
        }
        if let Err(why) = Endpoints::parse(self.store.region.as_deref(), &self.store.endpoints, self.store.path_style) {
            bail!("{why}");
        }
        if self.store.connections == 0 {
            bail!("--connections must be at least 1");
        }
        if let Staging::Below(path) | Staging::In(path) = &self.staging
            && path.starts_with(&self.mount_point)
        {
            bail!("the staging directory {} lies in the mount itself: name another one with --staging", path.display());
        }
        Ok(())
    }
}

impl Settings {
    /// Builds in a defect that the differential tester is to find.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn build_in(&mut self, defect: &str) -> anyhow::Result<()> {
        match defect {
            "old-bytes-in-hole" => self.data.defect = Some(data::Defect::OldBytesInHole),
            "last-extent-dropped-at-flush" => self.data.defect = Some(data::Defect::LastExtentDroppedAtFlush),
            "append-lost-after-truncate" => self.data.defect = Some(data::Defect::AppendLostAfterTruncate),
            "stale-dentry-after-rename" => self.vfs.defect = Some(vfs::Defect::StaleDentryAfterRename),
            "wrong-size-after-rename-over" => self.vfs.defect = Some(vfs::Defect::WrongSizeAfterRenameOver),
            "entry-created-during-listing-lost" => self.vfs.defect = Some(vfs::Defect::EntryCreatedDuringListingLost),
            "no-hedging" => self.store.hedging = false,
            // None of it, but limits that a test can reach.
            "limits-by-thousand" => self.store.limits = self.store.limits.clone().thousandth(),
            other => bail!("there is no defect {other:?} to build in"),
        }
        Ok(())
    }
}

impl Source {
    /// Reads `cos://BUCKET-APPID[/PREFIX/]`, `BUCKET-APPID[:/PREFIX]`, or as COSFS2 writes it
    /// `cos://BUCKET-APPID.cos.REGION.myqcloud.com[/PREFIX/]`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (bucket, prefix) = match text.strip_prefix("cos://") {
            Some("") => return Err("cos:// names no bucket: write cos://BUCKET-APPID, such as cos://photos-1250000000".to_owned()),
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None if text.contains("://") => return Err(format!("{text:?} is not on COS: write cos://BUCKET-APPID[/PREFIX/]")),
            None => match text.split_once(':') {
                Some((bucket, prefix)) => (
                    bucket,
                    prefix.strip_prefix('/').ok_or_else(|| format!("{text:?}: a prefix begins with a slash, as in {bucket}:/{prefix}"))?,
                ),
                None => (text, ""),
            },
        };
        let (bucket, region) = match bucket.split_once(".cos.").and_then(|(name, rest)| Some((name, rest.strip_suffix(".myqcloud.com")?))) {
            Some((name, region)) if !region.is_empty() && !region.contains('.') => (name, Some(region.to_owned())),
            _ => (bucket, None),
        };
        let bucket = BucketName::parse(bucket)?;
        let prefix = prefix.trim_end_matches('/');
        if prefix.split('/').any(|part| matches!(part, "" | "." | "..")) && !prefix.is_empty() {
            return Err(format!("the prefix {prefix:?} has an empty part, . or .. in it"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket, prefix, region, typed: text.to_owned() })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cos://{}/{}", self.bucket, self.prefix.escape_debug())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("region", &self.region).field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_in_all_their_forms() {
        for (text, bucket, prefix) in [
            ("cos://photos-1250000000", "photos-1250000000", ""),
            ("cos://photos-1250000000/", "photos-1250000000", ""),
            ("cos://photos-1250000000/a/b/", "photos-1250000000", "a/b/"),
            ("cos://photos-1250000000/a/b", "photos-1250000000", "a/b/"),
            ("photos-1250000000", "photos-1250000000", ""),
            ("photos-1250000000:/", "photos-1250000000", ""),
            ("photos-1250000000:/a b", "photos-1250000000", "a b/"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!((source.bucket.as_str(), source.prefix.as_str()), (bucket, prefix), "{text}");
        }
    }

    #[test]
    fn a_source_with_the_host_name_has_a_region() {
        for (text, prefix) in [
            ("cos://photos-1250000000.cos.ap-guangzhou.myqcloud.com", ""),
            ("cos://photos-1250000000.cos.ap-guangzhou.myqcloud.com/", ""),
            ("cos://photos-1250000000.cos.ap-guangzhou.myqcloud.com/a/b/", "a/b/"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!((source.bucket.as_str(), source.prefix.as_str()), ("photos-1250000000", prefix), "{text}");
            assert_eq!(source.region.as_deref(), Some("ap-guangzhou"));
        }
        assert_eq!(Source::parse("cos://photos-125").unwrap().region, None);
        for text in ["cos://photos-125.cos.myqcloud.com", "cos://photos-125.cos..myqcloud.com", "cos://photos-125.cos.a.b.myqcloud.com"] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_source_is_explained() {
        for (text, word) in [
            ("cos://", "names no bucket"),
            ("s3://photos-1", "not on COS"),
            ("photos", "not a bucket name"),
            ("photos-125:a", "begins with a slash"),
            ("cos://photos-125/a//b", "empty part"),
            ("cos://photos-125/../b", "empty part"),
            ("cos://photos-125,allow_other/", "not a bucket name"),
        ] {
            let error = Source::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
