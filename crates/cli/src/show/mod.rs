//! The only place that prints: words and bars for people on stderr, results on stdout, JSON lines when asked.

mod events;
mod numbers;
mod plain;

pub use events::{event_json, event_line};
pub use numbers::{bytes, counted, duration, rate};
use plain::plain;

use crate::args::Common;
use crate::fault::Fault;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use terms::{Event, Events, SnapshotOfProgress};

/// Without a terminal a line says how far it is, this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where it is known how much there is, and where it is not.
const BAR: &str = "  {bar:32.cyan/dim} {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13}  {eta:>4} left{msg}";
const UNBOUNDED: &str = "  {spinner} {bytes:>11} {bytes_per_sec:>13}{msg}";

/// Lines that are kept for the ledger.
const LOG_LINES: usize = 200;
/// How often programs are told how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Prints for one command.
pub struct Printer {
    json: bool,
    quiet: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last lines that a person would have seen, and the result, for the ledger.
    log: VecDeque<String>,
    result: Option<Value>,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    first: Option<(Instant, u64)>,
}

impl Printer {
    pub fn new(common: &Common) -> Arc<Self> {
        Arc::new(Self { json: common.json, quiet: common.quiet, state: Mutex::default() })
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Tells programs under which name the ledger knows this run.
    pub fn begins_run(&self, name: &str) {
        if self.json {
            drop(writeln!(std::io::stdout(), "{}", json!({ "event": "run-begun", "run": name })));
        }
    }

    /// The last lines that were printed, or would have been for people, and the result.
    pub fn kept(&self) -> (Vec<String>, Option<Value>) {
        let state = self.lock();
        (state.log.iter().cloned().collect(), state.result.clone())
    }

    fn keep(&self, line: &str) {
        let mut state = self.lock();
        if state.log.len() >= LOG_LINES {
            state.log.pop_front();
        }
        state.log.push_back(line.to_owned());
    }

    /// A line of a report, for people.
    pub fn say(&self, line: impl AsRef<str>) {
        let line = plain(line.as_ref());
        self.keep(&line);
        if !self.json {
            self.above_bar(|| drop(writeln!(std::io::stdout(), "{line}")));
        }
    }

    /// A remark beside the report.
    pub fn remark(&self, line: impl AsRef<str>) {
        let line = plain(line.as_ref());
        self.keep(&line);
        if !self.json && !self.quiet {
            self.above_bar(|| drop(writeln!(std::io::stderr(), "{line}")));
        }
    }

    /// The result, as the last JSON line.
    pub fn result(&self, value: Value) {
        self.lock().result = Some(value.clone());
        if self.json {
            self.finish();
            drop(writeln!(std::io::stdout(), "{}", json!({ "result": value })));
        }
    }

    /// The error that ends the command.
    pub fn fault(&self, fault: &Fault) {
        self.finish();
        let advice = &fault.0;
        if self.json {
            let mut error = json!({
                "slug": advice.slug, "class": advice.class.name(), "summary": advice.summary,
                "detail": advice.detail, "hint": advice.hint, "exit_code": fault.exit_code(),
            });
            if let Some((name, value)) = &fault.1 {
                error[*name] = value.clone();
            }
            drop(writeln!(std::io::stdout(), "{}", json!({ "error": error })));
        } else {
            drop(writeln!(std::io::stderr(), "{}", plain(&advice.to_string())));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = self.lock().bar.take() {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn above_bar(&self, print: impl FnOnce()) {
        match &self.lock().bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn progress(&self, now: SnapshotOfProgress) {
        if self.json {
            let mut state = self.lock();
            if state.last_line.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
                state.last_line = Some(Instant::now());
                drop(writeln!(std::io::stdout(), "{}", event_json(&Event::Progress(now))));
            }
            return;
        }
        if self.quiet {
            return;
        }
        let mut state = self.lock();
        if std::io::stderr().is_terminal() {
            let bar = state.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template(if now.bytes_total > 0 { BAR } else { UNBOUNDED });
                ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8))
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_length(now.bytes_total.max(now.bytes_done));
            bar.set_position(now.bytes_done);
            bar.set_message(objects(now));
            return;
        }
        let (begun, bytes_then) = *state.first.get_or_insert((Instant::now(), now.bytes_done));
        if state.last_line.get_or_insert(begun).elapsed() < LINE_EVERY {
            return;
        }
        state.last_line = Some(Instant::now());
        let seconds = begun.elapsed().as_secs_f64();
        let per_second = (now.bytes_done - bytes_then) as f64 / seconds.max(0.001);
        let left = (now.bytes_total.saturating_sub(now.bytes_done)) as f64 / per_second.max(1.0);
        let (done, speed) = (bytes(now.bytes_done), rate(now.bytes_done - bytes_then, begun.elapsed()));
        let line = match now.bytes_total {
            0 => format!("  {done}, {speed}{}", objects(now)),
            total => format!(
                "  {done} of {} ({:.0} %), {speed}, {} left{}",
                bytes(total),
                100.0 * now.bytes_done as f64 / total as f64,
                duration(Duration::from_secs_f64(left.min(1e9))),
                objects(now),
            ),
        };
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

/// How many objects that is, where there are objects.
fn objects(now: SnapshotOfProgress) -> String {
    match (now.files_done, now.files_total) {
        (0, 0) => String::new(),
        (done, 0) if now.bytes_total == 0 => format!(", {done} objects"),
        (_, 0) => String::new(),
        (done, total) => format!(", {done} of {} objects", total.max(done)),
    }
}

impl Events for Printer {
    fn tell(&self, event: Event) {
        if let Event::Progress(now) = event {
            return self.progress(now);
        }
        if self.json {
            if let Some(line) = event_line(&event) {
                self.keep(&line);
            }
            let mut value = event_json(&event);
            value["at"] = json!(terms::Clock::now(&terms::SystemClock));
            drop(writeln!(std::io::stdout(), "{value}"));
        } else if let Some(line) = event_line(&event) {
            self.remark(line);
        }
    }
}
