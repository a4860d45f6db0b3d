//! The service and its buckets: list, create, head, delete, and their settings.
//!
//! Source: COS API, GET Service (document 436/8291), PUT Bucket (436/7738), HEAD Bucket (436/7735), DELETE Bucket (436/7732), read 2026-11.

use super::acl::{Acl, OWNER, OWNER_UIN};
use super::answer::Answer;
use super::call::Call;
use super::copy::iso_date;
use super::error::{Failure, Outcome};
use super::meta::check_tags;
use super::objects::{parse_tags, tags_document};
use super::server::Core;
use super::state::BucketConfig;
use super::target::Query;
use super::versions::Versioning;
use super::xml::{self, Writer};

/// Buckets in one page at most.
const MAX_PAGE: u64 = 2000;

impl Core {
    pub(super) fn list_buckets(&self, call: &Call) -> Outcome<Answer> {
        let query = &call.target.query;
        let wanted = Filter::of(query, call.target.region.as_deref())?;
        let marker = query.text("marker").unwrap_or_default().into_owned();
        let most = usize::try_from(query.number("max-keys", MAX_PAGE)?.clamp(1, MAX_PAGE)).unwrap_or(usize::MAX);
        let mut found: Vec<(String, BucketConfig)> = self.store.all(|buckets| {
            let after = buckets.iter().filter(|(name, bucket)| **name > marker && wanted.takes(&bucket.config));
            after.take(most + 1).map(|(name, bucket)| (name.clone(), bucket.config.clone())).collect()
        });
        let truncated = found.len() > most;
        found.truncate(most);
        let next = found.last().filter(|_| truncated).map_or("", |(name, _)| name.as_str());
        let xml = Writer::new("ListAllMyBucketsResult").open("Owner").text("ID", OWNER).text("DisplayName", OWNER_UIN).close();
        let xml = xml
            .text("Marker", &marker)
            .text("NextMarker", next)
            .text("IsTruncated", if truncated { "true" } else { "false" })
            .open("Buckets")
            .each(&found, |xml, (name, config)| {
                xml.open("Bucket")
                    .text("Name", name)
                    .text("Location", &config.region)
                    .text("CreationDate", &iso_date(config.created, false))
                    .text("BucketType", "cos")
                    .close()
            });
        Ok(Answer::xml(xml.finish()))
    }

    pub(super) fn head_bucket(&self, call: &Call) -> Outcome<Answer> {
        self.store.bucket(call.bucket()?, |bucket| {
            let answer = Answer::ok().header("x-cos-bucket-region", &bucket.config.region);
            Ok(if bucket.config.multi_az { answer.header("x-cos-bucket-az-type", "MAZ") } else { answer })
        })
    }

    pub(super) async fn create_bucket(&self, call: &mut Call) -> Outcome<Answer> {
        let document = call.document().await?;
        let name = call.bucket()?;
        check_name(name)?;
        let multi_az = match &document[..] {
            [] => false,
            text => {
                let tree = xml::parse(text, "CreateBucketConfiguration")?;
                match tree.text_of("BucketArchConfig") {
                    Some("OFS") => return Err(Failure::not_implemented("metadata-accelerated buckets")),
                    _ => tree.text_of("BucketAZConfig") == Some("MAZ"),
                }
            }
        };
        let mut tags = super::meta::Meta::default();
        tags.take_tags(&call.headers)?;
        let config = BucketConfig {
            region: self.config.region.clone(),
            created: call.now,
            multi_az,
            versioning: Versioning::Never,
            acl: Acl::of_bucket(&call.headers)?,
            tags: tags.tags,
            documents: std::collections::BTreeMap::new(),
        };
        self.store.create_bucket(name, config, self.config.limits.max_buckets)?;
        Ok(Answer::ok())
    }

    pub(super) fn delete_bucket(&self, call: &Call) -> Outcome<Answer> {
        self.store.delete_bucket(call.bucket()?)?;
        Ok(Answer::no_content())
    }

    pub(super) fn get_bucket_config(&self, call: &Call, name: &str) -> Outcome<Answer> {
        self.store.bucket(call.bucket()?, |bucket| {
            let config = &bucket.config;
            let document = match name {
                "location" => Writer::leaf("LocationConstraint", &format!("cos.{}", config.region)),
                "versioning" => {
                    let status = match config.versioning {
                        Versioning::Never => None,
                        Versioning::Enabled => Some("Enabled"),
                        Versioning::Suspended => Some("Suspended"),
                    };
                    Writer::new("VersioningConfiguration").optional("Status", status).finish()
                }
                "acl" => config.acl.document(),
                "tagging" if config.tags.is_empty() => return Err(Failure::no_such_tags()),
                "tagging" => tags_document(&config.tags),
                "accelerate" => Writer::new("AccelerateConfiguration").text("Status", "Suspended").text("Type", "COS").finish(),
                "lifecycle" => config
                    .documents
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Failure::new(404, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist."))?,
                other => return Err(Failure::not_implemented(other)),
            };
            Ok(Answer::xml(document))
        })
    }

    pub(super) async fn put_bucket_config(&self, call: &mut Call, name: &str) -> Outcome<Answer> {
        let document = call.document().await?;
        let bucket = call.bucket()?;
        match name {
            "acl" => {
                let acl = match &document[..] {
                    [] => Acl::of_bucket(&call.headers)?,
                    text => Acl::from_document(&xml::parse(text, "AccessControlPolicy")?)?,
                };
                self.store.configure(bucket, |config| config.acl = acl)?;
                Ok(Answer::ok())
            }
            "tagging" => {
                let tags = check_tags(parse_tags(&document)?, 50)?;
                self.store.configure(bucket, |config| config.tags = tags)?;
                Ok(Answer::no_content())
            }
            "versioning" => {
                let versioning = match xml::parse(&document, "VersioningConfiguration")?.text_of("Status").map(str::trim) {
                    Some("Enabled") => Versioning::Enabled,
                    Some("Suspended") => Versioning::Suspended,
                    _ => return Err(Failure::malformed_xml("The Status is Enabled or Suspended.")),
                };
                self.store.configure(bucket, |config| config.versioning = versioning)?;
                Ok(Answer::ok())
            }
            "lifecycle" => {
                xml::parse(&document, "LifecycleConfiguration")?;
                let text = String::from_utf8_lossy(&document).into_owned();
                self.store.configure(bucket, |config| drop(config.documents.insert("lifecycle".to_owned(), text)))?;
                Ok(Answer::ok())
            }
            other => Err(Failure::not_implemented(other)),
        }
    }

    pub(super) fn delete_bucket_config(&self, call: &Call, name: &str) -> Outcome<Answer> {
        self.store.configure(call.bucket()?, |config| match name {
            "tagging" => config.tags.clear(),
            other => drop(config.documents.remove(other)),
        })?;
        Ok(Answer::no_content())
    }
}

/// Which buckets a list of buckets wants.
#[derive(Debug, Default)]
struct Filter {
    region: Option<String>,
    tag: Option<(String, String)>,
    /// How creation times are compared with which.
    created: Option<(String, u64)>,
}

impl Filter {
    fn of(query: &Query, host_region: Option<&str>) -> Outcome<Self> {
        let text = |name: &str| query.text(name).map(|text| text.into_owned()).filter(|text| !text.is_empty());
        let tag = match (text("tagkey"), text("tagvalue")) {
            (None, None) => None,
            (Some(key), Some(value)) => Some((key, value)),
            _ => return Err(Failure::invalid_argument("tagkey and tagvalue go together.")),
        };
        let created = match (text("range"), text("create-time")) {
            (None, None) => None,
            (Some(range), Some(_)) if ["lt", "gt", "lte", "gte"].contains(&range.as_str()) => {
                Some((range, query.number("create-time", 0)?))
            }
            _ => return Err(Failure::invalid_argument("range (lt, gt, lte, gte) and create-time go together.")),
        };
        Ok(Self { region: text("region").or_else(|| host_region.map(str::to_owned)), tag, created })
    }

    fn takes(&self, bucket: &BucketConfig) -> bool {
        let in_time = self.created.as_ref().is_none_or(|(range, time)| match range.as_str() {
            "lt" => bucket.created < *time,
            "lte" => bucket.created <= *time,
            "gt" => bucket.created > *time,
            _ => bucket.created >= *time,
        });
        in_time
            && self.region.as_ref().is_none_or(|region| bucket.region == *region)
            && self.tag.as_ref().is_none_or(|tag| bucket.tags.contains(tag))
    }
}

/// `<name>-<APPID>`, of lower-case letters, digits and hyphens.
pub(super) fn check_name(name: &str) -> Outcome<()> {
    if name.len() > 60 {
        return Err(Failure::new(400, "BucketNameTooLong", "The bucket's name is too long."));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let parts = name.rsplit_once('-').filter(|(own, id)| !own.is_empty() && !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
    if parts.is_some() && name.bytes().all(allowed) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Failure::new(400, "InvalidBucketName", "A bucket's name is <name>-<APPID> of a-z, 0-9 and hyphens."))
}
