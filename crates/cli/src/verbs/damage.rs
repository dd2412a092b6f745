//! Damage in the way of a restore: says what can be restored instead and what that loses, and goes the way that is chosen.

use crate::args::RestoreArgs;
use crate::fault::Fault;
use crate::show::{Printer, duration};
use repo::Reader;
use restore::{Alternative, OnDamage, RestoreError, RestoreOptions, RestorePlan, RestoreReport, Spoiled, Target, Way};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::time::Duration;
use terms::{Event, Events, Explain, SystemClock};

/// The way that a restore goes.
pub struct Course {
    pub plan: RestorePlan,
    /// The way around damage, if the wish itself could not be fulfilled.
    pub taken: Option<Alternative>,
    spoiled: Spoiled,
}

/// Plans what is asked for, or what was chosen in its place.
pub async fn plan(reader: &Reader, asked: &RestoreArgs, printer: &Printer) -> Result<Course, Fault> {
    let mut spoiled = Spoiled::default();
    match restore::plan(reader, &asked.goal.wish()).await {
        Ok(plan) => Ok(Course { plan, taken: None, spoiled }),
        Err(error) => {
            let taken = around(reader, asked, &mut spoiled, error, "", printer).await?;
            Ok(Course { plan: taken.plan.clone(), taken: Some(taken), spoiled })
        }
    }
}

/// Restores as planned, and around whatever damage is found on the way, as far as that is wanted. The course then says what was done.
pub async fn restore(
    reader: &Reader,
    course: &mut Course,
    asked: &RestoreArgs,
    target: &Target,
    options: &RestoreOptions,
    printer: &Arc<Printer>,
) -> Result<RestoreReport, Fault> {
    let mut target = target.clone();
    let mut done: Option<RestoreReport> = None;
    let mut moved_aside = None;
    loop {
        let error = match attempt(reader, &course.plan, asked.files_only, &target, options, printer, &mut done).await {
            Ok(report) => return Ok(RestoreReport { moved_aside: moved_aside.or(report.moved_aside.clone()), ..report }),
            Err(error) => error,
        };
        // Where the log alone was in the way, the server goes on from where it had come to.
        let is_only_log = matches!(error, RestoreError::Broken { .. } | RestoreError::Cut { .. });
        let left = format!("{} is half restored; run the restore again, it moves that aside.", target.data_dir.display());
        let taken = around(reader, asked, &mut course.spoiled, error, &left, printer).await?;
        let goes_on = is_only_log && done.is_some() && taken.plan.backup.id == course.plan.backup.id;
        if !goes_on {
            moved_aside = moved_aside.or(done.take().and_then(|report| report.moved_aside));
            target = target.clear_half_done()?;
        }
        printer.tell(Event::Noticed { what: format!("the restore goes on around the damage: {}", in_words(&taken)) });
        course.plan = taken.plan.clone();
        course.taken = Some(taken);
    }
}

/// The files, unless they are there, and then the log. What was done is kept for the next attempt.
async fn attempt(
    reader: &Reader,
    plan: &RestorePlan,
    files_only: bool,
    target: &Target,
    options: &RestoreOptions,
    printer: &Arc<Printer>,
    done: &mut Option<RestoreReport>,
) -> Result<RestoreReport, RestoreError> {
    if done.is_none() {
        *done = Some(restore::restore_only_files(reader, plan, target, options, &SystemClock, printer.clone()).await?);
    }
    let Some(report) = done else { return Err(RestoreError::Bug("nothing was restored".into())) };
    if !files_only {
        restore::recover(reader, plan, target, options, printer.clone(), report).await?;
    }
    Ok(report.clone())
}

/// The way around this error that the policy or a person chooses. `left` says how things are for whoever chooses none.
async fn around(
    reader: &Reader,
    asked: &RestoreArgs,
    spoiled: &mut Spoiled,
    error: RestoreError,
    left: &str,
    printer: &Printer,
) -> Result<Alternative, Fault> {
    if !spoiled.learn(&error) {
        return Err(error.into());
    }
    printer.finish();
    let alternatives = match restore::alternatives(reader, &asked.goal.wish(), spoiled, &error).await {
        Ok(alternatives) => alternatives,
        // What was found first is what has to be told.
        Err(_) => return Err(error.into()),
    };
    show(printer, &error, &alternatives);
    let is_person = !asked.yes && !printer.is_json() && std::io::stdin().is_terminal();
    let policy = asked.on_damage.unwrap_or(if is_person { OnDamage::Ask } else { OnDamage::Refuse });
    let chosen = match policy {
        OnDamage::Ask if is_person && !asked.plan => ask(&alternatives, asked.allow_after, printer),
        policy => restore::choose(&alternatives, policy, asked.allow_after),
    };
    match chosen {
        Some(chosen) => Ok(chosen.clone()),
        None => Err(refusal(&error, &alternatives, left)),
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
        printer.say(format!("{title:12} {}. {}{recommended}", number + 1, in_words(other)));
        printer.say(format!("                {}", other.words));
        title = "";
    }
    if alternatives.is_empty() {
        printer.say("instead      nothing else can be restored either");
    }
    printer.say("");
}

/// What is done and what is lost.
fn in_words(other: &Alternative) -> String {
    let (loss, backup) = (&other.loss, other.plan.backup.id);
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
pub fn loss_json(other: &Alternative) -> Value {
    let loss = &other.loss;
    json!({
        "way": other.way, "backup": other.plan.backup.id, "stop": other.plan.summary().stop, "words": other.words,
        "last_kept": loss.last_kept, "kept_to": loss.kept_to, "kept_until": loss.kept_until, "asked": loss.asked,
        "lost_seconds": loss.lost.map(|lost| lost.as_secs_f64()), "after_target": loss.after_target, "reason": loss.reason,
    })
}

/// The loss window as a report for people has it.
pub fn show_loss(printer: &Printer, taken: &Alternative) {
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
        Some(first) => format!("Re-run with {}: {}. {}", first.words, in_words(first), advice.hint),
        None => format!("Nothing else can be restored from this repository either. {}", advice.hint),
    };
    Fault::of(advice.slug, advice.class, advice.summary, advice.detail, advice.hint.trim())
        .with("alternatives", alternatives.iter().map(loss_json).collect())
}
