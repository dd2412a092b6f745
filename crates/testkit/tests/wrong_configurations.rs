//! What a person reads when a configuration, a command line or a host is wrong: every message whole, in one file that is read in a review.
//!
//! No server is needed for these. What servers and stores answer is in the tests of bad input.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A configuration that is right but for there being nothing yet where it points to; `{dir}` is the test's folder.
const RIGHT: &str = "org = \"acme\"

[postgres]
conninfo = \"host=127.0.0.1 port=1 user=bowline dbname=postgres\"

[repository]
url = \"file://{dir}/backups\"

[encryption]
recipients = [\"file:{dir}/key\"]
";

/// What is changed in it.
enum Change {
    /// These lines come at its end.
    More(&'static str),
    /// The line that begins so is replaced.
    Instead(&'static str, &'static str),
    Nothing,
}

use Change::{Instead, More, Nothing};

const LIST: &[&str] = &["list"];

/// Each with what is wrong, where, and the command that says so.
fn cases() -> Vec<(&'static str, Change, &'static [&'static str])> {
    vec![
        ("a key is misspelt", More("[backup]\nshedule = \"0 2 * * *\""), LIST),
        ("a section is misspelt", More("[backups]\nschedule = \"0 2 * * *\""), LIST),
        ("a key is longer than it should be", More("[objectives]\nrpo_seconds = 60"), LIST),
        ("a key is in the wrong section", More("[wal]\nschedule = \"0 2 * * *\""), LIST),
        ("a key is given twice", More("[backup]\njobs = 2\njobs = 3"), LIST),
        ("a section is given twice", More("[repository]\nregion = \"eu-west-1\""), LIST),
        ("a quote is missing", More("[drill]\ndir = \"/srv/drills"), LIST),
        ("a text is not quoted", More("[drill]\ndir = /srv/drills"), LIST),
        ("a number is quoted", More("[retention]\ndaily = \"30\""), LIST),
        ("a number is negative", More("[retention]\ndaily = -1"), LIST),
        ("a number is too large", More("[backup]\njobs = 70000"), LIST),
        ("yes is no boolean", More("[wal]\nsynchronous = yes"), LIST),
        ("there is no organization", Instead("org", ""), LIST),
        ("an organization is no folder's name", Instead("org", "org = \"../acme\""), LIST),
        ("there is no repository", Instead("url", ""), LIST),
        ("a url has another scheme", Instead("url", "url = \"ftp://backups\""), LIST),
        ("a url has no scheme", Instead("url", "url = \"/srv/backups\""), LIST),
        ("a url has no bucket", Instead("url", "url = \"s3://\""), LIST),
        ("a url holds a secret", Instead("url", "url = \"s3://backups?secret_access_key=hunter2hunter2\""), LIST),
        ("a folder is not absolute", Instead("url", "url = \"file://backups\""), LIST),
        ("a secret is written into the file", More("[page]\ntoken = \"hunter2hunter2\""), LIST),
        (
            "a secret's variable is not set",
            Instead("url", "url = \"s3://backups\"\naccess_key_id = \"env:NOT_SET\"\nsecret_access_key = \"env:NOT_SET\""),
            LIST,
        ),
        (
            "a secret's file is missing",
            Instead("url", "url = \"s3://backups\"\naccess_key_id = \"file:/nowhere/id\"\nsecret_access_key = \"file:/nowhere/key\""),
            LIST,
        ),
        ("a certificate is missing", Instead("url", "url = \"s3://backups\"\nca_file = \"/nowhere/ca.pem\""), LIST),
        ("an endpoint is no address", Instead("url", "url = \"s3://backups\"\nendpoint = \"minio:9000\""), LIST),
        ("a duration has no unit", More("[wal]\nflush_interval = \"5\""), LIST),
        ("a duration is a number", More("[wal]\nflush_interval = 5"), LIST),
        ("a duration is negative", More("[wal]\nflush_interval = \"-5s\""), LIST),
        ("a flush interval is too short", More("[wal]\nflush_interval = \"10ms\""), LIST),
        ("a compression is unknown", More("[backup]\ncompression = \"lz5\""), LIST),
        ("a level of compression is too high", More("[backup]\ncompression = \"zstd:99\""), LIST),
        ("a rate has another unit", More("[backup]\nmax_rate = \"20 Mbit\""), LIST),
        ("a schedule has a field too few", More("[backup]\nschedule = \"2 * * *\""), LIST),
        ("a schedule has an hour that is none", More("[backup]\nschedule = \"0 25 * * *\""), LIST),
        ("a schedule is a word", More("[drill]\nschedule = \"weekly\""), LIST),
        ("a time zone is unknown", More("[daemon]\ntimezone = \"Europe/Atlantis\""), LIST),
        ("a share has no sign", More("[drill]\ntolerance = \"0.1\""), LIST),
        ("a share is above all", Instead("url", "url = \"file:///srv/backups\"\ncapacity_warning = \"180%\""), LIST),
        ("it warns after it is critical", Instead("url", "url = \"file:///srv/backups\"\ncapacity_warning = \"95%\""), LIST),
        ("a capacity is no size", Instead("url", "url = \"file:///srv/backups\"\ncapacity = \"plenty\""), LIST),
        ("object lock without days", Instead("url", "url = \"s3://backups\"\nobject_lock = \"governance\""), LIST),
        ("object lock on a folder", Instead("url", "url = \"file:///srv/backups\"\nobject_lock = \"governance\"\nobject_lock_days = 35"), LIST),
        ("a mode of object lock is unknown", Instead("url", "url = \"s3://backups\"\nobject_lock = \"legal\"\nobject_lock_days = 35"), LIST),
        ("a checksum is unknown", Instead("url", "url = \"s3://backups\"\nchecksum = \"crc32\""), LIST),
        ("a mode of encryption is unknown", Instead("recipients", "mode = \"none\""), LIST),
        ("nobody can open the repository", Instead("recipients", ""), &["init"]),
        ("a recipient is of no kind", Instead("recipients", "recipients = [\"{dir}/key\"]"), &["init"]),
        ("a recipient is not absolute", Instead("recipients", "recipients = [\"file:key\"]"), &["init"]),
        ("an age recipient is cut short", Instead("recipients", "recipients = [\"age:age1qqqq\"]"), &["init"]),
        ("an expectation means nothing", More("[[drill.checks]]\nsql = \"SELECT 1\"\nexpect = \"about 1\""), LIST),
        ("a check has no query", More("[[drill.checks]]\nexpect = \"= 1\""), LIST),
        ("a channel's type is unknown", More("[[alerts.channel]]\ntype = \"teams\""), LIST),
        ("a channel lacks a key", More("[[alerts.channel]]\ntype = \"slack\""), LIST),
        ("a channel has a key of another", More("[[alerts.channel]]\ntype = \"slack\"\nurl = \"env:SLACK\"\nrouting_key = \"env:PAGER\""), LIST),
        (
            "two channels have one name",
            More("[[alerts.channel]]\ntype = \"slack\"\nurl = \"env:A\"\n[[alerts.channel]]\ntype = \"slack\"\nurl = \"env:B\""),
            LIST,
        ),
        (
            "a channel's secret is in the file",
            More("[[alerts.channel]]\ntype = \"slack\"\nurl = \"https://hooks.example.com/services/T0/B0/hunter2\""),
            LIST,
        ),
        ("an alert repeats at once", More("[alerts]\nrepeat = \"0s\""), LIST),
        ("packages have no primary", More("[packages]\nsnapshots = \"repository\""), &["packages", "status"]),
        ("packages are kept nowhere", More("[packages]\nprimary = \"file:///srv/packages\""), &["packages", "status"]),
        ("packages lie in another cloud", More("[packages]\nprimary = \"gs://packages\"\nsnapshots = \"repository\""), &["packages", "status"]),
        ("nothing is said of packages", Nothing, &["packages", "status"]),
        ("the page is open to all", More("[page]\nlisten = \"0.0.0.0:9187\""), &["daemon"]),
        ("the page's address is none", More("[page]\nlisten = \"9187\""), &["daemon"]),
        ("the repository is not there", Instead("url", "url = \"file://{dir}/elsewhere\""), LIST),
        ("the server is not there", Nothing, &["check"]),
        ("there is no server to ask", Instead("conninfo", ""), &["check"]),
        ("a connection string is broken", Instead("conninfo", "conninfo = \"host=127.0.0.1 prot=5432\""), &["check"]),
        ("a connection string has a port that is none", Instead("conninfo", "conninfo = \"host=127.0.0.1 port=postgres\""), &["check"]),
        ("a socket's folder is not there", Instead("conninfo", "conninfo = \"host=/nowhere user=bowline\""), &["check"]),
        ("a target has no zone", Nothing, &["restore", "--to", "2026-11-22 14:05", "--plan"]),
        ("a target means nothing", Nothing, &["restore", "--to", "yesterday", "--plan"]),
        ("a backup's name is none", Nothing, &["restore", "--backup", "newest", "--plan"]),
        ("a verb is misspelt", Nothing, &["back-up"]),
        ("an option is misspelt", Nothing, &["backup", "--job", "4"]),
        ("a way on damage is unknown", Nothing, &["restore", "--on-damage", "ignore", "--plan"]),
    ]
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn text(&self, change: &Change) -> String {
        let text = match change {
            Nothing => RIGHT.to_owned(),
            More(lines) => format!("{RIGHT}\n{lines}\n"),
            Instead(begins, line) => {
                let mut found = 0;
                let replaced =
                    RIGHT.lines().map(|own| if own.starts_with(begins) { (found += 1, *line).1 } else { own }).collect::<Vec<_>>().join("\n");
                assert_eq!(found, 1, "{begins}");
                format!("{replaced}\n")
            }
        };
        text.replace("{dir}", &self.place())
    }

    fn place(&self) -> String {
        self.dir.path().display().to_string()
    }

    fn command(&self, config: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(testkit::bowline::program());
        command.args(words).stdin(Stdio::null()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path()).env("BOWLINE_CONFIG", config).current_dir(self.dir.path());
        command
    }

    /// All that it says, and its exit code.
    fn run(&self, config: &Path, words: &[&str]) -> String {
        let out = self.command(config, words).output().expect("it runs");
        let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).expect("text")).concat();
        assert_ne!(out.status.code(), Some(0), "{words:?} went well:\n{said}");
        // A bug, or an end by a signal, is no answer.
        assert!(out.status.code().is_some_and(|code| code < 70), "{words:?}: {:?}\n{said}", out.status);
        // What check finds in order names ids that each repository has of its own, and is not what is read here.
        let said: String = said
            .replace(&self.place(), "/srv/acme")
            .lines()
            .filter(|line| !line.starts_with("ok "))
            .fold(String::new(), |all, line| all + line + "\n");
        format!("{}\n(ends with {})\n", said.trim(), out.status.code().unwrap_or(-1))
    }
}

#[test]
fn what_is_wrong_is_told_so_that_a_person_can_mend_it() {
    let scene = Scene { dir: tempfile::tempdir().expect("a folder") };
    let config = scene.dir.path().join("bowline.toml");
    let mut told = String::from(
        "What Bowline says when something is wrong, one case after another. The test `wrong_configurations` writes it (BOWLINE_GOLDEN=1) and\n\
         holds it against what the program says. Read it as its users do: is the thing named, the cause, and the next step?\n",
    );
    let mut tell = |title: &str, lines: &str, words: &[&str], said: &str| {
        assert!(!said.contains("hunter2"), "{title}: a secret is told");
        let lines: String = lines.lines().fold(String::new(), |all, line| all + "    " + line + "\n");
        write!(told, "\n# {title}\n\n{lines}    $ bowline {}\n\n{said}", words.join(" ")).expect("a string takes all");
    };
    // Else most of them would end at a key that is not there.
    fs::write(&config, scene.text(&Nothing)).expect("it can be written");
    assert!(scene.command(&config, &["init"]).output().expect("it runs").status.success(), "a repository can be made");
    for (title, change, words) in cases() {
        fs::write(&config, scene.text(&change)).expect("it can be written");
        let lines = match change {
            More(lines) | Instead(_, lines) => lines,
            Nothing => "",
        };
        tell(title, lines, words, &scene.run(&config, words));
    }
    tell("there is no configuration", "", LIST, &scene.run(Path::new("/nowhere/bowline.toml"), LIST));
    fs::write(&config, scene.text(&Nothing)).expect("it can be written");
    fs::write(scene.dir.path().join("key"), "no key\n").expect("it can be written");
    for (title, mode) in [("a key file is open to others", 0o644), ("a key file holds something else", 0o600)] {
        fs::set_permissions(scene.dir.path().join("key"), fs::Permissions::from_mode(mode)).expect("chmod");
        tell(title, "", &["init"], &scene.run(&config, &["init"]));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/wrong_configurations.txt");
    if std::env::var_os("BOWLINE_GOLDEN").is_some() {
        fs::create_dir_all(golden.parent().expect("a folder")).expect("mkdir");
        fs::write(&golden, &told).expect("it can be written");
    }
    let known = fs::read_to_string(&golden).expect("the golden file; BOWLINE_GOLDEN=1 writes it");
    assert!(told == known, "BOWLINE_GOLDEN=1 writes {} anew; then read it:\n{}", golden.display(), difference(&known, &told));
}

/// The lines that are only in one of them.
fn difference(known: &str, told: &str) -> String {
    let only = |sign: &str, one: &str, other: &str| {
        one.lines().filter(|line| !other.contains(line)).map(|line| format!("{sign}{line}\n")).collect::<String>()
    };
    only("- ", known, told) + &only("+ ", told, known)
}
