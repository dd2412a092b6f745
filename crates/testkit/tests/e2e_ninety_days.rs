//! The daemon through a season of nights, on a clock that the test moves: what ran, what stayed, what was told, what is forecast.
//!
//! The repository is in Microsoft's own emulator of its blobs, because its server can live under the moved clock; the server, the daemon and its
//! commands are real. Ninety nights take about a quarter of an hour.

use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use testkit::bowline::{FINGERPRINT, wait};
use testkit::loopback::http;
use testkit::stores::{Make, ObjectServer};
use testkit::{Bowline, Cluster, MovedClock, newest_major};

/// The first night is the one to Wednesday, 28 January 2026; the fifth is a Sunday, and the first of a month.
const FIRST: jiff::civil::Date = jiff::civil::date(2026, 1, 27);

/// How long a job of a night may let wait for itself: this says nothing of how quick it is, and the mock is slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

struct Season<'a> {
    clock: &'a MovedClock,
    cluster: &'a Cluster,
    bowline: &'a Bowline<'a>,
    /// The store's.
    port: u16,
}

impl Season<'_> {
    fn date(&self, day: usize) -> jiff::civil::Date {
        FIRST.saturating_add(jiff::Span::new().days(day as i64))
    }

    fn set(&self, day: usize, time: &str) {
        self.clock.set(&format!("{} {time} UTC", self.date(day)));
        // A server that had nothing to do may tell its last hour once more, and nothing expires by a clock that contradicts one's own.
        wait("the store to go by the clock", Duration::from_secs(20), || {
            let now = jiff::Timestamp::from_microsecond(self.clock.now().unix_micros()).expect("a time of this century");
            let told = http(self.port, "GET /", b"").unwrap_or_default();
            told.contains(&now.strftime("%a, %d %b %Y %H:").to_string())
        });
    }

    fn runs(&self, job: &str, last: usize) -> Vec<Value> {
        self.bowline.ok(&["runs", "--job", job, "--last", &last.to_string()])["runs"].as_array().expect("a list").clone()
    }

    /// Whether a run of this job began on this day and ended so.
    fn ran(&self, job: &str, day: usize, outcome: &str) -> bool {
        let date = self.date(day).to_string();
        // The newest few: each one that is read is asked of the store.
        self.runs(job, 4).iter().any(|run| run["began"].as_str().is_some_and(|began| began.starts_with(&date)) && run["outcome"] == outcome)
    }

    fn night(&self, day: usize) {
        self.cluster
            .psql(&format!("INSERT INTO t SELECT {day}, repeat(md5(random()::text), 20) FROM generate_series(1, 500); SELECT pg_switch_wal()"));
        // Three seconds before: by then the server goes by the clock, too. One that does not dates the backup a day earlier.
        self.set(day, "01:59:57");
        wait(&format!("the backup of day {day}"), PATIENCE, || self.ran("backup", day, "ok"));
        wait(&format!("the expiry of day {day}"), PATIENCE, || self.ran("expire", day, "ok"));
        if self.date(day).weekday() == jiff::civil::Weekday::Sunday {
            self.set(day, "03:59:57");
            wait(&format!("the drill of day {day}"), PATIENCE, || self.ran("drill", day, "ok"));
        }
    }

    fn backups(&self) -> Vec<Value> {
        self.bowline.ok(&["list"])["backups"].as_array().expect("a list").clone()
    }

    fn has_alarm(&self, rule: &str, subject: &str) -> bool {
        let doctor = self.bowline.run(&["doctor"]);
        let result = doctor.lines.iter().rev().find_map(|line| line.get("result")).expect("a result");
        result["alarms"].as_array().expect("a list").iter().any(|alarm| alarm["rule"] == rule && alarm["subject"] == subject)
    }
}

#[test]
fn ninety_days_of_nights_drills_and_expiry_keep_what_they_must() {
    let (days, daily, minimum) = if testkit::full() { (90, 30, 7) } else { (6, 2, 2) };
    let cluster_home = tempfile::tempdir().expect("a folder");
    testkit::let_everybody_in(cluster_home.path());
    let clock = MovedClock::at(&cluster_home.path().join("clock"), &format!("{FIRST} 12:00:00 UTC"));
    let cluster = Cluster::builder(newest_major()).environment(clock.environment()).start();
    let server = ObjectServer::start_with(Make::Azurite, &clock.environment());
    server.create_bucket_now("backups");
    let (id, secret) = server.credentials();
    let lines = format!(
        "endpoint = \"{}\"\nregion = \"us-east-1\"\naccess_key_id = \"env:E2E_ID\"\nsecret_access_key = \"env:E2E_SECRET\"\ncapacity = \"4GiB\"\n",
        server.endpoint()
    );
    let mut environment = clock.environment();
    environment.extend([("E2E_ID", id), ("E2E_SECRET", secret)].map(|(name, value)| (name.to_owned(), value.to_owned())));
    let pairs: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let bowline = Bowline::at(&cluster, &server.url("backups", "p"), &lines, &pairs);
    let more = format!(
        "[daemon]\nwatch_interval = \"1s\"\ncheck = \"0 0 1 1 *\"\naudit = \"30 3 * * *\"\n[scrub]\nschedule = \"0 0 1 1 *\"\n[wal]\nflush_interval = \"500ms\"\n\
         [retention]\ndaily = {daily}\nmonthly = 12\nminimum = {minimum}\n[drill]\nchecks = [{{ sql = \"SELECT count(*) FROM t\", expect = \">= 1\" }}]\n"
    );
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &more);
    bowline.ok(&["init"]);
    cluster.psql("CREATE TABLE t (a int, b text)");
    let season = Season { clock: &clock, cluster: &cluster, bowline: &bowline, port: server.port() };
    let mut daemon = bowline.start_daemon();
    wait("the first backup, at once", PATIENCE, || season.ran("backup", 0, "ok"));

    let mut day = 1;
    let mut missed = BTreeSet::new();
    while day <= days {
        match day {
            // The host is down for two nights and a morning; what was missed is caught up once.
            2 => {
                assert_eq!(daemon.stop(), Some(0));
                missed.extend([2, 3]);
                season.set(4, "12:00:00");
                daemon = bowline.start_daemon();
                wait("the catching up", PATIENCE, || season.ran("backup", 4, "ok"));
                wait("expiry after it", PATIENCE, || season.ran("expire", 4, "ok"));
                day = 4;
            }
            // A night on which something cannot be read.
            6 => {
                let file = cluster.data_dir().join("base/1/PG_VERSION");
                let set_mode = |mode| {
                    use std::os::unix::fs::PermissionsExt;
                    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("chmod");
                };
                set_mode(0o000);
                season.set(day, "01:59:57");
                wait("the failure", PATIENCE, || season.ran("backup", day, "failed"));
                assert!(season.has_alarm("job-failed", "backup"));
                set_mode(0o600);
                season.set(day, "02:11:30");
                wait("another try by itself", PATIENCE, || season.ran("backup", day, "ok"));
                assert!(!season.has_alarm("job-failed", "backup"), "it is resolved");
                wait("expiry after it", PATIENCE, || season.ran("expire", day, "ok"));
            }
            _ => season.night(day),
        }
        day += 1;
    }
    // One backup a day, but for the nights the host was down.
    let ok = season.runs("backup", 300).iter().filter(|run| run["outcome"] == "ok").count();
    assert_eq!(ok, days + 1 - missed.len());
    // What is listed is what the policy says, worked out anew from the dates alone.
    let dates: Vec<jiff::civil::Date> = (0..=days).filter(|day| !missed.contains(day)).map(|day| season.date(day)).collect();
    let mut wanted: BTreeSet<jiff::civil::Date> = dates.iter().rev().take(daily.max(minimum)).copied().collect();
    let mut months = BTreeSet::new();
    wanted.extend(dates.iter().filter(|date| months.insert((date.year(), date.month()))));
    // The newest one that a drill proved stays, too.
    let backups = season.backups();
    let listed: Vec<String> = backups.iter().map(|backup| backup["id"].as_str().expect("an id")[..8].to_owned()).collect();
    let text = |date: &jiff::civil::Date| date.strftime("%Y%m%d").to_string();
    let wanted: BTreeSet<String> = wanted.iter().map(text).collect();
    let listed_set: BTreeSet<String> = listed.iter().cloned().collect();
    let besides: Vec<&String> = listed_set.difference(&wanted).collect();
    assert!(wanted.is_subset(&listed_set) && besides.len() <= 1, "wanted {wanted:?}, listed {listed:?}");

    // The first month's backup lies before the window of days, has its own end, and restores.
    let status = bowline.run(&["status"]);
    let facts = status.lines.iter().find_map(|line| line.get("result")).expect("a result")["facts"].clone();
    let first = facts["repository"]["seen"]["backups"][0].clone();
    assert_eq!((first["is_monthly"].as_bool(), first["reaches_on"].as_bool()), (Some(true), Some(false)), "{first:#}");
    let restored = bowline.restore(&["--backup", first["id"].as_str().expect("an id"), "--to", "immediate"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "0");
    restored.stop();
    // And the newest night to the row.
    let wanted = cluster.psql(FINGERPRINT);
    season.set(days, "06:00:00");
    wait("WAL to be stored", Duration::from_secs(30), || {
        let status = bowline.run(&["status"]);
        status.lines.iter().find_map(|line| line.get("result")).is_some_and(|result| result["wal_lag_bytes"] == 0)
    });
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql(FINGERPRINT), wanted);
    restored.stop();

    // The forecast is the measured growth's.
    let capacity = &facts["capacity"]["seen"];
    let history = capacity["history"].as_array().expect("a history");
    assert!(history.len() >= days - missed.len() - 1, "{capacity:#}");
    let (used, limit) = (capacity["used_bytes"].as_f64().expect("bytes"), capacity["limit_bytes"].as_f64().expect("bytes"));
    if let (Some(growth), Some(days)) = (capacity["growth_bytes_per_day"].as_f64(), capacity["days_to_full"].as_f64()) {
        assert!(growth > 0.0 && ((limit - used) / growth - days).abs() < 1.0, "{capacity:#}");
    }
    assert!(season.runs("drill", 300).iter().all(|run| run["outcome"] == "ok"));
    assert_eq!(daemon.stop(), Some(0));
}
