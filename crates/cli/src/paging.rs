//! What the page shows, from what the daemon knows, from the ledger, and from this program's own plan.

use crate::args::Common;
use crate::fault::Fault;
use crate::wiring::Wiring;
use async_trait::async_trait;
use daemon::{Office, Program};
use page::{PageSettings, Source, TlsFiles};
use repo::{Run, RunName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use watch::facts::RunFacts;
use watch::{Facts, Trouble};

/// Where the page is unless told.
const LISTEN: &str = "127.0.0.1:9187";
/// Runs that are shown.
const RUNS: usize = 40;
/// How long a reading of the ledger is good for everybody who looks.
const LEDGER_FRESH: Duration = Duration::from_secs(4);
/// How long a plan may take.
const PLAN_LIMIT: Duration = Duration::from_secs(120);
/// Three looks that failed, and a moment.
const LOOKS_MISSED: u32 = 3;

/// Where and for whom the page is, and whether somebody asked for just that; `None` where it is switched off.
pub fn settings(wiring: &Wiring, watch_interval: Duration) -> Result<Option<(PageSettings, bool)>, Fault> {
    let page = &wiring.config.page;
    let listen = page.listen.as_deref().unwrap_or(LISTEN);
    if listen == "off" {
        return Ok(None);
    }
    let listen = listen.parse().map_err(|_| {
        let hint = "An address and a port, such as \"127.0.0.1:9187\" or \"[::1]:9187\"; \"off\" shows no page.";
        Fault::misuse("config-wrong", "page.listen is no address", "", hint)
    })?;
    let tls = match (&page.tls_cert, &page.tls_key) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.clone(), key: key.clone() }),
        (None, None) => None,
        _ => return Err(Fault::misuse("config-wrong", "page.tls_cert and page.tls_key belong together", "", "Set both, or none.")),
    };
    let token = page.token.as_ref().map(|token| token.resolve("page.token")).transpose()?;
    let fresh = watch_interval * LOOKS_MISSED + Duration::from_secs(60);
    Ok(Some((PageSettings { token, tls, fresh, ..PageSettings::local(listen) }, page.listen.is_some())))
}

/// The page's source in a daemon.
pub struct Shown {
    common: Common,
    office: Arc<Office>,
    program: Program,
    ledger: Mutex<Ledger>,
    told: Mutex<Option<(Instant, Value)>>,
}

/// What was read of the ledger: runs that ended never change.
#[derive(Default)]
struct Ledger {
    known: BTreeMap<RunName, Run>,
    read: Option<(Instant, Vec<RunFacts>)>,
}

impl Shown {
    pub fn new(common: Common, office: Arc<Office>, program: Program) -> Self {
        Self { common, office, program, ledger: Mutex::default(), told: Mutex::default() }
    }

    async fn reader(&self) -> Result<repo::Reader, Trouble> {
        let open = async { Wiring::new(&self.common)?.reader().await };
        open.await.map_err(|fault: Fault| Trouble::from(fault.0))
    }
}

#[async_trait]
impl Source for Shown {
    fn facts(&self) -> Option<Arc<Facts>> {
        self.office.observed().map(|observed| Arc::new(observed.facts.clone()))
    }

    fn looks_on(&self) -> bool {
        self.office.looks_on()
    }

    async fn alerts(&self) -> Value {
        let mut told = self.told.lock().await;
        if let Some((_, view)) = told.as_ref().filter(|(read, _)| read.elapsed() < LEDGER_FRESH) {
            return view.clone();
        }
        let read = async {
            let wiring = Wiring::new(&self.common)?;
            let state = wiring.alert_shelf()?.state::<alerts::State>(None).await?.map(|(state, _)| state).unwrap_or_default();
            let mut view = alerts::View::of(&state);
            let known: Vec<(&str, &'static str, usize)> = wiring.config.alerts.known().into_iter().map(|(name, kind)| (name, kind, 0)).collect();
            view.name_channels(&known);
            view.deliveries.clear();
            Ok::<_, Fault>(serde_json::json!(view))
        };
        let view = read.await.unwrap_or_default();
        *told = Some((Instant::now(), view.clone()));
        view
    }

    async fn runs(&self) -> Result<Vec<RunFacts>, Trouble> {
        let mut ledger = self.ledger.lock().await;
        if let Some((_, runs)) = ledger.read.as_ref().filter(|(read, _)| read.elapsed() < LEDGER_FRESH) {
            return Ok(runs.clone());
        }
        let reader = self.reader().await?;
        let names = reader.run_names(RUNS).await.map_err(|e| Trouble::of(&e))?;
        let runs = reader.runs(&names, &ledger.known).await.map_err(|e| Trouble::of(&e))?;
        let mut facts: Vec<RunFacts> = runs.iter().map(|(name, run)| watch::run_facts(name, run)).collect();
        facts.sort_by_key(|run| std::cmp::Reverse(run.began));
        ledger.known = runs.into_iter().filter(|(_, run)| run.ended().is_some()).collect();
        ledger.read = Some((Instant::now(), facts.clone()));
        Ok(facts)
    }

    async fn log(&self, run: &str) -> Result<Option<Vec<String>>, Trouble> {
        if let Some(said) = self.office.live(run) {
            return Ok(Some(said.log.into()));
        }
        let Some(name) = RunName::parse(run) else { return Ok(None) };
        let found = self.reader().await?.run(&name).await.map_err(|e| Trouble::of(&e))?;
        Ok(found.map(|run| run.ended().map(|ended| ended.log.clone()).unwrap_or_default()))
    }

    async fn plan(&self, target: &str) -> Result<Value, Trouble> {
        let trouble = |summary: &str, detail: String| Trouble {
            slug: "plan-failed".into(),
            summary: summary.into(),
            detail,
            hint: String::new(),
            is_damage: false,
        };
        let words = ["restore", "--plan", "--to", target];
        let mut running = self.program.start(&words, None).map_err(|e| trouble("the plan could not be begun", format!("{e}.")))?;
        let ended = tokio::time::timeout(PLAN_LIMIT, running.ended()).await;
        let ended = ended.map_err(|_| trouble("the plan took too long", format!("It was ended after {} s.", PLAN_LIMIT.as_secs())))?;
        let word = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
        match (ended.said.result, ended.said.error) {
            (Some(result), _) => Ok(result),
            (None, Some(error)) => Err(Trouble {
                slug: word(&error, "slug"),
                summary: word(&error, "summary"),
                detail: word(&error, "detail"),
                hint: word(&error, "hint"),
                is_damage: false,
            }),
            (None, None) => Err(trouble("the plan ended without a word", String::new())),
        }
    }
}
