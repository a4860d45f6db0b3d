//! Names to keys and back, one-to-one under a prefix.
//!
//! A key is any text; a name is not: `a//b`, `a/./b` and `a/../b` are three keys that no path can say. Such a component is shown under an
//! escape, `@cos:` followed by the component with `%`, `.`, `/` and control bytes percent-encoded:
//!
//! | component | name |
//! |---|---|
//! | (empty) | `@cos:` |
//! | `.` | `@cos:%2E` |
//! | `..` | `@cos:%2E%2E` |
//! | `@cos:x` | `@cos:%40cos:x` |
//!
//! Control bytes 0x18 to 0x1B, which COS refuses in new keys, and NUL are escaped the same way.
//!
//! Every component has at most one name and every name exactly one component: a name that begins with `@cos:` and is not the escape of
//! anything is refused (V3). A component that is longer than 255 bytes, or whose escape is, has no name and is hidden, and so is
//! `.cosmount`, which is reserved at every depth. With `--unspellable hide` the escape is off and these components are hidden, too.

use std::{ffi::OsStr, fmt, sync::Arc};

use crate::store::Key;

use crate::vfs::{Error, Result};

const ESCAPE: &str = "@cos:";
/// Where helper objects live, below the mount's prefix; hidden at every depth, since another mount's root may lie below ours.
pub(super) const RESERVED: &str = ".cosmount";
const LONGEST_NAME: usize = 255;
/// The longest key, of a file, or of a directory with its slash.
pub(super) const LONGEST_KEY: usize = 850;

/// Characters that COS refuses in keys.
const REFUSED: [char; 4] = ['\u{18}', '\u{19}', '\u{1a}', '\u{1b}'];

/// One component of a path, as programs see it: not empty, no `/`, no NUL, not `.` or `..`, at most 255 bytes, not reserved.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(Arc<str>);

impl Name {
    /// Takes a name as the kernel gives it.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] or [`Error::BadName`]: COS could not store it.
    pub(super) fn parse(name: &OsStr) -> Result<Self> {
        let text = name.to_str().ok_or(Error::BadName("object keys are UTF-8, and this name is not"))?;
        if text.len() > LONGEST_NAME {
            return Err(Error::NameTooLong);
        }
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(Error::Invalid("not a name"));
        }
        if text == RESERVED {
            return Err(Error::BadName("`.cosmount` is reserved for the mount's own helper objects"));
        }
        if text.contains(REFUSED) {
            return Err(Error::BadName("COS keys cannot hold the control characters 0x18 to 0x1B"));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as programs see it.
    pub(super) fn as_os_str(&self) -> &OsStr {
        OsStr::new(&*self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The mapping of one mount.
#[derive(Debug, Clone)]
pub(super) struct KeyMap {
    prefix: String,
    escape: bool,
}

impl KeyMap {
    /// A mapping below `prefix` (empty, or ending in `/`). With `escape`, components that are no names are shown escaped, else hidden.
    pub(super) fn new(prefix: &str, escape: bool) -> Self {
        Self { prefix: prefix.to_owned(), escape }
    }

    /// The prefix under which the keys of the directory at `path` lie: empty for the root of a whole bucket, else ending in `/`.
    ///
    /// # Errors
    /// As [`KeyMap::child`].
    pub(super) fn directory<'a>(&self, path: impl IntoIterator<Item = &'a Name>) -> Result<String> {
        let mut key = self.prefix.clone();
        for name in path {
            self.push(&mut key, name)?;
            key.push('/');
        }
        if key.len() > LONGEST_KEY { Err(Error::NameTooLong) } else { Ok(key) }
    }

    /// The key of the file `name` in the directory whose keys begin with `directory`.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] past 850 bytes; [`Error::BadName`] for a name that begins with `@cos:` and is no escape, or a leading slash or backslash.
    pub(super) fn child(&self, directory: &str, name: &Name) -> Result<Key> {
        let mut key = directory.to_owned();
        self.push(&mut key, name)?;
        if key.len() > LONGEST_KEY {
            return Err(Error::NameTooLong);
        }
        Ok(Key::new(key))
    }

    /// The name under which a component of a listed key is shown; `None` if it is hidden.
    pub(super) fn name_of(&self, component: &str) -> Option<Name> {
        if component == RESERVED || component.contains('/') {
            return None;
        }
        let shown = if is_odd(component) || (self.escape && component.starts_with(ESCAPE)) {
            if !self.escape {
                return None;
            }
            escaped(component)
        } else {
            component.to_owned()
        };
        (shown.len() <= LONGEST_NAME).then(|| Name(shown.into()))
    }

    /// Appends the component that `name` stands for.
    fn push(&self, key: &mut String, name: &Name) -> Result<()> {
        let name = name.as_str();
        let start = key.len();
        if self.escape && name.starts_with(ESCAPE) {
            let component = unescaped(name)
                .ok_or(Error::BadName("names that begin with `@cos:` stand for keys that are no names; this one stands for none"))?;
            key.push_str(&component);
        } else {
            key.push_str(name);
        }
        if start == 0 && (key.is_empty() || key.starts_with('\\')) {
            return Err(Error::BadName("COS keys cannot begin with a slash or a backslash"));
        }
        Ok(())
    }
}

/// Whether no program could say the component, or none may make it.
fn is_odd(component: &str) -> bool {
    component.is_empty() || component == "." || component == ".." || component.contains('\0') || component.contains(REFUSED)
}

/// Whether no request can ask for the object: `.` and `..` in the root of a bucket are what every URL resolves away, whatever is done about it.
/// (Below them, and below a prefix, there is something to escape.)
pub(super) fn is_unspeakable(key: &Key) -> bool {
    matches!(key.as_str(), "." | "..")
}

/// Whether COS would refuse to make the object, although it may be there.
pub(super) fn is_refused(key: &Key) -> bool {
    key.as_str().contains(REFUSED)
}

fn escaped(component: &str) -> String {
    let mut name = ESCAPE.to_owned();
    for (index, c) in component.char_indices() {
        let plain = !(c.is_control() || matches!(c, '%' | '.' | '/') || (index == 0 && c == '@'));
        if plain {
            name.push(c);
        } else {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                name.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    name
}

/// The component that a name stands for, if it is the escape of one.
fn unescaped(name: &str) -> Option<String> {
    let component = percent_encoding::percent_decode_str(name.strip_prefix(ESCAPE)?).decode_utf8().ok()?;
    let odd = is_odd(&component) || component.starts_with(ESCAPE);
    // A slash would make two components of it; only what escapes to this very name is meant.
    (odd && !component.contains('/') && escaped(&component) == name).then(|| component.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn ordinary_names_are_themselves() {
        let map = KeyMap::new("data/", true);
        assert_eq!(map.directory([&name("a"), &name("b c")]).unwrap(), "data/a/b c/");
        assert_eq!(map.child("data/a/", &name("ü.txt")).unwrap().as_str(), "data/a/ü.txt");
        assert_eq!(map.name_of("ü.txt"), Some(name("ü.txt")));
        assert_eq!(map.directory([]).unwrap(), "data/");
    }

    #[test]
    fn components_that_are_no_names_are_escaped_or_hidden() {
        let map = KeyMap::new("", true);
        for (component, shown) in [
            ("", "@cos:"),
            (".", "@cos:%2E"),
            ("..", "@cos:%2E%2E"),
            ("@cos:x", "@cos:%40cos:x"),
            ("a\0b", "@cos:a%00b"),
            ("\u{1b}[2J", "@cos:%1B[2J"),
        ] {
            assert_eq!(map.name_of(component), Some(name(shown)));
            assert_eq!(map.child("d/", &name(shown)).unwrap().as_str(), format!("d/{component}"));
        }
        let hide = KeyMap::new("", false);
        assert_eq!(hide.name_of(".."), None);
        assert_eq!(hide.name_of("@cos:x"), Some(name("@cos:x")));
        assert_eq!(map.name_of(".cosmount"), None);
        assert_eq!(map.name_of(&"x".repeat(256)), None);
    }

    #[test]
    fn names_that_cos_cannot_store_are_refused() {
        let map = KeyMap::new("", true);
        assert!(Name::parse(OsStr::new(".cosmount")).is_err());
        assert!(Name::parse(OsStr::new("a\u{1b}b")).is_err());
        assert!(matches!(Name::parse(OsStr::new(&"x".repeat(256))), Err(Error::NameTooLong)));
        assert!(map.child("", &name("\\x")).is_err());
        assert!(map.child("", &name("@cos:plain")).is_err(), "no component has this name");
        assert!(map.child("", &name("@cos:%2f")).is_err());
        assert!(matches!(map.child(&"d/".repeat(420), &name("0123456789a")), Err(Error::NameTooLong)));
    }

    proptest! {
        #[test]
        fn what_is_shown_leads_back_to_its_component(component in "(@cos:)?[a-z@%./\0\u{1b}]{0,6}".prop_map(|c| c.replace('/', "."))) {
            let map = KeyMap::new("p/", true);
            if let Some(shown) = map.name_of(&component) {
                let parsed = Name::parse(shown.as_os_str()).unwrap();
                let expected = format!("p/{component}");
                prop_assert_eq!(map.child("p/", &parsed).unwrap().as_str().to_owned(), expected);
            }
        }

        #[test]
        fn every_name_has_one_component(text in "(@cos:)?[a-z@%.0-9A-F]{1,8}") {
            let map = KeyMap::new("", true);
            if let Ok(name) = Name::parse(OsStr::new(&text))
                && let Ok(key) = map.child("", &name)
            {
                prop_assert_eq!(map.name_of(key.as_str()), Some(name));
            }
        }
    }
}
