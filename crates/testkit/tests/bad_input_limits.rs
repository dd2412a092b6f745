//! Many files, damaged pages and a rate: memory stays bounded, damage is named, and the rate is kept.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::{FILL, Ground, SUM};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use testkit::Cluster;
use testkit::bowline::files_below;

/// What a build for development may take at its peak; a release build is held to 64 MiB by `cargo xtask bench`.
const PEAK_KIB_MAX: u64 = 96 << 10;

#[test]
fn a_cluster_of_many_files_takes_little_memory_to_back_up_and_restore() {
    let cluster = Cluster::builder(testkit::newest_major()).setting("max_locks_per_transaction", 2000).start();
    let tables = if testkit::full() { 20_000 } else { 2_000 };
    for from in (0..tables).step_by(1000) {
        cluster.psql(&format!(
            "DO $$ BEGIN FOR i IN {from}..{} LOOP EXECUTE format('CREATE TABLE t%s AS SELECT %s AS n', i, i); END LOOP; END $$",
            from + 999
        ));
    }
    // And enough bytes that whatever grows with them would show.
    cluster.psql("CREATE TABLE bulk AS SELECT g, md5(g::text) || md5((-g)::text) AS text FROM generate_series(1, 1000000) g; CHECKPOINT;");
    let ground = Ground::folder(cluster);
    for words in [&["--json", "backup"][..], &["--json", "backup", "--stream"]] {
        let said = ground.bowline(words);
        eprintln!("{words:?} of {tables} tables: {} KiB at most, {:?}", said.peak_kib, said.took);
        assert!(said.peak_kib > 0 && said.peak_kib <= PEAK_KIB_MAX, "{} KiB", said.peak_kib);
        said.ok();
    }
    let target = ground.cluster.home().join("r");
    let said = ground.bowline(&["--json", "restore", "--target", &target.display().to_string(), "--yes", "--no-start"]);
    eprintln!("restore of {tables} tables: {} KiB at most, {:?}", said.peak_kib, said.took);
    assert!(said.peak_kib > 0 && said.peak_kib <= PEAK_KIB_MAX, "{} KiB", said.peak_kib);
    said.ok();
    let count = "SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$'; SELECT * FROM t1234; SELECT count(*), sum(hashtext(text)) FROM bulk";
    assert_eq!(Cluster::open(ground.cluster.major(), &target).psql(count), ground.cluster.psql(count));
}

#[test]
fn a_damaged_page_fails_the_backup_by_file_and_block_or_is_counted() {
    let cluster = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start();
    cluster.psql(FILL);
    let file = cluster.psql("SELECT pg_relation_filepath('probe')");
    let ground = Ground::folder(cluster);
    ground.bowline(&["--json", "backup"]).ok();
    // Behind the server's back, while the page is in nobody's cache.
    ground.cluster.pg_ctl_stop(true);
    const BLOCK: u64 = 3;
    let heap = File::options().read(true).write(true).open(ground.cluster.data_dir().join(&file)).expect("the heap");
    let mut byte = [0];
    let at = BLOCK * 8192 + 5000;
    heap.read_exact_at(&mut byte, at).expect("read");
    heap.write_all_at(&[byte[0] ^ 0x10], at).expect("write");
    ground.cluster.start_server();
    // What has a manifest and no listing may be a backup that lost it: nobody would dare to remove that soon.
    let manifests = || files_below(&ground.repository).iter().filter(|path| path.ends_with("manifest")).count();
    let said = ground.bowline(&["--json", "backup"]);
    said.refused(6, "page-damaged", &[&file, "block 3", "earlier backups are untouched", "--checksums warn"]);
    assert_eq!((ground.listed().len(), manifests()), (1, 1), "only the sound backup has a manifest");
    ground.out_of_backup_mode();
    // The server verifies when it is the one to read.
    let said = ground.bowline(&["--json", "backup", "--stream"]);
    said.refused(6, "page-damaged", &[&file, "block 3", "earlier backups are untouched", "--checksums warn"]);
    assert_eq!((ground.listed().len(), manifests()), (1, 1), "only the sound backup has a manifest");
    let said = ground.bowline(&["--json", "backup", "--checksums", "warn"]);
    assert!(said.out.contains("\"event\":\"page-damaged\"") && said.out.contains(&file), "{said:#?}");
    said.ok();
    let listed = ground.bowline(&["--json", "list"]).ok();
    let damaged: Vec<_> = listed["backups"].as_array().expect("backups").iter().map(|b| b["pages_damaged"].clone()).collect();
    assert_eq!(damaged, [0, 1]);
    let said = ground.bowline(&["--json", "backup", "--stream", "--checksums", "warn"]);
    assert!(said.out.contains("the server warns") && said.out.contains(&file), "{said:#?}");
    said.ok();
    ground.bowline(&["--json", "backup", "--checksums", "off"]).ok();
    let listed = ground.bowline(&["--json", "list"]).ok();
    let damaged: Vec<_> = listed["backups"].as_array().expect("backups").iter().map(|b| b["pages_damaged"].clone()).collect();
    assert_eq!(damaged, [0, 1, 1, 0]);
    // The earlier one is whole.
    ground.cluster.psql("SET zero_damaged_pages = on; SELECT count(*) FROM probe");
    let id = ground.listed()[0].clone();
    assert!(ground.restored_says(&id, "r", &format!("SET zero_damaged_pages = off; {SUM}")).starts_with("20000|"));
}

#[test]
fn a_rate_is_kept_by_both_sources() {
    let cluster = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start();
    cluster.psql(FILL);
    // A slow backup has sessions that do nothing for long, and one that says little; limits for applications are not for them.
    for limit in ["statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"] {
        cluster.psql(&format!("ALTER SYSTEM SET {limit} = '1s'"));
    }
    cluster.psql("SELECT pg_reload_conf()");
    let ground = Ground::folder(cluster);
    for source in [&["--json", "backup", "--max-rate", "8MiB"][..], &["--json", "backup", "--max-rate", "8MiB", "--stream"]] {
        let said = ground.bowline(source);
        let took = said.took;
        said.ok();
        let listed = ground.bowline(&["--json", "list"]).ok();
        let bytes = listed["backups"].as_array().expect("backups").last().expect("one")["bytes"].as_u64().expect("bytes");
        // A quarter of a second may be saved up for a burst, and the last bytes are not waited for.
        let least = Duration::from_secs_f64((bytes as f64 / f64::from(8 << 20) - 0.5).max(1.0));
        eprintln!("{source:?}: {bytes} bytes in {took:?}, at least {least:?}");
        assert!(took >= least, "{bytes} bytes in {took:?} is faster than 8 MiB/s");
    }
}
