//! The chart, the manifests and the image's recipe: lints, Kubernetes' own schemas, and Bowline's own reader of configurations, for what is
//! there and for what comes out of it. No cluster is asked: there is none.

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use testkit::bowline::{program, wait};
use testkit::certificates::House;
use testkit::loopback::{free_ports, spawn_for_life};

#[path = "kubernetes/pod.rs"]
mod pod;

const CHART: &str = "deploy/helm/bowline";
const NEWEST: &str = "1.37";
/// Every value is another than its default.
const EVERYTHING: &str = r#"
image: { repository: registry.example/acme/bowline, tag: "1", pullPolicy: Always }
pullSecrets: [{ name: registry }]
replicas: 2
secrets: { environment: environment, keys: keys, page: page }
serviceAccount: { annotations: { example.org/role: backup }, automountToken: true }
user: 12345
daemon: { resources: { limits: { memory: 2Gi } } }
drill: { cronJob: true, storage: 1Ti, storageClass: fast, resources: { limits: { memory: 8Gi } } }
pod:
  annotations: { example.org/team: data }
  nodeSelector: { disk: ssd }
  tolerations: [{ key: backup, operator: Exists }]
  affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [{ key: zone, operator: Exists }] }] } } }
  priorityClassName: backup
  env: [{ name: AWS_REGION, value: eu-west-1 }]
  volumes: [{ name: authority, configMap: { name: authority } }]
  mounts: [{ name: authority, mountPath: /etc/bowline/authority, readOnly: true }]
networkPolicy:
  enabled: true
  pageFrom: [{ namespaceSelector: { matchLabels: { team: watch } } }]
  egress: [{ to: [{ ipBlock: { cidr: 10.0.0.0/8 } }], ports: [{ port: 5432 }, { port: 443 }] }]
monitoring: { serviceMonitor: true, prometheusRule: true, labels: { release: prometheus }, ca: ca.crt }
"#;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Runs a tool of scripts/prepare in the project's folder.
fn tool(variable: &str, words: &[&str], input: &str) -> Output {
    let name = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run ./test, which installs it and says where it is"));
    let mut command = Command::new(&name);
    command.args(words).current_dir(root()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {}: {e}", name.display()));
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("write to it");
    child.wait_with_output().expect("its end")
}

/// What it prints; it must end well.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What the chart makes of these values, which are YAML, and of these words for helm.
fn rendered(values: &str, words: &[&str]) -> Output {
    tool("BOWLINE_HELM", &[&["template", "bowline", CHART, "--values", "-"], words].concat(), values)
}

fn lowest() -> String {
    let chart = file(&format!("{CHART}/Chart.yaml"));
    let line = chart.lines().find_map(|line| line.strip_prefix("kubeVersion: \">=")).expect("kubeVersion");
    line.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// What the schemas say of manifests: the objects, the faults, and kinds without a schema.
fn judged(manifests: &str) -> Value {
    let script = root().join("crates/testkit/tests/kubernetes/read.py");
    let told = said(&tool("BOWLINE_KUBERNETES_PYTHON", &[&script.to_string_lossy(), &lowest(), NEWEST], manifests));
    serde_json::from_str(&told).expect("JSON")
}

/// The objects of manifests, against which no schema has anything to say; kinds of others are these.
fn objects(manifests: &str, foreign: &[&str]) -> Vec<Value> {
    let read = judged(manifests);
    assert_eq!((&read["faults"], &read["foreign"]), (&json!([]), &json!(foreign)));
    read["objects"].as_array().expect("a list").clone()
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn one<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

const IN_CRON_JOB: &str = "/spec/jobTemplate/spec/template";

/// The pods that an object makes.
fn pods(objects: &[Value]) -> Vec<(&str, &Value)> {
    let of = |kind, path| of_kind(objects, kind).into_iter().map(move |object| (kind, object.pointer(path).expect("a pod")));
    of("Deployment", "/spec/template").chain(of("CronJob", IN_CRON_JOB)).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What every pod keeps to: what a namespace of the standard "restricted" lets in, and what is mounted is there.
fn judge_pod(kind: &str, pod: &Value) {
    let spec = &pod["spec"];
    let whose = &spec["securityContext"];
    assert_eq!((&whose["runAsNonRoot"], &whose["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")), "{kind}");
    assert!(whose["runAsUser"].as_u64().is_some_and(|user| user > 0) && whose["runAsUser"] == whose["fsGroup"], "{kind}");
    assert_eq!(spec["enableServiceLinks"], false);
    for container in list(&spec["containers"]) {
        let wanted = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
        assert_eq!(container["securityContext"], wanted, "{kind}");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{kind}");
        let volumes: Vec<&Value> = list(&spec["volumes"]).iter().map(|volume| &volume["name"]).collect();
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(&&mount["name"]), "{kind} has no volume {}", mount["name"]);
        }
        assert_eq!(list(&container["volumeMounts"]).len(), volumes.len(), "{kind}: a volume that nothing mounts");
    }
}

/// Has Bowline read a configuration; it asks nobody. Its refusal, if it refuses.
fn refusal(config: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bowline.toml");
    fs::write(&path, config).expect("write");
    let output = Command::new(program()).args(["init", "--print-policy", "writer", "--config"]).arg(&path).env_clear().output().expect("bowline");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// All that is to be so of the objects of one installation.
fn judge(objects: &[Value]) {
    let map = one(objects, "ConfigMap");
    let text = map["data"]["bowline.toml"].as_str().expect("a configuration");
    assert_eq!(refusal(text), None);
    let config = &map["parsed"];
    for (kind, pod) in pods(objects) {
        judge_pod(kind, pod);
        let named = list(&pod["spec"]["volumes"]).iter().filter_map(|volume| volume["configMap"]["name"].as_str());
        assert!(named.into_iter().any(|name| map["metadata"]["name"] == name), "{kind} reads another ConfigMap");
    }
    let daemon = one(objects, "Deployment");
    let container = &daemon["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["args"], &container["env"][0]["name"]), (&json!(["daemon"]), &json!("BOWLINE_CONFIG")));
    // The page's port and certificate are where the configuration says.
    let port = config["page"]["listen"].as_str().and_then(|listen| listen.rsplit(':').next()).expect("a port");
    assert_eq!((container["ports"][0]["containerPort"].to_string(), &container["ports"][0]["name"]), (port.to_owned(), &json!("page")));
    assert_eq!(one(objects, "Service")["spec"]["ports"][0]["port"].to_string(), port);
    let place = |pod: &Value, volume: &str| {
        let mounts = list(&pod["spec"]["containers"][0]["volumeMounts"]).to_vec();
        mounts.into_iter().find(|mount| mount["name"] == volume).map(|mount| mount["mountPath"].as_str().expect("a path").to_owned())
    };
    for (key, file) in [("tls_cert", "tls.crt"), ("tls_key", "tls.key")] {
        assert_eq!(config["page"][key], format!("{}/{file}", place(&daemon["spec"]["template"], "page").expect("a mount")));
    }
    let selects = &one(objects, "Service")["spec"]["selector"];
    assert_eq!((selects, selects), (&daemon["spec"]["selector"]["matchLabels"], &daemon["spec"]["template"]["metadata"]["labels"]));
    // Whoever holds drills has the room, at the configured place; and it is one of them.
    let drills = of_kind(objects, "CronJob");
    let holder = drills.first().map_or(&daemon["spec"]["template"], |job| job.pointer(IN_CRON_JOB).expect("a pod"));
    assert_eq!(place(holder, "drill").map(Value::from).as_ref(), Some(&config["drill"]["dir"]));
    assert_eq!(drills.is_empty(), config["daemon"]["drill"] != false, "nobody holds drills, or two do");
    for job in drills {
        assert_eq!(job.pointer(IN_CRON_JOB).expect("a pod")["spec"]["containers"][0]["args"], json!(["verify"]));
        assert_eq!((&job["spec"]["schedule"], &job["spec"]["timeZone"]), (&config["drill"]["schedule"], &config["daemon"]["timezone"]));
        assert_ne!(job.pointer(IN_CRON_JOB).expect("a pod")["metadata"]["labels"], *selects, "a drill would be asked for the page");
    }
}

/// Without empty lines, of which releases of helm make more and fewer.
fn squeezed(text: &str) -> String {
    text.lines().filter(|line| !line.trim().is_empty()).fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn the_manifests_are_what_the_chart_makes_of_its_defaults() {
    let made = said(&rendered("", &[]));
    assert!(
        squeezed(&made) == squeezed(&file("deploy/kubernetes/base/bowline.yaml")),
        "deploy/kubernetes/base/bowline.yaml is not what the chart makes: helm template bowline {CHART} > deploy/kubernetes/base/bowline.yaml"
    );
    judge(&objects(&made, &[]));
    // And kubectl makes of them the same, in their namespace.
    let base = objects(&said(&tool("BOWLINE_KUBECTL", &["kustomize", "deploy/kubernetes/base"], "")), &[]);
    judge(&base);
    let namespace = one(&base, "Namespace");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    assert!(base.iter().all(|object| object == namespace || object["metadata"]["namespace"] == namespace["metadata"]["name"]));
    // The overlay changes what it means to change, and nothing is left that names the base's configuration.
    let example = objects(&said(&tool("BOWLINE_KUBECTL", &["kustomize", "deploy/kubernetes/example"], "")), &[]);
    judge(&example);
    assert_eq!(one(&example, "ConfigMap")["data"]["bowline.toml"], file("deploy/kubernetes/example/bowline.toml"));
    assert!(pods(&example).iter().all(|(_, pod)| pod["spec"]["containers"][0]["image"] == "registry.example/acme/bowline:0.1.0"));
    let claim = one(&example, "CronJob").pointer(&format!("{IN_CRON_JOB}/spec/volumes/3/ephemeral/volumeClaimTemplate/spec/resources"));
    assert_eq!(claim.expect("a claim")["requests"]["storage"], "500Gi");
}

#[test]
fn the_charts_other_renderings_are_as_good() {
    let everything = objects(&said(&rendered(EVERYTHING, &[])), &["PrometheusRule", "ServiceMonitor"]);
    judge(&everything);
    let daemon = one(&everything, "Deployment");
    assert_eq!(daemon["spec"]["replicas"], 2);
    assert_eq!(one(&everything, "PodDisruptionBudget")["spec"]["selector"], daemon["spec"]["selector"]);
    assert_eq!(of_kind(&everything, "NetworkPolicy").len(), 2);
    for (kind, pod) in pods(&everything) {
        let spec = &pod["spec"];
        assert_eq!(spec["containers"][0]["image"], "registry.example/acme/bowline:1", "{kind}");
        assert_eq!(spec["securityContext"]["runAsUser"], 12345, "{kind}");
        assert_eq!(spec["containers"][0]["envFrom"][0]["secretRef"]["name"], "environment", "{kind}");
        assert!(spec.to_string().contains("/etc/bowline/authority") && spec.to_string().contains("AWS_REGION"), "{kind}");
    }
    // The alerts are those of deploy/prometheus, to the letter, which helm would otherwise take for templates of its own.
    let rules = tool(
        "BOWLINE_KUBERNETES_PYTHON",
        &["-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"],
        &file("deploy/prometheus/bowline.rules.yml"),
    );
    assert_eq!(one(&everything, "PrometheusRule")["spec"], serde_json::from_str::<Value>(&said(&rules)).expect("JSON"));

    // Drills by the daemon itself, under another name.
    let config = file(&format!("{CHART}/values.yaml"))
        .lines()
        .fold(String::new(), |all, line| all + line.replace("drill = false", "drill = true").as_str() + "\n");
    let words = ["template", "kb", CHART, "--values", "-", "--set", "drill.cronJob=false"];
    let own = objects(&said(&tool("BOWLINE_HELM", &words, &config)), &[]);
    judge(&own);
    assert_eq!(one(&own, "Deployment")["metadata"]["name"], "kb-bowline");
    for values in ["", EVERYTHING] {
        said(&tool("BOWLINE_HELM", &["lint", "--strict", CHART, "--values", "-"], values));
    }
}

#[test]
fn what_cannot_be_right_is_refused() {
    let config = |from: &str, to: &str| {
        let values = file(&format!("{CHART}/values.yaml"));
        assert!(values.contains(from), "{from}");
        values.replace(from, to)
    };
    for (values, words, why) in [
        (config("  drill = false", "  drill = true"), &[][..], "drill.cronJob is true"),
        (String::new(), &["--set", "drill.cronJob=false"], "nobody would hold a drill"),
        (config("0.0.0.0:9187", "127.0.0.1:9187"), &[], "probes would not reach it"),
        (config("/page/tls.crt", "/page.pem"), &[], "where the Secret is mounted"),
        (config("  dir = ", "  # dir = "), &[], "no dir below [drill]"),
        (config("  [postgres]", "  [postgres"), &[], "no TOML"),
        (String::new(), &["--set", "replica=2"], "replica"),
        (String::new(), &["--set", "replicas=0"], "replicas"),
        (String::new(), &["--set", "user=0"], "user"),
        (String::new(), &["--kube-version", "1.28.0"], "kubeVersion"),
    ] {
        let output = rendered(&values, words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(why), "{why}: {told}");
    }
    // And so it looks when the tools that judge above find something.
    let manifests = file("deploy/kubernetes/base/bowline.yaml");
    for (from, to) in [("seccompProfile", "secompProfile"), ("replicas: 1", "replicas: one"), ("backoffLimit: 2", "backoffLimit: two")] {
        assert_ne!(judged(&manifests.replace(from, to))["faults"], json!([]), "{from}");
    }
    let read = judged(&manifests);
    let text = read["objects"][1]["data"]["bowline.toml"].as_str().expect("a configuration");
    let told = refusal(&text.replace("schedule = ", "shedule = "));
    assert!(told.as_ref().is_some_and(|told| told.contains("shedule")), "{told:?}");
}

#[test]
fn the_images_recipe_is_linted_and_agrees_with_chart_and_project() {
    const RECIPE: &str = "deploy/docker/Dockerfile";
    said(&tool("BOWLINE_HADOLINT", &["--failure-threshold", "style", RECIPE], ""));
    let recipe = file(RECIPE);
    let argument = |name: &str| {
        let line = recipe.lines().find_map(|line| line.strip_prefix(&format!("ARG {name}="))).unwrap_or_else(|| panic!("ARG {name}"));
        line.trim_matches('"').to_owned()
    };
    assert!(
        file(&format!("{CHART}/values.yaml")).lines().any(|line| line == format!("user: {}", argument("USER_ID"))),
        "another user than the chart's"
    );
    assert!(recipe.lines().any(|line| line == "USER ${USER_ID}:${USER_ID}"));
    assert!(file("Cargo.toml").contains(&format!("rust-version = \"{}\"", argument("RUST"))), "another Rust than the project's");
    let version = format!(
        "version = \"{}\"",
        file(&format!("{CHART}/Chart.yaml")).lines().find_map(|line| line.strip_prefix("appVersion: ")).expect("appVersion")
    );
    assert!(file("Cargo.toml").contains(&version), "another version than the project's");
    let majors = file("scripts/prepare")
        .lines()
        .filter_map(|line| line.trim().split_once(") echo ")?.0.parse::<u32>().ok())
        .map(|major| major.to_string())
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(argument("MAJORS").split(' ').map(str::to_owned).collect::<std::collections::BTreeSet<_>>(), majors);
    // All that cargo needs is let in: it reads every member of the workspace, whichever it builds.
    let ignored = file(&format!("{RECIPE}.dockerignore"));
    let manifest = file("Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")?.strip_suffix(']')).expect("members");
    let folders = members.split(", ").map(|member| member.trim_matches('"').trim_end_matches("/*"));
    for wanted in folders.chain(["Cargo.toml", "Cargo.lock"]) {
        assert!(ignored.lines().any(|line| line.strip_prefix('!') == Some(wanted)), "{wanted} does not get into the image");
    }
    // Each folder that a pod mounts something at.
    for object in objects(&file("deploy/kubernetes/base/bowline.yaml"), &[])
        .iter()
        .flat_map(|object| pods(std::slice::from_ref(object)).into_iter().map(|(_, pod)| pod.clone()).collect::<Vec<_>>())
    {
        for path in list(&object["spec"]["containers"][0]["volumeMounts"]).iter().filter_map(|mount| mount["mountPath"].as_str()) {
            assert!(["/tmp", "/dev/shm"].contains(&path) || recipe.contains(&format!(" {path}")), "the image has no {path}");
        }
    }
}

#[test]
fn a_daemon_with_the_manifests_configuration_answers_the_probes_before_anything_is_there() {
    let all = objects(&file("deploy/kubernetes/base/bowline.yaml"), &[]);
    let house = House::new();
    let folder = tempfile::tempdir().expect("a folder");
    let (port, here) = (free_ports(1)[0], folder.path().display());
    let text = one(&all, "ConfigMap")["data"]["bowline.toml"].as_str().expect("a configuration");
    let mut config = text.to_owned();
    for (from, to) in [
        ("0.0.0.0:9187", format!("127.0.0.1:{port}")),
        ("/etc/bowline/page/tls.crt", house.file("server.pem").display().to_string()),
        ("/etc/bowline/page/tls.key", house.file("server.key").display().to_string()),
        ("s3://acme-backups/production", format!("file://{here}/repository")),
        ("host=postgres.database.svc", format!("host={here}")),
        ("sslmode=require", "sslmode=prefer".to_owned()),
        ("/etc/bowline/keys/key", format!("{here}/key")),
        ("/var/lib/bowline/drill", format!("{here}/drill")),
    ] {
        assert!(config.contains(from), "{from}");
        config = config.replace(from, &to);
    }
    let place = folder.path().join("bowline.toml");
    fs::write(&place, config).expect("a configuration");
    let mut command = Command::new(program());
    command.arg("daemon").env_clear().env("BOWLINE_CONFIG", place).env("BOWLINE_PAGE_TOKEN", "a-token-of-twenty-or-more").env("PGPASSWORD", "none");
    let log = fs::File::create(folder.path().join("log")).expect("a log");
    command.stdout(log.try_clone().expect("dup")).stderr(log);
    let mut daemon = spawn_for_life(command);
    // As the kubelet does it: no token, and whoever signed.
    let status = |path: &str| {
        let output = Command::new("curl").args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", &format!("https://127.0.0.1:{port}{path}")]).output();
        String::from_utf8_lossy(&output.expect("run curl").stdout).into_owned()
    };
    let container = &one(&all, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let asked = &container[probe]["httpGet"];
        assert_eq!((&asked["port"], &asked["scheme"]), (&json!("page"), &json!("HTTPS")));
        let path = asked["path"].as_str().expect("a path");
        wait(probe, Duration::from_secs(60), || status(path) == "200");
    }
    assert_eq!(status("/metrics"), "401", "all else needs the token");
    daemon.kill().expect("end it");
    daemon.wait().expect("its end");
}
