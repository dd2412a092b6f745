//! Twins of the stream of WAL and what an instant is.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "the commit at the asked instant is left out, or the next one let in",
        "crates/restore/src/replay.rs",
        r#"matches!(plan.stop, Stop::Before(_)) { "off" } else { "on" }"#,
        r#"matches!(plan.stop, Stop::Before(_)) { "on" } else { "off" }"#,
        ("e2e_bank", ""),
    ),
    twin(
        "a receiver that is told to stop drops what is on its way",
        "crates/capture/src/stream.rs",
        "if until_now.is_reached(stored) && !(is_stopping && flow.uploads.is_busy()) {",
        "if until_now.is_reached(stored) {",
        ("e2e_slow_store", "a_receiver_that_is_told_to_stop"),
    ),
    twin(
        "a piece is confirmed that was not stored",
        "crates/capture/src/uploads.rs",
        "let bytes_stored = carrier.until_done(&piece.to_string(), keep).await?;",
        "let _ = keep; let bytes_stored = bytes.len() as u64;",
        ("e2e_loss", "what_is_acknowledged_in_synchronous_mode_is_in_the_bucket"),
    ),
    twin(
        "a segment that is not full is not read back",
        "crates/repo/src/reach.rs",
        "let reach = view.reach(segment);",
        "let reach = if view.has(segment) { view.reach(segment) } else { segment.start(size) };",
        ("e2e_loss", "without_synchronous_mode"),
    ),
    twin(
        "an instant is cut to its second",
        "crates/restore/src/replay.rs",
        r#"("recovery_target_time", at.to_string().replace(" UTC", "+00"))"#,
        r#"("recovery_target_time", format!("{}+00", &at.to_string()[..19]))"#,
        ("e2e_instants", "each_instant_brings_back"),
    ),
    twin(
        "the history of a new timeline is not kept",
        "crates/capture/src/beginning.rs",
        "self.writer.keep_wal(self.epoch.system_id, &name, content, &self.carrier.protection, self.options.compression).await?;",
        "drop((name, content));",
        ("e2e_failover", "a_promoted_standby_is_followed"),
    ),
    twin(
        "an audit passes over what is missing",
        "crates/repo/src/audit.rs",
        "false => (segment.start(size), None),",
        "false => continue,",
        ("e2e_audit", "a_gap_is_named"),
    ),
    twin(
        "what would be lost is unknown once the server is gone",
        "crates/watch/src/rules.rs",
        "let until = facts.repository.seen()?.window",
        "let until = facts.server.seen().and(facts.repository.seen())?.window",
        ("rules", "what_would_be_lost"),
    ),
];
