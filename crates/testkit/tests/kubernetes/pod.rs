//! A pod without a cluster: the manifests' own containers as processes of the image's user, with no capability and no right to gain one, in a
//! root that is read-only and has nothing but what is mounted there, with the modes that the kubelet gives. The image's files are this host's.

use super::{IN_CRON_JOB, file, list, objects, one};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use testkit::bowline::{program, wait};
use testkit::certificates::House;
use testkit::loopback::{free_ports, spawn_for_life};
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::{Cluster, newest_major};

/// The files of the image, as far as this host has them.
const IMAGE: &str = r#"
mkdir etc tmp
cp -rL /etc/ssl etc/
for name in usr bin sbin lib lib64 dev proc; do
    if [ -L /$name ]; then
        cp -P /$name $name
    elif [ -d /$name ]; then
        mkdir $name
        mount --rbind /$name $name
    fi
done
"#;

/// Says who it is, what it may, and where it can write.
const ASKED: &str = r#"
id -u
grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status
for place in / /etc /usr /etc/bowline/config /tmp /var/lib/bowline/drill; do
    if touch $place/probe 2>/dev/null; then echo $place; fi
done
"#;

/// One node: where volumes are, and what is in Secrets.
struct Node {
    folder: tempfile::TempDir,
    user: u32,
    secret: BTreeMap<&'static str, String>,
    /// Where PostgreSQL's programs are, which the image would have.
    programs: PathBuf,
}

/// A process in a pod, which ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Node {
    /// The folder of a volume, as the kubelet makes it: the pod's group's.
    fn volume(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        if !path.exists() {
            fs::create_dir(&path).expect("a folder");
            chown(&path, Some(0), Some(self.user)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2775)).expect("chmod");
        }
        path
    }

    /// A file of a Secret or a ConfigMap.
    fn put(&self, volume: &str, name: &str, text: &[u8], mode: u32) {
        let path = self.volume(volume).join(name);
        fs::write(&path, text).expect("write");
        chown(&path, Some(0), Some(self.user)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    /// The command that is this container of this pod, or other words in it.
    fn enter(&self, pod: &Value, words: &[&str]) -> Command {
        let container = &pod["spec"]["containers"][0];
        let root = self.folder.path().join("root").display().to_string();
        fs::create_dir_all(&root).expect("a folder");
        let (bowline, postgres) = (program(), self.programs.parent().expect("a folder"));
        let mut script = format!("set -eu\nmount -t tmpfs image {root}\ncd {root}\n{IMAGE}");
        script += &format!("echo 'bowline:x:{0}:{0}::/var/lib/bowline:/usr/sbin/nologin' >etc/passwd\n", self.user);
        for path in [bowline.parent().expect("a folder"), postgres] {
            script += &format!("mkdir -p .{0}\nmount --bind {0} .{0}\n", path.display());
        }
        for mount in list(&container["volumeMounts"]) {
            let (from, to) = (self.volume(mount["name"].as_str().expect("a name")), mount["mountPath"].as_str().expect("a path"));
            script += &format!("mkdir -p .{to}\nmount --bind {} .{to}\n", from.display());
            if mount["readOnly"] == true {
                script += &format!("mount -o remount,bind,ro .{to}\n");
            }
        }
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["spec"]["securityContext"]["runAsUser"], self.user);
        let rights = "--clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all";
        script += &format!("mount -o remount,ro .\nexec chroot . setpriv --reuid={0} --regid={0} {rights} \"$@\"\n", self.user);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(bowline).args(words);
        command.env_clear().env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.display())).envs(&self.secret);
        for variable in list(&container["env"]) {
            command.env(variable["name"].as_str().expect("a name"), variable["value"].as_str().expect("a value"));
        }
        command.stdin(Stdio::null());
        command
    }

    /// The result of a command that must end well, such as one by kubectl exec.
    fn ok(&self, pod: &Value, words: &[&str]) -> Value {
        let output = self.enter(pod, &[&["--json"], words].concat()).output().expect("run unshare");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("result").cloned()).next_back().unwrap_or_default()
    }
}

/// The configuration of the manifests with the addresses of this test.
fn configured(text: &str, changes: &[(&str, String)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

fn words(container: &Value) -> Vec<&str> {
    list(&container["args"]).iter().map(|word| word.as_str().expect("a word")).collect()
}

#[test]
fn daemon_and_drill_do_all_their_work_with_what_the_manifests_allow() {
    assert!(nix::unistd::geteuid().is_root(), "a mount namespace takes root: run this test as root");
    let all = objects(&file("deploy/kubernetes/base/bowline.yaml"), &[]);
    let daemon = &one(&all, "Deployment")["spec"]["template"];
    let drill = one(&all, "CronJob").pointer(IN_CRON_JOB).expect("a pod");
    let cluster = Cluster::builder(newest_major()).tcp(true).start();
    let sql = Command::new(program()).args(["init", "--print-sql"]).env_clear().output().expect("bowline");
    let role = String::from_utf8_lossy(&sql.stdout).lines().take_while(|line| !line.is_empty()).fold(String::new(), |all, line| all + line + "\n");
    cluster.psql(&format!("{role};\nALTER ROLE bowline PASSWORD 'of-the-pod'"));
    cluster.psql("CREATE TABLE organizations AS SELECT generate_series(1, 1000) AS id");
    let store = S3Server::shared();
    let bucket = format!("pod-{}", std::process::id());
    store.create_bucket(&bucket);

    let user = daemon["spec"]["securityContext"]["runAsUser"].as_u64().and_then(|user| u32::try_from(user).ok()).expect("a user");
    let secret = [
        ("PGPASSWORD", "of-the-pod".to_owned()),
        ("BOWLINE_PAGE_TOKEN", "a-token-of-twenty-or-more".to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
    ];
    let node = Node { folder: tempfile::tempdir().expect("a folder"), user, secret: secret.into(), programs: cluster.bin_dir() };
    let text = one(&all, "ConfigMap")["data"]["bowline.toml"].as_str().expect("a configuration");
    let changes = [
        ("host=postgres.database.svc", format!("host=127.0.0.1 port={}", cluster.port())),
        ("sslmode=require", "sslmode=prefer".to_owned()),
        ("\"s3://acme-backups/production\"", format!("\"s3://{bucket}/production\"\nendpoint = \"{}\"\npath_style = true", store.endpoint())),
        ("eu-west-1", "us-east-1".to_owned()),
        (":9187", format!(":{}", free_ports(1)[0])),
        ("[daemon]", "[daemon]\nwatch_interval = \"1s\"".to_owned()),
        ("[drill]", "[wal]\nflush_interval = \"300ms\"\n[drill]".to_owned()),
    ];
    node.put("config", "bowline.toml", configured(text, &changes).as_bytes(), 0o644);
    let house = House::new();
    for (name, made) in [("tls.crt", "server.pem"), ("tls.key", "server.key")] {
        node.put("page", name, &fs::read(house.file(made)).expect("a certificate"), 0o440);
    }

    // As docs/kubernetes.md tells: the key is made in the pod, and comes back as a Secret.
    node.ok(daemon, &["--key", "/tmp/key", "init"]);
    node.put("keys", "key", &fs::read(node.volume("tmp").join("key")).expect("the key"), 0o440);
    fs::remove_file(node.volume("tmp").join("key")).expect("remove it");
    let log = node.folder.path().join("log");
    let mut command = node.enter(daemon, &words(&daemon["spec"]["containers"][0]));
    let output = fs::File::create(&log).expect("a log");
    command.stdout(output.try_clone().expect("dup")).stderr(output);
    let mut running = Process(spawn_for_life(command));
    let told = || fs::read_to_string(&log).unwrap_or_default();
    wait("the first backup", Duration::from_secs(90), || told().contains("backup ended well") || running.0.try_wait().is_ok_and(|end| end.is_some()));
    assert!(told().contains("backup ended well"), "{}", told());
    let newest = &node.ok(daemon, &["list"])["backups"][0];
    assert_eq!(newest["source"], "stream", "{newest:#}");

    // The CronJob's own words, and what it leaves behind: nothing.
    let held = node.ok(drill, &words(&drill["spec"]["containers"][0]));
    let report = &held["report"];
    assert_eq!(report["outcome"], "passed", "{report:#}");
    assert_eq!(report["ran_as"], "bowline", "{report:#}");
    assert_eq!(fs::read_dir(node.volume("drill")).expect("the disk").count(), 0);
    let facts = node.ok(daemon, &["runs", "--job", "drill"]);
    assert_eq!(facts["runs"][0]["outcome"], "ok", "{facts:#}");
    assert!(!told().contains("drill begins"), "{}", told());
    let pid = i32::try_from(running.0.id()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("it lives");
    assert_eq!(running.0.wait().expect("its end").code(), Some(0), "{}", told());
}

/// Asked inside: were it wider, the test above would prove nothing.
#[test]
fn a_pod_of_this_test_is_as_narrow_as_it_says() {
    assert!(nix::unistd::geteuid().is_root(), "a mount namespace takes root: run this test as root");
    let all = objects(&file("deploy/kubernetes/base/bowline.yaml"), &[]);
    let pod = one(&all, "CronJob").pointer(IN_CRON_JOB).expect("a pod");
    let user = pod["spec"]["securityContext"]["runAsUser"].as_u64().and_then(|user| u32::try_from(user).ok()).expect("a user");
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node { folder, user, secret: BTreeMap::new(), programs: Path::new("/usr/bin").to_owned() };
    let entered = node.enter(pod, &[]);
    let script = entered.get_args().nth(5).and_then(|script| script.to_str()).expect("the script").replace("\"$@\"", "sh -c \"$1\"");
    let mut command = Command::new("unshare");
    let output = command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", ASKED]).output().expect("run unshare");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = format!("{user}\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n/tmp\n/var/lib/bowline/drill\n");
    assert_eq!(said.lines().map(|line| format!("{line}\n")).collect::<String>(), wanted, "{}", String::from_utf8_lossy(&output.stderr));
}
