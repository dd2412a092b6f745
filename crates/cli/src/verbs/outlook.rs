//! What a restore would do on this host, on one screen: room, lacks, time, and what would be lost; and whether it can be done at all.

use crate::args::{PlanDepth, RestoreArgs};
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use pg::{Installation, InstanceError, find_bin_dir};
use repo::Reader;
use rescue::{Journal, RescueOptions, Stage};
use restore::{Estimate, Filesystem, Host, Lack, Proven, RestoreError, RestorePlan, Target, Weight};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use terms::{Advice, Explain};

/// What is said where no drill tells how fast this repository and host are.
pub const NOT_MEASURED: &str = "unknown: no drill has been held yet (bowline verify)";

/// A plan and what this host makes of it.
pub struct Outlook<'p> {
    plan: &'p RestorePlan,
    target: &'p Target,
    options: &'p RescueOptions,
    asked: &'p RestoreArgs,
    journal: &'p Journal,
    /// What will be done, a line each.
    steps: Vec<String>,
    /// Why PostgreSQL's programs cannot be used.
    missing: Option<InstanceError>,
    /// What of this host's rights stands in the way: to stop and start the server, to call this program as its user.
    powerless: Vec<Advice>,
    filesystems: Vec<Filesystem>,
    lacks: Vec<Lack>,
    estimate: Option<Estimate>,
    proven: Option<Proven>,
}

impl<'p> Outlook<'p> {
    /// Looks at this host, and reads everything of the plan when asked to. Touches nothing.
    pub async fn of(
        reader: &Reader,
        plan: &'p RestorePlan,
        target: &'p Target,
        options: &'p RescueOptions,
        asked: &'p RestoreArgs,
        journal: &'p Journal,
        steps: Vec<String>,
        printer: &Arc<Printer>,
    ) -> Result<Self, Fault> {
        let filesystems = restore::group(&restore::needs(plan, target, &options.restoring.tablespaces, destroys(target, journal)), restore::disk_of)?;
        let found = find_bin_dir(plan.backup.major, options.restoring.bin_dir.as_deref()).map(|bin_dir| Installation::of(&bin_dir));
        let has_user = |name: &str| nix::unistd::User::from_name(name).ok().flatten().is_some();
        let lacks = restore::lacks(&plan.contents, plan.backup.major, &Host { installation: found.as_ref(), has_user: &has_user });
        let estimate = restore::measured(reader).await?.map(|measured| measured.estimate(plan.backup.bytes, plan.replayed as u64));
        let mut powerless = Vec::new();
        if !asked.files_only {
            powerless.extend(rescue::refuse_powerless(target, options, journal).err().map(|error| error.advice()));
            powerless.extend(pg::refuse_unreachable(&options.restoring.program, target.owner).err().map(|error| error.advice()));
        }
        let proven = match asked.plan {
            Some(PlanDepth::Deep) => Some(restore::prove_deep(reader, plan, options.restoring.jobs, printer.clone()).await?),
            _ => None,
        };
        printer.finish();
        Ok(Self { plan, target, options, asked, journal, steps, missing: found.err(), powerless, filesystems, lacks, estimate, proven })
    }

    /// What stands in the way, the gravest first.
    fn refusals(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        // Files can be put in place without PostgreSQL; nothing else can.
        if let Some(missing) = self.missing.as_ref().filter(|_| !self.asked.files_only) {
            found.push(Fault(missing.advice(), None));
        }
        found.extend(self.powerless.iter().map(|advice| Fault(advice.clone(), None)));
        let is_started = !self.asked.files_only && !self.asked.no_start && !self.options.is_side;
        let blocking: Vec<Lack> = self.lacks.iter().filter(|lack| lack.weight == Weight::Blocks).cloned().collect();
        if is_started && self.missing.is_none() && !blocking.is_empty() {
            let what = blocking.iter().map(|lack| lack.what.clone()).collect();
            let why = blocking.iter().map(|lack| lack.why.as_str()).collect::<Vec<_>>().join(" ");
            let install = restore::install_command(&blocking).unwrap_or_else(|| blocking[0].hint.clone());
            let hint = format!("{} Or recover with --no-start, and start the server yourself.", sentence(&install));
            found.push(RestoreError::Lacking { what, why, hint }.into());
        }
        if self.journal.stage < Stage::SetAside && self.target.is_occupied() && !destroys(self.target, self.journal) {
            found.extend(self.target.refuse_mounts_within().err().map(Fault::from));
        }
        found.extend(restore::refuse_cramped(&self.filesystems, self.target).err().map(Fault::from));
        found
    }

    /// A restore that would fail is not begun.
    pub fn refuse(&self) -> Result<(), Fault> {
        self.refusals().into_iter().next().map_or(Ok(()), Err)
    }

    /// For people.
    pub fn show(&self, printer: &Printer) {
        let Self { plan, target, .. } = self;
        let summary = plan.summary();
        let b = &plan.backup;
        // One line each: what a configuration or a backup names must not write others below it.
        let line = |label: &str, text: &str| printer.say(format!("{label:<12} {}", text.replace('\n', "\\n")));
        line("restore to", &plan.target.to_string());
        line("stops", &summary.stop);
        line("backup", &format!("{} of PostgreSQL {}, consistent at {} ({})", b.id, b.server_version, b.stop.time, b.stop.lsn));
        line(
            "WAL",
            &match (summary.first_segment, summary.last_segment) {
                (Some(first), Some(last)) => format!("{} segments, {first} to {last}, on timeline {}", summary.segments, plan.timeline),
                _ => "none".into(),
            },
        );
        line("proved", &self.proof());
        line("lost", &summary.lost);
        line("moves", &format!("{} from {} in the repository", bytes(b.bytes), bytes(b.bytes_stored)));
        line("takes", &self.estimate.as_ref().map_or_else(|| NOT_MEASURED.to_owned(), words));
        line("into", &target.data_dir.display().to_string());
        for tablespace in &plan.contents.tablespaces {
            let place = self.options.restoring.tablespaces.place(tablespace.oid).unwrap_or_else(|| tablespace.location.clone());
            line("tablespace", &format!("{} ({}) into {}", tablespace.oid, bytes(tablespace.bytes), place.display()));
        }
        for filesystem in &self.filesystems {
            let Filesystem { at, needed_bytes, free_bytes, missing_bytes, .. } = filesystem;
            let verdict = if *missing_bytes > 0 { format!(": TOO SMALL by {}", bytes(*missing_bytes)) } else { String::new() };
            line("room", &format!("{}: {} needed, {} free{verdict}", at.display(), bytes(*needed_bytes), bytes(*free_bytes)));
        }
        for lack in &self.lacks {
            let label = if lack.weight == Weight::Unknown { "not checked" } else { "LACKING" };
            line(label, &format!("{}: {}", lack.what, lack.why));
            line("", &format!("→ {}", lack.hint));
        }
        if let Some(command) = restore::install_command(&self.lacks) {
            line("install", &command);
        }
        for (number, step) in self.steps.iter().enumerate() {
            line(if number == 0 { "then" } else { "" }, step);
        }
        plan.notes.iter().for_each(|note| line("note", note));
        for fault in self.refusals() {
            line("CANNOT", &format!("be done as it is: {}", fault.0.summary));
            line("", &format!("→ {}", fault.0.hint));
        }
    }

    fn proof(&self) -> String {
        match &self.proven {
            Some(Proven { chunks, bytes: plain, segments, records }) => {
                format!("every chunk ({chunks}, {}) and every record ({records} in {segments} segments) was opened", bytes(*plain))
            }
            None => format!(
                "all of it is listed, {} of {} segments in the size that the index knows; manifest, histories, first, last and pieces were read",
                self.plan.indexed, self.plan.replayed
            ),
        }
    }

    /// For programs.
    pub fn json(&self, loss: Value) -> Value {
        let target = self.target;
        let tablespaces: Vec<_> = self
            .plan
            .contents
            .tablespaces
            .iter()
            .map(|t| json!({ "oid": t.oid, "bytes": t.bytes, "was": t.location, "into": self.options.restoring.tablespaces.place(t.oid).unwrap_or_else(|| t.location.clone()) }))
            .collect();
        let refusals: Vec<_> =
            self.refusals().iter().map(|f| json!({ "slug": f.0.slug, "summary": f.0.summary, "detail": f.0.detail, "hint": f.0.hint })).collect();
        json!({
            "plan": self.plan.summary(), "loss": loss, "target": target.data_dir, "moves_aside": target.is_occupied() && !destroys(target, self.journal),
            "destroys": destroys(target, self.journal), "server_running": target.running(), "steps": self.steps, "stage": self.journal.stage,
            "tablespaces": tablespaces, "filesystems": self.filesystems, "lacks": self.lacks, "install": restore::install_command(&self.lacks),
            "estimate": self.estimate, "proven": self.proven, "can_be_done": refusals.is_empty(), "refusals": refusals,
        })
    }
}

/// Whether what is there is overwritten.
pub fn destroys(target: &Target, journal: &Journal) -> bool {
    journal.rewrites && journal.stage < Stage::FilesRestored && target.is_occupied()
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// The whole time first, then what it is made of and by what drill.
fn words(estimate: &Estimate) -> String {
    let time = |seconds: f64| duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    let by = &estimate.by;
    format!(
        "about {}: {} for the files, {} for WAL, by the drill of {} ({}: {}, {} segments)",
        time(estimate.total_seconds),
        time(estimate.files_seconds),
        time(estimate.replay_seconds),
        by.at,
        by.outcome,
        bytes(by.database_bytes),
        by.segments,
    )
}
