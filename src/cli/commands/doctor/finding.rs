//! What a check found, and how it is told: a line for people as soon as it is known, or JSON at the end.

use serde_json::{Value, json};

use crate::mount::Source;
use crate::mount::advice::Fault;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// A mount works, but somebody should look at this.
    Doubtful,
    /// A mount does not work, or not as asked.
    Bad,
    /// Nothing can be said, because of another check.
    NotTried,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "warn",
            Self::Bad => "FAIL",
            Self::NotTried => "-",
        }
    }

    fn json(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "warn",
            Self::Bad => "fail",
            Self::NotTried => "not_tried",
        }
    }
}

/// All findings.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    findings: Vec<Value>,
    faults: usize,
    doubts: usize,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, findings: Vec::new(), faults: 0, doubts: 0 }
    }

    pub(super) fn good(&mut self, check: &'static str, detail: impl AsRef<str>) {
        self.put(Verdict::Good, check, detail.as_ref(), None);
    }

    pub(super) fn doubtful(&mut self, check: &'static str, detail: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.doubts += 1;
        self.put(Verdict::Doubtful, check, detail.as_ref(), Some(remedy.as_ref()));
    }

    pub(super) fn bad(&mut self, check: &'static str, detail: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.faults += 1;
        self.put(Verdict::Bad, check, detail.as_ref(), Some(remedy.as_ref()));
    }

    pub(super) fn fault(&mut self, check: &'static str, fault: &Fault) {
        self.bad(check, &fault.why, &fault.remedy);
    }

    pub(super) fn not_tried(&mut self, check: &'static str, because: impl AsRef<str>) {
        self.put(Verdict::NotTried, check, &format!("not tried, because {}", because.as_ref()), None);
    }

    fn put(&mut self, verdict: Verdict, check: &'static str, detail: &str, remedy: Option<&str>) {
        if self.json {
            self.findings.push(json!({ "check": check, "result": verdict.json(), "detail": detail, "remedy": remedy }));
        } else {
            let remedy = remedy.map(|remedy| format!("; remedy: {remedy}")).unwrap_or_default();
            println!("{:<5} {check:<18} {}{remedy}", verdict.word(), detail.replace(char::is_control, " "));
        }
    }

    /// Ends the report and says how many faults there are.
    pub(super) fn close(self, source: &Source) -> usize {
        let Self { json, findings, faults, doubts } = self;
        if json {
            println!("{}", json!({ "source": source.to_string(), "faults": faults, "warnings": doubts, "checks": findings }));
        } else if faults == 0 {
            println!("\n{source} can be mounted from here{}", if doubts == 0 { "" } else { ", though with the warnings above" });
        } else {
            println!("\n{source} cannot be mounted as asked: {faults} of the checks failed");
        }
        faults
    }
}
