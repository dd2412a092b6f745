//! Looks at everything, each part in its own time: a part that hangs is a part that was not seen.

use crate::disk::Disk;
use crate::facts::{
    CapacityFacts, CopyFacts, DiskFacts, Facts, Look, PackagesFacts, ReceiverFacts, RecipientFacts, RepositoryFacts, ScrubFacts, ServerFacts, Trouble,
};
use crate::settings::{Doors, Settings};
use crate::{capacity, copy, jobs, keys, repository, server};
use repo::{Coverage, LeaseView, Reader, Run, RunName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use terms::Timestamp;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long one part may take.
const LIMIT: Duration = Duration::from_secs(30);
/// A daemon that was not heard of for so long is silent.
const SILENT: Duration = Duration::from_secs(120);
/// How long a look waits for a repository of which it has something to show already.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long the first look at a repository may take: a large one is listed in minutes.
const FIRST: Duration = Duration::from_secs(600);
/// How long it may take whoever looks once, and has somebody before the screen.
const ONCE: Duration = Duration::from_secs(60);
const TIMED_OUT: &str = "look-timeout";

/// How old what is not looked at each time may become.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// At least; five times as long as the last look at it took, where that is more.
    pub repository: Duration,
    /// Each look asks every keeper of keys.
    pub keys: Duration,
    /// Each look lists the backups of both and reads their coverage marks.
    pub second_copy: Duration,
    /// Each look lets the packages' monitor list a little further.
    pub packages: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { repository: seconds(15), keys: seconds(60), second_copy: seconds(120), packages: seconds(60) }
    }
}

impl Ages {
    /// Everything, each time.
    pub const ALWAYS: Self = Self { repository: Duration::ZERO, keys: Duration::ZERO, second_copy: Duration::ZERO, packages: Duration::ZERO };
}

/// Something that was looked at a while ago.
struct Aged<T> {
    at: Instant,
    value: T,
    /// Something was done to it since.
    is_old: bool,
}

impl<T: Clone> Aged<T> {
    fn new(value: &T) -> Self {
        Self { at: Instant::now(), value: value.clone(), is_old: false }
    }

    fn is_fresh(&self, age: Duration) -> bool {
        !self.is_old && !age.is_zero() && self.at.elapsed() < age
    }
}

/// What was seen last, while it is young enough; else looks, and remembers what that saw.
async fn remembered<T: Clone>(kept: &mut Option<Aged<T>>, age: Duration, look: impl Future<Output = T>) -> T {
    if let Some(fresh) = kept.as_ref().filter(|kept| kept.is_fresh(age)) {
        return fresh.value.clone();
    }
    let value = look.await;
    *kept = Some(Aged::new(&value));
    value
}

/// Everything that is read from the repository at one moment.
#[derive(Clone)]
struct FromRepository {
    /// Unseen where the damage of one document hides it; what is due by the rest is due all the same.
    facts: Look<RepositoryFacts>,
    runs: BTreeMap<RunName, Run>,
    scrub: Option<ScrubFacts>,
    capacity: Option<Look<CapacityFacts>>,
    daemon: Option<LeaseView>,
    /// A receiver was here once: a slot that is missing was lost.
    was_received: bool,
}

/// A look at the repository that goes on beside everything else: of a large one it takes minutes.
struct Beside {
    since: Instant,
    task: JoinHandle<Result<FromRepository, Trouble>>,
}

impl Drop for Beside {
    /// Whoever looks is gone, or looks with other settings: without this it would read on for nobody.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One that looks again and again.
pub struct Watcher {
    settings: Arc<Settings>,
    doors: Arc<dyn Doors>,
    ages: Ages,
    memory: Arc<Mutex<repository::Memory>>,
    beside: Option<Beside>,
    repository: Option<Aged<FromRepository>>,
    /// How long the last whole look at the repository took.
    took: Duration,
    server: Option<ServerFacts>,
    server_misses: u32,
    keys: Option<Aged<Option<Look<Vec<RecipientFacts>>>>>,
    second_copy: Option<Aged<Option<Look<CopyFacts>>>>,
    packages: Option<Aged<Option<Look<PackagesFacts>>>>,
    wal_disk: Disk,
    drill_disk: Disk,
}

impl Watcher {
    /// Remembers nothing yet; the first look sees everything.
    pub fn new(settings: Settings, doors: Arc<dyn Doors>, ages: Ages) -> Self {
        Self {
            settings: Arc::new(settings),
            doors,
            ages,
            memory: Arc::default(),
            beside: None,
            repository: None,
            took: Duration::ZERO,
            server: None,
            server_misses: 0,
            keys: None,
            second_copy: None,
            packages: None,
            wal_disk: Disk::default(),
            drill_disk: Disk::default(),
        }
    }

    /// Looks at the repository again the next time, whatever its age: something was done to it.
    pub fn forget_repository(&mut self) {
        if let Some(kept) = &mut self.repository {
            kept.is_old = true;
        }
    }

    /// One observation. `receiver` is what the one who supervises it knows. It may be dropped while it looks.
    pub async fn look(&mut self, now: Timestamp, receiver: Option<ReceiverFacts>, is_acting: bool) -> Facts {
        let doors = Arc::clone(&self.doors);
        let reader = bounded("the repository", doors.reader()).await;
        let found = match &reader {
            Ok(reader) => self.look_at_repository(reader, now).await,
            Err(trouble) => Err(trouble.clone()),
        };
        let seen = reader.as_ref().ok();
        let facts = found.as_ref().ok().and_then(|found| found.facts.seen());
        let was_received = self.repository.as_ref().is_none_or(|kept| kept.value.was_received);
        let (settings, ages) = (Arc::clone(&self.settings), self.ages);
        // Who supervises the receiver hears of it at once; everybody else asks the server.
        let asks_who_waits = receiver.is_none() && settings.is_synchronous;
        let (server, keys, second_copy, packages) = tokio::join!(
            bounded("PostgreSQL", server::look(&*doors, &settings, was_received, seen, facts, asks_who_waits)),
            // Without the repository nothing can be asked, and nothing of that is remembered.
            async { remembered(&mut self.keys, ages.keys, look_at_keys(&*doors, seen?)).await },
            async { remembered(&mut self.second_copy, ages.second_copy, look_at_copy(&*doors, seen?, &settings, now)).await },
            remembered(&mut self.packages, ages.packages, look_at_packages(&*doors, is_acting)),
        );
        let server = self.forgive_once(server);
        // What the ledger said is so until it says otherwise.
        let runs = self.repository.as_ref().map(|kept| &kept.value.runs);
        let lease = found.as_ref().ok().and_then(|found| found.daemon.as_ref()).filter(|lease| !lease.released);
        // Renewed at a third of its time to live: one that was not for so long is gone, and nobody took over.
        let patience = |ttl: Duration| (ttl * 3).max(SILENT).as_secs_f64();
        let silent = lease.filter(|lease| !is_acting && now.seconds_since(lease.renewed) > patience(lease.ttl));
        let daemon_silent_since = silent.map(|lease| lease.renewed);
        let acting = lease.filter(|_| silent.is_none()).map(|lease| lease.holder.clone());
        let is_watched = is_acting || lease.is_some();
        // Nothing was ever read: nothing is known of any job.
        let jobs = runs.map_or_else(Vec::new, |runs| jobs::look(&self.settings, runs, facts, is_watched, now));
        let (disks, disks_unseen) = self.disks(facts).await;
        Facts {
            at: now,
            org: self.settings.org.clone(),
            objectives: self.settings.objectives,
            scrub: found.as_ref().ok().and_then(|found| found.scrub.clone()),
            capacity: found.as_ref().ok().and_then(|found| found.capacity.clone()),
            repository: found.map_or_else(Look::Unseen, |found| found.facts),
            server: look_of(server),
            keys,
            second_copy,
            disks,
            disks_unseen,
            jobs,
            receiver,
            packages,
            acting,
            daemon_silent_since,
            configuration: None,
        }
    }

    /// A server that did not answer in time is asked once more before anybody is woken.
    fn forgive_once(&mut self, found: Result<ServerFacts, Trouble>) -> Result<ServerFacts, Trouble> {
        match found {
            Ok(facts) => {
                (self.server, self.server_misses) = (Some(facts.clone()), 0);
                Ok(facts)
            }
            Err(trouble) => {
                self.server_misses += 1;
                let last = self.server.clone().filter(|_| self.server_misses == 1 && trouble.slug == TIMED_OUT);
                last.ok_or(trouble)
            }
        }
    }

    /// What was read last, while it is young enough; else reads it anew, beside. Waits where nothing else can be told.
    async fn look_at_repository(&mut self, reader: &Reader, now: Timestamp) -> Result<FromRepository, Trouble> {
        // A large repository is not listed all the time.
        let age = self.ages.repository.max(self.took * 5);
        if let Some(kept) = self.repository.as_ref().filter(|kept| !self.ages.repository.is_zero() && kept.is_fresh(age)) {
            return Ok(with_marks(reader, kept.value.clone()).await);
        }
        let beside = self.beside.get_or_insert_with(|| {
            let (reader, settings, memory) = (reader.clone(), Arc::clone(&self.settings), Arc::clone(&self.memory));
            Beside { since: Instant::now(), task: tokio::spawn(async move { read_all(&reader, &settings, &mut *memory.lock().await, now).await }) }
        });
        // A small one answers at once; with something to show already nobody waits for a large one.
        let looks_once = self.ages.repository.is_zero();
        let patience = match &self.repository {
            // Whoever looks once has nothing to show before.
            _ if looks_once => ONCE,
            Some(_) => AT_ONCE,
            None => LIMIT,
        };
        match timeout(patience, &mut beside.task).await {
            Ok(done) => {
                let took = beside.since.elapsed();
                self.beside = None;
                let found = done.unwrap_or_else(|e| Err(timed_out(&format!("the repository ({e})"), took)))?;
                (self.took, self.repository) = (took, Some(Aged::new(&found)));
                Ok(found)
            }
            Err(_) => {
                let waited = beside.since.elapsed();
                match &self.repository {
                    _ if looks_once => Err(listed_elsewhere(waited)),
                    Some(kept) if waited < LIMIT.max(self.took * 3) => Ok(with_marks(reader, kept.value.clone()).await),
                    None if waited < FIRST => Err(not_yet()),
                    _ => Err(timed_out("the repository", waited)),
                }
            }
        }
    }

    /// Room on this host, and the names of the disks that did not say.
    async fn disks(&mut self, repository: Option<&RepositoryFacts>) -> (Vec<DiskFacts>, Vec<String>) {
        let wal_dir = self.settings.data_dir.as_ref().map(|dir| dir.join("pg_wal"));
        let drill_dir = self.settings.drill_dir.as_deref();
        let newest = repository.and_then(|repository| repository.backups.last()).map(|backup| backup.bytes);
        let (wal, drill) = tokio::join!(self.wal_disk.look("pg_wal", wal_dir.as_deref(), None), self.drill_disk.look("drill", drill_dir, newest));
        let (mut seen, mut unseen) = (Vec::new(), Vec::new());
        for (name, found) in [("pg_wal", wal), ("drill", drill)] {
            match found {
                Ok(disk) => seen.extend(disk),
                Err(_) => unseen.push(name.to_owned()),
            }
        }
        (seen, unseen)
    }
}

async fn look_at_keys(doors: &dyn Doors, reader: &Reader) -> Option<Look<Vec<RecipientFacts>>> {
    bounded("the data keys", keys::look(reader, doors)).await.map_or_else(|trouble| Some(Look::Unseen(trouble)), |found| found.map(Look::Seen))
}

async fn look_at_copy(doors: &dyn Doors, reader: &Reader, settings: &Settings, now: Timestamp) -> Option<Look<CopyFacts>> {
    let limit = settings.objectives.replication_lag_seconds;
    Some(match bounded("the second copy", async { doors.replica().await.transpose() }).await {
        Ok(None) => return None,
        Ok(Some(replica)) => look_of(bounded("the second copy", copy::compare(reader, &replica, limit, now)).await),
        Err(trouble) => Look::Unseen(trouble),
    })
}

async fn look_at_packages(doors: &dyn Doors, is_acting: bool) -> Option<Look<PackagesFacts>> {
    let found = bounded("the packages", async { doors.packages(is_acting).await.transpose() }).await;
    found.map_or_else(|trouble| Some(Look::Unseen(trouble)), |found| found.map(Look::Seen))
}

/// Everything of the repository, one thing after another.
async fn read_all(reader: &Reader, settings: &Settings, memory: &mut repository::Memory, now: Timestamp) -> Result<FromRepository, Trouble> {
    let of = |e: repo::RepoError| Trouble::of(&e);
    let runs = memory.ledger.look(reader, &settings.jobs, now).await.map_err(of)?;
    let facts = match repository::look(reader, settings, memory, &runs, now).await {
        Err(trouble) if !trouble.is_damage => return Err(trouble),
        found => look_of(found),
    };
    let capacity = capacity::look(reader, settings, &mut memory.disk, now).await?;
    let scrub = repository::scrub(reader).await?;
    let daemon = reader.lease(crate::DAEMON_LEASE).await.map_err(of)?;
    let was_received = reader.lease(repo::RECEIVER_LEASE).await.map_err(of)?.is_some();
    Ok(FromRepository { facts, runs, scrub, capacity, daemon, was_received })
}

/// The coverage mark and the daemon's lease move on all the time and are two small objects: they are read at each look, however old the rest
/// is. Where they cannot be read, as they were.
async fn with_marks(reader: &Reader, mut found: FromRepository) -> FromRepository {
    let mark = async {
        match reader.epoch() {
            Some(epoch) => reader.coverage(epoch.system_id).await,
            None => Ok(None),
        }
    };
    let Ok((lease, mark)) = timeout(AT_ONCE, async { tokio::join!(reader.lease(crate::DAEMON_LEASE), mark) }).await else { return found };
    if let Ok(lease) = lease {
        found.daemon = lease;
    }
    if let (Look::Seen(facts), Ok(Some(mark))) = (&mut found.facts, mark) {
        move_on(facts, &mark);
    }
    found
}

/// Takes a newer coverage mark over: everything before it is stored.
fn move_on(facts: &mut RepositoryFacts, mark: &Coverage) {
    if let Some(window) = &mut facts.window {
        (window.until, window.until_lsn) = (Some(mark.time), Some(mark.lsn));
    }
    for epoch in facts.epochs.iter_mut().filter(|epoch| epoch.is_present) {
        (epoch.covered_until, epoch.covered_until_lsn) = (Some(mark.time), Some(mark.lsn));
    }
    if let Some(stored) = facts.stored.as_mut().filter(|stored| stored.timeline == mark.timeline && stored.hole.is_none()) {
        stored.lsn = stored.lsn.max(mark.lsn);
    }
}

/// A look that takes too long is none.
async fn bounded<T>(what: &str, look: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    timeout(LIMIT, look).await.unwrap_or_else(|_| Err(timed_out(what, LIMIT)))
}

fn timed_out(what: &str, after: Duration) -> Trouble {
    Trouble {
        slug: TIMED_OUT.into(),
        summary: format!("{what} did not answer within {} s", after.as_secs()),
        detail: String::new(),
        hint: "It may hang: try bowline check by hand.".into(),
        is_damage: false,
    }
}

fn not_yet() -> Trouble {
    Trouble {
        slug: Trouble::NOT_YET.into(),
        summary: "the repository is being listed for the first time".into(),
        detail: String::new(),
        hint: "Wait; a large one takes minutes.".into(),
        is_damage: false,
    }
}

fn listed_elsewhere(after: Duration) -> Trouble {
    let hint = "A large one takes minutes to be listed: the daemon's page shows what it saw last. A small one hangs: try bowline check by hand.";
    Trouble { hint: hint.into(), ..timed_out("the repository", after) }
}

fn look_of<T>(found: Result<T, Trouble>) -> Look<T> {
    found.map_or_else(Look::Unseen, Look::Seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::{Encryption, Writer};
    use serde_json::json;
    use store::{Created, ObjectPath, Put};
    use terms::{Lsn, SystemId};

    fn settings() -> Settings {
        let mut sample: serde_json::Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).unwrap();
        Settings {
            org: "acme".into(),
            objectives: serde_json::from_value(sample["facts"]["objectives"].take()).unwrap(),
            jobs: Vec::new(),
            lost_after: Duration::ZERO,
            receives: true,
            slot: "bowline".into(),
            status_interval: Duration::from_secs(5),
            is_synchronous: false,
            receiver: "bowline",
            data_dir: None,
            drill_dir: None,
            policy: repo::retention::RetentionPolicy::default(),
            quota_bytes: Some(1 << 40),
            folder: None,
        }
    }

    /// A repository, and a server that nobody reaches.
    struct Doorway(Reader);

    #[async_trait::async_trait]
    impl Doors for Doorway {
        async fn reader(&self) -> Result<Reader, Trouble> {
            Ok(self.0.clone())
        }
        async fn replica(&self) -> Option<Result<Reader, Trouble>> {
            None
        }
        fn recipients(&self) -> Result<Vec<Arc<dyn seal::Recipient>>, Trouble> {
            Ok(Vec::new())
        }
        fn server(&self) -> Result<pg::ConnInfo, Trouble> {
            Err(timed_out("PostgreSQL", LIMIT))
        }
        async fn packages(&self, _is_acting: bool) -> Option<Result<PackagesFacts, Trouble>> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looks_once_waits_a_minute_for_a_listing_that_hangs_and_is_told_the_rest_and_it_ends_with_them() {
        let now = Timestamp::from_unix_micros(1_795_000_000_000_000);
        let writer = Writer::create(Arc::new(store::Memory::new()), Vec::new(), "acme", Encryption::Off, json!({}), now).await.unwrap();
        let mut watcher = Watcher::new(settings(), Arc::new(Doorway(writer.reader().clone())), Ages::ALWAYS);
        let memory = Arc::clone(&watcher.memory);
        // The one who lists needs it.
        let _hangs = memory.lock().await;
        let began = Instant::now();
        let facts = watcher.look(now, None, false).await;
        assert_eq!(began.elapsed().as_secs(), ONCE.as_secs(), "by a clock that jumps over waits");
        assert_eq!(facts.repository.trouble().map(|trouble| trouble.slug.as_str()), Some(TIMED_OUT), "one that was not seen is red");
        assert!(facts.server.trouble().is_some(), "and the server was asked");
        drop(watcher);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&memory), 1, "nobody lists on for one who is gone");
    }

    #[tokio::test]
    async fn a_damaged_document_is_named_and_hides_neither_the_rest_nor_the_ledger() {
        let (bucket, now) = (Arc::new(store::Memory::new()), Timestamp::from_unix_micros(1_795_000_000_000_000));
        let mut writer = Writer::create(bucket.clone(), Vec::new(), "acme", Encryption::Off, json!({}), now).await.unwrap();
        writer.admit(SystemId::new(7), 18, now).await.unwrap();
        let damage = async |path: &str| {
            let put = bucket.put_new(&ObjectPath::new(path).unwrap(), "a flipped bit".into()).await;
            assert_eq!(put.unwrap(), Created::New, "{path}");
        };
        let read = async || read_all(writer.reader(), &settings(), &mut repository::Memory::default(), now).await.expect("it is there");
        let backup = "full/20261126T020000Z/backup.json";
        for path in [backup, "retention.json", "expired/20261125T020000Z.json", "capacity.json"] {
            damage(path).await;
        }
        let found = read().await;
        let named: Vec<&str> = found.facts.seen().expect("all else").damaged.iter().map(|trouble| trouble.summary.as_str()).collect();
        assert_eq!(named, [format!("{backup} is damaged").as_str(), "retention.json is damaged", "expired/20261125T020000Z.json is damaged"]);
        assert!(matches!(&found.capacity, Some(Look::Unseen(trouble)) if trouble.is_damage), "{:?}", found.capacity);
        damage("coverage.json").await;
        let found = read().await;
        let unseen = found.facts.trouble().expect("where the log ends cannot be told");
        assert!(unseen.is_damage && found.runs.is_empty(), "{unseen:?}");
    }

    #[test]
    fn a_newer_mark_moves_what_is_stored_and_covered_but_not_past_a_hole_or_onto_another_timeline() {
        let mut sample: serde_json::Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).unwrap();
        let facts: RepositoryFacts = serde_json::from_value(sample["facts"]["repository"]["seen"].take()).unwrap();
        let stored = facts.stored.clone().unwrap();
        let (lsn, time) = (Lsn::from_bytes(stored.lsn.bytes() + 0x100), facts.created.plus_micros(1));
        let after = |timeline, hole: Option<&str>| {
            let mut facts = facts.clone();
            facts.stored.as_mut().unwrap().hole = hole.map(str::to_owned);
            let mark = Coverage::new(facts.system_id.unwrap(), timeline, lsn, time);
            move_on(&mut facts, &mark);
            assert_eq!(facts.window.as_ref().and_then(|window| window.until.zip(window.until_lsn)), Some((time, lsn)));
            assert_eq!(facts.epochs.last().map(|epoch| epoch.covered_until_lsn), Some(Some(lsn)));
            facts.stored.unwrap().lsn
        };
        assert_eq!(after(stored.timeline, None), lsn);
        assert_eq!(after(stored.timeline, Some("a segment")), stored.lsn);
        assert_eq!(after(terms::Timeline::new(99).unwrap(), None), stored.lsn);
    }
}
