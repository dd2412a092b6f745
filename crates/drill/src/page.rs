//! A drill's report as a page of HTML that needs nothing else: to be read by whoever asks whether the backups are any good.

use crate::{LeftOut, PagesProof, Report};
use checks::Outcome;
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6675;--line:#d9dee5;--paper:#fff;--good:#12703d;--bad:#b3261e;--open:#8a5a00}\
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf0;--soft:#9aa5b4;--line:#343d4a;--paper:#14181f;--good:#5fcf8e;--bad:#ff8a80;--open:#ffc46b}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1.25rem}\
h1{font-size:1.6rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2.25rem 0 .5rem}\
.verdict{font-size:1.25rem;font-weight:650;border-left:.4rem solid;padding:.5rem 1rem;margin:1.25rem 0}\
.passed{color:var(--good)}.failed{color:var(--bad)}.not-verified{color:var(--open)}.soft{color:var(--soft)}\
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;color:var(--soft)}\
td,th{padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:break-word}\
td span,th{white-space:nowrap}.facts th{width:13rem}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}code{font-family:ui-monospace,monospace;font-size:.9em}\
.wide{overflow-x:auto}\
@media(max-width:40rem){td span,th,th.n,td.n:nth-child(n+3){white-space:normal}td,th{padding-right:.5rem}.facts th{width:auto}}";

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.head(report);
    page.faults(report);
    page.answers(report);
    page.notices(report);
    page.facts(report);
    page.phases(report);
    page.comparisons(report);
    page.databases(report);
    page.put("</body></html>\n");
    page.0
}

struct Page(String);

impl Page {
    fn put(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn head(&mut self, report: &Report) {
        let (class, said) = verdict(report.outcome);
        let began = escaped(&report.began.to_string());
        self.put("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">");
        self.put(&format!("<title>Drill of {began}: {class}</title><style>{STYLE}</style></head><body>"));
        let took = escaped(&duration(report.seconds));
        self.put(&format!("<h1>Restore drill</h1><div class=\"soft\">{began}, took {took}</div>"));
        self.put(&format!("<div class=\"verdict {class}\">{said}</div>"));
        let count = |outcome| report.proof.faults.iter().filter(|fault| fault.outcome == outcome).count();
        let (wrong, open) = (count(Outcome::Failed), count(Outcome::NotVerified));
        let amiss = report.proof.answers.iter().filter(|answer| answer.outcome == Outcome::Failed).count();
        let parts = [(wrong, "wrong"), (amiss, "answered otherwise than expected"), (open, "not checked")];
        let parts: Vec<_> = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if !parts.is_empty() {
            self.put(&format!("<p>{}.</p>", parts.join(", ")));
        }
    }

    fn facts(&mut self, report: &Report) {
        self.put("<h2>What was restored</h2><table class=\"facts\">");
        self.fact("Backup", report.backup.map(|id| id.to_string()));
        self.fact("Consistent at", report.backup_time.map(|at| at.to_string()));
        self.fact("PostgreSQL", report.server_version.clone());
        self.fact("Cluster", report.system_id.map(|id| id.to_string()));
        self.fact("Restored to", Some(report.target.clone()));
        self.fact("Reached", report.recovered_to.zip(report.timeline).map(|(lsn, timeline)| format!("{lsn}, now timeline {timeline}")));
        self.fact("Last transaction", report.last_transaction.clone());
        self.fact("Database", report.database_bytes.map(bytes));
        self.fact("WAL", report.segments.map(|segments| if segments == 1 { "1 segment".to_owned() } else { format!("{segments} segments") }));
        if !report.proof.databases.is_empty() {
            let network = if report.is_cut_off { "none: a namespace of its own" } else { "this host's, but no TCP socket and no subscriptions" };
            self.fact("Network while checked", Some(network.to_owned()));
        }
        let whose = match report.is_productions_user {
            Some(true) => ", whose production's files are too",
            Some(false) => ", to whom production's files are closed",
            None => "",
        };
        self.fact("Ran as", report.ran_as.as_ref().map(|user| format!("{user}{whose}")));
        let pages = |pages: &PagesProof| match pages.has_checksums {
            true => format!("{} in {} files: {} with a wrong checksum", pages.pages, pages.files, pages.bad),
            false => format!("{} in {} files: the cluster has no page checksums", pages.pages, pages.files),
        };
        self.fact("Pages", report.pages.as_ref().map(pages));
        let left_out = |left: &LeftOut| match left.is_here {
            Some(true) => left.library.clone(),
            Some(false) => format!("{} (not on this host)", left.library),
            None => format!("{} (unknown whether this host has it)", left.library),
        };
        let names: Vec<_> = report.left_out.iter().map(left_out).collect();
        self.fact("Libraries not loaded", (!names.is_empty()).then(|| names.join(", ")));
        self.put("</table>");
    }

    fn fact(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.put(&format!("<tr><th>{name}</th><td>{}</td></tr>", escaped(&value)));
        }
    }

    fn faults(&mut self, report: &Report) {
        if report.proof.faults.is_empty() {
            return;
        }
        self.put("<h2>What is wrong, or was not checked</h2><div class=\"wide\"><table><tr><th>Verdict</th><th>Where</th><th>What</th></tr>");
        for fault in &report.proof.faults {
            let place = if fault.database.is_empty() { fault.object.clone() } else { format!("{} in {}", fault.object, fault.database) };
            self.put(&format!("<tr><td>{}</td><td>{}</td><td>{}</td></tr>", mark(fault.outcome), escaped(&place), escaped(&fault.what)));
        }
        self.put("</table></div>");
    }

    fn notices(&mut self, report: &Report) {
        if report.notices.is_empty() {
            return;
        }
        self.put("<h2>To know</h2><div class=\"wide\"><table><tr><th>About</th><th>What</th></tr>");
        for notice in &report.notices {
            let place = if notice.database.is_empty() { notice.object.clone() } else { format!("{} in {}", notice.object, notice.database) };
            self.put(&format!("<tr><td>{}</td><td>{}</td></tr>", escaped(&place), escaped(&notice.what)));
        }
        self.put("</table></div>");
    }

    fn comparisons(&mut self, report: &Report) {
        if report.comparisons.is_empty() {
            return;
        }
        self.put("<h2>Rows against</h2><table><tr><th>With</th><th class=\"n\">Tables</th><th class=\"n\">To the row</th><th>Not compared</th></tr>");
        for with in &report.comparisons {
            let not = with.not_compared.as_deref().map_or_else(String::new, escaped);
            let (name, tables, exactly) = (escaped(&with.with), with.tables, with.exactly);
            self.put(&format!("<tr><td>{name}</td><td class=\"n\">{tables}</td><td class=\"n\">{exactly}</td><td>{not}</td></tr>"));
        }
        self.put("</table>");
    }

    fn answers(&mut self, report: &Report) {
        if report.proof.answers.is_empty() {
            return;
        }
        self.put("<h2>Questions</h2><div class=\"wide\"><table><tr><th>Question</th><th>Database</th><th>Expected</th><th>Answer</th><th></th></tr>");
        for answer in &report.proof.answers {
            let got = answer.got.as_deref().map_or_else(|| "<span class=\"soft\">none</span>".to_owned(), escaped);
            let (sql, database, expect) = (escaped(&answer.sql), escaped(&answer.database), escaped(&answer.expect));
            let mark = mark(answer.outcome);
            self.put(&format!("<tr><td><code>{sql}</code></td><td>{database}</td><td>{expect}</td><td>{got}</td><td>{mark}</td></tr>"));
        }
        self.put("</table></div>");
    }

    fn databases(&mut self, report: &Report) {
        for database in &report.proof.databases {
            self.put(&format!("<h2>Database {}</h2>", escaped(&database.name)));
            let (indexes, tables) = (database.indexes_passed, database.tables_passed);
            self.put(&format!("<p>amcheck found nothing wrong with {indexes} indexes and {tables} tables, the system's among them.</p>"));
            if !database.without_check.is_empty() {
                let names = escaped(&database.without_check.join(", "));
                self.put(&format!("<p class=\"soft\">PostgreSQL has no check for {names}: they prove nothing either way.</p>"));
            }
            if !database.rows.is_empty() {
                self.put("<table><tr><th>Read in full</th><th class=\"n\">Rows</th></tr>");
                for table in &database.rows {
                    self.put(&format!("<tr><td>{}</td><td class=\"n\">{}</td></tr>", escaped(&table.name), table.rows));
                }
                self.put("</table>");
            }
        }
    }

    fn phases(&mut self, report: &Report) {
        self.put("<h2>Times</h2><table><tr><th>Phase</th><th class=\"n\">Took</th><th class=\"n\">Moved or read</th><th class=\"n\">Rate</th></tr>");
        for phase in &report.phases {
            let moved = match (phase.bytes, phase.segments) {
                (Some(size), Some(1)) => format!("{}, 1 segment at most", bytes(size)),
                (Some(size), Some(segments)) => format!("{}, {segments} segments", bytes(size)),
                (Some(size), None) => bytes(size),
                _ => String::new(),
            };
            let rate = phase.bytes.filter(|_| phase.seconds > 0.0).map(|size| format!("{}/s", bytes((size as f64 / phase.seconds) as u64)));
            let (name, took, rate) = (escaped(&phase.name), duration(phase.seconds), rate.unwrap_or_default());
            // Writing to a String cannot fail.
            let _ = write!(self.0, "<tr><td>{name}</td><td class=\"n\">{took}</td><td class=\"n\">{moved}</td><td class=\"n\">{rate}</td></tr>");
        }
        let _ = write!(self.0, "<tr><th>in all</th><td class=\"n\">{}</td><td></td><td></td></tr></table>", duration(report.seconds));
    }
}

/// `1.4 GiB`.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1).find(|unit| bytes >> (10 * (unit + 1)) == 0).unwrap_or(UNITS.len() - 1);
    if unit == 0 { format!("{bytes} B") } else { format!("{:.1} {}", bytes as f64 / (1u64 << (10 * unit)) as f64, UNITS[unit]) }
}

/// `0.42 s`, `3 min 20 s`, `2 h 05 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.2} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

fn verdict(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Passed => ("passed", "Passed: it was restored, and everything that was looked at is good."),
        Outcome::Failed => ("failed", "Failed: something is damaged, missing or not as expected."),
        Outcome::NotVerified => ("not-verified", "Not verified: something could not be checked, which proves nothing."),
    }
}

fn mark(outcome: Outcome) -> String {
    let (class, word) = match outcome {
        Outcome::Passed => ("passed", "as expected"),
        Outcome::Failed => ("failed", "wrong"),
        Outcome::NotVerified => ("not-verified", "not checked"),
    };
    format!("<span class=\"{class}\">{word}</span>")
}

/// Names and answers come from the database: they are text, whatever they hold.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use checks::{Answer, Fault};
    use terms::{RecoveryTarget, Timestamp};

    #[test]
    fn the_page_says_what_the_report_does_and_runs_nothing() {
        let mut report = Report::begin(Timestamp::from_unix_micros(0), &RecoveryTarget::Latest);
        let what = "<script>alert(1)</script>".to_owned();
        report.proof.faults.push(Fault { outcome: Outcome::NotVerified, database: "kb".into(), object: "t".into(), what: what.clone() });
        let answer = Answer { outcome: Outcome::Failed, database: "kb".into(), sql: what, expect: ">= 1".into(), got: Some("0".into()) };
        report.proof.answers.push(answer);
        let page = page(&report.judged());
        assert!(page.contains("class=\"verdict failed\"") && page.contains("&lt;script&gt;") && page.contains("&gt;= 1"), "{page}");
        assert!(!page.contains("<script"), "{page}");
        assert_eq!((bytes(1023), bytes(1536), bytes(3 << 40)), ("1023 B".into(), "1.5 KiB".into(), "3.0 TiB".into()));
        assert_eq!((duration(0.417), duration(200.0)), ("0.42 s".to_owned(), "3 min 20 s".to_owned()));
    }
}
