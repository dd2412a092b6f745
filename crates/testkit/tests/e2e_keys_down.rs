//! The keeper of the keys is down: what runs goes on, what is new says what it waits for, and a restore says what opens it.

#[path = "keys/ground.rs"]
mod ground;

use ground::{KEPT, cluster, environment, private_file, recovery, stored};
use std::time::{Duration, Instant};
use testkit::bowline::wait;
use testkit::moto::REGION;
use testkit::toxiproxy::Direction;
use testkit::{BareMachine, Bowline, Moto, OpenBao, Proxy, RepositoryKind, Toxic, Toxiproxy};

/// All that must hold of a keeper that is behind this proxy and goes down.
fn goes_on_and_tells(recipient: &str, keeper: &Proxy, slot: &str) {
    let cluster = cluster();
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[recipient], &environment());
    let receiver = bowline.receive();
    // A backup that runs while the keeper goes: it has its data key already.
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| bowline.ok(&["backup", "--max-rate", "20MB"]));
        wait("the backup to have its key", Duration::from_secs(60), || bowline.repository().join("full").is_dir());
        keeper.down();
        assert!(!backup.is_finished(), "it ended before the keeper went down: nothing was shown");
        backup.join().expect("the backup goes on");
    });
    cluster.psql("INSERT INTO kept SELECT i, 'while the keeper is down' FROM generate_series(1, 500) i");
    bowline.archive_now();

    let place = keeper.endpoint();
    for words in [&["backup"][..], &["wal", "receive"], &["restore", "--plan", "--target", "/nowhere/at/all"], &["keys", "rewrap", "--yes"]] {
        let begun = Instant::now();
        let text = bowline.fails(words, 5, "key-unreachable");
        assert!(begun.elapsed() < Duration::from_secs(45), "{words:?} took {:?}", begun.elapsed());
        for word in [slot, &place] {
            assert!(text.contains(word), "{words:?}: {word} is not in {text}");
        }
    }
    // Silent rather than gone.
    keeper.up();
    keeper.add(Toxic::Timeout(Duration::ZERO), Direction::Downstream);
    let begun = Instant::now();
    bowline.fails(&["backup"], 5, "key-unreachable");
    assert!(begun.elapsed() < Duration::from_secs(45), "it took {:?}", begun.elapsed());
    keeper.heal();
    bowline.ok(&["backup"]);
    assert_eq!(receiver.stop(), Some(0));
    let restored = bowline.restore(&[]);
    assert_eq!(restored.psql(KEPT), cluster.psql(KEPT));
}

#[test]
fn with_vault_down_what_runs_goes_on_and_what_is_new_tells() {
    let bao = OpenBao::start();
    bao.make_key("kb", "aes256-gcm96");
    let keeper = Toxiproxy::shared().proxy(&bao.upstream());
    goes_on_and_tells(&format!("vault-transit:kb?address={}", keeper.endpoint()), &keeper, "vault-transit:transit/kb");
}

#[test]
fn with_aws_kms_down_what_runs_goes_on_and_what_is_new_tells() {
    let moto = Moto::start();
    let arn = moto.make_key("kb");
    let keeper = Toxiproxy::shared().proxy(&moto.upstream());
    goes_on_and_tells(&format!("aws-kms:{arn}?region={REGION}&endpoint={}", keeper.endpoint()), &keeper, &arn);
}

#[test]
fn a_recovery_key_restores_on_a_bare_machine_when_the_kms_is_gone() {
    let (cluster, moto) = (cluster(), Moto::start());
    let arn = moto.make_key("kb");
    let (public, private) = recovery();
    let kms = format!("aws-kms:{arn}?region={REGION}&endpoint={}", moto.endpoint());
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::S3, &[&kms, &public], &environment());
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO kept SELECT i, 'after the backup' FROM generate_series(1, 500) i");
    stored(&cluster);
    let wanted = cluster.psql(KEPT);
    assert_eq!(receiver.stop(), Some(0));
    drop(moto);
    // On the host itself: who would open it is told.
    let told = bowline.fails(&["restore", "--plan", "--target", bowline.new_target().to_str().unwrap()], 5, "key-unreachable");
    assert!(told.contains(&arn) && told.contains(&public) && told.contains("--key FILE"), "{told}");
    let server = testkit::s3::S3Server::shared();
    let address = format!("{}?endpoint={}&region=us-east-1&path_style=true", bowline.url(), server.endpoint());
    let machine = BareMachine::new(cluster.major(), &address, &private)
        .with_environment("AWS_ACCESS_KEY_ID", testkit::s3::ACCESS_KEY_ID)
        .with_environment("AWS_SECRET_ACCESS_KEY", testkit::s3::SECRET_ACCESS_KEY);
    let restored = machine.restore(&[]);
    assert_eq!(restored.psql(KEPT), wanted);
    restored.stop();
    // Another recovery key opens nothing, and says whose it would be.
    let stranger = private_file(&bowline, "stranger", &recovery().1);
    let words = ["--key", stranger.to_str().unwrap(), "restore", "--plan", "--target", "/nowhere/at/all"];
    let told = bowline.fails(&words, 4, "key-wrong");
    assert!(told.contains(&arn) && told.contains(&public), "{told}");
}

#[test]
fn check_proves_each_recipient_and_says_what_it_cannot() {
    let (cluster, moto, bao) = (cluster(), Moto::start(), OpenBao::start());
    let arn = moto.make_key("kb");
    bao.make_key("kb", "aes256-gcm96");
    let kms = format!("aws-kms:{arn}?region={REGION}&endpoint={}", moto.endpoint());
    let keeper = Toxiproxy::shared().proxy(&bao.upstream());
    let vault = format!("vault-transit:kb?address={}", keeper.endpoint());
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&kms], &environment());
    let findings = || {
        let outcome = bowline.run(&["check"]);
        let result = outcome.lines.iter().rev().find_map(|line| line.get("result")).unwrap_or_else(|| panic!("{outcome:#?}")).clone();
        let all = result["findings"].as_array().expect("findings").clone();
        all.into_iter().map(|f| ["what", "verdict", "found", "fix"].map(|name| f[name].as_str().unwrap_or_default().to_owned())).collect::<Vec<_>>()
    };
    let has = |all: &[[String; 4]], what: &str, verdict: &str, word: &str| {
        assert!(all.iter().any(|f| f[0] == what && f[1] == verdict && f[2].contains(word)), "{what} {verdict} {word}: {all:#?}");
    };
    let all = findings();
    has(&all, "recipient", "ok", &arn);
    has(&all, "nothing written plain", "ok", "wal receive");
    has(&all, "survival of the keys", "warn", "one region");
    // A recovery key ends that warning, and is not called proven.
    let (public, private) = recovery();
    bowline.set_recipients(&cluster, &[&kms, &vault, &public]);
    let all = findings();
    has(&all, "recipient", "ok", "NOT PROVEN");
    has(&all, "data keys", "warn", &public);
    assert!(!all.iter().any(|f| f[0] == "survival of the keys"), "{all:#?}");
    bowline.ok(&["keys", "rewrap", "--yes"]);
    has(&findings(), "data keys", "ok", "all of these");
    keeper.down();
    has(&findings(), "recipient", "fail", "vault-transit:transit/kb");
    let file = private_file(&bowline, "recovery", &private);
    let proven = bowline.run(&["--key", file.to_str().unwrap(), "check"]);
    assert!(proven.lines.iter().any(|line| line.to_string().contains("unwraps what it wrapped")), "{proven:#?}");
}
