//! Twins of backups, how they are stored and named, what retention lets go and scrubbing looks at.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "what was unlisted goes at once",
        "crates/upkeep/src/expire.rs",
        "self.now.seconds_since(written) >= self.length.as_secs_f64()",
        "self.now.seconds_since(written) >= -1e9",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
    twin(
        "an older backup's own log is let go",
        "crates/repo/src/retention.rs",
        "        kept.push(WalKept {",
        "        if true {\n            continue;\n        }\n        kept.push(WalKept {",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
    twin(
        "what retention let go is called a gap",
        "crates/repo/src/audit.rs",
        "self.evidence.stored.contains_key(segment) || !self.evidence.is_let_go(*segment)",
        "self.evidence.stored.contains_key(segment) || !self.evidence.is_let_go(*segment) || true",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
    twin(
        "an object that is gone is not missed by scrubbing",
        "crates/upkeep/src/scrub.rs",
        "for path in gone {",
        "for path in gone.into_iter().take(0) {",
        ("e2e_scrub", "one_flipped_bit"),
    ),
    twin(
        "damage that a scrub found does not stand",
        "crates/upkeep/src/scrub.rs",
        "self.state.damage.push(damage);",
        "let _ = damage;",
        ("e2e_scrub", "a_run_goes_on"),
    ),
    twin(
        "each run of scrubbing begins anew",
        "crates/upkeep/src/scrub/reading.rs",
        "Packs::After(done)",
        "Packs::After(done * 0)",
        ("e2e_scrub", "a_run_goes_on"),
    ),
];
