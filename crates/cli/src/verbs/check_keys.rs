//! What `check` finds about keys: each recipient wraps and unwraps, each data key opens for all of them, nothing is written plain.

use super::check::{Findings, Verdict};
use crate::fault::Fault;
use crate::wiring::Wiring;
use repo::{Encryption, Reader};
use std::collections::BTreeSet;

pub(super) async fn look(wiring: &Wiring, reader: &Reader, findings: &mut Findings) {
    if reader.document().encryption == Encryption::Off {
        return;
    }
    match reader.writes_plain() {
        plain if plain.is_empty() => findings.ok("nothing written plain", "backup, wal receive and wal push all seal what they store"),
        plain => {
            let fix = "repository.json names no key for them: restore it from a copy of the bucket.";
            findings.add("nothing written plain", Verdict::Fail, format!("{} would store unsealed data", plain.join(", ")), fix);
        }
    }
    let recipients = match wiring.each_recipient() {
        Ok(recipients) => recipients,
        Err(fault) => return findings.fail("recipient", &fault),
    };
    let (mut names, mut failed) = (BTreeSet::new(), 0);
    for recipient in &recipients {
        match reader.prove(&**recipient).await {
            Ok(proof) if proof.is_proven => {
                findings.ok("recipient", format!("{}: it wraps, and unwraps what it wrapped", proof.recipient));
                names.insert(proof.recipient);
            }
            Ok(proof) => {
                let found = format!("{}: it wraps; NOT PROVEN that it unwraps, because its private half is kept elsewhere", proof.recipient);
                findings.add("recipient", Verdict::Ok, found, "To prove it now and then: bowline check --key FILE, where its private half is.");
                names.insert(proof.recipient);
            }
            Err(e) => {
                failed += 1;
                findings.fail("recipient", &e.into());
            }
        }
    }
    look_at_slots(reader, &names, findings).await;
    if failed == 0 && wiring.key().is_none() {
        look_at_survival(wiring, &names, findings);
    }
}

/// Whether all that is stored opens for all who are configured.
async fn look_at_slots(reader: &Reader, names: &BTreeSet<String>, findings: &mut Findings) {
    let keys = match reader.keys().await {
        Ok(keys) => keys,
        Err(e) => return findings.fail("data keys", &Fault::from(e)),
    };
    let lacking: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let count = keys.iter().filter(|key| !key.slots.iter().any(|slot| slot.recipient == *name)).count();
            (count > 0).then(|| format!("{count} of {} are not wrapped for {name}", keys.len()))
        })
        .collect();
    match lacking.is_empty() {
        true => findings.ok("data keys", format!("{}, each wrapped for all of these recipients", keys.len())),
        false => findings.add("data keys", Verdict::Warn, lacking.join("; "), "bowline keys rewrap"),
    }
}

/// Whether one region's loss, or one key's, takes every backup with it.
fn look_at_survival(wiring: &Wiring, names: &BTreeSet<String>, findings: &mut Findings) {
    let Ok(specs) = wiring.specs() else { return };
    let is_one = names.len() == 1 && specs.iter().all(keys::Spec::is_single_region_kms) && !names.iter().any(|name| name.contains(":key/mrk-"));
    if is_one {
        findings.add(
            "survival of the keys",
            Verdict::Warn,
            "every recipient is one KMS key of one region: with the key, the region or the account all backups are lost",
            "Make a recovery key on a machine that is not this one (age-keygen -o recovery), keep it offline, and bowline keys add age:age1…; then name it in [encryption] recipients.",
        );
    }
}
