//! Access control lists: canned, granted by header, and as documents.
//!
//! All accounts of the emulator own everything, so an ACL decides only what a request without a signature may do.
//!
//! Source: COS API, PUT Object acl (document 436/7748) and the canned names of PUT Bucket and PUT Object, read 2026-11.

use hyper::HeaderMap;
use serde::{Deserialize, Serialize};

use super::error::{Failure, Outcome};
use super::meta::text;
use super::xml::{Element, Writer};

/// The owner of everything.
pub(super) const OWNER: &str = "qcs::cam::uin/100000000001:uin/100000000001";
/// The owner's number, which listings show.
pub(super) const OWNER_UIN: &str = "100000000001";
const ALL_USERS: &str = "http://cam.qcloud.com/groups/global/AllUsers";
const AUTHENTICATED: &str = "http://cam.qcloud.com/groups/global/AuthenticatedUsers";
const PERMISSIONS: &[&str] = &["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"];

/// What is granted beside the owner's full control.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acl(Vec<Grant>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Grant {
    grantee: Grantee,
    permission: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Grantee {
    Group(String),
    User(String),
}

impl Acl {
    /// The ACL a bucket is given by headers.
    pub(super) fn of_bucket(headers: &HeaderMap) -> Outcome<Self> {
        Ok(Self::from_headers(headers, &["private", "public-read", "public-read-write", "authenticated-read"])?.unwrap_or_default())
    }

    /// The ACL an object is given by headers; None inherits the bucket's.
    pub(super) fn of_object(headers: &HeaderMap) -> Outcome<Option<Self>> {
        const CANNED: &[&str] =
            &["default", "private", "public-read", "authenticated-read", "bucket-owner-read", "bucket-owner-full-control"];
        Self::from_headers(headers, CANNED)
    }

    fn from_headers(headers: &HeaderMap, canned: &[&str]) -> Outcome<Option<Self>> {
        let mut grants = Vec::new();
        let mut given = false;
        if let Some(name) = text(headers, "x-cos-acl") {
            if !canned.contains(&name) {
                return Err(Failure::invalid_argument(format!("The ACL {name} is unknown here.")));
            }
            given = name != "default";
            let mut allow = |group: &str, permission: &str| {
                grants.push(Grant { grantee: Grantee::Group(group.to_owned()), permission: permission.to_owned() });
            };
            match name {
                "public-read" => allow(ALL_USERS, "READ"),
                "public-read-write" => {
                    allow(ALL_USERS, "READ");
                    allow(ALL_USERS, "WRITE");
                }
                "authenticated-read" => allow(AUTHENTICATED, "READ"),
                _ => {}
            }
        }
        for permission in PERMISSIONS {
            let header = format!("x-cos-grant-{}", permission.to_ascii_lowercase().replace('_', "-"));
            for grantee in text(headers, &header).unwrap_or_default().split(',').filter(|grantee| !grantee.trim().is_empty()) {
                given = true;
                grants.push(Grant { grantee: Grantee::User(user(grantee)?), permission: (*permission).to_owned() });
            }
        }
        Ok(given.then_some(Self(grants)))
    }

    /// The ACL of an `<AccessControlPolicy>`.
    pub(super) fn from_document(root: &Element) -> Outcome<Self> {
        let list = root.child("AccessControlList").ok_or_else(|| Failure::malformed_xml("AccessControlList is missing."))?;
        let grant = |element: &Element| -> Outcome<Grant> {
            let permission = element.text_of("Permission").unwrap_or_default().trim().to_owned();
            if !PERMISSIONS.contains(&permission.as_str()) {
                return Err(Failure::malformed_xml(format!("The permission {permission} is unknown.")));
            }
            let grantee = element.child("Grantee").ok_or_else(|| Failure::malformed_xml("Grantee is missing."))?;
            let grantee = match (grantee.text_of("URI"), grantee.text_of("ID")) {
                (Some(uri), _) => Grantee::Group(uri.trim().to_owned()),
                (None, Some(id)) => Grantee::User(id.trim().to_owned()),
                (None, None) => return Err(Failure::malformed_xml("A Grantee has neither URI nor ID.")),
            };
            Ok(Grant { grantee, permission })
        };
        let grants: Vec<Grant> = list.all("Grant").map(grant).collect::<Outcome<_>>()?;
        if grants.len() > 100 {
            return Err(Failure::invalid_argument("An ACL has at most 100 grants."));
        }
        // The owner's own entry comes back with every document; it is implied.
        let own = |grant: &Grant| grant.permission == "FULL_CONTROL" && grant.grantee == Grantee::User(OWNER.to_owned());
        Ok(Self(grants.into_iter().filter(|grant| !own(grant)).collect()))
    }

    /// The document of GET.
    pub(super) fn document(&self) -> String {
        const KIND: &str = "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=";
        let owner = Grant { grantee: Grantee::User(OWNER.to_owned()), permission: "FULL_CONTROL".to_owned() };
        let grants = std::iter::once(&owner).chain(&self.0);
        let policy = Writer::new("AccessControlPolicy").open("Owner").text("ID", OWNER).text("DisplayName", OWNER_UIN).close();
        let write = |xml: Writer, grant: &Grant| {
            let xml = xml.open("Grant");
            let xml = match &grant.grantee {
                Grantee::Group(uri) => xml.open_with("Grantee", &format!("{KIND}\"Group\"")).text("URI", uri).close(),
                Grantee::User(id) => {
                    let name = id.rsplit('/').next().unwrap_or_default();
                    xml.open_with("Grantee", &format!("{KIND}\"CanonicalUser\"")).text("ID", id).text("DisplayName", name).close()
                }
            };
            xml.text("Permission", &grant.permission).close()
        };
        policy.open("AccessControlList").each(grants, write).finish()
    }

    /// Anybody may read.
    pub(super) fn public_read(&self) -> bool {
        self.everybody("READ")
    }

    /// Anybody may write.
    pub(super) fn public_write(&self) -> bool {
        self.everybody("WRITE")
    }

    fn everybody(&self, permission: &str) -> bool {
        let all = Grantee::Group(ALL_USERS.to_owned());
        self.0.iter().any(|grant| grant.grantee == all && (grant.permission == permission || grant.permission == "FULL_CONTROL"))
    }
}

/// `id="100000000001"` or `id="100000000001/100000000011"`, also in the full form and as `uin=`.
fn user(grantee: &str) -> Outcome<String> {
    let invalid = || Failure::invalid_argument(format!("The grantee {grantee} cannot be understood."));
    let (_, id) = grantee.split_once('=').ok_or_else(invalid)?;
    let id = id.trim().trim_matches('"');
    if id.is_empty() {
        return Err(invalid());
    }
    if id.starts_with("qcs::cam::") {
        return Ok(id.to_owned());
    }
    let (owner, sub) = id.split_once('/').unwrap_or((id, id));
    Ok(format!("qcs::cam::uin/{owner}:uin/{sub}"))
}
