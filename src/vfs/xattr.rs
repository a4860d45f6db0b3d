//! Extended attributes.
//!
//! `user.*` is kept with the object as COSFS keeps it, and changes as chmod does. A few names below `user.cos.` show what COS knows of the object, read-only; they are
//! not among the names that listxattr gives, or `cp -a` and `rsync -X` would carry one object's identity to another. Everything else
//! (`security.*`, POSIX ACLs) is refused without a request, because `ls -l` asks for it at every file.

use std::{ffi::OsStr, sync::Arc};

use bytes::Bytes;

use crate::support::Ctx;

use crate::vfs::{Error, Ino, Posix, Result, SetXattr, Vfs, tree::Node};

const USER: &str = "user.";
const COS: &str = "user.cos.";
/// What is shown below [`COS`]; `restore` is taken already for what is to come.
const VIRTUAL: [&str; 7] = ["key", "dirty", "etag", "version", "class", "crc64", "restore"];
/// XATTR_NAME_MAX of Linux.
const LONGEST_NAME: usize = 255;

impl Vfs {
    /// One extended attribute.
    pub async fn getxattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &OsStr) -> Result<Bytes> {
        let name = known_space(name)?;
        if let Some(virtual_name) = virtual_name(name) {
            return self.virtual_xattr(cx, ino, virtual_name).await;
        }
        self.getattr(cx, ino, None).await?;
        let names = self.names.lock();
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        node.facts.attributes.xattrs.get(name).cloned().ok_or(Error::NoAttribute)
    }

    /// Names of the extended attributes.
    pub async fn listxattr(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<Vec<String>> {
        self.getattr(cx, ino, None).await?;
        let names = self.names.lock();
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        // Other tools may have stored names that no program could ask for, or that would end in the middle of the list.
        let askable = |name: &&String| known_space(OsStr::new(name)).is_ok() && name.len() <= LONGEST_NAME && !name.contains('\0');
        Ok(node.facts.attributes.xattrs.keys().filter(askable).cloned().collect())
    }

    /// Sets an extended attribute.
    pub async fn setxattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &OsStr, value: &[u8], how: SetXattr) -> Result<()> {
        let name = self.settable(name)?;
        let value = Bytes::copy_from_slice(value);
        self.change_attributes(cx, ino, move |node| {
            let exists = node.facts.attributes.xattrs.contains_key(&name);
            match how {
                SetXattr::Create if exists => return Err(Error::Exists),
                SetXattr::Replace if !exists => return Err(Error::NoAttribute),
                _ => {}
            }
            node.facts.attributes.xattrs.insert(name.clone(), value.clone());
            Ok(())
        })
        .await
    }

    /// Removes an extended attribute.
    pub async fn removexattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &OsStr) -> Result<()> {
        let name = self.settable(name)?;
        let remove = move |node: &mut Node| node.facts.attributes.xattrs.remove(&name).map(drop).ok_or(Error::NoAttribute);
        self.change_attributes(cx, ino, remove).await
    }

    fn settable(&self, name: &OsStr) -> Result<String> {
        self.may_change()?;
        let name = known_space(name)?;
        if virtual_name(name).is_some() {
            return Err(Error::NotPermitted("this attribute is what COS says of the object, and read-only"));
        }
        if self.config.posix != Posix::Full {
            return Err(Error::NotPermitted("--posix keeps no extended attributes"));
        }
        if name.len() > LONGEST_NAME { Err(Error::Invalid("an attribute's name is too long")) } else { Ok(name.to_owned()) }
    }

    /// What COS, or this mount, says of the object.
    async fn virtual_xattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &str) -> Result<Bytes> {
        let (key, origin) = {
            let names = self.names.lock();
            let node = names.tree.node(ino).ok_or(Error::Stale)?;
            // A file that has lost its name has no key, and may be asked this all the same.
            if name == "dirty" {
                return names.why_unsent(ino).map(Bytes::from).ok_or(Error::NoAttribute);
            }
            (names.key(&self.keys, ino)?, node.facts.origin.clone())
        };
        let text = match name {
            "key" => Some(key.as_str().to_owned()),
            "etag" => origin.map(|origin| origin.etag.as_str().to_owned()),
            "version" => origin.and_then(|origin| origin.version_id).map(|id| id.0.to_string()),
            "class" | "crc64" if origin.is_some() => {
                let head = self.bucket.head(cx, &key).await?;
                match name {
                    "crc64" => head.crc64.map(|crc64| crc64.to_string()),
                    _ => Some(head.meta.class.unwrap_or_else(|| "STANDARD".to_owned())),
                }
            }
            _ => None,
        };
        text.map(Bytes::from).ok_or(Error::NoAttribute)
    }
}

fn virtual_name(name: &str) -> Option<&str> {
    name.strip_prefix(COS).filter(|name| VIRTUAL.contains(name))
}

fn known_space(name: &OsStr) -> Result<&str> {
    let name = name.to_str().ok_or(Error::Unsupported)?;
    if name.len() > USER.len() && name.starts_with(USER) { Ok(name) } else { Err(Error::Unsupported) }
}
