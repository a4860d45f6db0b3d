//! What is fuzzed of names and attributes: keys and headers that any other writer may have made.

use std::ffi::OsStr;

use crate::store::{Capabilities, Head};

use crate::vfs::{
    FileKind, Posix,
    keymap::{KeyMap, Name},
    meta::{self, Attributes},
};

/// Any text as the component of a key, and as a name: what is shown leads back to its component, and what is taken is shown the same way.
pub(crate) fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        use std::os::unix::ffi::OsStrExt;
        assert!(Name::parse(OsStr::from_bytes(data)).is_err());
        return;
    };
    for prefix in ["", "p/", "p/@cos:/"] {
        for escape in [true, false] {
            let map = KeyMap::new(prefix, escape);
            for component in text.split('/').chain([text]) {
                let Some(shown) = map.name_of(component) else { continue };
                assert!(!component.contains('/') && component != ".cosmount");
                let parsed = Name::parse(shown.as_os_str()).ok();
                assert_eq!(parsed.as_ref(), Some(&shown), "{component:?} is shown as no name");
                if let Ok(key) = map.child(prefix, &shown) {
                    assert_eq!(key.as_str(), format!("{prefix}{component}"));
                }
            }
            if let Ok(name) = Name::parse(OsStr::new(text))
                && let Ok(key) = map.child(prefix, &name)
                && let Some(component) = key.as_str().strip_prefix(prefix)
            {
                assert_eq!(map.name_of(component), Some(name), "{key:?} is shown as another name");
            }
        }
    }
}

/// What a HEAD shows: attributes that are written as they were read are read again.
pub(crate) fn attributes(head: &Head) {
    let attributes = Attributes::of(head);
    let _ = meta::may_be_directory(head);
    let kind = attributes.kind.unwrap_or(FileKind::File);
    let mut again = head.clone();
    if attributes.write(kind, Posix::Full, &Capabilities::cos(), &mut again.meta).is_ok() {
        if let Some(mtime) = attributes.mtime {
            again.meta.user.extend(meta::times(mtime, Posix::Full));
        }
        let read = Attributes::of(&again);
        assert_eq!((read.uid, read.gid, read.rdev, read.mtime), (attributes.uid, attributes.gid, attributes.rdev, attributes.mtime));
        assert_eq!(read.xattrs, attributes.xattrs);
        // A mode without a type gets one.
        assert_eq!(read.mode, attributes.mode);
        assert!(attributes.kind.is_none() || read.kind == attributes.kind);
    }
}
