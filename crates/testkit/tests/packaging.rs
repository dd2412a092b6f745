//! The Debian package on this very machine: installed, its service's own command line run, upgraded, removed and purged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use testkit::bowline::wait;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

/// Slim images leave manuals and documents out, and say so to dpkg.
const EVERYTHING: &str = "--path-include=/usr/share/*";
const CONFIG: &str = "/etc/bowline/bowline.toml";
const KEY: &str = "/etc/bowline/keys/key";

/// Takes the package off the machine, however the test ends.
struct Guest;

impl Drop for Guest {
    fn drop(&mut self) {
        drop(Command::new("dpkg").args(["--purge", "--force-all", "bowline"]).output());
        drop(fs::remove_dir_all("/etc/bowline"));
    }
}

fn output(words: &[&str]) -> Output {
    Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("cannot run {words:?}: {e}"))
}

/// What a command says that must end well.
fn said(words: &[&str]) -> String {
    let output = output(words);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {text}");
    text
}

fn make_package(dir: &Path, revision: &str) -> String {
    let xtask = testkit::bowline::program().with_file_name("xtask");
    let to = dir.display().to_string();
    said(&[xtask.to_str().expect("a plain path"), "package", "--quick", "--to", &to, "--revision", revision]).trim().to_owned()
}

/// A line of the installed unit.
fn of_unit(name: &str) -> String {
    let unit = fs::read_to_string("/usr/lib/systemd/system/bowline.service").expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    line.unwrap_or_else(|| panic!("bowline.service says no {name}")).to_owned()
}

#[test]
fn the_package_installs_runs_as_its_unit_says_upgrades_and_leaves_keys_behind() {
    assert!(nix::unistd::geteuid().is_root(), "dpkg installs for root only: run this test as root");
    assert!(
        !output(&["dpkg", "--status", "bowline"]).status.success() && !Path::new("/etc/bowline").exists(),
        "bowline is installed here, or /etc/bowline is there: this test would remove it, so it does not begin"
    );
    let place = tempfile::tempdir().expect("a folder");
    let (first, second) = (make_package(place.path(), "1"), make_package(place.path(), "2"));
    let _guest = Guest;
    let told = said(&["dpkg", "--force-unsafe-io", EVERYTHING, "--install", &first]);
    assert!(told.contains("nothing runs yet"), "{told}");

    // What is there, and that it is what it seems.
    assert!(said(&["/usr/bin/bowline", "--version"]).starts_with("bowline "));
    let files = said(&["dpkg", "--listfiles", "bowline"]);
    for wanted in [
        "/usr/share/man/man1/bowline.1.gz",
        "/usr/share/man/man1/bowline-restore.1.gz",
        "/usr/share/man/man1/bowline-wal-receive.1.gz",
        "/usr/share/bash-completion/completions/bowline",
        "/usr/share/zsh/vendor-completions/_bowline",
        "/usr/share/fish/vendor_completions.d/bowline.fish",
        "/usr/share/doc/bowline/copyright",
        "/usr/share/doc/bowline/changelog.gz",
        "/usr/share/doc/bowline/README.md",
        "/usr/share/doc/bowline/docs/reference/configuration.md",
        "/usr/lib/systemd/system/bowline@.service",
        "/usr/lib/systemd/system/bowline-drill.timer",
    ] {
        assert!(files.lines().any(|line| line == wanted), "{wanted} is not installed:\n{files}");
    }
    said(&["bash", "-c", "source /usr/share/bash-completion/completions/bowline && complete -p bowline"]);
    assert!(said(&["zcat", "/usr/share/man/man1/bowline-restore.1.gz"]).contains(".SH OPTIONS"));
    let page = said(&["man", "--warnings", "--local-file", "/usr/share/man/man1/bowline-restore.1.gz"]);
    assert!(page.contains("Restore a cluster to an instant") && !page.contains("warning:"), "{page}");
    let units: Vec<&str> = files.lines().filter(|line| line.starts_with("/usr/lib/systemd/system/bowline") && !line.contains('@')).collect();
    assert_eq!(units.len(), 16, "{units:?}");
    said(&[["systemd-analyze", "verify", "--man=no"].as_slice(), &units].concat());
    let mode = |path: &str| fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}")).permissions().mode() & 0o777;
    assert_eq!((mode("/etc/bowline"), mode("/etc/bowline/keys")), (0o750, 0o700));
    // The example is read to its end: what stops this command is only that its key was not made yet.
    let example = output(&["/usr/bin/bowline", "--json", "--config", "/usr/share/doc/bowline/bowline.example.toml", "list"]);
    let text = format!("{}{}", String::from_utf8_lossy(&example.stdout), String::from_utf8_lossy(&example.stderr));
    assert!(text.contains("\"key-missing\"") || text.contains("\"repository-missing\""), "{text}");

    // The service, as its unit starts it.
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let settings = format!("{}\n[daemon]\nwatch_interval = \"1s\"\n", fs::read_to_string(bowline.config()).expect("a configuration"));
    fs::write(CONFIG, &settings).expect("write the configuration");
    said(&["chown", "root:postgres", CONFIG]);
    said(&["chmod", "640", CONFIG]);
    said(&["install", "-m", "600", "-o", "postgres", "-g", "postgres", &bowline.dir().join("key").display().to_string(), KEY]);
    let socket_path: PathBuf = cluster.home().join("notify");
    let socket = UnixDatagram::bind(&socket_path).expect("a socket");
    testkit::let_everybody_write(&socket_path);
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let line = of_unit("ExecStart");
    let words: Vec<&str> = line.split_whitespace().collect();
    let user = nix::unistd::User::from_name(&of_unit("User")).expect("the users").expect("the unit's user");
    let mut service = Command::new(words[0]);
    service.args(&words[1..]).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    service.env("HOME", &user.dir).env("NOTIFY_SOCKET", &socket_path).current_dir("/").uid(user.uid.as_raw()).gid(user.gid.as_raw());
    let daemon = bowline.start("service", service);
    let mut heard = [0; 256];
    let length = socket.recv(&mut heard).unwrap_or_else(|e| panic!("READY was not heard: {e}: {}", daemon.log()));
    assert!(String::from_utf8_lossy(&heard[..length]).contains("READY=1"));
    wait("the first backup", Duration::from_secs(60), || bowline.run(&["runs", "--job", "backup"]).result().to_string().contains("\"ok\""));
    assert_eq!(daemon.stop(), Some(0));

    // Newer files, the same configuration and key.
    said(&["dpkg", "--force-unsafe-io", EVERYTHING, "--install", &second]);
    assert!(said(&["dpkg-query", "--show", "bowline"]).trim().ends_with("-2"));
    assert_eq!(fs::read_to_string(CONFIG).expect("the configuration"), settings);
    let key = fs::read(KEY).expect("the key");

    said(&["dpkg", "--remove", "bowline"]);
    assert!(!Path::new("/usr/bin/bowline").exists() && !Path::new("/usr/lib/systemd/system/bowline.service").exists());
    let told = said(&["dpkg", "--purge", "bowline"]);
    assert!(told.contains("/etc/bowline stays"), "{told}");
    assert_eq!((fs::read(KEY).expect("the key stays"), fs::read_to_string(CONFIG).expect("so does this")), (key, settings));
    assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(1), "and the repository");
}
