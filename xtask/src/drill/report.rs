//! What a person reads while the drill runs and after it, and the same as JSON.

use super::judge::{Line, Loss};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The objectives of the first user's service.
const RPO_OBJECTIVE: Duration = Duration::from_secs(3600);
const RTO_OBJECTIVE: Duration = Duration::from_secs(4 * 3600);
const WIDTH: usize = 100;

/// What was found out so far. Printed as it comes, so that nobody waits before an empty screen.
pub struct Report {
    /// What is drilled, for the JSON.
    setting: serde_json::Map<String, Value>,
    begun: Instant,
    steps: Vec<Value>,
    facts: serde_json::Map<String, Value>,
    faults: Vec<String>,
    /// What must have been looked at before the drill can pass.
    rpo: Option<f64>,
    rto: Option<f64>,
    tables_compared: usize,
}

impl Report {
    /// Prints the head, with these words behind the program's name.
    pub fn new(words: &str, setting: serde_json::Map<String, Value>) -> Self {
        println!("BOWLINE DRILL   {words}");
        println!("{}", "━".repeat(WIDTH));
        println!("{:<42}{:>9}{:>14}", "STEP", "TIME", "RATE");
        Self {
            setting,
            begun: Instant::now(),
            steps: Vec::new(),
            facts: serde_json::Map::new(),
            faults: Vec::new(),
            rpo: None,
            rto: None,
            tables_compared: 0,
        }
    }

    /// A step that is done. `moved` is what its rate is made of.
    pub fn step(&mut self, name: &str, took: Duration, moved: Option<u64>, remark: &str) {
        let rate = moved.map_or_else(String::new, |count| format!("{}/s", bytes((count as f64 / took.as_secs_f64().max(1e-6)) as u64)));
        println!("{}", format!("{name:<42}{:>9}{rate:>14}   {remark}", seconds(took)).trim_end());
        self.steps.push(json!({"step": name, "seconds": took.as_secs_f64(), "bytes": moved, "remark": remark}));
    }

    /// Something that is wrong: the drill has failed, whatever follows.
    pub fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// Several of them, or none.
    pub fn faults(&mut self, all: Vec<String>) {
        self.faults.extend(all);
    }

    /// A fault unless `good`.
    pub fn must(&mut self, good: bool, otherwise: impl FnOnce() -> String) {
        if !good {
            self.faults.push(otherwise());
        }
    }

    /// For the JSON only.
    pub fn note(&mut self, key: &str, value: Value) {
        self.facts.insert(key.to_owned(), value);
    }

    /// A heading of the second part.
    pub fn head(&self, text: &str) {
        println!("\n{text}\n{}", "─".repeat(WIDTH));
    }

    /// A line of the second part.
    pub fn say(&self, name: &str, text: &str) {
        println!("  {name:<14}{text}");
    }

    /// Every table of the cluster that was restored to the instant.
    pub fn tables(&mut self, lines: &[Line]) {
        self.tables_compared += lines.len();
        println!("  {:<32}{:>12}   rows and checksum", "table", "rows");
        for line in lines {
            println!("  {:<32}{:>12}   {}", line.name, grouped(line.rows), if line.same { "identical" } else { "DIFFERENT" });
        }
        let list: Vec<_> = lines.iter().map(|line| json!({"table": line.name, "rows": line.rows, "identical": line.same})).collect();
        self.note("tables", Value::Array(list));
    }

    /// The two numbers that all this is for.
    pub fn objectives(&mut self, loss: &Loss, rto: Duration) {
        self.head("OBJECTIVES");
        self.rpo(loss, &format!("{} acknowledged commits were lost with the host", grouped(loss.commits_lost as u64)));
        self.rto(rto, "from the restore command to the first answered query");
        self.fine_print();
    }

    /// How much of what was acknowledged the end of the host cost.
    pub fn rpo(&mut self, loss: &Loss, remark: &str) {
        self.rpo = loss.seconds.is_finite().then_some(loss.seconds);
        self.objective("RPO", RPO_OBJECTIVE, loss.seconds, remark);
    }

    /// How long a restore took; of several the longest counts.
    pub fn rto(&mut self, took: Duration, remark: &str) {
        let seconds = took.as_secs_f64();
        self.rto = Some(self.rto.map_or(seconds, |before| before.max(seconds)));
        self.objective("RTO", RTO_OBJECTIVE, seconds, remark);
    }

    fn objective(&mut self, name: &str, objective: Duration, reached: f64, remark: &str) {
        let met = reached <= objective.as_secs_f64();
        let hours = objective.as_secs() / 3600;
        println!("  {name}   objective {hours:>3} h   reached {reached:>7.1} s   {:<6}   {remark}", if met { "met" } else { "MISSED" });
        self.must(met, || format!("{name} is {reached:.1} s, more than the objective"));
    }

    /// What the two numbers depend on.
    pub fn fine_print(&self) {
        println!("        New WAL is stored every wal.flush_interval (5 s unless set otherwise): what came since dies with the host.");
        println!("        With wal.synchronous = true nothing that was acknowledged does.");
        println!("        The times are those of this machine and this amount of data; yours scale with your data.");
    }

    /// The verdict, printed and returned. What was not looked at did not pass.
    pub fn end(&mut self) -> bool {
        if self.tables_compared == 0 {
            self.fault("no table was compared".into());
        }
        if self.rpo.is_none() || self.rto.is_none() {
            self.fault("the loss and the time of the restore were not measured".into());
        }
        let passed = self.faults.is_empty();
        println!("\n{}", "━".repeat(WIDTH));
        self.faults.iter().for_each(|fault| println!("  fault: {fault}"));
        println!("DRILL {}   in {}", if passed { "PASSED" } else { "FAILED" }, seconds(self.begun.elapsed()));
        passed
    }

    /// Everything, for machines.
    pub fn json(&self) -> Value {
        let mut all = self.setting.clone();
        let found = json!({
            "passed": self.faults.is_empty(), "faults": self.faults,
            "rpo_seconds": self.rpo, "rto_seconds": self.rto, "rpo_objective_seconds": RPO_OBJECTIVE.as_secs(),
            "rto_objective_seconds": RTO_OBJECTIVE.as_secs(), "seconds": self.begun.elapsed().as_secs_f64(), "steps": self.steps, "facts": self.facts,
        });
        all.extend(found.as_object().cloned().unwrap_or_default());
        Value::Object(all)
    }
}

/// `12.3 s`.
pub fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

/// `1.4 GiB`, as bowline itself prints it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1 234 567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new("of a test", serde_json::Map::new())
    }

    #[test]
    fn a_drill_that_compared_nothing_or_measured_nothing_has_failed() {
        assert!(!report().end());
        let mut compared = report();
        compared.tables(&[Line { name: "a".into(), rows: 1, same: true }]);
        assert!(!compared.end(), "nothing was measured");
    }

    #[test]
    fn a_drill_passes_when_all_was_looked_at_and_no_fault_was_found() {
        let run = |seconds: f64, fault: Option<&str>| {
            let mut report = report();
            report.tables(&[Line { name: "a".into(), rows: 1, same: true }]);
            report.objectives(&Loss { commits_kept: 1, commits_lost: 1, holes: 0, seconds }, Duration::from_secs(1));
            fault.into_iter().for_each(|fault| report.fault(fault.into()));
            report.end()
        };
        assert!(run(1.0, None));
        assert!(!run(3601.0, None), "the objective was missed");
        assert!(!run(f64::INFINITY, None), "the loss could not be measured");
        assert!(!run(1.0, Some("a commit is missing")));
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(12), "12");
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
