//! Twins of retention, and of what removes.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "one month fewer is kept than was asked for",
        "crates/repo/src/retention.rs",
        "found.keys().rev().take(policy.monthly).copied()",
        "found.keys().rev().take(policy.monthly.saturating_sub(1)).copied()",
        ("laws", "retention::a_year_and_a_half"),
    ),
    twin(
        "a month chooses its backup anew each night",
        "crates/repo/src/retention.rs",
        "chosen.iter().filter(|(_, id)| listed.contains(id)).map(",
        "chosen.iter().filter(|(_, id)| listed.contains(id) && false).map(",
        ("laws", "retention::no_history_loses"),
    ),
    twin(
        "only the present month keeps a backup",
        "crates/repo/src/retention.rs",
        "found.keys().rev().take(policy.monthly).copied()",
        "found.keys().rev().take(1).copied()",
        ("e2e_ninety_days", "ninety_days_of_nights"),
    ),
    twin(
        "a backup is unlisted before that is written down",
        "crates/upkeep/src/expire.rs",
        "            self.writer.bury(&listed, self.now).await?;",
        "            self.remover.remove(&listing_of(kind, id)).await?;\n            self.writer.bury(&listed, self.now).await?;",
        ("walk", "after_any_fault"),
    ),
    twin(
        "what a tombstone names goes although it is listed",
        "crates/upkeep/src/sweep.rs",
        "if listed.ids.contains(&(kind, id)) || held.contains_key(&id)",
        "if held.contains_key(&id)",
        ("walk", "no_tombstone_removes"),
    ),
    twin(
        "a backup that is only listed has a place",
        "crates/upkeep/src/places.rs",
        "None if self.opens => doubt(opened",
        "None if self.opens && false => doubt(opened",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
];
