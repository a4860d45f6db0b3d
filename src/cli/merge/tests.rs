//! Each option in each layer, which layer wins, and what is said of mistakes.

use std::fs;

use clap::{Arg, FromArgMatches};

use super::*;
use crate::cli::args::{Arguments, Command};

const TYPED: [&str; 3] = ["mount", "cos://photos-125/2026/", "/mnt"];

/// What is said in each layer.
#[derive(Default)]
struct Layered {
    typed: Vec<String>,
    variables: Vec<(String, String)>,
    /// The text of the file.
    file: String,
}

impl Layered {
    fn typed(words: &[&str]) -> Self {
        Self { typed: words.iter().map(|&word| word.to_owned()).collect(), ..Self::default() }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(self, text: &str) -> Self {
        Self { file: text.to_owned(), ..self }
    }

    fn merge(&self) -> anyhow::Result<Merged> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        fs::write(&path, &self.file).unwrap();
        let words = TYPED.iter().map(OsString::from).chain(self.typed.iter().map(OsString::from)).collect();
        let merged = merge(words, &World { variables: self.variables.clone(), files: vec![path] });
        // The name of the directory is another each time.
        merged.map_err(|error| match error.downcast::<clap::Error>() {
            Ok(error) => error.into(),
            Err(error) => anyhow!("{}", format!("{error:#}").replace(&*dir.path().to_string_lossy(), "/etc")),
        })
    }

    /// The options as parsed, without the places where they were said.
    fn mount(&self) -> String {
        let merged = self.merge().unwrap();
        let matches = definition().try_get_matches_from([OsString::from("cosmount")].iter().chain(&merged.words)).unwrap();
        let Command::Mount(mut mount) = Arguments::from_arg_matches(&matches).unwrap().command else { panic!("another command") };
        mount.options.clear();
        mount.reach.config = None;
        format!("{mount:?}")
    }

    fn error(&self) -> String {
        self.merge().unwrap_err().to_string()
    }
}

/// A value of its kind that is not the default. A new kind of value needs a line here.
fn sample(arg: &Arg) -> String {
    if let Some(possible) = arg
        .get_possible_values()
        .iter()
        .rfind(|possible| !arg.get_default_values().iter().any(|default| possible.matches(&default.to_string_lossy(), false)))
    {
        return possible.get_name().to_owned();
    }
    let kind = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    match kind.as_str() {
        "REGION" => "ap-beijing",
        "URL" => "https://cos.example",
        "FILE" => "/tmp/file",
        "DIR[:SIZE]" => "/tmp/directory:1G",
        "NUMBER" => "1234",
        "COUNT" => "77",
        "OCTAL" => "0027",
        "DURATION" => "17s",
        "SIZE" => "64M",
        "LEVEL" => "debug",
        "KIND[:ARG]" => "anonymous",
        "NAME" => "work",
        other => panic!("--{}: what is a {other:?}, for example?", arg.get_long().unwrap()),
    }
    .to_owned()
}

#[test]
fn every_option_means_the_same_in_every_layer() {
    let definition = definition();
    let mount = definition.find_subcommand("mount").unwrap();
    let default = Layered::default().mount();
    let catalogue = Catalogue::of(&definition);
    assert!(catalogue.iter().count() > 25);
    for known in catalogue.iter().filter(|known| known.name != "config") {
        let arg = mount.get_arguments().find(|arg| *arg.get_id() == known.id).unwrap();
        let switch = known.takes == Takes::Nothing;
        let value = if switch { "true".to_owned() } else { sample(arg) };
        let name = known.name.replace('-', "_");
        let variable = format!("{PREFIX}{}", name.to_uppercase());
        let flag =
            if switch { Layered::typed(&[&format!("--{}", known.name)]) } else { Layered::typed(&[&format!("--{}", known.name), &value]) };
        let quoted = if switch { value.clone() } else { format!("{value:?}") };
        let expected = flag.mount();
        assert_ne!(expected, default, "--{} has no effect, or its sample is the default", known.name);
        for (layer, said) in [
            ("-o", Layered::typed(&["-o", &format!("{name}={value}")])),
            ("-o with dashes", Layered::typed(&["-o", &format!("{}={value}", known.name)])),
            ("variable", Layered::default().variable(&variable, &value)),
            ("file", Layered::default().file(&format!("{name} = {quoted}"))),
            ("table", Layered::default().file(&format!("[\"cos://photos-125\"]\n{name} = {quoted}"))),
        ] {
            assert_eq!(said.mount(), expected, "{} in {layer}", known.name);
        }
        if switch {
            assert_eq!(Layered::typed(&["-o", &name]).mount(), expected);
            assert_eq!(Layered::typed(&[&format!("--{}=false", known.name)]).file(&format!("{name} = true")).mount(), default);
        }
    }
}

#[test]
fn the_higher_layer_wins() {
    let all = |typed: &[&str]| {
        Layered::typed(typed)
            .variable("COSMOUNT_METADATA_TTL", "3s")
            .file("metadata_ttl = \"4s\"\n[\"cos://photos-125/2026\"]\nmetadata_ttl = \"5s\"")
    };
    let same = |said: Layered, seconds: &str| assert_eq!(said.mount(), Layered::typed(&["--metadata-ttl", seconds]).mount());
    same(all(&["--metadata-ttl", "1s", "-o", "metadata_ttl=2s"]), "1s");
    same(all(&["-o", "metadata_ttl=9s,metadata-ttl=2s"]), "2s");
    same(all(&[]), "3s");
    same(Layered { variables: vec![], ..all(&[]) }, "5s");
    same(Layered::default().file("metadata_ttl = \"4s\"\n[\"cos://photos-125/2026/10\"]\nmetadata_ttl = \"5s\""), "4s");
    same(Layered::default().file("[\"cos://other-125\"]\nmetadata_ttl = \"6s\"\n[\"photos-125\"]\nmetadata_ttl = \"5s\""), "5s");
}

#[test]
fn the_rw_that_mount_adds_is_no_word_against_a_file() {
    let read_only = Layered::typed(&["--read-only"]).mount();
    assert_eq!(Layered::typed(&["-o", "rw,nofail"]).file("read_only = true").mount(), read_only);
    assert_ne!(Layered::typed(&["-o", "ro,rw"]).mount(), read_only);
    assert_ne!(Layered::typed(&["-o", "read_only=false"]).file("read_only = true").mount(), read_only);
}

#[test]
fn the_first_file_counts_most_and_a_named_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [own, system] = ["own", "system"].map(|name| dir.path().join(name));
    fs::write(&own, "umask = \"0077\"").unwrap();
    fs::write(&system, "umask = 0o027\nconnections = 1_0").unwrap();
    let merged = |words: &[&str]| {
        let words = TYPED.iter().chain(words).map(OsString::from).collect();
        let world = World { variables: vec![], files: vec![own.clone(), dir.path().join("none"), system.clone()] };
        merge(words, &world).unwrap().words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(merged(&[]), "mount --umask=0077 --connections=10 cos://photos-125/2026/ /mnt");
    let named = format!("config={}", system.display());
    assert!(merged(&["-o", &named]).contains("--umask=0o027 --connections=10"));
    let missing = merge(TYPED.iter().chain(&["--config", "/nonexistent"]).map(OsString::from).collect(), &World::default());
    assert!(format!("{:#}", missing.unwrap_err()).contains("/nonexistent"));
}

#[test]
fn repeatable_options_come_from_one_layer() {
    let endpoints = |said: &Layered| {
        let words = said.merge().unwrap().words;
        words.iter().filter_map(|word| word.to_str()?.strip_prefix("--endpoint=").map(str::to_owned)).collect::<Vec<_>>()
    };
    let file = "endpoint = [\"https://a.example\", \"service=https://b.example\"]";
    assert_eq!(endpoints(&Layered::default().file(file)), ["https://a.example", "service=https://b.example"]);
    let variable = Layered::default().file(file).variable("COSMOUNT_ENDPOINT", "https://c.example ap-x=https://d.example");
    assert_eq!(endpoints(&variable), ["https://c.example", "ap-x=https://d.example"]);
    assert_eq!(endpoints(&Layered::typed(&["--endpoint", "https://e.example"]).file(file)), [] as [&str; 0]);
    let twice = Layered::typed(&["-o", "endpoint=https://f.example,ro", "-o", "endpoint=https://g.example"]).file(file);
    assert_eq!(endpoints(&twice), ["https://f.example", "https://g.example"]);
}

#[test]
fn what_excludes_something_of_a_higher_layer_gives_way() {
    let said = Layered::typed(&["--allow-other"]).file("allow_root = true");
    assert_eq!(said.mount(), Layered::typed(&["--allow-other"]).mount());
    let said = Layered::typed(&["--allow-other=false"]).file("allow_root = true");
    assert_eq!(said.mount(), Layered::typed(&["--allow-root"]).mount());
    let error = Layered::default().file("allow_root = true\nallow_other = true").error();
    assert!(error.contains("line 2") && error.contains("does not go together"), "{error}");
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (said, words) in [
        (Layered::default().file("\n\nmetadata_ttl = \"soon\""), &["in /etc/c.toml, line 3: ", "'soon'", "500ms"][..]),
        (Layered::default().file("[\"cos://other-125\"]\nconsistency = \"opne\""), &["line 2", "'open'", "strict"]),
        (Layered::default().file("metdata_ttl = \"5s\""), &["line 1", "metadata_ttl is one"]),
        (Layered::default().file("read_only = \"perhaps\""), &["line 1", "true or false"]),
        (Layered::default().file("connections = [1"), &["line 1"]),
        (Layered::default().file("[region]\nx = 1"), &["line 1", "region"]),
        (Layered::default().file("region.x = 1"), &["line 1", "region"]),
        (Layered::default().file("config = \"/x\""), &["line 1", "cannot name another"]),
        (Layered::default().variable("COSMOUNT_PART_SIZE", "many"), &["in the variable COSMOUNT_PART_SIZE: ", "'many'"]),
        (Layered::typed(&["-o", "ro,umask=9"]), &["in -o umask: ", "octal"]),
        (Layered::typed(&["-o", "stat_cache_expire=99999999"]), &["in -o stat_cache_expire: ", "99999999s"]),
        (Layered::typed(&["-o", "ro=no"]), &["in -o ro: ", "no value"]),
        (Layered::typed(&["-o", "region"]), &["in -o region: ", "region=VALUE"]),
        (Layered::typed(&["-o", "readonly"]), &["behind -o: ", "read_only is one"]),
        (Layered::typed(&["-o", "noatme"]), &["noatime is one"]),
        (Layered::typed(&["-o", "pasword_file=/x"]), &["passwd_file is one"]),
        (Layered::typed(&["--region", "a b", "--read-onyl"]), &["--read-only"]),
    ] {
        let error = said.error();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
}

#[test]
fn a_variable_of_somebody_else_is_a_notice() {
    let merged = Layered::default().variable("COSMOUNT_METADTA_TTL", "5s").variable("COSMOUNT_XYZZY", "5s").merge().unwrap();
    assert_eq!(
        merged.notices,
        ["the variable COSMOUNT_METADTA_TTL is no option; COSMOUNT_METADATA_TTL is", "the variable COSMOUNT_XYZZY is no option"]
    );
}

#[test]
fn secrets_are_refused_everywhere_and_not_repeated() {
    for name in ["secret_key", "SecretId", "secret-id", "password", "token", "session_token", "access_key", "cos_secret_key", "ak"] {
        let key = name.replace('-', "_");
        for said in [
            Layered::typed(&[&format!("--{name}=hush")]),
            Layered::typed(&["-o", &format!("{name}=hush")]),
            Layered::typed(&["--sloppy", "-o", &format!("{name}=hush")]),
            Layered::default().variable(&format!("COSMOUNT_{}", key.to_uppercase()), "hush"),
            Layered::default().file(&format!("{key} = \"hush\"")),
        ] {
            let error = said.error();
            assert!(error.contains("COS_SECRET_KEY") && !error.contains("hush"), "{name}: {error}");
        }
    }
    for said in [
        Layered::typed(&["--credentials", "AKIDhush:hush"]),
        Layered::typed(&["-o", "credentials=AKIDhush:hush"]),
        Layered::default().variable("COSMOUNT_CREDENTIALS", "AKIDhush:hush"),
        Layered::default().file("credentials = \"AKIDhush:hush\""),
    ] {
        let error = said.error();
        assert!(error.contains("--credentials: ") && !error.contains("hush"), "{error}");
    }
    assert!(!is_secret("credentials") && !is_secret("task") && !is_secret("passwd_file"));
}

#[test]
fn sloppy_leaves_out_what_is_unknown() {
    let merged = Layered::typed(&["--sloppy", "-o", "intr,umask=027"]).merge().unwrap();
    assert_eq!(merged.notices, ["-o intr is unknown and left out"]);
    assert!(merged.words.contains(&"--umask=027".into()));
}

#[test]
fn the_region_of_a_source_is_that_of_the_mount() {
    let source = "cos://photos-125.cos.ap-x.myqcloud.com";
    let merged = |words: &[&str], region: &str| {
        let words = ["mount", source, "/mnt"].iter().chain(words).map(OsString::from).collect();
        merge(words, &World { variables: vec![("COSMOUNT_REGION".to_owned(), region.to_owned())], files: vec![] })
    };
    let origin = merged(&[], "ap-y").unwrap().origins.remove("region");
    assert_eq!(origin, Some(Origin::Source), "a lower layer speaks of other buckets");
    assert!(merged(&["--region", "ap-x"], "ap-y").is_ok());
    for words in [&["--region", "ap-y"][..], &["-o", "region=ap-y"], &["-o", "url=https://cos.ap-y.myqcloud.com"]] {
        assert!(merged(words, "ap-z").unwrap_err().to_string().contains("contradicts"), "{words:?}");
    }
}

#[test]
fn mount_need_not_be_typed() {
    let words = |typed: &[&str]| with_command(typed.iter().map(OsString::from).collect(), &definition())[0].to_string_lossy().into_owned();
    for typed in [
        &["cos://photos-125", "/mnt"][..],
        &["photos-125", "/mnt"],
        &["-o", "ro", "photos-125", "/mnt"],
        &["photos", "/mnt"],
        &["--region", "x"],
    ] {
        assert_eq!(words(typed), "mount", "{typed:?}");
    }
    for typed in [&["mount"][..], &["umount", "/mnt"], &["--help"], &["-V"], &["help"], &["mout", "photos-125", "/mnt"], &["frobnicate"]] {
        assert_eq!(words(typed), typed[0]);
    }
}

#[test]
fn other_commands_get_the_options_they_have() {
    let world = World { variables: vec![("COSMOUNT_REGION".to_owned(), "ap-x".to_owned())], files: vec![] };
    let merged = |words: &[&str]| merge(words.iter().map(OsString::from).collect(), &world).unwrap().words;
    assert_eq!(merged(&["umount", "/mnt"]), ["umount", "/mnt"]);
    assert_eq!(merged(&["config", "show", "--json"]), ["config", "show", "--region=ap-x", "--json"]);
}

#[test]
fn the_file_that_a_variable_names_counts_where_credentials_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, "region = \"ap-guangzhou\"\n").unwrap();
    let world = World { variables: vec![("COSMOUNT_CONFIG".to_owned(), file.display().to_string())], files: vec![] };
    let merged = merge(["credentials", "check"].map(OsString::from).to_vec(), &world).unwrap();
    assert!(merged.words.contains(&"--region=ap-guangzhou".into()), "{:?}", merged.words);
}
