//! The emulator's directory: everything it holds, so that it survives a restart.
//!
//! ```text
//! data/<id>                          bytes of an object, a part or an append; written once, owned by one record
//! buckets/<bucket>/bucket.json       its settings
//! buckets/<bucket>/objects/<sha256 of the key>.json            the null version, an object or a delete marker
//! buckets/<bucket>/objects/<sha256 of the key>.<made>.json     any other version
//! buckets/<bucket>/uploads/<upload id>.json, <upload id>.<part number>.json
//! ```
//!
//! Bytes are written first, then the record that owns them appears whole, by rename; what is replaced goes last. A process killed in between
//! leaves bytes that nobody owns, removed at the next start. The order of a key's versions is in the records, and what the key shows follows
//! from it. Nothing is synced: a killed process loses nothing, a killed host may.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::auth::hex;
use super::content::Content;
use super::state::{Bucket, BucketConfig, Object, Part, Upload};
use super::versions::{Marker, Stamp, Version};

/// The directory and the next free name in it.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    next: AtomicU64,
}

/// A record with the key it belongs to, which need not be UTF-8.
#[derive(Serialize, Deserialize)]
struct Keyed<T> {
    key: String,
    #[serde(flatten)]
    record: T,
}

/// A version as its record holds it; an object has an ETag and more, which tells the two apart.
#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    Object(Box<Object>),
    Marker(Marker),
}

impl<T> Keyed<T> {
    fn key(&self) -> Vec<u8> {
        percent_decode_str(&self.key).collect()
    }
}

impl Disk {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("data"))?;
        fs::create_dir_all(root.join("buckets"))?;
        Ok(Self { root: root.to_owned(), next: AtomicU64::new(1) })
    }

    /// Reads everything, and removes bytes without an owner.
    pub(super) fn load(&self) -> io::Result<BTreeMap<String, Bucket>> {
        let mut buckets = BTreeMap::new();
        let mut owned = HashSet::new();
        for entry in fs::read_dir(self.root.join("buckets"))? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(config) = read_json(&path.join("bucket.json"))? else { continue };
            let mut bucket = Bucket::new(config);
            self.load_objects(&path, &mut bucket, &mut owned)?;
            self.load_uploads(&path, &mut bucket, &mut owned)?;
            buckets.insert(name.to_owned(), bucket);
        }
        let mut last = 0;
        for entry in fs::read_dir(self.root.join("data"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            last = last.max(u64::from_str_radix(&name, 16).unwrap_or(0));
            if !owned.contains(&name) {
                self.remove(&[name]);
            }
        }
        self.next.store(last + 1, Ordering::SeqCst);
        Ok(buckets)
    }

    fn load_objects(&self, path: &Path, bucket: &mut Bucket, owned: &mut HashSet<String>) -> io::Result<()> {
        let mut stacks: HashMap<Vec<u8>, Vec<Version>> = HashMap::new();
        for entry in fs::read_dir(path.join("objects"))? {
            let Some(keyed) = read_json::<Keyed<Record>>(&entry?.path())? else { continue };
            let key = keyed.key();
            let version = match keyed.record {
                Record::Object(mut object) => {
                    object.content = self.read(&object.files)?;
                    owned.extend(object.files.iter().cloned());
                    Version::Object(Arc::new(*object))
                }
                Record::Marker(marker) => Version::Marker(marker),
            };
            stacks.entry(key).or_default().push(version);
        }
        for (key, versions) in stacks {
            bucket.load(&key, versions);
        }
        Ok(())
    }

    fn load_uploads(&self, path: &Path, bucket: &mut Bucket, owned: &mut HashSet<String>) -> io::Result<()> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(path.join("uploads"))? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            if let Some((id, number)) = stem.split_once('.') {
                parts.push((id.to_owned(), number.parse().unwrap_or(0), path));
            } else if let Some(keyed) = read_json::<Keyed<Upload>>(&path)? {
                bucket.uploads.insert((keyed.key(), stem), keyed.record);
            }
        }
        for (id, number, path) in parts {
            let Some(mut part) = read_json::<Part>(&path)? else { continue };
            // Killed between the object of a complete and the end of its upload: the object has the bytes.
            if part.files.iter().any(|file| owned.contains(file)) {
                drop(fs::remove_file(path));
                bucket.uploads.retain(|at, _| at.1 != id);
                continue;
            }
            part.content = self.read(&part.files)?;
            if let Some((_, upload)) = bucket.uploads.iter_mut().find(|(at, _)| at.1 == id) {
                owned.extend(part.files.iter().cloned());
                upload.parts.insert(number, part);
            }
        }
        Ok(())
    }

    /// Writes bytes and returns their name.
    pub(super) fn write(&self, content: &Content) -> io::Result<String> {
        let name = format!("{:016x}", self.next.fetch_add(1, Ordering::SeqCst));
        let mut file = fs::File::create(self.root.join("data").join(&name))?;
        for piece in content.pieces() {
            file.write_all(piece.bytes())?;
        }
        Ok(name)
    }

    fn read(&self, files: &[String]) -> io::Result<Content> {
        let pieces: io::Result<Vec<Bytes>> =
            files.iter().map(|name| fs::read(self.root.join("data").join(name)).map(Bytes::from)).collect();
        Ok(Content::new(pieces?))
    }

    /// Removes bytes; what cannot be removed now goes at the next start.
    pub(super) fn remove(&self, files: &[String]) {
        for name in files {
            drop(fs::remove_file(self.root.join("data").join(name)));
        }
    }

    fn bucket(&self, name: &str) -> PathBuf {
        self.root.join("buckets").join(name)
    }

    fn version(&self, bucket: &str, key: &[u8], stamp: Stamp) -> PathBuf {
        let key = hex(&Sha256::digest(key));
        let name = if stamp.null { format!("{key}.json") } else { format!("{key}.{:016x}.json", stamp.made) };
        self.bucket(bucket).join("objects").join(name)
    }

    pub(super) fn put_bucket(&self, name: &str, config: &BucketConfig) -> io::Result<()> {
        fs::create_dir_all(self.bucket(name).join("objects"))?;
        fs::create_dir_all(self.bucket(name).join("uploads"))?;
        write_json(&self.bucket(name).join("bucket.json"), config)
    }

    pub(super) fn delete_bucket(&self, name: &str) -> io::Result<()> {
        fs::remove_dir_all(self.bucket(name))
    }

    /// Writes a version; a null version takes the place of the one there was.
    pub(super) fn put_version(&self, bucket: &str, key: &[u8], version: &Version) -> io::Result<()> {
        let path = self.version(bucket, key, version.stamp());
        match version {
            Version::Object(object) => write_json(&path, &keyed(key, &**object)),
            Version::Marker(marker) => write_json(&path, &keyed(key, marker)),
        }
    }

    pub(super) fn delete_version(&self, bucket: &str, key: &[u8], stamp: Stamp) -> io::Result<()> {
        fs::remove_file(self.version(bucket, key, stamp))
    }

    pub(super) fn put_upload(&self, bucket: &str, key: &[u8], id: &str, upload: &Upload) -> io::Result<()> {
        write_json(&self.bucket(bucket).join("uploads").join(format!("{id}.json")), &keyed(key, upload))
    }

    pub(super) fn put_part(&self, bucket: &str, id: &str, number: u32, part: &Part) -> io::Result<()> {
        write_json(&self.bucket(bucket).join("uploads").join(format!("{id}.{number}.json")), part)
    }

    pub(super) fn delete_upload(&self, bucket: &str, id: &str, parts: impl IntoIterator<Item = u32>) -> io::Result<()> {
        let uploads = self.bucket(bucket).join("uploads");
        fs::remove_file(uploads.join(format!("{id}.json")))?;
        parts.into_iter().try_for_each(|number| fs::remove_file(uploads.join(format!("{id}.{number}.json"))))
    }
}

fn keyed<T>(key: &[u8], record: T) -> Keyed<T> {
    Keyed { key: percent_encode(key, NON_ALPHANUMERIC).to_string(), record }
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(value)?)?;
    fs::rename(temporary, path)
}

/// None for what is not a record, such as a temporary file of a killed process.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(None);
    }
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
