//! A daemon's page tells of the real thing: the metrics of a cluster that it protects, its runs with their logs, a plan that its own
//! program makes; and Prometheus reads it.

use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use testkit::bowline::wait;
use testkit::loopback::{free_ports, http, http_with, spawn_for_life};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

const QUICK: &str = "[daemon]\nwatch_interval = \"1s\"\nlease_ttl = \"3s\"\n[wal]\nflush_interval = \"300ms\"\nstatus_interval = \"300ms\"\n";
const TOKEN: &str = "the-token-of-this-page-is-long";

/// The body of an answer that is well.
fn body(answer: Option<String>) -> Option<String> {
    let answer = answer?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

#[test]
fn a_daemons_page_tells_of_the_cluster_that_it_protects_and_prometheus_reads_it() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let ports = free_ports(2);
    let (port, prometheus) = (ports[0], ports[1]);
    let token = bowline.dir().join("page.token");
    std::fs::write(&token, TOKEN).expect("a token");
    let page = format!("[page]\nlisten = \"127.0.0.1:{port}\"\ntoken = \"file:{}\"\n", token.display());
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("{QUICK}{page}"));
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let daemon = bowline.start_daemon();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let get = |path: &str| body(http_with(port, &format!("GET {path}"), &bearer, b""));
    let json = |path: &str| -> Value { get(path).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default() };

    // Red before there is a backup, green once all is in place.
    wait("the first observation", Duration::from_secs(30), || body(http(port, "GET /readyz", b"")).is_some());
    wait("the cluster to be protected", Duration::from_secs(60), || get("/metrics").is_some_and(|text| text.contains("\nbowline_protected 1")));
    let now = json("/api/now");
    assert_eq!(now["facts"]["repository"]["seen"]["backups"].as_array().map(Vec::len), Some(1), "{now:#}");
    assert_ne!(now["verdict"], "unprotected", "{now:#}");
    wait("the run of the backup", Duration::from_secs(20), || {
        json("/api/runs").as_array().is_some_and(|runs| runs.iter().any(|run| run["job"] == "backup" && run["outcome"] == "ok"))
    });
    let runs = json("/api/runs");
    let name = runs.as_array().and_then(|runs| runs.iter().find(|run| run["job"] == "backup")).expect("a run")["run"].clone();
    let log = json(&format!("/api/runs/{}", name.as_str().expect("a name")));
    assert!(log.as_array().is_some_and(|lines| !lines.is_empty()), "{log:#}");
    let plan = json("/api/plan?to=latest");
    assert!(plan.to_string().contains(now["facts"]["repository"]["seen"]["backups"][0]["id"].as_str().expect("an id")), "{plan:#}");

    // Nobody else, and no secret.
    assert!(body(http(port, "GET /metrics", b"")).is_none());
    for path in ["/", "/metrics", "/api/now", "/api/runs", "/api/plan?to=latest"] {
        let text = get(path).unwrap_or_default();
        assert!(!text.contains("bowline-key-1:") && !text.contains(TOKEN), "{path}");
    }

    // Prometheus scrapes it by its token.
    let config = bowline.dir().join("prometheus.yml");
    let scrape = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: bowline\n    authorization: {{ credentials_file: {} }}\n    static_configs: [{{ targets: [\"127.0.0.1:{port}\"] }}]\n",
        token.display()
    );
    std::fs::write(&config, scrape).expect("a configuration");
    let program = std::env::var("BOWLINE_PROMETHEUS").unwrap_or_else(|_| "prometheus".into());
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address=127.0.0.1:{prometheus}"));
    command.arg(format!("--storage.tsdb.path={}", bowline.dir().join("tsdb").display()));
    let mut server = spawn_for_life(command);
    let asked = || body(http(prometheus, "GET /api/v1/query?query=bowline_protected", b"")).is_some_and(|text| text.contains(",\"1\"]"));
    wait("Prometheus to have read it", Duration::from_secs(30), asked);
    server.kill().expect("end Prometheus");
    server.wait().expect("it ended");
    assert_eq!(daemon.stop(), Some(0));
}
