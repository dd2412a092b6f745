//! Where the whole story happens: the scene of the small drill, and around it every part that a protected service has.

use super::scene::Scene;
use super::service::Settings;
use super::{Options, Outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::loopback::{free_ports, http};
use testkit::minio::replicate;
use testkit::s3::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use testkit::stores::{MINIO_KEY, Make, ObjectServer};
use testkit::{Hook, InBucket, MailServer, Manner, OpenBao};

const REPOSITORY: &str = "backups";
const PACKAGES: &str = "packages";
const COPY: &str = "packages-copy";
/// The transit key of OpenBao.
const KEY: &str = "kb";
/// The service's own role in the database.
pub const SERVICE_ROLE: &str = "kb";

/// The supervisor of the story, as systemd would be: starts and stops by name, and ends what it started when the drill's directory goes.
const UNIT: &str = r#"#!/bin/sh
# unit start|stop NAME COMMAND…
home=$(dirname "$0") action=$1 name=$2
shift 2
runs() { pid=$(cat "$home/$name.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null; }
case $action in
start)
    if runs; then exit 0; fi
    rm -f "$home/$name.pid"
    (
        "$@" >>"$home/$name.log" 2>&1 &
        child=$!
        echo $child >"$home/$name.new" && mv "$home/$name.new" "$home/$name.pid"
        while [ -e "$home/unit" ] && kill -0 $child 2>/dev/null; do sleep 1; done
        kill -9 $child 2>/dev/null
    ) </dev/null >/dev/null 2>&1 &
    while [ ! -e "$home/$name.pid" ]; do sleep 0.05; done
    ;;
stop)
    if runs; then kill "$pid"; fi
    while runs; do sleep 0.1; done
    ;;
esac
"#;

/// What the supervisor started; it ends when this is dropped.
struct Units {
    home: PathBuf,
}

impl Units {
    fn pid(&self, name: &str) -> Option<i32> {
        fs::read_to_string(self.home.join(format!("{name}.pid"))).ok()?.trim().parse().ok()
    }
}

/// Everything that runs. The field order is the order of the end.
pub struct Stage {
    units: Units,
    pub scene: Scene,
    pub mail: MailServer,
    pub chat: Hook,
    pub pulse: Hook,
    /// As whoever has the application's key meets it.
    pub bucket: InBucket,
    pub primary: ObjectServer,
    pub replica: ObjectServer,
    _bao: OpenBao,
    pub service_port: u16,
    pub page_port: u16,
}

impl Stage {
    /// Starts every part but the service and the daemon. No repository and no role yet.
    pub fn build(options: &Options) -> Outcome<Self> {
        let scene = Scene::raise(options)?;
        let (primary, replica) = (ObjectServer::start(Make::Minio), ObjectServer::start(Make::Minio));
        let ports = free_ports(2);
        for (server, bucket) in [(&primary, PACKAGES), (&replica, COPY)] {
            server.create_bucket_now(bucket);
            InBucket::open(&server.url(bucket, ""), &server.options(), true);
        }
        let target = replicate(&primary, PACKAGES, &replica.endpoint(), COPY);
        let bao = OpenBao::start();
        bao.make_key(KEY, "aes256-gcm96");
        // No more than is needed, and nothing of the root's.
        let rules = ["encrypt", "decrypt"].map(|what| format!("path \"transit/{what}/{KEY}\" {{ capabilities = [\"update\"] }} "));
        bao.ask("PUT /v1/sys/policies/acl/bowline", &json!({ "policy": rules.concat() }));
        let login = bao.ask("POST /v1/auth/token/create", &json!({ "policies": ["bowline"], "ttl": "12h" }));
        let token = login["auth"]["client_token"].as_str().ok_or("OpenBao gave no token")?.to_owned();
        let bucket = InBucket::open(&primary.url(PACKAGES, ""), &primary.options(), false);
        let (mail, chat, pulse) = (MailServer::start("starttls"), Hook::start(Manner::Takes), Hook::start(Manner::Takes));
        let units = Units { home: scene.at("") };
        let mut stage = Self { units, scene, mail, chat, pulse, bucket, primary, replica, _bao: bao, service_port: ports[0], page_port: ports[1] };
        stage.scene.environment.extend([
            ("VAULT_TOKEN".to_owned(), token),
            ("DRILL_CHAT".to_owned(), stage.chat.url("services/drill")),
            ("DRILL_PULSE".to_owned(), stage.pulse.url("ping/drill")),
            ("DRILL_MAIL".to_owned(), testkit::mail::PASSWORD.to_owned()),
        ]);
        let key_address = stage._bao.address();
        stage.install(&key_address, &target)?;
        Ok(stage)
    }

    fn install(&self, key_address: &str, target: &str) -> Outcome<()> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        self.scene.install(&own, "service")?;
        self.scene.write("unit", UNIT)?;
        fs::set_permissions(self.scene.at("unit"), fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        let ca = fs::read_to_string(self.mail.ca_file()).map_err(|error| error.to_string())?;
        self.scene.write("mail-ca.pem", &ca)?;
        self.scene.write_store_keys()?;
        let cluster = &self.scene.cluster;
        let settings = Settings {
            port: self.service_port,
            conninfo: format!("host={} port={} user={SERVICE_ROLE} dbname=postgres", cluster.socket_dir().display(), cluster.port()),
            endpoint: self.primary.endpoint(),
            bucket: PACKAGES.to_owned(),
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: SECRET_ACCESS_KEY.to_owned(),
        };
        self.scene.write("service.json", &json!(settings).to_string())?;
        self.scene.write("bowline.toml", &self.config(key_address, target))
    }

    fn config(&self, key_address: &str, target: &str) -> String {
        let at = |name: &str| self.scene.at(name).display().to_string();
        let keys = format!("access_key_id = \"file:{}\", secret_access_key = \"file:{}\"", at("s3-key-id"), at("s3-key"));
        let site = |server: &ObjectServer, bucket: &str| {
            format!("{{ url = \"s3://{bucket}\", endpoint = \"{}\", region = \"us-east-1\", {keys} }}", server.endpoint())
        };
        format!(
            "{postgres}[repository]\nurl = \"s3://{REPOSITORY}/bowline\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\npath_style = true\n{repository_keys}\n\
             sse = \"required\"\nsse_kms_key_id = \"{MINIO_KEY}\"\ncapacity = \"1TiB\"\n\n\
             [encryption]\nrecipients = [\"vault-transit:{KEY}?address={key_address}\"]\n\n\
             [packages]\nprimary = {primary}\nreplica = {replica}\nreplication_target = \"{target}\"\n\
             agreement = {{ sql = \"SELECT key, bytes FROM packages\" }}\n\n\
             [service]\nstop = \"{unit} stop service\"\nstart = \"{start_service}\"\nhealth = \"{service} service --health {port}\"\ntimeout = \"60s\"\n\n\
             [wal]\nstart = \"{start_daemon}\"\n\n[daemon]\nwatch_interval = \"1s\"\nlease_ttl = \"5s\"\n\n[page]\nlisten = \"127.0.0.1:{page}\"\n\n\
             [drill]\ndir = \"{home}\"\n\n\
             [alerts]\nheartbeat = \"env:DRILL_PULSE\"\nheartbeat_interval = \"1s\"\n\
             [[alerts.channel]]\ntype = \"webhook\"\nname = \"chat\"\nurl = \"env:DRILL_CHAT\"\n\
             [[alerts.channel]]\ntype = \"smtp\"\nname = \"mail\"\nhost = \"127.0.0.1\"\nport = {mail}\nuser = \"{mail_user}\"\npassword = \"env:DRILL_MAIL\"\n\
             ca_file = \"{ca}\"\nfrom = \"bowline@example.org\"\nto = [\"dba@example.org\"]\n",
            postgres = self.scene.postgres_lines(),
            endpoint = self.primary.endpoint(),
            repository_keys = keys.replace(", ", "\n"),
            primary = site(&self.primary, PACKAGES),
            replica = site(&self.replica, COPY),
            unit = at("unit"),
            service = at("service"),
            start_service = self.start_of("service"),
            start_daemon = self.start_of("daemon"),
            port = self.service_port,
            page = self.page_port,
            home = self.scene.at("").display(),
            mail = self.mail.port(),
            mail_user = testkit::mail::USER,
            ca = at("mail-ca.pem"),
        )
    }

    /// The command that starts one of the two that the supervisor knows.
    fn start_of(&self, name: &str) -> String {
        let at = |name: &str| self.scene.at(name).display().to_string();
        match name {
            "daemon" => format!("{} start daemon {} --config {} --json daemon", at("unit"), at("bowline"), at("bowline.toml")),
            _ => format!("{} start service {} service {}", at("unit"), at("service"), at("service.json")),
        }
    }

    /// Starts the service or the daemon, as the host does when it boots.
    pub fn start(&self, name: &str) -> Outcome<()> {
        let words = self.start_of(name);
        let mut words = words.split(' ').skip(1);
        let status = self.scene.as_server_user("unit").args(&mut words).status().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("the {name} was not started: {status}")) }
    }

    /// kill -9, and the wait until it and its children are gone.
    pub fn kill(&self, name: &str) -> Outcome<()> {
        let Some(pid) = self.units.pid(name) else { return Err(format!("the {name} does not run")) };
        let of = testkit::processes_that(|words| words.contains(&*self.scene.at("bowline.toml").to_string_lossy()));
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|error| format!("kill -9 {name}: {error}"))?;
        let wait_for = if name == "daemon" { of } else { vec![pid] };
        let gone = || wait_for.iter().all(|pid| is_gone(*pid));
        if self.scene.within(Duration::from_secs(10), || Ok(gone()))? { Ok(()) } else { Err(format!("the {name} outlives kill -9")) }
    }

    /// Ends everything, and moves what is left to where it stays.
    pub fn keep(self) -> Outcome<PathBuf> {
        drop(self.units);
        let data = self.scene.cluster.data_dir().to_owned();
        self.scene.keep(&[data])
    }

    /// The body of an answer of the daemon's page that is well.
    pub fn page(&self, path: &str) -> Option<String> {
        let answer = http(self.page_port, &format!("GET {path}"), b"")?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// How often the webhook and the mailbox were told of this rule, in this state (`firing` or `resolved`).
    pub fn told(&self, rule: &str, state: &str) -> (usize, usize) {
        let is_it = |body: &str| serde_json::from_str::<Value>(body).is_ok_and(|told| told["rule"] == rule && told["state"] == state);
        let chat = self.chat.asked().iter().filter(|asked| is_it(&asked.body)).count();
        let (about, is_resolved) = (format!("\n{rule}, since "), state == "resolved");
        let mails = self.mail.mails();
        let mail = mails.iter().filter(|mail| mail.contains(&about) && mail.contains("Subject: RESOLVED (") == is_resolved).count();
        (chat, mail)
    }
}

/// Gone, or a zombie that nobody has asked for yet.
fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

impl Drop for Units {
    fn drop(&mut self) {
        // The daemon first: it would tell that the rest is gone.
        for name in ["daemon", "service"] {
            if let Some(pid) = self.pid(name).filter(|pid| !is_gone(*pid)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
