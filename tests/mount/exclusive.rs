//! O_EXCL among the processes of two mounts: with `--exclusive open` exactly one has made the file.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::common::{Mounted, record};

const PROCESSES: usize = 20;

/// Waits for a name on its input; makes the file or says why not.
const CONTENDER: &str = "
import errno, os, sys
for line in sys.stdin:
    try:
        fd = os.open(line.strip(), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(fd, b'process %d' % os.getpid())
        os.close(fd)
        print('made', flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
";

struct Contender {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Contender {
    fn start(mount: &Mounted) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", CONTENDER]).current_dir(mount.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

#[test]
fn of_twenty_processes_on_two_mounts_one_makes_the_file() {
    let rounds: usize = std::env::var("COSMOUNT_CONTESTS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4);
    let first = Mounted::builder().arg("--exclusive=open").start();
    let second = first.second_with(&["--exclusive=open"]);
    let mut contenders: Vec<Contender> = (0..PROCESSES).map(|n| Contender::start([&first, &second][n % 2])).collect();
    let mut won = [0, 0];
    for round in 0..rounds {
        let name = format!("lock-{round}");
        contenders.iter_mut().for_each(|contender| writeln!(contender.input, "{name}").unwrap());
        let answers: Vec<String> = contenders.iter_mut().map(Contender::answer).collect();
        let winners: Vec<usize> = (0..PROCESSES).filter(|n| answers[*n] == "made").collect();
        assert!(winners.len() == 1, "{name}: {answers:?}");
        assert!(answers.iter().all(|answer| ["made", "EEXIST"].contains(&answer.as_str())), "{name}: {answers:?}");
        let winner = contenders[winners[0]].child.id();
        assert_eq!(first.object(&name), format!("process {winner}"));
        won[winners[0] % 2] += 1;
    }
    for Contender { mut child, input, .. } in contenders {
        drop(input);
        assert!(child.wait().unwrap().success());
    }
    record(&format!(
        "- {rounds} rounds of {PROCESSES} processes: one made the file each time, {} times on one mount, {} on the other",
        won[0], won[1]
    ));
}
