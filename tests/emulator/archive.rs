//! Archived objects: refused until they are restored, and again when that is over; and what other classes ask for.

use std::time::{Duration, Instant};

use cosmount::emulator::{Config, Restoring};

use crate::http::{Answer, request};
use crate::{BUCKET, Emulator};

const HOUR: Duration = Duration::from_secs(3600);

fn emulator(delay: Duration, day: Duration) -> Emulator {
    let emulator = Emulator::with(Config { restoring: Restoring { delay, day }, ..Config::default() });
    for (key, class) in [("/cold", "ARCHIVE"), ("/frozen", "DEEP_ARCHIVE"), ("/warm", "STANDARD_IA")] {
        assert_eq!(emulator.call("PUT", key, &[("x-cos-storage-class", class)], Some(b"bytes")).status, 200);
    }
    emulator
}

fn restore(emulator: &Emulator, path: &str, days: u32, tier: &str) -> Answer {
    let document = format!("<RestoreRequest><Days>{days}</Days><CASJobParameters><Tier>{tier}</Tier></CASJobParameters></RestoreRequest>");
    emulator.post(&format!("{path}?restore"), document.as_bytes())
}

fn head(emulator: &Emulator, path: &str) -> Option<String> {
    let head = emulator.call("HEAD", path, &[], None);
    assert_eq!(head.status, 200);
    head.header("x-cos-restore").map(str::to_owned)
}

/// Waits until the object can be read, or cannot.
fn wait(emulator: &Emulator, path: &str, status: u16) {
    let begun = Instant::now();
    while emulator.get(path).status != status {
        assert!(begun.elapsed() < Duration::from_secs(20), "{path} never answered {status}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn restore_ends_by_itself() {
    let emulator = emulator(Duration::from_millis(100), HOUR);
    let begun = Instant::now();
    assert_eq!(restore(&emulator, "/cold", 1, "Expedited").status, 202);
    wait(&emulator, "/cold", 200);
    // The emulator counts whole milliseconds.
    assert!(begun.elapsed() >= Duration::from_millis(98));
}

#[test]
fn archived_objects_cannot_be_read_or_copied() {
    let emulator = emulator(HOUR, HOUR);
    for (key, class) in [("/cold", "ARCHIVE"), ("/frozen", "DEEP_ARCHIVE")] {
        for headers in [&[][..], &[("Range", "bytes=0-1")]] {
            let get = emulator.call("GET", key, headers, None);
            assert_eq!((get.code(), get.header("x-cos-storage-class")), ((403, "InvalidObjectState".into()), Some(class)));
        }
        let head = emulator.call("HEAD", key, &[], None);
        assert_eq!((head.status, head.header("x-cos-storage-class"), head.header("content-length")), (200, Some(class), Some("5")));
        assert_eq!(head.header("x-cos-restore"), None);
        let source = format!("/b-125{key}");
        let copy = |path: &str, more: &[(&str, &str)]| {
            emulator.call("PUT", path, &[&[("x-cos-copy-source", &*source)], more].concat(), Some(b"")).code()
        };
        assert_eq!(copy("/copy", &[]), (403, "InvalidObjectState".into()));
        assert_eq!(copy(key, &[("x-cos-metadata-directive", "Replaced")]), (403, "InvalidObjectState".into()), "onto itself, too");
        let id = emulator.post("/parts?uploads", b"").element("UploadId").unwrap();
        assert_eq!(copy(&format!("/parts?partNumber=1&uploadId={id}"), &[]), (403, "InvalidObjectState".into()));
    }
    assert_eq!(emulator.get("/warm").status, 200);
    assert_eq!(emulator.put("/cold", b"new").status, 200, "and can be replaced");
    assert_eq!(emulator.get("/cold").body, b"new");
}

#[test]
fn restore_takes_its_time_then_reads() {
    let emulator = emulator(HOUR, HOUR);
    let before = emulator.call("HEAD", "/cold", &[], None);
    assert_eq!(restore(&emulator, "/cold", 2, "Bulk").status, 202);
    let during = emulator.call("HEAD", "/cold", &[], None);
    assert_eq!(during.header("x-cos-restore"), Some("ongoing-request=\"true\""));
    let status = during.header("x-cos-restore-status").unwrap();
    assert!(status.starts_with("tier=\"bulk\"; request-date=\"") && status.ends_with(" GMT\""), "{status}");
    assert_eq!(restore(&emulator, "/cold", 2, "Bulk").code(), (409, "RestoreAlreadyInProgress".into()));
    assert_eq!(emulator.get("/cold").code(), (403, "InvalidObjectState".into()));
    assert_eq!(emulator.get("/?prefix=cold").element("RestoreStatus").as_deref(), Some("ONGOING"));
    assert!(emulator.0.finish_restores(BUCKET) && !emulator.0.finish_restores("none-1"));
    let after = emulator.get("/cold");
    assert_eq!((&after.body[..], after.header("x-cos-storage-class")), (&b"bytes"[..], Some("ARCHIVE")));
    let told = after.header("x-cos-restore").unwrap();
    let date = told.strip_prefix("ongoing-request=\"false\", expiry-date=\"").and_then(|rest| rest.strip_suffix('"')).unwrap();
    let left = httpdate::parse_http_date(date).unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left > HOUR + HOUR / 2 && left <= 2 * HOUR, "{told}: two days of an hour each, from when it was done");
    assert_eq!(emulator.get("/?prefix=cold").element("RestoreStatus").as_deref(), Some("DONE"));
    assert_eq!(emulator.get("/?versions&prefix=cold").element("RestoreStatus").as_deref(), Some("DONE"));
    assert_eq!((after.header("etag"), after.header("last-modified")), (before.header("etag"), before.header("last-modified")));
    assert_eq!(emulator.call("PUT", "/copy", &[("x-cos-copy-source", "/b-125/cold")], Some(b"")).status, 200);
    // A readable object's end is moved, at once.
    assert_eq!(restore(&emulator, "/cold", 9, "Bulk").status, 200);
    assert_eq!(emulator.get("/cold").status, 200);
    assert_ne!(head(&emulator, "/cold").unwrap(), told);
}

#[test]
fn restored_object_is_archived_again_when_its_days_are_over() {
    let emulator = emulator(Duration::ZERO, Duration::from_millis(500));
    assert_eq!(restore(&emulator, "/frozen", 2, "Standard").status, 202);
    wait(&emulator, "/frozen", 403);
    assert_eq!(head(&emulator, "/frozen"), None);
    assert_eq!(emulator.get("/?prefix=frozen").element("RestoreStatus"), None);
    assert_eq!(restore(&emulator, "/frozen", 1, "Standard").status, 202, "and may be asked for again");
}

#[test]
fn bad_restores_are_refused() {
    let emulator = emulator(HOUR, HOUR);
    assert_eq!(restore(&emulator, "/warm", 1, "Standard").code(), (405, "RestoreNonArchiveObject".into()));
    assert_eq!(restore(&emulator, "/missing", 1, "Standard").code(), (404, "NoSuchKey".into()));
    assert_eq!(restore(&emulator, "/frozen", 1, "Expedited").code(), (400, "InvalidArgument".into()));
    assert_eq!(restore(&emulator, "/cold", 0, "Standard").code(), (400, "InvalidArgument".into()));
    assert_eq!(restore(&emulator, "/cold", 1, "Soon").code(), (400, "MalformedXML".into()));
    assert_eq!(emulator.post("/cold?restore", b"<RestoreRequest/>").code(), (400, "MalformedXML".into()));
    assert_eq!(head(&emulator, "/cold"), None, "none of these began anything");
    assert_eq!(emulator.post("/cold?restore", b"<RestoreRequest><Days>1</Days></RestoreRequest>").status, 202, "the tier may be left out");
}

#[test]
fn version_is_restored_by_itself() {
    let emulator = emulator(Duration::ZERO, HOUR);
    let status = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(emulator.put("/?versioning", status).status, 200);
    let put = || {
        emulator.call("PUT", "/cold", &[("x-cos-storage-class", "ARCHIVE")], Some(b"new")).header("x-cos-version-id").unwrap().to_owned()
    };
    let id = put();
    let body = b"<RestoreRequest><Days>1</Days></RestoreRequest>";
    assert_eq!(emulator.post("/cold?restore&versionId=null", body).status, 202);
    assert_eq!((emulator.get("/cold?versionId=null").status, emulator.get("/cold").status), (200, 403));
    assert_eq!(emulator.get("/cold?versionId=null").header("x-cos-version-id"), Some("null"));
    assert_eq!(emulator.0.versions(BUCKET, "cold")[0].id, id, "a restore is no new version");
}

#[test]
fn restore_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = |delay| Config { data: Some(dir.path().to_owned()), restoring: Restoring { delay, day: HOUR }, ..Config::default() };
    {
        let emulator = Emulator::with(config(HOUR));
        for key in ["/cold", "/other"] {
            emulator.call("PUT", key, &[("x-cos-storage-class", "ARCHIVE")], Some(b"bytes"));
        }
        assert_eq!(restore(&emulator, "/cold", 1, "Standard").status, 202);
    }
    let emulator = Emulator::with(config(Duration::ZERO));
    assert_eq!(head(&emulator, "/cold").as_deref(), Some("ongoing-request=\"true\""));
    assert_eq!(restore(&emulator, "/other", 1, "Standard").status, 202);
    drop(emulator);
    let emulator = Emulator::with(config(HOUR));
    assert_eq!((emulator.get("/other").status, emulator.get("/cold").status), (200, 403));
}

#[test]
fn class_must_fit_the_bucket() {
    let emulator = Emulator::start();
    let put = |bucket: &str, class: &str| {
        let answer = request(emulator.0.addr(), "PUT", &format!("/{bucket}/k"), &[("x-cos-storage-class", class)], Some(b"x"));
        (answer.status, answer.element("Code").unwrap_or_default())
    };
    let refused = (400, "NotSupportedStorageClass".to_owned());
    let shown = |bucket: &str, name: &str| {
        let head = request(emulator.0.addr(), "HEAD", &format!("/{bucket}/k"), &[], None);
        head.header(name).map(str::to_owned)
    };
    for class in ["STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "ARCHIVE", "DEEP_ARCHIVE"] {
        assert_eq!(put(BUCKET, class).0, 200, "{class}");
        assert_eq!(shown(BUCKET, "x-cos-storage-class"), (class != "STANDARD").then(|| class.to_owned()));
        assert_eq!(shown(BUCKET, "x-cos-storage-tier").is_some(), class == "INTELLIGENT_TIERING");
        let listed = emulator.get("/").text();
        assert_eq!(crate::http::elements(&listed, "StorageClass"), [class]);
        assert_eq!(listed.contains("<StorageTier>FREQUENT</StorageTier>"), class == "INTELLIGENT_TIERING");
    }
    let document = b"<CreateBucketConfiguration><BucketAZConfig>MAZ</BucketAZConfig></CreateBucketConfiguration>";
    assert_eq!(request(emulator.0.addr(), "PUT", "/wide-125/", &[], Some(document)).status, 200);
    for class in ["MAZ_STANDARD", "MAZ_STANDARD_IA", "MAZ_INTELLIGENT_TIERING"] {
        assert_eq!(put(BUCKET, class), refused, "{class}");
        assert_eq!(put("wide-125", class).0, 200, "{class}");
        assert_eq!(shown("wide-125", "x-cos-storage-class").as_deref(), Some(class));
        let copy = |more: &[(&str, &str)]| {
            let headers = [&[("x-cos-copy-source", "/wide-125/k")], more].concat();
            request(emulator.0.addr(), "PUT", "/wide-125/copy", &headers, Some(b"")).code()
        };
        assert_eq!(copy(&[("x-cos-storage-class", class)]).0, 200);
        assert_eq!(copy(&[]).0, if class == "MAZ_STANDARD" { 200 } else { 400 }, "{class} to the default");
    }
    assert_eq!(put("wide-125", "ARCHIVE"), refused);
    assert_eq!(request(emulator.0.addr(), "PUT", "/wide-125/k", &[], Some(b"x")).status, 200);
    assert_eq!(shown("wide-125", "x-cos-storage-class").as_deref(), Some("MAZ_STANDARD"), "the default there");
    let append = |path: &str, headers: &[(&str, &str)]| request(emulator.0.addr(), "POST", path, headers, Some(b"x")).code();
    assert_eq!(append("/wide-125/log?append&position=0", &[]), (400, "OAZOperationNotSupportOnMAZBucket".into()));
    assert_eq!(append("/b-125/log?append&position=0", &[("x-cos-storage-class", "INTELLIGENT_TIERING")]), refused);
}
