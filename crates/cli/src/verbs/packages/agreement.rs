//! Whether database and packages agree: what `[packages] agreement` lists, beside the objects as of the same instant.

use crate::fault::Fault;
use crate::wiring::Wiring;
use checks::{Outcome, References};
use drill::Report;
use futures::Stream;
use packages::{Agreement, PackagesError, Reference, Source};
use serde_json::Value;
use terms::{Advice, Class, Explain, Timestamp};

/// What a restored server is asked.
pub fn references(wiring: &Wiring) -> Option<References> {
    let asked = wiring.config.packages.as_ref()?.agreement.as_ref()?;
    let usual = wiring.conninfo().map_or_else(|_| "postgres".to_owned(), |info| info.dbname().to_owned());
    Some(References { sql: asked.sql.clone(), database: asked.database.clone().unwrap_or(usual) })
}

/// Compares what the database refers to with what was there then.
pub async fn compare(there: impl Stream<Item = Result<(String, u64), PackagesError>>, rows: Vec<(String, Option<u64>)>) -> Result<Agreement, Advice> {
    let references = rows.into_iter().map(|(key, size)| Reference { key, size }).collect();
    packages::agree(references, there).await.map_err(|error| error.advice())
}

/// Adds to a drill's report whether its database agrees with the packages as of the drill's instant.
pub async fn judge(wiring: &Wiring, report: &mut Report) {
    let Some(referred) = report.referred.take() else { return };
    let fault = |outcome, what: String| checks::Fault { outcome, database: String::new(), object: "packages".into(), what };
    let rows = match referred {
        Ok(rows) => rows,
        Err(why) => return report.add(why),
    };
    let asked = report.target.parse::<Timestamp>().ok();
    let Some(at) = asked.or_else(|| report.last_transaction.as_ref()?.parse().ok()) else {
        return report.add(fault(Outcome::NotVerified, "as of which instant to compare is not known: the log held no commit".into()));
    };
    match compared(wiring, at, rows).await {
        Err(why) => report.add(fault(Outcome::NotVerified, format!("{}: {}", why.summary, why.detail))),
        Ok(found) => {
            if !found.holds() {
                report.add(fault(Outcome::Failed, words(&found)));
            }
            report.agreement = Some(serde_json::json!(found));
        }
    }
}

async fn compared(wiring: &Wiring, at: Timestamp, rows: Vec<(String, Option<u64>)>) -> Result<Agreement, Advice> {
    let told = |fault: Fault| fault.0;
    let settings = super::settings(wiring).map_err(told)?;
    let reader = super::snapshots(wiring).await.map_err(told)?;
    let source = Source::choose(&settings, reader.as_ref(), at).await.map_err(|error| error.advice())?;
    // Rows of the last minutes may refer to what no copy has yet: that is how copies are, and no fault of the backup's.
    let primary = store::Site::open(&settings.primary.url, &settings.primary.options).map_err(|error| error.advice())?;
    let lag = wiring.config.alerts.replication_lag();
    compare(source.sizes_with(&primary, at, lag).await.map_err(|error| error.advice())?, rows).await
}

/// The fault that a restore ends with whose database refers to what is not there, or that could not be asked.
pub fn disagreement(packages: Option<&Value>) -> Option<Fault> {
    if let Some(why) = packages?.get("agreement_unknown").and_then(Value::as_str) {
        let hint = "The database runs, and the packages are there. Whether they agree: bowline verify, to the same instant.";
        let summary = "whether the database and its packages agree is not known";
        return Some(Fault::of("packages-not-compared", Class::Missing, summary, format!("{why}."), hint));
    }
    let found: Agreement = serde_json::from_value(packages?.get("agreement")?.clone()).ok()?;
    let hint = "The database runs. Look for these objects in another copy, or restore to another instant.";
    let summary = "the database refers to packages that were not there at that instant";
    (!found.holds()).then(|| Fault::of("packages-disagree", Class::Missing, summary, format!("{}.", words(&found)), hint))
}

/// In a line.
pub fn words(found: &Agreement) -> String {
    let named = |keys: &[String]| if keys.is_empty() { String::new() } else { format!(" ({})", keys[..keys.len().min(3)].join(", ")) };
    format!(
        "of {} references {} are missing{}, {} have another size{}; nothing refers to {} objects",
        found.referred,
        found.missing,
        named(&found.missing_keys),
        found.changed,
        named(&found.changed_keys),
        found.orphaned
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_restore_whose_agreement_nobody_knows_is_no_success() {
        let slug = |packages: Value| disagreement(Some(&packages)).map(|fault| fault.0.slug);
        assert_eq!(slug(json!({ "agreement_unknown": "the run before" })), Some("packages-not-compared"));
        let mut found = Agreement { referred: 1, ..Agreement::default() };
        assert_eq!(slug(json!({ "agreement": found })), None);
        found.missing = 1;
        assert_eq!(slug(json!({ "agreement": found })), Some("packages-disagree"));
        assert_eq!(slug(json!({})), None);
    }
}
