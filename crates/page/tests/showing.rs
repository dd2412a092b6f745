//! The page is shown to whom it may, says what is so, and counts it for Prometheus: over real connections, in a real browser, with
//! Prometheus' own tool.

use page::{Kept, METRICS, Page, PageError, PageSettings, Source, TlsFiles, metrics};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Secret, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const SAMPLE: &str = include_str!("../sample/sample.json");
const TOKEN: &str = "a-token-that-is-long-enough";

fn kept() -> Kept {
    Kept::read(SAMPLE).expect("the sample is what the page is given")
}

/// The sample as if it were observed now.
fn fresh() -> Arc<dyn Source> {
    Arc::new(kept().change(|facts| facts.at = SystemClock.now()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Shows until the runtime of the test ends.
async fn show(settings: &PageSettings, source: Arc<dyn Source>) -> SocketAddr {
    let page = Page::bind(settings, source).await.expect("it listens");
    let address = page.address();
    tokio::spawn(page.run(std::future::pending()));
    address
}

async fn local() -> SocketAddr {
    show(&PageSettings::local(anywhere()), fresh()).await
}

/// One request: the status, the headers, the body.
async fn ask(at: SocketAddr, line: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(at).await.expect("a connection");
    let host = if headers.iter().any(|header| header.starts_with("Host:")) { String::new() } else { format!("Host: {at}\r\n") };
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    stream.write_all(format!("{line} HTTP/1.1\r\n{host}{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

async fn get(at: SocketAddr, path: &str) -> (u16, String, String) {
    ask(at, &format!("GET {path}"), &[], "").await
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_of_name(c)).filter(|word| word.starts_with("bowline_")).map(str::to_owned).collect()
}

/// A program as scripts/prepare named it, or by its usual name.
fn prepared(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

fn tool(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program} (scripts/prepare installs it): {e}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn the_metrics_are_those_that_were_agreed_on() {
    let facts = kept().facts().expect("facts");
    let text = metrics(Some(&facts));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/metrics.prom");
    if std::env::var_os("BOWLINE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).expect("write");
    }
    let known = std::fs::read_to_string(&golden).expect("the golden file");
    assert_eq!(text, known, "BOWLINE_GOLDEN=1 writes sample/metrics.prom anew");
    // No run's and no backup's name makes a series.
    for word in ["20261126T", "2026-11"] {
        assert!(!text.contains(word), "{word}");
    }
    // The sample shows every metric, and prints none that the list does not name.
    let listed: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(named(&text), listed);
    // Of no observation nothing is claimed.
    assert_eq!(named(&metrics(None)), BTreeSet::from(["bowline_build_info".to_owned()]));
}

#[test]
fn what_could_not_be_looked_at_is_absent_and_not_well() {
    let trouble = watch::Trouble { slug: "x".into(), summary: "away".into(), detail: String::new(), hint: String::new(), is_damage: false };
    let gone = kept().change(|facts| {
        facts.server = watch::Look::Unseen(trouble.clone());
        facts.repository = watch::Look::Unseen(trouble);
    });
    let text = metrics(gone.facts().as_deref());
    for absent in ["bowline_wal_lag_seconds ", "bowline_rpo_seconds ", "bowline_rto_estimate_seconds ", "bowline_alarm{rule=\"wal-lag\"}"] {
        assert!(!text.contains(absent), "{absent}\n{text}");
    }
    for there in ["bowline_seen{what=\"server\"} 0", "bowline_protected 0", "bowline_alarm{rule=\"repository\"} 2"] {
        assert!(text.contains(there), "{there}\n{text}");
    }
}

#[test]
fn the_list_in_the_documentation_is_that_of_the_program() {
    let path = root().join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).expect("docs/metrics.md");
    let rows: String = METRICS.iter().map(|metric| format!("| `{}` | {} | {} |\n", metric.name, metric.labels, metric.help)).collect();
    let (before, rest) = text.split_once("|---|---|---|\n").expect("a table");
    let (_, after) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let expected = format!("{before}|---|---|---|\n{rows}\n{after}");
    if std::env::var_os("BOWLINE_GOLDEN").is_some() {
        std::fs::write(&path, &expected).expect("write");
        return;
    }
    assert_eq!(text, expected, "BOWLINE_GOLDEN=1 writes the table anew");
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_there_are_and_prometheus_takes_them() {
    let listed: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    for file in ["deploy/prometheus/bowline.rules.yml", "deploy/prometheus/bowline.rules.test.yml", "deploy/grafana/bowline.json"] {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        let unknown: Vec<_> = named(&text).difference(&listed).cloned().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard = std::fs::read_to_string(root().join("deploy/grafana/bowline.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            assert!(!named(target["expr"].as_str().expect("an expression")).is_empty(), "{target}");
        }
    }
    let tests = tool(
        &prepared("BOWLINE_PROMTOOL", "promtool"),
        &["test", "rules", &root().join("deploy/prometheus/bowline.rules.test.yml").to_string_lossy()],
    );
    assert!(tests.status.success(), "{}", said(&tests));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/metrics.prom");
    let read = Command::new(prepared("BOWLINE_PROMTOOL", "promtool"))
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(golden).expect("golden"))
        .output()
        .expect("promtool");
    assert!(read.status.success(), "{}", said(&read));
}

#[tokio::test]
async fn on_this_host_everything_is_answered_with_strict_headers() {
    let at = local().await;
    for path in ["/", "/app.js", "/drawings.js", "/style.css", "/icon.svg", "/login", "/healthz", "/readyz", "/metrics", "/api/now", "/api/runs"] {
        let (status, head, _) = get(at, path).await;
        assert_eq!(status, 200, "{path}");
        let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'";
        assert!(head.contains(policy) && !head.contains("unsafe"), "{path}: {head}");
        for header in ["x-content-type-options: nosniff", "x-frame-options: deny", "referrer-policy: no-referrer", "cache-control: no-store"] {
            assert!(head.contains(header), "{path}: {header}");
        }
    }
    // Nothing is written into the page itself that the policy would refuse.
    for path in ["/", "/login"] {
        let (_, _, page) = get(at, path).await;
        assert!(!page.contains("style=") && !page.contains("<style") && !page.contains("onclick") && !page.contains("http"), "{path}");
    }
    let (_, _, now) = get(at, "/api/now").await;
    let now: serde_json::Value = serde_json::from_str(&now).expect("JSON");
    assert_eq!((now["verdict"].as_str(), now["facts"]["org"].as_str()), (Some("unprotected"), Some("acme")));
    assert_eq!(get(at, "/api/runs/20261126T140100Z-scrub").await.0, 200);
    assert_eq!(get(at, "/api/runs/none").await.0, 404);
    assert_eq!(ask(at, "POST /api/now", &[], "").await.0, 405);
    // Another site's page that was given this address under a name of its own.
    assert_eq!(ask(at, "GET /api/now", &["Host: evil.example"], "").await.0, 421);
}

#[tokio::test]
async fn a_plan_is_made_of_a_target_and_of_nothing_else() {
    let at = local().await;
    let (status, _, plan) = get(at, "/api/plan?to=2026-11-24%2009:30:00%20UTC").await;
    assert!(status == 200 && plan.contains("2026-11-24 09:30:00 UTC"), "{status} {plan}");
    assert_eq!(get(at, "/api/plan?to=latest").await.0, 200);
    for bad in ["--yes", "-h", "2026-11-24", "", "nonsense", &"9".repeat(200)] {
        assert_eq!(get(at, &format!("/api/plan?to={bad}")).await.0, 400, "{bad}");
    }
}

/// A daemon in which nobody looks any more.
struct Stuck(Kept);

#[async_trait::async_trait]
impl Source for Stuck {
    fn facts(&self) -> Option<Arc<watch::Facts>> {
        self.0.facts()
    }
    fn looks_on(&self) -> bool {
        false
    }
    async fn runs(&self) -> Result<Vec<watch::facts::RunFacts>, watch::Trouble> {
        self.0.runs().await
    }
    async fn log(&self, run: &str) -> Result<Option<Vec<String>>, watch::Trouble> {
        self.0.log(run).await
    }
    async fn plan(&self, target: &str) -> Result<serde_json::Value, watch::Trouble> {
        self.0.plan(target).await
    }
}

#[tokio::test]
async fn an_observation_that_is_old_is_not_ready_and_lives_while_somebody_looks() {
    let at = show(&PageSettings::local(anywhere()), Arc::new(kept())).await;
    assert_eq!(get(at, "/healthz").await.0, 200);
    assert_eq!(get(at, "/readyz").await.0, 503);
    let at = show(&PageSettings::local(anywhere()), Arc::new(Stuck(kept()))).await;
    assert_eq!(get(at, "/healthz").await.0, 503);
}

/// From 127.0.0.`host`: somebody else than who asks otherwise.
async fn connect_from(host: u8, at: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).expect("an address of this host");
    socket.connect(at).await.expect("a connection")
}

/// Fails where it would hang.
async fn is_answered(at: SocketAddr) {
    let answer = tokio::time::timeout(Duration::from_secs(60), get(at, "/healthz")).await;
    assert_eq!(answer.expect("nobody is kept out").0, 200);
}

#[tokio::test]
async fn who_is_connected_and_asks_nothing_keeps_nobody_out() {
    let settings = PageSettings { patience: Duration::from_millis(500), ..PageSettings::local(anywhere()) };
    let at = show(&settings, fresh()).await;
    // Nothing, half a head, a head without its body, and a request after which none follows.
    let login = format!("POST /login HTTP/1.1\r\nHost: {at}\r\nContent-Length: 9\r\n\r\n");
    let whole = format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\n\r\n");
    // Each by itself: where one kind goes, there is room for the others.
    for begun in ["", "GET /heal", &login, &whole] {
        let mut silent = Vec::new();
        for number in 0..320_usize {
            let mut stream = connect_from(2 + (number / 64) as u8, at).await;
            stream.write_all(begun.as_bytes()).await.expect("it is connected");
            silent.push(stream);
        }
        is_answered(at).await;
    }
}

#[tokio::test]
async fn one_host_keeps_no_other_out_however_often_it_connects() {
    let settings = PageSettings { patience: Duration::from_secs(3600), ..PageSettings::local(anywhere()) };
    let at = show(&settings, fresh()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(connect_from(2, at).await);
    }
    is_answered(at).await;
}

#[tokio::test]
async fn beyond_this_host_a_token_and_tls_are_needed() {
    let beyond = SocketAddr::from(([0, 0, 0, 0], 0));
    let token = Some(Secret::new(TOKEN.into()));
    let bind = |settings: PageSettings| async move { Page::bind(&settings, fresh()).await.err() };
    assert!(matches!(bind(PageSettings::local(beyond)).await, Some(PageError::Open { lacks: "token", .. })));
    let only_token = PageSettings { token: token.clone(), ..PageSettings::local(beyond) };
    assert!(matches!(bind(only_token).await, Some(PageError::Open { lacks: "certificate", .. })));
    let short = PageSettings { token: Some(Secret::new("short".into())), ..PageSettings::local(anywhere()) };
    assert!(matches!(bind(short).await, Some(PageError::ShortToken { .. })));
    let tls = TlsFiles { cert: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into() };
    let unreadable = PageSettings { token, tls: Some(tls), ..PageSettings::local(beyond) };
    assert!(matches!(bind(unreadable).await, Some(PageError::Tls { .. })));
}

#[tokio::test]
async fn with_a_token_nobody_sees_anything_without_it_and_who_guesses_must_wait() {
    let settings = PageSettings { token: Some(Secret::new(TOKEN.into())), ..PageSettings::local(anywhere()) };
    let at = show(&settings, fresh()).await;
    for path in ["/metrics", "/api/now", "/api/runs", "/api/runs/x", "/api/plan?to=latest"] {
        let (status, _, body) = get(at, path).await;
        assert!(status == 401 && !body.contains("acme"), "{path}: {status}");
    }
    let (status, head, _) = get(at, "/").await;
    assert!(status == 303 && head.contains("location: /login"), "{head}");
    assert_eq!(get(at, "/healthz").await.0, 200);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(ask(at, "GET /metrics", &[&bearer], "").await.0, 200);

    let (status, head, _) = ask(at, "POST /login", &[], &format!("token={TOKEN}")).await;
    assert_eq!(status, 303);
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict") && !cookie.contains(TOKEN), "{cookie}");
    let cookie = format!("Cookie: {}", cookie.split(';').next().expect("a value"));
    assert_eq!(ask(at, "GET /api/now", &[&cookie], "").await.0, 200);
    assert_eq!(ask(at, "POST /logout", &[&cookie], "").await.0, 303);
    assert_eq!(ask(at, "GET /api/now", &[&cookie], "").await.0, 401);

    let mut last = 0;
    for _ in 0..10 {
        last = ask(at, "GET /metrics", &["Authorization: Bearer wrong"], "").await.0;
    }
    assert_eq!(last, 429);
    assert_eq!(ask(at, "GET /metrics", &[&bearer], "").await.0, 429, "the right one, too, from there");
}

#[tokio::test]
async fn tls_is_spoken_with_the_configured_certificate() {
    let folder = std::env::temp_dir().join(format!("bowline-page-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str| folder.join(name);
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let subject = ["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=page"];
    let names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key.to_string_lossy(), "-out", &cert.to_string_lossy()].map(str::to_owned);
    let made = tool("openssl", &subject.iter().copied().chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
    assert!(made.status.success(), "{}", said(&made));
    let tls = Some(TlsFiles { cert: cert.clone(), key });
    let settings = PageSettings { token: Some(Secret::new(TOKEN.into())), tls, ..PageSettings::local(anywhere()) };
    let at = show(&settings, fresh()).await;
    let url = format!("https://{at}/metrics");
    let (authority, bearer) = (cert.to_string_lossy().into_owned(), format!("Authorization: Bearer {TOKEN}"));
    let ask = move || tool("curl", &["-sS", "--max-time", "20", "--cacert", &authority, "-H", &bearer, "-D", "-", &url]);
    let answer = tokio::task::spawn_blocking(ask).await.expect("curl");
    drop(std::fs::remove_dir_all(&folder));
    let answer = said(&answer).to_lowercase();
    assert!(answer.contains("200 ok") && answer.contains("bowline_protected") && answer.contains("strict-transport-security"), "{answer}");
}

#[tokio::test]
async fn a_real_browser_shows_what_is_so_without_a_complaint() {
    let at = local().await;
    let profile = std::env::temp_dir().join(format!("bowline-chromium-{}", std::process::id()));
    let profile_flag = format!("--user-data-dir={}", profile.display());
    let look = move |path: &str, more: &[&str]| {
        let url = format!("http://{at}{path}");
        let quiet = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let own = ["--headless", "--virtual-time-budget=4000", "--enable-logging=stderr", "--v=0", &profile_flag, "--dump-dom"];
        let all: Vec<&str> = own.into_iter().chain(quiet).chain(more.iter().copied()).chain([url.as_str()]).collect();
        tool(&prepared("BOWLINE_CHROMIUM", "chromium"), &all)
    };
    let shown = tokio::task::spawn_blocking(move || look("/", &["--window-size=500,900"])).await.expect("chromium");
    drop(std::fs::remove_dir_all(&profile));
    let (dom, log) = (String::from_utf8_lossy(&shown.stdout).replace("&nbsp;", "\u{a0}"), String::from_utf8_lossy(&shown.stderr).into_owned());
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let there = [
        "Not protected.",
        "Cannot be restored: ",
        "1 gap",
        "Would be lost now (RPO)",
        "45\u{a0}min",
        "objective 4\u{a0}h",
        "role=\"slider\"",
        "Backup of 22 Nov 2026: passed",
        "1 Dec 2025",
        // How long ago that is depends on when this runs.
        "people were told ",
        "404 Not Found",
        "Backup of 1 Jul 2026: monthly, held",
        "scrub running",
        "s3://pair-backups does not answer",
        "full in 71 days",
        "running, 38 %",
        "AES-256-GCM",
        "lacks matching index tuple",
    ];
    for text in there {
        assert!(dom.contains(text), "{text:?} is not shown: {dom}");
    }
}
