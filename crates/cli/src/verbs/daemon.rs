//! `bowline daemon`: gives the daemon its premises, and prints what it says.

use crate::args::Common;
use crate::config::Config;
use crate::fault::Fault;
use crate::paging;
use crate::show::Printer;
use crate::telling::Telling;
use crate::verbs::ledger;
use crate::watching::{self, WiredDoors};
use crate::wiring::{Wiring, program};
use async_trait::async_trait;
use daemon::{Loaded, Office, Premises, Program};
use repo::Writer;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Advice, Class};
use watch::Trouble;

const WATCH_INTERVAL: Duration = Duration::from_secs(10);
const LEASE_TTL: Duration = Duration::from_secs(20);
const JOB_LIMIT: Duration = Duration::from_secs(86_400);

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let premises = Arc::new(Wired { common: common.clone() });
    let office = Arc::new(Office::default());
    let page = show(common, &office, printer).await?;
    daemon::run(premises, office, printer.clone()).await.map_err(fault)?;
    if let Some(page) = page {
        page.abort();
    }
    printer.remark("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Opens the page. Where nobody asked for it, and its usual port is another daemon's, there is none.
async fn show(common: &Common, office: &Arc<Office>, printer: &Arc<Printer>) -> Result<Option<tokio::task::JoinHandle<()>>, Fault> {
    let wiring = Wiring::new(common)?;
    let watch_interval = wiring.config.daemon.watch_interval.unwrap_or(WATCH_INTERVAL);
    let Some((settings, is_asked_for)) = paging::settings(&wiring, watch_interval)? else { return Ok(None) };
    let program = Program { path: program()?, arguments: arguments(common), mark: ledger::BY_DAEMON };
    let source = Arc::new(paging::Shown::new(common.clone(), Arc::clone(office), program));
    match page::Page::bind(&settings, source).await {
        Ok(page) => {
            let scheme = if settings.tls.is_some() { "https" } else { "http" };
            printer.remark(format!("the page is {scheme}://{}", page.address()));
            Ok(Some(tokio::spawn(page.run(std::future::pending()))))
        }
        Err(e) if is_asked_for => Err(e.into()),
        Err(e) => {
            printer.remark(format!("no page: {e}: {} Set [page] listen.", terms::Explain::detail(&e)));
            Ok(None)
        }
    }
}

fn fault(trouble: Trouble) -> Fault {
    let Trouble { summary, detail, hint, .. } = trouble;
    Fault(Advice { slug: "daemon-cannot-begin", class: Class::Misuse, summary, detail, hint }, None)
}

struct Wired {
    common: Common,
}

#[async_trait]
impl Premises for Wired {
    fn name(&self) -> String {
        format!("{} {}, process {}", watch::DAEMON_ON, super::host(), std::process::id())
    }

    fn load(&self) -> Result<Loaded, Trouble> {
        load(&self.common).map_err(|fault| Trouble::from(fault.0))
    }

    async fn writer(&self) -> Result<Writer, Trouble> {
        let open = async { Wiring::new(&self.common)?.writer().await };
        open.await.map_err(|fault: Fault| Trouble::from(fault.0))
    }
}

fn load(common: &Common) -> Result<Loaded, Fault> {
    let doors = WiredDoors::new(common)?;
    let config: &Config = &doors.wiring().config;
    // What cannot work is told now, not at two in the night.
    doors.wiring().conninfo()?;
    doors.wiring().specs()?;
    let daemon = &config.daemon;
    let settings = watching::settings(config)?;
    let loaded = Loaded {
        settings,
        tell: Some(Arc::new(Telling::start(doors.wiring())?)),
        program: Program { path: program()?, arguments: arguments(common), mark: ledger::BY_DAEMON },
        receives: daemon.receives(),
        holds_drills: daemon.holds_drills(),
        expires: daemon.expire.unwrap_or(true),
        watch_interval: daemon.watch_interval.unwrap_or(WATCH_INTERVAL),
        lease_ttl: daemon.lease_ttl.unwrap_or(LEASE_TTL),
        job_limit: daemon.job_limit.unwrap_or(JOB_LIMIT),
        doors: Arc::new(doors),
    };
    Ok(loaded)
}

/// What was said to this command about the repository is said to its own commands.
fn arguments(common: &Common) -> Vec<String> {
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let given = [
        ("--config", common.config.as_ref().map(path)),
        ("--repository", common.repository.clone()),
        ("--org", common.org.clone()),
        ("--key", common.key.as_ref().map(path)),
    ];
    given.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten().collect()
}
