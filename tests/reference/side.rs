//! One of the two directories that are compared, and the processes that work in it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::ops::PROCESSES;

/// Longer than any operation may take with the deadlines the mount is given.
const PATIENCE: Duration = Duration::from_secs(100);

#[derive(Debug)]
pub struct Side {
    pub root: PathBuf,
    defect: Option<String>,
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Side {
    /// Processes without a directory yet. With a defect they are the broken ones.
    pub fn new(defect: Option<&str>) -> Self {
        Self { root: PathBuf::new(), defect: defect.map(str::to_owned), workers: Vec::new() }
    }

    /// Begins anew in `root`. Processes that live are used again.
    pub fn start(&mut self, root: &Path) {
        self.root = root.to_owned();
        if self.workers.is_empty() {
            self.workers = (0..PROCESSES).map(|_| Worker::new(self.defect.as_deref())).collect();
        }
        for process in 0..PROCESSES {
            self.tell(process, &json!({ "op": "start", "root": root }));
        }
    }

    /// Lets one process do an operation. One that dies or does not answer is an answer, too, and its process is replaced at the next start.
    pub fn tell(&mut self, process: usize, operation: &Value) -> Value {
        let Some(worker) = self.workers.get_mut(process) else { return json!({ "err": "the process is gone" }) };
        let answer = worker.tell(operation);
        answer.unwrap_or_else(|why| {
            self.workers.clear();
            json!({ "err": why })
        })
    }

    /// Lets every process do an operation.
    pub fn tell_all(&mut self, operation: &Value) -> Vec<Value> {
        (0..PROCESSES).map(|process| self.tell(process, operation)).collect()
    }
}

impl Worker {
    fn new(defect: Option<&str>) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        let script = scripts.join(if defect.is_some() { "broken.py" } else { "worker.py" });
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).args(defect).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 runs the operations: install it");
        let (sender, answers) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        // Ends with the process, whose output it reads.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { input: child.stdin.take().unwrap(), child, answers }
    }

    fn tell(&mut self, operation: &Value) -> Result<Value, String> {
        let died = |_| "the process died".to_owned();
        writeln!(self.input, "{operation}").map_err(|error| died(error.to_string()))?;
        let answer = self.answers.recv_timeout(PATIENCE).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => format!("no answer in {} s", PATIENCE.as_secs()),
            std::sync::mpsc::RecvTimeoutError::Disconnected => died(error.to_string()),
        })?;
        serde_json::from_str(&answer).map_err(|error| died(error.to_string()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without effect on a process that waits in the kernel for a mount that hangs: it ends when the mount does.
        drop(self.child.kill());
        if self.answers.recv_timeout(Duration::from_secs(2)) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            drop(self.child.wait());
        }
    }
}
