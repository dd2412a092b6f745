//! What `check` says of the store: what it keeps, what changed since the repository was made, what lies about unfinished.

use crate::fault::Fault;
use crate::show::bytes;
use crate::verbs::check::{Findings, Verdict};
use crate::wiring::Wiring;
use repo::Reader;
use store::{Bucket, Capabilities, Fact, Sse};
use terms::{Clock, SystemClock};

/// Signed requests fail at 15 minutes; leases and retention want better clocks long before.
const SKEW_SECONDS_WARN: i64 = 60;
const SKEW_SECONDS_FAIL: i64 = 600;

pub async fn look_at_store(wiring: &Wiring, reader: &Reader, findings: &mut Findings) {
    let opened = wiring.store().and_then(|store| Ok((store, store::open_remover(&wiring.address(), &wiring.store_options()?)?)));
    let (store, remover) = match opened {
        Ok(opened) => opened,
        Err(fault) => return findings.fail("store", &fault),
    };
    // Where encryption by the store is required and not given, nothing may be written, not even to try.
    if let Err(error) = store.ready().await {
        return findings.fail("encryption by the store", &Fault::from(error));
    }
    let probed = match store::probe(&*store, Some(&*remover), "").await {
        Ok(probed) => probed,
        Err(error) => return findings.fail("store", &error.into()),
    };
    let is_safe = probed.conditional_put && probed.conditional_replace;
    findings.judge(
        "store",
        is_safe && probed.reasons.is_empty(),
        if is_safe { Verdict::Warn } else { Verdict::Fail },
        if probed.reasons.is_empty() { "conditional writes work".to_owned() } else { probed.reasons.join(" ") },
        if is_safe { "docs/stores.md says what this store lacks and what that means." } else { "Use a store with conditional writes." },
    );
    match serde_json::from_value::<Capabilities>(reader.document().store.clone()) {
        Ok(before) => {
            let changes = probed.changes_since(&before);
            let found = if changes.is_empty() { "as it was when the repository was made".to_owned() } else { changes.join("; ") };
            findings.judge(
                "store since then",
                changes.is_empty(),
                Verdict::Warn,
                found,
                "Find out who changed the bucket, and whether it was meant.",
            );
        }
        Err(_) => findings.add("store since then", Verdict::Warn, "repository.json does not say what the store was like", ""),
    }
    if let Some(skew) = probed.nature.clock_skew_seconds {
        let verdict = if skew.abs() > SKEW_SECONDS_FAIL { Verdict::Fail } else { Verdict::Warn };
        let found = format!("the store's clock is {skew} s from this host's");
        findings.judge("clock", skew.abs() <= SKEW_SECONDS_WARN, verdict, found, "Set this host's clock by NTP (chronyc tracking).");
    }
    look_at_bucket(wiring, &probed, findings);
    look_at_rules(wiring, findings).await;
    match store.unfinished().await {
        Ok(Fact::Known(uploads)) if uploads.is_empty() => findings.ok("unfinished uploads", "none"),
        Ok(Fact::Known(uploads)) => {
            let now = SystemClock.now();
            let (old, young): (Vec<_>, Vec<_>) = uploads.iter().partition(|upload| upload.is_abandoned(now));
            let total = |some: &[&store::Unfinished]| bytes(some.iter().filter_map(|upload| upload.bytes).sum());
            let mut found = format!("{} under way or given up ({})", young.len(), total(&young));
            if let Some(oldest) = old.iter().min_by_key(|upload| upload.begun) {
                found = format!("{} abandoned ({}), the oldest of {} from {}; {found}", old.len(), total(&old), oldest.key(), oldest.begun);
            }
            let fix = "They cost room and no listing shows them: bowline init --bucket sets the lifecycle rule that ends them after a week.";
            findings.judge("unfinished uploads", old.is_empty(), Verdict::Warn, found, fix);
        }
        Ok(fact) => findings.ok("unfinished uploads", format!("not known: {}", fact.why().unwrap_or_default())),
        Err(error) => findings.fail("unfinished uploads", &error.into()),
    }
}

fn look_at_bucket(wiring: &Wiring, probed: &Capabilities, findings: &mut Findings) {
    let setup = "bowline init --bucket sets it, or prints the command for somebody who may.";
    let nature = &probed.nature;
    if let Some(found) = &nature.encrypted_as_asked {
        let otherwise = if wiring.config.repository.sse() == Sse::Required { Verdict::Fail } else { Verdict::Warn };
        let fix = "Use a store that honours SSE-KMS, or leave sse and sse_kms_key_id out: what Bowline stores is sealed by itself as well.";
        findings.judge("encryption by the store", found == "yes", otherwise, found, fix);
    }
    let facts = [("versions", &nature.versioning, "enabled"), ("public access blocked", &nature.public_access_blocked, "yes")];
    for (what, found, wanted) in facts {
        let Some(found) = found else { continue };
        // What a store does not have, and what may not be asked, is told; it makes no repository unusable.
        match found.as_str() {
            good if good == wanted => findings.ok(what, good),
            none if none == "not supported" || none.starts_with("unknown") => findings.ok(what, none),
            other => findings.add(what, Verdict::Warn, other, setup),
        }
    }
    for (what, found) in [("default encryption", &nature.default_encryption), ("object lock", &nature.object_lock)] {
        if let Some(found) = found {
            findings.ok(what, found);
        }
    }
}

/// Rules of the bucket that take away what only expiry may let go.
async fn look_at_rules(wiring: &Wiring, findings: &mut Findings) {
    let what = "lifecycle rules";
    let asked = async {
        let Some(bucket) = Bucket::open(&wiring.address(), &wiring.store_options()?)? else { return Ok::<_, Fault>(None) };
        let state = bucket.state().await?;
        Ok(Some((state.harms(bucket.prefix()), state.lifecycle.why().map(str::to_owned))))
    };
    match asked.await {
        Ok(None) => {}
        Ok(Some((_, Some(why)))) => findings.ok(what, format!("not known: {why}")),
        Ok(Some((harms, None))) if harms.is_empty() => findings.ok(what, "none takes away what is stored"),
        Ok(Some((harms, None))) => {
            let verdict = if harms.iter().any(|harm| harm.is_fatal) { Verdict::Fail } else { Verdict::Warn };
            let found: Vec<&str> = harms.iter().map(|harm| harm.what.as_str()).collect();
            let fix = "Take what Bowline stores out of these rules (aws s3api get-bucket-lifecycle-configuration shows them): bowline expire lets \
                backups go. Its own rules bowline init --bucket sets right.";
            findings.add(what, verdict, found.join("; "), fix);
        }
        Err(fault) => findings.fail(what, &fault),
    }
}
