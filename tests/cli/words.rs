//! What is said about the words that can be typed: help, errors, exit codes, completions, the manual; and that all forms mean one thing.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{BUCKET, SECRETS, Stage, cosmount, snapshot, text};

/// Runs a command whose outcome this host has no part in.
fn run(words: &[&str]) -> Output {
    cosmount(words).output().unwrap()
}

fn help(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    text(&output.stdout)
}

/// Every command, by what help says: the words of each.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![vec![]];
    let mut at = 0;
    while at < found.len() {
        let path: Vec<String> = found[at].clone();
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let said = help(&words);
        let listed = said.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty() && *name != "help");
        found.extend(names.map(|name| path.iter().cloned().chain([name.to_owned()]).collect()));
        at += 1;
    }
    found
}

/// Every option of a mount.
fn options() -> BTreeSet<String> {
    let shown: Value = serde_json::from_str(&help(&["config", "show", "--json"])).unwrap();
    shown["options"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn help_texts() {
    let commands = commands();
    assert!(commands.len() > 6, "{commands:?}");
    for path in commands {
        let name = path.iter().fold("help".to_owned(), |name, word| name + "-" + word);
        for (flag, ending) in [("-h", "txt"), ("--help", "long.txt")] {
            let words: Vec<&str> = path.iter().map(String::as_str).chain([flag]).collect();
            snapshot::assert_same(&format!("{name}.{ending}"), &help(&words));
        }
    }
}

#[test]
fn root_reads_no_configuration_that_others_have_a_hand_in() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cosmount.toml");
    fs::write(&file, "region = \"ap-guangzhou\"\n").unwrap();
    let read = |uid, gid, mode| {
        std::os::unix::fs::chown(&file, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        run(&["config", "show", "--config", file.to_str().unwrap()])
    };
    for (uid, gid, mode, remedy) in [(4001, 0, 0o600, "chown root"), (0, 4001, 0o660, "chmod g-w")] {
        let refused = read(uid, gid, mode);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains(remedy), "{}", text(&refused.stderr));
    }
    for (gid, mode) in [(0, 0o660), (4001, 0o640)] {
        assert!(read(0, gid, mode).status.success());
    }
}

#[test]
fn errors_and_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cosmount.toml");
    fs::write(&file, "region = \"ap-guangzhou\"\n\n[\"cos://photos-125\"]\nmetdata_ttl = \"60s\"\n").unwrap();
    let open = dir.path().join("open.toml");
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    let (file, open) = (file.to_str().unwrap(), open.to_str().unwrap());
    let mut said = String::new();
    let mut case = |words: &[&str], variables: &[(&str, &str)]| {
        let output =
            cosmount(words).envs(variables.iter().copied()).env("COS_SECRET_ID", "id").env("COS_SECRET_KEY", "key").output().unwrap();
        let set: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let dir = dir.path().to_str().unwrap();
        let lines = format!(
            "$ {set}cosmount {}\n{}{}exit {}\n",
            words.join(" "),
            text(&output.stdout),
            text(&output.stderr),
            output.status.code().unwrap()
        );
        writeln!(said, "{}", lines.replace(dir, "DIR")).unwrap();
    };
    let nowhere = "/nonexistent/directory";
    for words in [
        &["mout", "photos-125", nowhere][..],
        &["frobnicate"],
        &["mount"],
        &["mount", "photos-125"],
        &["photos", nowhere],
        &["s3://photos-125", nowhere],
        &["photos-125", nowhere, "--read-onyl"],
        &["photos-125", nowhere, "--metadata-ttl", "soon"],
        &["photos-125", nowhere, "--consistency", "opne"],
        &["photos-125", nowhere, "--umask", "9"],
        &["photos-125", nowhere, "--memory-limit", "16M"],
        &["photos-125", nowhere, "--allow-other", "--allow-root"],
        &["photos-125", nowhere, "--secret-key=topsecret"],
        &["photos-125", nowhere, "-o", "secret_key=topsecret"],
        &["photos-125", nowhere, "--credentials", "AKIDEXAMPLE:topsecret"],
        &["photos-125", nowhere, "-o", "metdata_ttl=60s"],
        &["photos-125", nowhere, "-o", "metadata_ttl=soon"],
        &["photos-125", nowhere, "-o", "region"],
        &["photos-125", nowhere, "-o", "ro=perhaps"],
        &["photos-125", nowhere, "-o", "remount,ro"],
        &["photos-125", nowhere, "-o", "no_check_certificate"],
        &["photos-125", nowhere, "--sloppy", "-o", "intr,dev,sync"],
        &["photos-125", nowhere, "-o", "url=http://cos.ap-x.myqcloud.com,multipart_size=10,use_cache=/c,umask=022,uid=7,allow_other"],
        &["cos://photos-125.cos.ap-x.myqcloud.com", nowhere, "--region", "ap-y"],
        &["photos-125", nowhere, "--config", "/nonexistent.toml"],
        &["photos-125", nowhere, "--config", file],
        &["photos-125", nowhere, "--config", open],
        &["photos-125", nowhere],
        &["photos-125", "/dev/null"],
        &["umount", nowhere],
        &["config", "show", "--read-onyl"],
        &["man", "frobnicate"],
        &["completions", "tcsh"],
    ] {
        case(words, &[]);
    }
    case(&["photos-125", nowhere], &[("COSMOUNT_METADATA_TTL", "soon")]);
    case(&["photos-125", nowhere], &[("COSMOUNT_METADTA_TTL", "60s")]);
    case(&["photos-125", nowhere], &[("COSMOUNT_SECRET_KEY", "topsecret")]);
    assert!(!said.lines().any(|line| !line.starts_with('$') && line.contains("topsecret")), "{said}");
    snapshot::assert_same("errors.txt", &said);
}

#[test]
fn what_applies_and_who_said_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("cosmount.toml"),
        "region = \"ap-guangzhou\"\numask = \"0027\"\nread_only = true\nendpoint = [\"https://a.example\", \"service=https://b.example\"]\n\n\
         [\"cos://photos-125/2026/\"]\nmetadata_ttl = \"60s\"\nnegative_ttl = \"1s\"\n",
    )
    .unwrap();
    let show = |words: &[&str]| {
        let mut command = cosmount(&["config", "show", "cos://photos-125/2026/10/", "--config", "cosmount.toml"]);
        command.current_dir(&dir).args(words).env("COSMOUNT_NEGATIVE_TTL", "2s").env("COSMOUNT_PART_SIZE", "16M");
        let output = command.args(["-o", "part_size=32M,stat_cache_expire=9", "--read-only=false"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    snapshot::assert_same("config-show.txt", &show(&[]));
    let json: Value = serde_json::from_str(&show(&["--json"])).unwrap();
    let option = |name: &str| json["options"][name].clone();
    assert_eq!(json["source"], "cos://photos-125/2026/10/");
    assert_eq!(option("umask"), serde_json::json!({ "value": "0027", "from": { "layer": "file", "file": "cosmount.toml", "line": 2 } }));
    assert_eq!(option("endpoint")["value"], serde_json::json!(["https://a.example", "service=https://b.example"]));
    assert_eq!(
        option("negative-ttl"),
        serde_json::json!({ "value": "2s", "from": { "layer": "variable", "name": "COSMOUNT_NEGATIVE_TTL" } })
    );
    assert_eq!(option("metadata-ttl"), serde_json::json!({ "value": "9s", "from": { "layer": "-o", "name": "stat_cache_expire" } }));
    assert_eq!(option("read-only"), serde_json::json!({ "value": false, "from": { "layer": "flag" } }));
    assert_eq!(option("connections"), serde_json::json!({ "value": "64", "from": { "layer": "default" } }));
    assert_eq!(option("uid"), serde_json::json!({ "value": null, "from": { "layer": "default" } }));
}

#[test]
fn the_default_file_is_in_the_users_configuration() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".config")).unwrap();
    fs::write(dir.path().join(".config/cosmount.toml"), "umask = \"0027\"").unwrap();
    let umask = |variable: &str, value: &Path| {
        let mut command = cosmount(&["config", "show", "--json"]);
        let output = command.env_remove("COSMOUNT_CONFIG").env_remove("XDG_CONFIG_HOME").env(variable, value).output().unwrap();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["options"]["umask"]["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(umask("HOME", dir.path()), "0027");
    assert_eq!(umask("XDG_CONFIG_HOME", &dir.path().join(".config")), "0027");
    assert_eq!(umask("XDG_CONFIG_HOME", dir.path()), "0022");
}

#[test]
fn completions_and_manual_know_every_option() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(&["man", "--into", dir.path().to_str().unwrap()]).status.success());
    let pages: BTreeSet<String> = fs::read_dir(dir.path()).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    for path in commands() {
        let page = path.iter().fold("cosmount".to_owned(), |name, word| name + "-" + word) + ".1";
        assert!(pages.contains(&page), "{page} is not among {pages:?}");
        let words: Vec<&str> = ["man"].into_iter().chain(path.iter().map(String::as_str)).collect();
        assert_eq!(help(&words), fs::read_to_string(dir.path().join(&page)).unwrap(), "{page}");
    }
    // cosmount(1) alone has the options of a mount, too.
    let whole = help(&["man"]).replace("\\-", "-");
    for section in ["FILES", "ENVIRONMENT", "EXIT STATUS"] {
        assert!(whole.contains(&format!(".SH \"{section}\"")) || whole.contains(&format!(".SH {section}")), "{section}: {whole}");
    }
    let [bash, zsh, fish] = ["bash", "zsh", "fish"].map(|shell| help(&["completions", shell]));
    let manual = help(&["man", "mount"]).replace("\\-", "-");
    for name in options() {
        for (where_from, text) in [("bash", &bash), ("zsh", &zsh), ("manual", &manual), ("manual of all", &whole)] {
            assert!(text.contains(&format!("--{name}")), "{name} is not in {where_from}");
        }
        assert!(fish.contains(&format!("-l {name}")), "{name} is not in fish");
    }
    // The shell itself, as if somebody pressed the tabulator.
    let script = dir.path().join("completions.bash");
    fs::write(&script, bash).unwrap();
    let press =
        "source \"$1\"; COMP_WORDS=(cosmount mount --read-); COMP_CWORD=2; _cosmount cosmount --read- mount; echo \"${COMPREPLY[@]}\"";
    let pressed = Command::new("bash").args(["-c", press, "bash"]).arg(&script).output().unwrap();
    assert_eq!(text(&pressed.stdout).trim(), "--read-only", "{}", text(&pressed.stderr));
}

#[test]
fn the_documentation_lists_every_option() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = fs::read_to_string(path).unwrap();
    for name in options() {
        assert!(page.contains(&format!("`--{name}")), "docs/configuration.md does not have --{name}");
    }
}

/// One mount that is told something in each form, by the process that stays.
#[test]
fn a_mount_obeys_all_forms_and_keeps_to_what_was_said_at_its_start() {
    let stage = Stage::new();
    stage.server.put(BUCKET, "in/hello", "world", &[]).unwrap();
    let file = stage.dir.path().join("cosmount.toml");
    fs::File::create(&file)
        .unwrap()
        .write_all(format!("file_mode = \"0604\"\ndir_mode = \"0711\"\nendpoint = {:?}\n", stage.server.endpoint()).as_bytes())
        .unwrap();
    // The source names the region; nothing but -o says that it is read-only, nothing but the file where the server is.
    let mut mount = cosmount(&[&format!("cos://{BUCKET}.cos.ap-guangzhou.myqcloud.com/in/")]);
    mount.arg(stage.at()).arg("--config").arg(&file).args(["-o", "ro,noexec,nofail,x-systemd.automount,staging=none,dir_mode=0700"]);
    mount.arg("-o").arg(format!("log_file={}/log", stage.dir.path().display()));
    let output = mount.env("COSMOUNT_DIR_MODE", "0755").env("COSMOUNT_UMASK", "0").envs(SECRETS).output().unwrap();
    assert!(output.status.success(), "{output:?} {}", stage.log());
    assert_eq!(text(&output.stderr), "");
    fs::write(&file, "file_mode = \"0600\"").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let hello = stage.at().join("hello");
    assert_eq!((mode(&hello), mode(&stage.at())), (0o604, 0o700));
    assert_eq!(fs::read(&hello).unwrap(), b"world");
    assert_eq!(fs::write(stage.at().join("new"), "x").unwrap_err().raw_os_error(), Some(nix::errno::Errno::EROFS as i32));
    let line = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = line.lines().find(|line| line.contains(stage.at().to_str().unwrap())).unwrap().to_owned();
    let options = line.split(' ').nth(5).unwrap();
    assert!(["ro", "noexec", "nodev", "nosuid"].iter().all(|word| options.split(',').any(|option| option == *word)), "{line}");
    assert!(stage.umount().status.success());
}

#[test]
fn a_line_of_cosfs_mounts_with_one_notice() {
    let stage = Stage::new();
    stage.server.put(BUCKET, "hello", "world", &[]).unwrap();
    let mut mount = cosmount(&[BUCKET]);
    let tmpdir = stage.dir.path().join("tmp");
    fs::create_dir(&tmpdir).unwrap();
    let options = format!(
        "url={},region=ap-guangzhou,dbglevel=info,multipart_size=10,parallel_count=5,stat_cache_expire=1,default_permission=640,\
         use_cache=/nonexistent/cache,ensure_diskfree=100,tmpdir={}",
        stage.server.endpoint(),
        tmpdir.display()
    );
    let output = mount.arg(stage.at()).arg(format!("-o{options}")).envs(SECRETS).output().unwrap();
    assert!(output.status.success(), "{output:?} {}", stage.log());
    let notice = text(&output.stderr);
    assert_eq!(notice.lines().count(), 1, "{notice}");
    for word in
        ["url=", "as --part-size 10M", "as --connections 5", "as --metadata-ttl 1s", "use_cache=/nonexistent/cache: there is no cache"]
    {
        assert!(notice.contains(word), "{word}: {notice}");
    }
    assert_eq!(fs::metadata(stage.at().join("hello")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(&tmpdir).unwrap().count(), 1, "staging is a directory of this mount's own");
    assert!(stage.umount().status.success());
}
