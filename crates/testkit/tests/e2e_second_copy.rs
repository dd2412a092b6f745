//! Whether a second copy of the repository is there and how far it is behind, as `check` and `status` tell it.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use testkit::bowline::files_below;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

/// As a replication of the bucket would, all at once.
fn replicate(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(copy.parent().expect("a folder")).expect("make a folder");
        fs::copy(file, &copy).expect("copy");
        // Whoever looks is not who copied.
        fs::set_permissions(copy, fs::Permissions::from_mode(0o644)).expect("let everybody read");
    }
}

fn finding(found: &Value) -> (String, String) {
    let list = found["findings"].as_array().expect("findings");
    let own = list.iter().find(|finding| finding["what"] == "second copy").expect("a finding about the second copy");
    let text = |key: &str| own[key].as_str().expect("text").to_owned();
    (text("verdict"), text("found"))
}

#[test]
fn a_second_copy_is_missed_watched_and_told_apart_from_another_repository() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let quick = "[wal]\nstatus_interval = \"300ms\"\ncoverage_interval = \"1s\"\n";
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), quick);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    bowline.archive_now();
    receiver.wait_for(1, "wal-covered");
    let look = || {
        let checked = bowline.run(&["check"]);
        let status = bowline.run(&["status"]);
        let result = |outcome: &testkit::bowline::Outcome| outcome.lines.iter().find_map(|line| line.get("result").cloned()).expect("a result");
        (finding(&result(&checked)), result(&status))
    };
    let (none, _) = look();
    assert_eq!(none.0, "warn", "{none:?}");

    let copy = cluster.home().join("copy");
    let configured = fs::read_to_string(bowline.config()).expect("the configuration");
    let with = |url: &str| {
        let text = configured.replace("[repository]\n", &format!("[repository]\nreplica = \"{url}\"\n"));
        assert_ne!(text, configured);
        fs::write(bowline.config(), text).expect("write the configuration");
    };
    with(&format!("file://{}", copy.display()));
    let (gone, status) = look();
    assert_eq!((gone.0.as_str(), &status["protected"]), ("fail", &Value::Bool(false)), "{gone:?} {status:#}");

    replicate(&bowline.repository(), &copy.join("acme"));
    let (there, status) = look();
    assert!(there.0 == "ok" && there.1.contains("1 of 1 backups") && there.1.contains("behind"), "{there:?}");
    assert!(status["second_copy"]["lag_seconds"].is_number() && status["protected"] == true, "{status:#}");

    // What is on its way is no fault yet, and is told.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    bowline.ok(&["backup"]);
    let (behind, status) = look();
    assert!(behind.0 == "ok" && behind.1.contains("1 of 2 backups"), "{behind:?}");
    assert_eq!(status["second_copy"]["missing"], 1, "{status:#}");

    let other = Bowline::new(&cluster, RepositoryKind::Folder);
    fs::remove_dir_all(&copy).expect("lose the copy");
    replicate(&other.repository(), &copy.join("acme"));
    let (foreign, _) = look();
    assert_eq!(foreign.0, "fail", "{foreign:?}");
    assert_eq!(receiver.stop(), Some(0));
}
