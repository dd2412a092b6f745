//! The steps of a rescue, each noted in the journal once it is done.

use crate::journal::{Journal, Lock, RecoveredTo, Stage};
use crate::references;
use crate::report::{RescueReport, loss};
use crate::server::{SERVER_LIMIT, Started, faults, read_control, start, validate};
use crate::supervise::Way;
use crate::{Lent, RescueError, RescueOptions, Salvage, Validation, hooks};
use checks::{Outcome, Referred};
use pg::{server_running_in, stop_server, survivors_in, systemd_unit_of, until_ready};
use repo::Reader;
use restore::{ConfigPlaces, Occupied, RestoreOptions, RestorePlan, Target};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Advice, Class, Clock, Event, Events, Explain, RecoveryTarget, Step};

/// Why database and packages are not held against each other by a run that found no answer and cannot ask any more.
fn asked_before() -> checks::Fault {
    let what = "a run before this one asked the server for its references, and got no answer; compare with bowline verify to the same instant";
    checks::Fault { outcome: Outcome::NotVerified, database: String::new(), object: "packages".into(), what: what.into() }
}

/// How long a server's processes may take to end once it is down, or told to end.
const ENDING_LIMIT: Duration = Duration::from_secs(30);

struct Rescue<'a, L> {
    reader: &'a Reader,
    /// Needed until the cluster is recovered.
    plan: Option<RestorePlan>,
    target: &'a Target,
    options: &'a RescueOptions,
    lent: &'a L,
    clock: &'a dyn Clock,
    events: Arc<dyn Events>,
    journal: Journal,
    open: Vec<Advice>,
    /// To which objects the recovered database refers, once it was asked.
    referred: Option<Referred>,
}

/// Does what is left of the journal's restore, with a plan unless the cluster is recovered already. The target's [`Lock`] is held meanwhile. An error leaves the old data whole and the journal
/// where it is: the same call goes on there. What goes wrong once the server runs is in the report.
pub async fn rescue<L: Lent>(
    reader: &Reader,
    plan: Option<RestorePlan>,
    target: &Target,
    options: &RescueOptions,
    journal: Journal,
    _lock: &Lock,
    lent: &L,
    clock: &dyn Clock,
    events: Arc<dyn Events>,
) -> Result<RescueReport, RescueError> {
    let mut rescue = Rescue { reader, plan, target, options, lent, clock, events, journal, open: Vec::new(), referred: None };
    rescue.note_plan().await?;
    rescue.clear_the_ground().await?;
    rescue.restore().await?;
    rescue.validate().await?;
    rescue.restore_packages().await?;
    let started = rescue.start().await?;
    if options.starts && !options.is_side {
        rescue.receive().await?;
        rescue.serve().await?;
        rescue.back_up().await?;
    }
    let Rescue { mut journal, open, .. } = rescue;
    if open.is_empty() {
        journal.reach(Stage::Done)?;
    }
    let loss = loss(&journal, &journal.wish()?.target);
    Ok(RescueReport { journal, started, loss, ended: clock.now(), open })
}

impl<L: Lent> Rescue<'_, L> {
    /// Notes what the last steps must know of the plan. Once the new cluster writes to the repository, no plan would be the same.
    async fn note_plan(&mut self) -> Result<(), RescueError> {
        // A cluster that is promoted went the way that is noted, whatever would be planned now.
        let is_over = |plan: &&RestorePlan| {
            !self.is_before(Stage::Recovering) && read_control(self.target).is_ok_and(|control| control.timeline > plan.timeline)
        };
        if let Some(plan) = self.plan.as_ref().filter(|plan| !is_over(plan)) {
            let covered = self.reader.coverage(plan.backup.system_id).await.map_err(restore::RestoreError::from)?;
            self.journal.major = plan.backup.major;
            self.journal.epoch_ended = plan.epoch_ended;
            self.journal.proven = covered.map(|mark| mark.time).max(plan.last_transaction);
            self.journal.backup_ended = Some(plan.backup.stop.time);
            self.journal.detour = self.lent.detour();
            self.journal.config_places = ConfigPlaces::of(&plan.contents, self.target);
            if self.journal.config_gives_way.is_none() && self.journal.stage < Stage::SetAside {
                self.journal.config_gives_way = Some(restore::gives_way(self.target, plan.backup.system_id));
            }
        }
        self.journal.save()
    }

    fn plan(&self) -> Result<&RestorePlan, RescueError> {
        self.plan.as_ref().ok_or_else(|| RescueError::Bug("a restore that is not recovered has no plan".into()))
    }

    /// Until the data directory is free and the old data lie aside.
    async fn clear_the_ground(&mut self) -> Result<(), RescueError> {
        let commands = &self.options.commands;
        // Before the service is stopped: this command would end with that server's container.
        if self.is_before(Stage::ServerStopped) && self.target.running() == Some(1) {
            self.target.refuse_running()?;
        }
        if self.is_before(Stage::ServiceStopped) {
            if let Some(command) = commands.stop_service.clone().filter(|_| !self.options.is_side) {
                let limit = commands.limit;
                self.step(Step::StopService, async |_| hooks::run("stop the service", &command, limit).await).await?;
            }
            self.journal.reach(Stage::ServiceStopped)?;
        }
        if self.is_before(Stage::ServerStopped) {
            if self.options.is_side {
                self.target.refuse_running()?;
            } else {
                self.stop_server().await?;
            }
            self.journal.reach(Stage::ServerStopped)?;
        }
        if self.is_before(Stage::Salvaged) {
            let is_latest = !self.options.is_side && self.journal.wish()?.target == RecoveryTarget::Latest;
            if is_latest && self.target.is_occupied() && self.options.salvages {
                self.step(Step::Salvage, async |rescue| rescue.salvage().await).await?;
            }
            if is_latest {
                // A server that stops sends its last WAL, and what was saved is new, too: latest is later than it was.
                self.plan = Some(self.lent.plan().await.map_err(RescueError::Lent)?);
                self.note_plan().await?;
            }
            self.journal.reach(Stage::Salvaged)?;
        }
        if self.is_before(Stage::SetAside) {
            // Where it goes is known before it goes, so that whoever finds it half moved knows what it is.
            if self.journal.aside.is_none() && !self.journal.rewrites {
                self.journal.aside = self.target.place_aside(self.clock.now());
                self.journal.save()?;
            }
            self.step(Step::MoveAside, async |rescue| rescue.move_aside()).await?;
            if let Some(to) = self.journal.aside.clone() {
                self.events.tell(Event::MovedAside { from: self.target.data_dir.clone(), to });
            }
            self.journal.reach(Stage::SetAside)?;
        }
        Ok(())
    }

    /// What lies in the data directory goes aside, unless an earlier run did that.
    fn move_aside(&self) -> Result<(), RescueError> {
        let Self { target, journal, .. } = self;
        if journal.owns(&target.data_dir) {
            return Ok(());
        }
        if journal.aside.as_ref().is_some_and(|aside| aside.exists() && !aside.starts_with(&target.data_dir)) && !target.is_empty() {
            return Err(RescueError::NotOurs { data_dir: target.data_dir.clone(), aside: journal.aside.clone() });
        }
        target.prepare(journal.aside.as_deref())?;
        journal.mark(&target.data_dir)
    }

    async fn stop_server(&mut self) -> Result<(), RescueError> {
        let data_dir = self.target.data_dir.clone();
        if let Some(pid) = server_running_in(&data_dir) {
            self.journal.unit = systemd_unit_of(pid);
            self.journal.save()?;
            let limit = self.options.commands.limit;
            let way = Way::to_stop(&self.options.commands, self.journal.unit.as_deref());
            self.step(Step::StopServer, async |_| match &way {
                Way::Itself => Ok(stop_server(&data_dir, limit).await.map(drop)?),
                way => {
                    way.run("stop PostgreSQL", limit).await?;
                    way.until_ended(&data_dir, pid, limit).await
                }
            })
            .await?;
            if let Some(pid) = server_running_in(&data_dir) {
                return Err(RescueError::Restarted { data_dir, pid });
            }
        }
        let begun = Instant::now();
        loop {
            match survivors_in(&data_dir) {
                pids if pids.is_empty() => return Ok(()),
                // A server that has said that it is down may still be ending.
                _ if begun.elapsed() < ENDING_LIMIT => tokio::time::sleep(Duration::from_millis(50)).await,
                pids => return Err(RescueError::Survivors { data_dir, pids }),
            }
        }
    }

    /// What cannot be read is told and given up; what cannot be stored is not given up.
    async fn salvage(&mut self) -> Result<(), RescueError> {
        match self.lent.salvage(&self.target.data_dir).await {
            Ok(Salvage::Nothing { is_end }) => self.end_of_old_log(is_end),
            Ok(Salvage::Stored { from, to, is_end }) => {
                self.journal.salvaged = Some((from, to));
                self.end_of_old_log(is_end);
                self.notice(format!("the old pg_wal held the log from {from} to {to} beyond the repository: it is stored now"));
            }
            Ok(Salvage::Useless(why)) => self.notice(format!("nothing could be saved from the old pg_wal: {why}")),
            Err(advice) if matches!(advice.class, Class::Damaged | Class::Missing) => {
                self.notice(format!("nothing could be saved from the old pg_wal: {}. {}", advice.summary, advice.detail));
            }
            Err(advice) => {
                let hint = "Make that work and run the same restore again; or give up what the old pg_wal alone holds with --no-salvage.";
                return Err(RescueError::Lent(Advice { hint: hint.into(), ..advice }));
            }
        }
        Ok(())
    }

    fn end_of_old_log(&mut self, is_end: bool) {
        self.journal.old_log_ended = is_end;
        if !is_end {
            self.notice("the old pg_wal is not whole: what the old server wrote last may be missing from it".into());
        }
    }

    async fn restore(&mut self) -> Result<(), RescueError> {
        if self.is_before(Stage::FilesRestored) {
            let now = self.clock.now();
            self.refuse_foreign().await?;
            let restored = self
                .step(Step::CopyFiles, async |rescue| {
                    let Rescue { reader, target, options, events, .. } = &*rescue;
                    // What is there is what a run before this one left half done, or what is to be rewritten.
                    let occupied = if target.is_empty() { Occupied::MoveAside } else { Occupied::Resume };
                    let restoring = RestoreOptions { occupied, ..options.restoring.clone() };
                    Ok(restore::copy_files(reader, rescue.plan()?, target, &restoring, now, events.clone()).await?)
                })
                .await?;
            for (from, to) in &restored.moved {
                self.events.tell(Event::MovedAside { from: from.clone(), to: to.clone() });
            }
            (self.journal.files, self.journal.bytes, self.journal.bytes_kept) = (restored.files, restored.bytes, restored.bytes_kept);
            self.journal.bytes_written = restored.bytes_written;
            self.journal.config = restored.config;
            self.journal.moved.extend(restored.moved);
            self.journal.reach(Stage::FilesRestored)?;
        }
        if self.is_before(Stage::Recovering) {
            self.refuse_foreign().await?;
            restore::mark_for_recovery(self.target)?;
            self.journal.reach(Stage::Recovering)?;
        }
        if self.is_before(Stage::Recovered) {
            self.refuse_foreign().await?;
            let recovered = self
                .step(Step::Replay, async |rescue| {
                    let Rescue { reader, target, options, events, .. } = &*rescue;
                    Ok(restore::recover(reader, rescue.plan()?, target, &options.restoring, events.clone()).await?)
                })
                .await?;
            let (timeline, lsn, last_transaction) = (recovered.timeline, recovered.at, recovered.last_transaction);
            self.journal.moved.extend(recovered.moved);
            let waited_seconds = recovered.waited.as_secs_f64();
            self.journal.recovered = Some(RecoveredTo { timeline, lsn, last_transaction, waited_seconds });
            self.journal.reach(Stage::Recovered)?;
        }
        self.journal.unmark(&self.target.data_dir)
    }

    async fn validate(&mut self) -> Result<(), RescueError> {
        if self.is_before(Stage::Validated) {
            if self.options.validation != Validation::None {
                self.until_left().await;
                let (proof, referred) = self
                    .step(Step::Validate, async |rescue| validate(rescue.journal.major, rescue.target, rescue.options, &*rescue.events).await)
                    .await?;
                if let Some(Ok(rows)) = &referred {
                    references::keep(self.target, &self.journal, rows)?;
                }
                self.referred = referred;
                let faults = faults(&proof);
                let stale = proof.databases.iter().flat_map(|found| found.stale_collations.iter().map(|stale| (found.name.clone(), stale.clone())));
                self.journal.stale_collations = stale.collect();
                for name in &proof.closed_databases {
                    self.notice(format!("nobody can connect to database {name} (ALLOW_CONNECTIONS false): nothing in it was looked at"));
                }
                self.journal.validated = proof.outcome() == Outcome::Passed;
                // A copy to look at serves nobody: what cannot be looked at in it is told, the rest can.
                match self.options.is_side {
                    true => faults.into_iter().for_each(|fault| self.notice(format!("not as it should be: {fault}"))),
                    false if !self.journal.validated => return Err(RescueError::Unproven { faults }),
                    false => {}
                }
            }
            self.journal.reach(Stage::Validated)?;
        }
        Ok(())
    }

    /// The application's objects, as of the instant to which the database was recovered. Where that fails the database serves all the
    /// same, the report says so, and a second run goes on with them.
    async fn restore_packages(&mut self) -> Result<(), RescueError> {
        if !self.options.packages || self.options.is_side || self.journal.packages.is_some() {
            return Ok(());
        }
        let at = self.journal.instant()?;
        // Where an earlier run asked the server, it may serve since then: what it would say now is of another instant.
        let is_asked_for = self.options.references.is_some() && self.options.validation != Validation::None;
        let referred = match self.referred.take() {
            None if is_asked_for => Some(references::kept(self.target, &self.journal)?.ok_or_else(asked_before)),
            referred => referred,
        };
        let done = self.try_step(Step::Packages, async |rescue| rescue.lent.restore_packages(at, referred).await.map_err(RescueError::Lent)).await;
        if done.is_some() {
            self.journal.packages = done;
            self.journal.save()?;
            return references::forget(self.target);
        }
        self.journal.save()
    }

    async fn start(&mut self) -> Result<Started, RescueError> {
        if !self.options.starts {
            return Ok(Started::No);
        }
        // A run before this one, or a supervisor, may have started it.
        if !self.options.is_side && server_running_in(&self.target.data_dir).is_some() {
            until_ready(&self.target.data_dir, SERVER_LIMIT).await?;
            self.journal.reach(self.journal.stage.max(Stage::ServerStarted))?;
            return Ok(Started::Normally);
        }
        // Once: what somebody puts right there afterwards, to have the server start, is not undone by the next run.
        if !self.options.is_side && self.journal.config_placed.is_none() {
            let Journal { config, config_places, config_gives_way, .. } = &self.journal;
            let placed = restore::put_config_back(config, config_places, *config_gives_way == Some(true), self.target, self.clock.now())?;
            // Before the server is started: it may fail for want of just these.
            for file in placed.iter().filter(|file| file.is_open()) {
                self.notice(format!("{} is not the backup's; to use that: {}", file.original.display(), file.remedy()));
            }
            self.journal.config_placed = Some(placed);
            self.journal.save()?;
        }
        let started = self.step(Step::StartServer, async |rescue| start(rescue.target, rescue.options, &rescue.journal).await).await?;
        self.journal.reach(Stage::ServerStarted)?;
        Ok(started)
    }

    /// Before the service writes anything, what it writes is protected; a store that is away does not keep it from serving.
    async fn receive(&mut self) -> Result<(), RescueError> {
        let Some(timeline) = self.journal.recovered.as_ref().map(|recovered| recovered.timeline).filter(|_| self.may_protect()) else {
            return Ok(());
        };
        if self.journal.flowing_since.is_some() {
            return Ok(());
        }
        if let Some(()) = self.try_step(Step::Receive, async |rescue| rescue.lent.receive(timeline).await.map_err(RescueError::Lent)).await {
            self.journal.flowing_since = Some(self.clock.now());
        }
        self.journal.save()
    }

    async fn serve(&mut self) -> Result<(), RescueError> {
        if self.journal.serving_since.is_some() {
            return Ok(());
        }
        let commands = self.options.commands.clone();
        let served = if commands.start_service.is_none() && commands.health.is_none() {
            Some(())
        } else {
            self.try_step(Step::StartService, async |_| {
                if let Some(command) = &commands.start_service {
                    hooks::run("start the service", command, commands.limit).await?;
                }
                match &commands.health {
                    Some(command) => hooks::until_well(command, commands.limit).await,
                    None => Ok(()),
                }
            })
            .await
        };
        if served.is_some() {
            self.journal.serving_since = Some(self.clock.now());
        }
        self.journal.save()
    }

    async fn back_up(&mut self) -> Result<(), RescueError> {
        if !self.may_protect() || self.journal.full.is_some() {
            return Ok(());
        }
        if let Some(backup) = self.try_step(Step::Backup, async |rescue| rescue.lent.back_up().await.map_err(RescueError::Lent)).await {
            self.journal.full = Some((backup, self.clock.now()));
        }
        self.journal.save()
    }

    /// A repository takes nothing more of a cluster whose epoch has ended.
    fn may_protect(&self) -> bool {
        self.options.protects && self.journal.epoch_ended.is_none()
    }

    fn is_before(&self, stage: Stage) -> bool {
        self.journal.stage < stage
    }

    /// The private server of a run that was killed ends by itself.
    async fn until_left(&self) {
        let begun = Instant::now();
        while self.target.refuse_running().is_err() && begun.elapsed() < ENDING_LIMIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whatever somebody else put there is not touched.
    async fn refuse_foreign(&self) -> Result<(), RescueError> {
        self.until_left().await;
        self.target.refuse_running()?;
        if self.journal.owns(&self.target.data_dir) {
            return Ok(());
        }
        Err(RescueError::NotOurs { data_dir: self.target.data_dir.clone(), aside: self.journal.aside.clone() })
    }

    fn notice(&self, what: String) {
        self.events.tell(Event::Noticed { what });
    }

    /// Runs a step, tells of it and keeps its time.
    async fn step<T>(&mut self, step: Step, work: impl AsyncFnOnce(&mut Self) -> Result<T, RescueError>) -> Result<T, RescueError> {
        self.events.tell(Event::StepBegun { step });
        let began = Instant::now();
        let outcome = work(self).await;
        if outcome.is_ok() {
            let took = began.elapsed();
            self.events.tell(Event::StepEnded { step, took });
            self.journal.steps.push((step.name().to_owned(), took.as_secs_f64()));
        }
        outcome
    }

    /// Runs a step whose failure keeps nothing else from being done; `None` when it failed.
    async fn try_step<T>(&mut self, step: Step, work: impl AsyncFnOnce(&mut Self) -> Result<T, RescueError>) -> Option<T> {
        match self.step(step, work).await {
            Ok(done) => Some(done),
            Err(error) => {
                let advice = error.advice();
                self.notice(format!("{} FAILED: {}", step.name(), advice.summary));
                self.open.push(advice);
                None
            }
        }
    }
}
