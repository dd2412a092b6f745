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
];
