//! The words that can be typed, one place each: name, value, default, help, parse.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::Level;

use crate::mount::Source;
use crate::store::cos::Choice;
use crate::support::ByteSize;

/// Mounts Tencent Cloud Object Storage (COS) buckets as directories.
#[derive(Debug, Parser)]
#[command(name = "cosmount", version, max_term_width = 100, arg_required_else_help = true, override_usage = USAGE)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Mount(Box<Mount>),
    /// Look at what COS is asked with
    #[command(subcommand)]
    Credentials(Credentials),
    /// Look for what keeps a mount from working: name each fault and its remedy
    Doctor(Box<Doctor>),
    /// Unmount: wait until everything is in COS, or say what is not
    Umount(Umount),
    /// Show what of a mount is not in COS and why, its memory, its requests
    Stats(Stats),
    /// Send what is not in COS yet, and wait for it
    Sync(Sync),
    /// List multipart uploads that nobody has completed, and abort those named
    Uploads(Box<Uploads>),
    /// Show what applies, and where it was said
    Config(Config),
    /// Write a shell's completions to standard output
    Completions(Completions),
    /// Write the manual as man(1) reads it to standard output
    Man(Man),
    /// Try it: a bucket with files in a built-in server, mounted until Ctrl-C
    #[cfg(feature = "emulator")]
    Demo(Demo),
}

/// Mount a bucket, or a prefix of it, on a directory
///
/// Each option can be given as a flag (--metadata-ttl 60s), behind -o (-o metadata_ttl=60s,ro), as a variable (COSMOUNT_METADATA_TTL=60s) and in a
/// file (metadata_ttl = "60s"); what stands first in this list wins, and "cosmount config show" prints what applies. A switch is turned off by
/// =false. COSFS's options are understood behind -o.
///
/// Credentials come from the first of: the environment (COS_SECRET_ID, COS_SECRET_KEY and, for temporary ones, COS_SESSION_TOKEN; the other
/// usual spellings too), ~/.passwd-cosfs, /etc/passwd-cosfs, ~/.cos.yaml, ~/.cos.conf, the identity of a TKE pod, the role of a CVM instance.
/// They are never given as options.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// cos://BUCKET-APPID[/PREFIX/] or BUCKET-APPID[:/PREFIX], or with the host name: cos://BUCKET-APPID.cos.REGION.myqcloud.com[/PREFIX/]
    #[arg(value_parser = Source::parse)]
    pub(super) source: Source,
    /// Directory to mount on; must exist
    pub(super) mountpoint: PathBuf,

    /// Options as in fstab: any of those below without its dashes, and those of mount(8); repeatable
    #[arg(short = 'o', value_name = "OPTION[=VALUE],...", help_heading = "Configuration")]
    pub(super) options: Vec<String>,
    /// Leave out what is unknown behind -o instead of refusing it, as mount -s asks
    #[arg(long, hide = true)]
    pub(super) sloppy: bool,

    #[command(flatten)]
    pub(super) reach: Reach,

    /// Refuse all changes (EROFS)
    #[arg(long, help_heading = "Access")]
    pub(super) read_only: bool,
    /// Let all users in, as far as permission bits allow
    #[arg(long, help_heading = "Access")]
    pub(super) allow_other: bool,
    /// Let root in, too
    #[arg(long, conflicts_with = "allow_other", help_heading = "Access")]
    pub(super) allow_root: bool,
    /// Refuse to run programs from the mount (EACCES)
    #[arg(long, help_heading = "Access")]
    pub(super) noexec: bool,
    /// Owner of what has none stored; the mounting user by default
    #[arg(long, value_name = "NUMBER", help_heading = "Access")]
    pub(super) uid: Option<u32>,
    /// Group of what has none stored; the mounting user's by default
    #[arg(long, value_name = "NUMBER", help_heading = "Access")]
    pub(super) gid: Option<u32>,
    /// Bits taken from the two modes below
    #[arg(long, value_name = "OCTAL", default_value = "0022", value_parser = octal, help_heading = "Access")]
    pub(super) umask: u32,
    /// Permissions of files that have none stored
    #[arg(long, value_name = "OCTAL", default_value = "0644", value_parser = octal, help_heading = "Access")]
    pub(super) file_mode: u32,
    /// Permissions of directories that have none stored
    #[arg(long, value_name = "OCTAL", default_value = "0755", value_parser = octal, help_heading = "Access")]
    pub(super) dir_mode: u32,

    /// When open(2) asks COS for a new version: always, only past --metadata-ttl, or always with both TTLs 0
    #[arg(long, value_enum, default_value_t = Consistency::Open, help_heading = "Consistency")]
    pub(super) consistency: Consistency,
    /// How old names and attributes may be
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "Consistency")]
    pub(super) metadata_ttl: Duration,
    /// How old absences may be; --metadata-ttl by default
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Consistency")]
    pub(super) negative_ttl: Option<Duration>,
    /// Which POSIX metadata is kept with objects; setting what is not kept is EPERM
    #[arg(long, value_enum, default_value_t = Posix::Full, help_heading = "Consistency")]
    pub(super) posix: Posix,
    /// What happens when somebody else replaced a file that was changed here: ESTALE, a copy beside it, or overwrite
    #[arg(long, value_enum, default_value_t = OnConflict::Fail, help_heading = "Consistency")]
    pub(super) on_conflict: OnConflict,
    /// When O_EXCL is decided in COS: at close, or at open with one request more
    #[arg(long, value_enum, default_value_t = Exclusive::Close, help_heading = "Consistency")]
    pub(super) exclusive: Exclusive,

    /// Directory where changes go for which memory is short, with an optional limit (DIR:SIZE), or none; a tenth of its disk by default
    #[arg(long, value_name = "DIR[:SIZE]", help_heading = "Writing")]
    pub(super) staging: Option<String>,
    /// First size of upload parts; smaller files are one PUT
    #[arg(long, value_name = "SIZE", default_value = "8M", help_heading = "Writing")]
    pub(super) part_size: ByteSize,
    /// What an edit, chmod or rename carries over: all that HEAD shows, or also ACL and tags (a request each)
    #[arg(long, value_enum, default_value_t = Preserve::Headers, help_heading = "Writing")]
    pub(super) preserve: Preserve,
    /// Most objects of one directory rename; above it EXDEV, and mv copies
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, help_heading = "Writing")]
    pub(super) rename_limit: usize,
    /// How long unmounting waits while nothing moves
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Writing")]
    pub(super) drain_timeout: Duration,

    /// Memory of the whole mount, at least 32M
    #[arg(long, value_name = "SIZE", default_value = "128M", help_heading = "Limits")]
    pub(super) memory_limit: ByteSize,
    /// How long a program waits while nothing moves; then ETIMEDOUT
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration, help_heading = "Limits")]
    pub(super) io_timeout: Duration,
    /// Most requests in flight
    #[arg(long, value_name = "COUNT", default_value_t = 64, help_heading = "Limits")]
    pub(super) connections: usize,

    /// Stay in front and log to the terminal
    #[arg(short, long, help_heading = "Logging")]
    pub(super) foreground: bool,
    /// Log to this file instead of the system's log
    #[arg(long, value_name = "FILE", help_heading = "Logging")]
    pub(super) log_file: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Logging")]
    pub(super) log_level: Level,
    /// What log lines look like
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    pub(super) log_format: LogFormat,
    /// One line per request to COS, into this file
    #[arg(long, value_name = "FILE", help_heading = "Logging")]
    pub(super) access_log: Option<PathBuf>,

    /// Reads bypass the page cache: big readers gain, small ones lose
    #[arg(long, help_heading = "Advanced")]
    pub(super) direct_io: bool,
    /// Keys that are no file names: shown under an escape, or hidden
    #[arg(long, value_enum, default_value_t = Unspellable::Escape, help_heading = "Advanced")]
    pub(super) unspellable: Unspellable,
    /// Permit core dumps and debuggers, which see the credentials
    #[arg(long, help_heading = "Advanced")]
    pub(super) allow_core: bool,
}

/// How the account is reached, and where more is said of that.
#[derive(Debug, Args)]
pub(super) struct Reach {
    /// Read options from this file; by default ~/.config/cosmount.toml, for root then /etc/cosmount.toml
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub(super) config: Option<PathBuf>,

    /// Region the bucket is in, such as ap-guangzhou
    #[arg(long, value_name = "REGION", help_heading = "Source")]
    pub(super) region: Option<String>,
    /// Other endpoint than COS's own: URL, REGION=URL or service=URL; of credentials: metadata=URL or sts=URL; repeatable
    #[arg(long, value_name = "URL", help_heading = "Source")]
    pub(super) endpoint: Vec<String>,
    /// Put the bucket into the path instead of the host name (automatic for IP addresses)
    #[arg(long, help_heading = "Source")]
    pub(super) path_style: bool,
    /// Trust the certificates in this PEM file beside the system's
    #[arg(long, value_name = "FILE", help_heading = "Source")]
    pub(super) ca_file: Option<PathBuf>,

    /// Where credentials come from: env, coscmd[:FILE], coscli[:FILE], passwd[:FILE], file:FILE, role[:NAME], oidc, command:CMD or anonymous
    #[arg(long, value_name = "KIND[:ARG]", value_parser = Choice::parse, help_heading = "Credentials")]
    pub(super) credentials: Option<Choice>,
    /// Section of ~/.cos.conf or ~/.cos.yaml with the credentials, instead of common or cos
    #[arg(long, value_name = "NAME", help_heading = "Credentials")]
    pub(super) profile: Option<String>,
}

/// `cosmount credentials`.
#[derive(Debug, Subcommand)]
pub(super) enum Credentials {
    /// Say which credentials are used, when they end and what they may do on a bucket
    Check(Box<CheckCredentials>),
}

/// `cosmount credentials check`.
#[derive(Debug, Args)]
pub(super) struct CheckCredentials {
    /// Bucket to try them on: cos://BUCKET-APPID[/PREFIX/] or BUCKET-APPID[:/PREFIX]
    #[arg(value_parser = Source::parse)]
    pub(super) source: Option<Source>,
    #[command(flatten)]
    pub(super) reach: Reach,
    /// Also write and delete a probe object below PREFIX/.cosmount/, which mounts do not show
    #[arg(long, requires = "source")]
    pub(super) write: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `cosmount doctor`: the words of a mount, and its own.
#[derive(Debug, Args)]
#[command(mut_arg("mountpoint", |arg| arg.required(false).default_value(Doctor::NOWHERE).hide_default_value(true)))]
pub(super) struct Doctor {
    #[command(flatten)]
    pub(super) mount: Mount,
    /// Also put a probe object into the bucket, and delete it
    #[arg(long, help_heading = "Doctor")]
    pub(super) write: bool,
    /// Answer in JSON
    #[arg(long, help_heading = "Doctor")]
    pub(super) json: bool,
}

impl Doctor {
    /// Stands for a mount point that was not typed, which a mount must have and this command need not.
    pub(super) const NOWHERE: &str = "-";
}

/// `cosmount umount`.
#[derive(Debug, Args)]
pub(super) struct Umount {
    /// Take the mount away at once and do not wait: changes are sent behind it, up to --drain-timeout
    #[arg(short, long, conflicts_with = "force")]
    pub(super) lazy: bool,
    /// Do not wait for changes that are not in COS: they are lost, also those in staging
    #[arg(short, long)]
    pub(super) force: bool,
    /// Where it is mounted
    pub(super) mountpoint: PathBuf,
}

/// `cosmount stats`.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Where it is mounted
    pub(super) mountpoint: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `cosmount sync`: exit code 2 and a list of what is left, unless all is in COS.
#[derive(Debug, Args)]
pub(super) struct Sync {
    /// File, directory or mount point; the mount that the working directory is in by default
    pub(super) path: Option<PathBuf>,
    /// Where somebody else's object is in the way: keep changes here, put them beside it, or over it; as the mount does by default
    #[arg(long, value_enum)]
    pub(super) on_conflict: Option<OnConflict>,
}

/// `cosmount uploads`.
#[derive(Debug, Args)]
pub(super) struct Uploads {
    /// Where to look: cos://BUCKET-APPID[/PREFIX/] or BUCKET-APPID[:/PREFIX]
    #[arg(value_parser = Source::parse)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) reach: Reach,
    /// Staging directory of this host's mounts of it, whose ledger says which uploads are theirs
    #[arg(long, value_name = "DIR[:SIZE]")]
    pub(super) staging: Option<String>,
    /// Abort the uploads with these ids
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "abort_older_than")]
    pub(super) abort: Vec<String>,
    /// Abort all that are older, but for those of this host's mounts: 7d, 12h, 30m
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub(super) abort_older_than: Option<Duration>,
    /// Ask for the parts of each, too, and add up their sizes
    #[arg(long)]
    pub(super) sizes: bool,
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `cosmount config`.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    pub(super) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Every option of a mount with its value and where that was said
    Show(ConfigShow),
}

/// `cosmount config show`; [`definition`] adds the options of a mount.
#[derive(Debug, Args)]
pub(super) struct ConfigShow {
    /// What would be mounted: tables of the configuration file that are for it count, too
    #[arg(value_parser = Source::parse)]
    pub(super) source: Option<Source>,
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `cosmount completions`.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Whose
    pub(super) shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// `cosmount man`.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Of this command, such as mount; of the whole program by default
    pub(super) command: Vec<String>,
    /// Write every page into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub(super) into: Option<PathBuf>,
}

/// `cosmount demo`.
#[cfg(feature = "emulator")]
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Directory to mount on; a fresh one by default
    pub(super) dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Consistency {
    Open,
    Ttl,
    Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Posix {
    Full,
    Mtime,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnConflict {
    Fail,
    KeepBoth,
    LastWriter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Exclusive {
    Close,
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Preserve {
    Headers,
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Unspellable {
    Escape,
    Hide,
}

const USAGE: &str = "cosmount <COMMAND>\n       cosmount [OPTIONS] <SOURCE> <MOUNTPOINT>";

/// Everything that can be typed.
pub(super) fn definition() -> clap::Command {
    let command = Arguments::command();
    let all = command.find_subcommand("mount").into_iter().flat_map(clap::Command::get_arguments);
    let options: Vec<clap::Arg> = all.filter(|arg| !arg.is_positional()).cloned().collect();
    command.mut_subcommand("config", |config| config.mut_subcommand("show", |show| show.args(options)))
}

/// Permission bits as chmod(1) takes them.
fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "write it in octal, as in 0644".to_owned())
}

/// `500ms`, `90s`, `10m`, `2h`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u64>().ok();
    let seconds = |factor: u64| number.and_then(|number| number.checked_mul(factor)).map(Duration::from_secs);
    let parsed = match unit {
        "ms" => number.map(Duration::from_millis),
        "" | "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    };
    // A year is for ever, and sums with it still fit.
    parsed.filter(|time| *time <= Duration::from_secs(365 * 86_400)).ok_or_else(|| "write it as 500ms, 90s, 10m or 2h".to_owned())
}

/// As [`duration`], and in days: `7d`.
fn age(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).filter(|days| *days <= 3650);
    days.map(|days| Duration::from_secs(days * 86_400))
        .or_else(|| duration(text).ok())
        .ok_or_else(|| "write it as 7d, 12h or 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(words: &[&str]) -> Result<Box<Mount>, clap::Error> {
        let words = ["cosmount", "mount"].iter().chain(words);
        Arguments::try_parse_from(words).map(|arguments| match arguments.command {
            Command::Mount(mount) => mount,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn durations_and_modes() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(age("12h"), duration("12h"));
        assert!(age("d").is_err() && age("-1d").is_err());
        assert_eq!(octal("0750"), Ok(0o750));
        assert!(octal("9").is_err() && octal("77777").is_err());
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let mount = mount(&["photos-125", "/mnt"]).unwrap();
        assert_eq!((mount.memory_limit, mount.part_size), (ByteSize::mib(128), ByteSize::mib(8)));
        assert_eq!((mount.io_timeout, mount.drain_timeout), (Duration::from_secs(90), Duration::from_secs(600)));
        assert_eq!((mount.metadata_ttl, mount.negative_ttl), (Duration::from_secs(5), None));
        assert_eq!((mount.umask, mount.file_mode, mount.dir_mode), (0o022, 0o644, 0o755));
        assert_eq!((mount.rename_limit, mount.connections), (10_000, 64));
        assert!(!mount.foreground && !mount.read_only && !mount.direct_io);
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        let error = mount(&["photos-125", "/mnt", "--read-onyl"]).unwrap_err().to_string();
        assert!(error.contains("--read-only"), "{error}");
        let error = mount(&["photos", "/mnt"]).unwrap_err().to_string();
        assert!(error.contains("<name>-<APPID>"), "{error}");
    }

    #[test]
    fn a_doctor_takes_the_words_of_a_mount_and_needs_no_mount_point() {
        let doctor = |words: &[&str]| {
            let words = ["cosmount", "doctor", "photos-125"].iter().chain(words);
            match Arguments::try_parse_from(words).unwrap().command {
                Command::Doctor(doctor) => doctor,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(doctor(&[]).mount.mountpoint.to_str(), Some(Doctor::NOWHERE));
        let doctor = doctor(&["/mnt", "--write", "--staging", "none"]);
        assert_eq!((doctor.mount.mountpoint.to_str(), doctor.write, doctor.json), (Some("/mnt"), true, false));
    }

    #[test]
    fn secrets_are_no_options() {
        let help = definition().find_subcommand_mut("mount").unwrap().render_long_help().to_string().to_ascii_lowercase();
        for word in ["--secret", "--token", "--key", "--password"] {
            assert!(!help.contains(word), "{word}");
        }
    }
}
