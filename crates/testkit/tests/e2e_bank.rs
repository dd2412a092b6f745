//! pgbench's bank at random instants: its sums agree, and exactly the transactions are in that the log holds before the instant.
//!
//! Several clients commit at once, so commit times are not in the log's order; the judge is `pg_waldump`, which reads the server's own log.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::Chance;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use terms::{Lsn, Timestamp};
use testkit::{Bowline, Cluster, RepositoryKind, Restored, full, majors, outer_majors, seed};

/// The end of a transaction as the server's log has it.
#[derive(Debug, Clone, Copy)]
struct Ending {
    xid: u32,
    /// Where its record begins.
    begins: Lsn,
    at: Timestamp,
    is_commit: bool,
}

/// Every commit and abort from this position on, in the log's order.
fn endings(cluster: &Cluster, from: Lsn) -> Vec<Ending> {
    let mut command = cluster.bin("pg_waldump");
    let output = command.args(["-r", "Transaction", "-p"]).arg(cluster.data_dir().join("pg_wal")).args(["-s", &from.to_string()]).output();
    // It ends with an error where the log ends.
    let said = String::from_utf8(output.expect("run pg_waldump").stdout).expect("UTF-8");
    said.lines().filter_map(parse_ending).collect()
}

/// `rmgr: Transaction len (rec/tot): 34/ 34, tx: 745, lsn: 0/0154C8A8, prev 0/0154C868, desc: COMMIT 2026-11-26 12:52:31.123456 UTC…`
fn parse_ending(line: &str) -> Option<Ending> {
    let after = |word: &str| line.split_once(word).map(|(_, rest)| rest);
    let to_comma = |word: &str| after(word).and_then(|rest| rest.split(',').next()).map(str::trim);
    let what = after("desc: ")?;
    let is_commit = what.starts_with("COMMIT ");
    if !is_commit && !what.starts_with("ABORT ") {
        return None;
    }
    let at = what.split_once(' ')?.1.split_once(" UTC")?.0;
    Some(Ending { xid: to_comma("tx:")?.parse().ok()?, begins: to_comma("lsn:")?.parse().ok()?, at: format!("{at} UTC").parse().ok()?, is_commit })
}

/// The transactions that are in: the bank's, as the ids that made its rows of history, and those of the noise beside it.
fn in_the_bank(psql: impl Fn(&str) -> String) -> BTreeSet<u32> {
    psql("SELECT xmin FROM pgbench_history UNION ALL SELECT xmin FROM noise").lines().map(|xid| xid.parse().expect("a transaction's id")).collect()
}

/// What every transaction of pgbench's script keeps true: money moves, and nothing else makes or loses any.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";

fn sums_agree(restored: &Restored<'_>, what: &str) {
    let sums = restored.psql(SUMS);
    let distinct: BTreeSet<&str> = sums.split('|').collect();
    assert_eq!((sums.split('|').count(), distinct.len()), (4, 1), "{what}: accounts, tellers, branches and history say {sums}");
}

fn run(mut command: Command) {
    let output = command.output().expect("run pgbench");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Where a restore is to end, and which transactions it must then hold: all that end in the log before the first that does not belong.
fn instant(endings: &[Ending], window: (usize, usize), turn: usize, chance: &mut Chance) -> (String, usize) {
    let chosen = window.0 + chance.next((window.1 - window.0) as u64) as usize;
    let before_time = |at: Timestamp| endings.iter().position(|ending| ending.at > at).unwrap_or(endings.len());
    match turn % 5 {
        // Exactly when one committed, which is in unless the log has a later one before it, as is sought; and the microsecond before.
        0 => {
            let inverted: Vec<usize> = (window.0..window.1).filter(|at| endings[*at].at > endings[at + 1].at).collect();
            let chosen = if inverted.is_empty() { chosen } else { inverted[chance.next(inverted.len() as u64) as usize] + 1 };
            (endings[chosen].at.to_string(), before_time(endings[chosen].at))
        }
        1 => (endings[chosen].at.plus_micros(-1).to_string(), before_time(endings[chosen].at.plus_micros(-1))),
        // Some time in the window.
        2 => {
            let (first, last) = (endings[window.0].at.unix_micros(), endings[window.1].at.unix_micros());
            let at = Timestamp::from_unix_micros(first + chance.next((last - first).max(1) as u64) as i64);
            (at.to_string(), before_time(at))
        }
        // Where a commit's record begins, and inside it: it ends later, so it is out.
        3 => (endings[chosen].begins.to_string(), chosen),
        _ => (endings[chosen].begins.plus(1 + chance.next(20)).to_string(), chosen),
    }
}

#[test]
fn the_banks_sums_agree_at_every_instant_and_exactly_its_transactions_are_in() {
    let (of_majors, instants) = if full() { (majors(), 50) } else { (outer_majors(), 10) };
    // Side by side: each spends most of its time waiting for its own server.
    std::thread::scope(|scope| {
        for major in of_majors {
            scope.spawn(move || bank_of(major, instants));
        }
    });
}

fn bank_of(major: u32, instants: usize) {
    let mut chance = Chance(seed(&format!("bank-{major}")));
    let settings = [("track_commit_timestamp", "on"), ("autovacuum", "off"), ("wal_keep_size", "4GB")];
    let cluster = settings.iter().fold(Cluster::builder(major).wal_segment_mib(1), |builder, (name, value)| builder.setting(name, value)).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    let mut init = cluster.bin("pgbench");
    init.args(["-i", "-q", "-s", "1", "-I", "dtGp"]);
    run(init);
    cluster.psql("CREATE TABLE noise (a int)");
    let script = cluster.home().join("noise.sql");
    std::fs::write(&script, "INSERT INTO noise VALUES (1);\n").expect("write a script");
    let first = bowline.ok(&["backup"]);
    // So many a second that a debug build of the program keeps up, at moments drawn by chance. The bank's transactions wait for each other
    // at its one branch; the noise waits for nobody, and so gets commit times out of order.
    let noise = ["-f", script.to_str().expect("a plain path"), "--rate", "1500"];
    let loads = [&["--rate", "400"][..], &noise].map(|own| {
        let mut load = cluster.bin("pgbench");
        load.args(["-n", "-c", "6", "-T", if full() { "12" } else { "4" }, "--random-seed"]).arg(chance.next(u64::from(u32::MAX)).to_string());
        load.args(own).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run pgbench")
    });
    std::thread::sleep(std::time::Duration::from_secs(if full() { 6 } else { 2 }));
    let second = bowline.ok(&["backup"]);
    for mut load in loads {
        assert!(load.wait().expect("wait for pgbench").success(), "pgbench failed");
    }
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));

    let start: Lsn = first["start"]["lsn"].as_str().and_then(|lsn| lsn.parse().ok()).expect("an LSN");
    let consistent: Timestamp = first["stop"]["time"].as_str().and_then(|time| time.parse().ok()).expect("a time");
    let endings = endings(&cluster, start);
    let all = in_the_bank(|sql| cluster.psql(sql));
    let ends: BTreeSet<u32> = endings.iter().filter(|ending| ending.is_commit).map(|ending| ending.xid).collect();
    assert!(all.len() > 500 && all.is_subset(&ends), "PostgreSQL {major}: {} transactions, {} in the log", all.len(), ends.len());
    let reached = endings.iter().rposition(|ending| ending.at <= consistent).map_or(0, |at| at + 1);
    let window = (reached + 1, endings.len() - 2);
    let inversions = endings.windows(2).filter(|two| two[0].at > two[1].at).count();
    let (mut from_second, mut held) = (0, Vec::new());
    for turn in 0..instants {
        let (to, count) = instant(&endings, window, turn, &mut chance);
        let what = format!("PostgreSQL {major}, instant {turn}, to {to}");
        let restored = bowline.restore(&["--to", &to]);
        sums_agree(&restored, &what);
        let expected: BTreeSet<u32> = endings[..count].iter().filter(|e| e.is_commit && all.contains(&e.xid)).map(|e| e.xid).collect();
        let found = in_the_bank(|sql| restored.psql(sql));
        let (missing, surplus): (Vec<_>, Vec<_>) = (expected.difference(&found).collect(), found.difference(&expected).collect());
        assert!(missing.is_empty() && surplus.is_empty(), "{what}: {} transactions; missing {missing:?}, surplus {surplus:?}", found.len());
        if to.contains("UTC") {
            let later = restored.psql(&format!("SELECT count(*) FROM pgbench_history WHERE pg_xact_commit_timestamp(xmin) > '{to}'"));
            assert_eq!(later, "0", "{what}: later commits are in");
        }
        from_second += usize::from(restored.result["plan"]["backup"] == second["id"]);
        held.push(found.len());
        let data = restored.data.clone();
        drop(restored);
        std::fs::remove_dir_all(&data).expect("remove the restored cluster");
    }
    eprintln!(
        "PostgreSQL {major}: {} transactions, {inversions} commit times out of the log's order; {instants} instants held {held:?}, {from_second} from the second backup",
        all.len()
    );
    assert!(held.iter().max() > held.iter().min(), "all instants are one");
}
