//! The disk store: what was answered is there after `kill -9`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use cosmount::emulator::{Config, Server};

use crate::http::{elements, request};
use crate::{BUCKET, Emulator};

#[test]
fn restart_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(dir.path().to_owned()), ..Config::default() };
    let id = {
        let emulator = Emulator::with(config());
        emulator.call(
            "PUT",
            "/a%20b/%E7%85%A7",
            &[("x-cos-meta-k", "v"), ("x-cos-storage-class", "STANDARD_IA"), ("x-cos-tagging", "t=1")],
            Some(b"one"),
        );
        emulator.put("/gone", b"x");
        emulator.call("DELETE", "/gone", &[], None);
        emulator.put("/twice", b"old");
        emulator.put("/twice", b"new");
        emulator.post("/log?append&position=0", b"hello ");
        emulator.post("/log?append&position=6", b"world");
        emulator.0.put(BUCKET, b"bytes\xff", "raw", &[]).unwrap();
        let id = emulator.post("/up?uploads", b"").element("UploadId").unwrap();
        emulator.put(&format!("/up?partNumber=1&uploadId={id}"), &[1; 2000]);
        emulator.put(&format!("/up?partNumber=1&uploadId={id}"), &[2; 2000]);
        id
    };
    // A killed process leaves bytes that nobody owns, and half a record.
    std::fs::write(dir.path().join("data/ffff"), "orphan").unwrap();
    std::fs::write(dir.path().join("buckets").join(BUCKET).join("objects/x.tmp"), "{").unwrap();
    let files = |sub: &str| std::fs::read_dir(dir.path().join(sub)).unwrap().count();
    {
        let emulator = Emulator::with(config());
        assert_eq!(emulator.0.keys(BUCKET, ""), ["a b/照", "bytes\u{fffd}", "log", "twice"]);
        let object = emulator.0.get(BUCKET, "a b/照").unwrap();
        assert_eq!(
            (object.body.as_ref(), object.header("x-cos-meta-k"), object.header("x-cos-storage-class")),
            (&b"one"[..], Some("v"), Some("STANDARD_IA"))
        );
        assert_eq!(object.tags, [("t".to_owned(), "1".to_owned())]);
        assert_eq!(emulator.get("/twice").body, b"new");
        assert_eq!(emulator.get("/log").body, b"hello world");
        assert_eq!(emulator.post("/log?append&position=11", b"!").status, 200);
        assert_eq!(emulator.0.uploads(BUCKET)[0].parts, [(1, 2000)]);
        assert_eq!(files("data"), 3 + 3 + 1, "one, raw, new; three appends; one part");
        let etag = elements(&emulator.get(&format!("/up?uploadId={id}")).text(), "ETag")[0].clone();
        let list = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>");
        assert_eq!(emulator.post(&format!("/up?uploadId={id}"), list.as_bytes()).status, 200);
    }
    let emulator = Emulator::with(config());
    assert_eq!(emulator.0.get(BUCKET, "up").unwrap().body, vec![2; 2000]);
    assert_eq!(emulator.0.get(BUCKET, "log").unwrap().body, "hello world!");
    assert!(emulator.0.uploads(BUCKET).is_empty());
    for key in ["a%20b/%E7%85%A7", "bytes%FF", "log", "twice", "up"] {
        assert_eq!(emulator.call("DELETE", &format!("/{key}"), &[], None).status, 204);
    }
    assert_eq!(emulator.call("DELETE", "/", &[], None).status, 204);
    assert_eq!((files("data"), files("buckets")), (0, 0));
}

#[test]
fn broken_record_is_an_error_and_no_delete_marker() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(dir.path().to_owned()), ..Config::default() };
    Emulator::with(config()).put("/k", b"x");
    let mut records = std::fs::read_dir(dir.path().join("buckets").join(BUCKET).join("objects")).unwrap();
    let path = records.next().unwrap().unwrap().path();
    let record = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, record.replace("\"etag\"", "\"tag\"")).unwrap();
    assert!(Server::start(config()).is_err());
    std::fs::write(&path, record).unwrap();
    assert_eq!(Emulator::with(config()).get("/k").body, b"x");
}

/// The program, killed when the test ends.
struct Program(Child);

impl Program {
    fn start(dir: &std::path::Path) -> (Self, std::net::SocketAddr) {
        Self::with(dir, &[])
    }

    fn with(dir: &std::path::Path, flags: &[&str]) -> (Self, std::net::SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cos-emulator"));
        command.args(["--anonymous", "--bucket", "b-125:ap-x", "--data"]).arg(dir).args(flags).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("http://").unwrap().parse().unwrap();
        (Self(child), addr)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn what_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let (mut program, addr) = Program::start(dir.path());
        let (answered, answers) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut done = Vec::new();
            for n in 0.. {
                let (key, body) = (format!("{round}-{}", n % 7), format!("{round} {n} ").repeat(1000));
                let stream = std::panic::catch_unwind(|| request(addr, "PUT", &format!("/b-125/{key}"), &[], Some(body.as_bytes())));
                match stream {
                    Ok(answer) if answer.status == 200 => {
                        done.push((key, body));
                        drop(answered.send(()));
                    }
                    _ => return (done, key, body),
                }
            }
            unreachable!()
        });
        assert_eq!(answers.iter().take(10).count(), 10);
        program.0.kill().unwrap();
        program.0.wait().unwrap();
        let (done, key, unknown) = writer.join().unwrap();
        acknowledged.extend(done);
        let server = Server::start(Config { data: Some(dir.path().to_owned()), ..Config::default() }).unwrap();
        for name in server.keys(BUCKET, "") {
            let body = server.get(BUCKET, &name).unwrap().body;
            let last = acknowledged.iter().rfind(|(key, _)| *key == name).map(|(_, body)| body.as_str());
            let lost = last.is_some_and(|last| body != last) || last.is_none();
            assert!(!lost || (name == key && body == unknown), "{name} is {:?}", &body[..20]);
            if name == key && body == unknown {
                acknowledged.push((name, unknown.clone()));
            }
        }
        assert!(acknowledged.iter().all(|(key, _)| server.get(BUCKET, key).is_some()));
    }
}

#[test]
fn flags_set_rates_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--rates", r#"{"lists": 0}"#, "--restore-delay", "0", "--restore-day", "3600000", "--admin"];
    let (_program, addr) = Program::with(dir.path(), &flags);
    let call = |method, path: &str, headers: &[(&str, &str)], body: &[u8]| request(addr, method, path, headers, Some(body));
    assert_eq!(call("GET", "/b-125/", &[], b"").code(), (503, "SlowDown".into()));
    assert_eq!(call("PUT", "/b-125/k", &[("x-cos-storage-class", "ARCHIVE")], b"cold").status, 200);
    assert_eq!(call("POST", "/b-125/k?restore", &[], b"<RestoreRequest><Days>1</Days></RestoreRequest>").status, 202);
    let get = call("GET", "/b-125/k", &[], b"");
    assert_eq!(&get.body[..], b"cold");
    let told = get.header("x-cos-restore").unwrap();
    let date = told.split('"').nth(3).unwrap();
    let left = httpdate::parse_http_date(date).unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left.as_secs() <= 3600, "{told}: a day of an hour");
    assert_eq!(call("PUT", "/_emulator/rates", &[], b"{}").status, 200);
    assert_eq!(call("GET", "/b-125/", &[], b"").status, 200);
}

#[test]
fn program_ends_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (mut program, addr) = Program::start(dir.path());
    assert_eq!(request(addr, "HEAD", "/b-125/", &[], None).status, 200);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(program.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(program.0.wait().unwrap().success());
}
