//! Damage in the way of a restore: says what can be restored instead and what that loses, and goes the way that is chosen.

use crate::args::RestoreArgs;
use crate::fault::Fault;
use crate::show::{Printer, duration};
use repo::Reader;
use restore::{Alternative, Detour, OnDamage, RestoreError, RestorePlan, Spoiled, Way, Wish};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use terms::{Event, Events, Explain};

/// The way that a restore goes: what was asked for, or what was chosen in its place.
pub struct Course<'a> {
    reader: &'a Reader,
    wish: Wish,
    asked: &'a RestoreArgs,
    /// Where PostgreSQL's programs are, when the configuration says so.
    bin_dir: Option<&'a Path>,
    printer: &'a Arc<Printer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plan: Option<RestorePlan>,
    /// The way around damage, if the wish itself could not be fulfilled.
    taken: Option<Detour>,
    spoiled: Spoiled,
}

impl<'a> Course<'a> {
    pub fn new(reader: &'a Reader, wish: Wish, asked: &'a RestoreArgs, bin_dir: Option<&'a Path>, printer: &'a Arc<Printer>) -> Self {
        Self { reader, wish, asked, bin_dir, printer, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way around damage that was taken, if one was.
    pub fn taken(&self) -> Option<Detour> {
        self.state().taken.clone()
    }

    /// What it loses.
    pub fn loss(&self) -> Value {
        self.taken().as_ref().map_or(Value::Null, loss_json)
    }

    /// The plan that was made last.
    pub fn last_plan(&self) -> Option<RestorePlan> {
        self.state().plan.clone()
    }

    /// Plans what is asked for, or what is chosen in its place; called again, with all that is stored by then.
    pub async fn plan(&self) -> Result<RestorePlan, Fault> {
        // What was in the way may have been stored since, and whatever is still in the way is found again.
        self.state().spoiled = Spoiled::default();
        match restore::plan(self.reader, &self.wish).await {
            Ok(plan) => {
                self.state().taken = None;
                Ok(self.remember(plan))
            }
            Err(error) => self.choose(error, "").await,
        }
    }

    /// The plan for going on after this error of an attempt, as the policy or a person chooses; the error when there is none.
    pub async fn around(&self, error: RestoreError, data_dir: &Path) -> Result<RestorePlan, Fault> {
        let left = format!("{} is half restored; the same command goes on there.", data_dir.display());
        let plan = self.choose(error, &left).await?;
        if let Some(taken) = self.taken() {
            self.printer.tell(Event::Noticed { what: format!("the restore goes on around the damage: {}", in_words(&taken)) });
        }
        Ok(plan)
    }

    /// The way around this error that the policy or a person chooses. `left` says how things are for whoever chooses none.
    async fn choose(&self, error: RestoreError, left: &str) -> Result<RestorePlan, Fault> {
        let Self { reader, wish, asked, printer, .. } = self;
        let earlier = self.taken();
        let mut spoiled = self.state().spoiled.clone();
        if !spoiled.learn(&error) {
            return Err(error.into());
        }
        printer.finish();
        let alternatives = match restore::alternatives(reader, wish, &mut spoiled, &error).await {
            Ok(alternatives) => alternatives,
            // What was found first is what has to be told.
            Err(_) => return Err(error.into()),
        };
        show(printer, &error, &alternatives);
        let is_person = !asked.yes && !printer.is_json() && std::io::stdin().is_terminal();
        // Whoever chose once need not choose the same again.
        let chosen_before = earlier.map(|taken| taken.way.policy());
        let policy = asked.on_damage.or(chosen_before).unwrap_or(if is_person { OnDamage::Ask } else { OnDamage::Refuse });
        let chosen = match policy {
            OnDamage::Ask if is_person && asked.plan.is_none() => ask(&alternatives, asked.allow_after, printer),
            policy => restore::choose(&alternatives, policy, asked.allow_after),
        };
        let Some(chosen) = chosen else { return Err(refusal(&error, &alternatives, left)) };
        *self.state() = State { plan: None, taken: Some(chosen.detour()), spoiled };
        Ok(self.remember(chosen.plan.clone()))
    }

    /// The plan with what this host's programs make of it.
    fn remember(&self, mut plan: RestorePlan) -> RestorePlan {
        if let Ok(bin_dir) = pg::find_bin_dir(plan.backup.major, self.bin_dir) {
            plan.note_programs(&bin_dir);
        }
        self.state().plan = Some(plan.clone());
        plan
    }
}

fn show(printer: &Printer, error: &RestoreError, alternatives: &[Alternative]) {
    printer.say(format!("damage       {error}"));
    for line in error.detail().lines() {
        printer.say(format!("             {line}"));
    }
    let mut title = "instead";
    for (number, other) in alternatives.iter().enumerate() {
        let recommended = if number == 0 { " (recommended)" } else { "" };
        printer.say(format!("{title:12} {}. {}{recommended}", number + 1, in_words(&other.detour())));
        printer.say(format!("                {}", other.words));
        title = "";
    }
    if alternatives.is_empty() {
        printer.say("instead      nothing else can be restored either");
    }
    printer.say("");
}

/// What is done and what is lost.
fn in_words(other: &Detour) -> String {
    let (loss, backup) = (&other.loss, other.backup);
    let last = loss.last_kept.map_or_else(|| "no transaction near its end".into(), |at| format!("the last transaction kept ended {at}"));
    let lost = match (loss.lost, loss.asked) {
        (Some(Duration::ZERO), _) => "nothing is lost".to_owned(),
        (Some(lost), Some(asked)) => format!("at most {} before {asked} are lost", duration(lost)),
        _ => "how much is lost cannot be told".to_owned(),
    };
    match other.way {
        Way::AnotherBackup => format!("backup {backup} and more WAL, to what was asked for: {lost}"),
        Way::StopBefore => format!("stop before the damage, at {}, from backup {backup}: {last}; {lost}", loss.kept_to),
        Way::NearestBackup => format!("backup {backup} alone, as of {}: {lost}", loss.kept_until),
        Way::LaterBackup => format!("backup {backup} alone, as of {}, which is later than what was asked for", loss.kept_until),
    }
}

/// The loss window as reports and errors carry it in JSON.
pub fn loss_json(other: &Detour) -> Value {
    let loss = &other.loss;
    json!({
        "way": other.way, "backup": other.backup, "stop": other.stop, "words": other.words,
        "last_kept": loss.last_kept, "kept_to": loss.kept_to, "kept_until": loss.kept_until, "asked": loss.asked,
        "lost_seconds": loss.lost.map(|lost| lost.as_secs_f64()), "after_target": loss.after_target, "reason": loss.reason,
    })
}

/// The loss window as a report for people has it.
pub fn show_loss(printer: &Printer, taken: &Detour) {
    printer.say(format!("loss         {}", in_words(taken)));
    printer.say(format!("reason       {}", taken.loss.reason));
}

fn ask<'a>(alternatives: &'a [Alternative], allow_after: bool, printer: &Printer) -> Option<&'a Alternative> {
    printer.say("Choose one by its number, or press Enter to leave everything as it is:");
    let mut answer = String::new();
    drop(std::io::stdin().lock().read_line(&mut answer));
    let chosen = alternatives.get(answer.trim().parse::<usize>().ok()?.checked_sub(1)?)?;
    (allow_after || !chosen.loss.after_target).then_some(chosen)
}

fn refusal(error: &RestoreError, alternatives: &[Alternative], left: &str) -> Fault {
    let mut advice = error.advice();
    let detail = [advice.detail.as_str(), left];
    advice.detail = detail.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    advice.hint = match alternatives.first() {
        Some(first) => format!("Re-run with {}: {}. {}", first.words, in_words(&first.detour()), advice.hint),
        None => format!("Nothing else can be restored from this repository either. {}", advice.hint),
    };
    Fault::of(advice.slug, advice.class, advice.summary, advice.detail, advice.hint.trim())
        .with("alternatives", alternatives.iter().map(|other| loss_json(&other.detour())).collect())
}
