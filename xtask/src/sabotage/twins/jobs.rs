//! Twins of jobs, who does them and how they are judged, and of the service around a restore.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "nothing expires after the first backup",
        "crates/daemon/src/due.rs",
        "last.is_none_or(|last| at > last.began",
        "last.is_some_and(|last| at > last.began",
        ("e2e_daemon", "a_daemon_alone_protects"),
    ),
    twin(
        "a daemon that stands by looks again in ten minutes",
        "crates/daemon/src/turn.rs",
        "held.wait.min(ttl / 3).max(Duration::from_millis(50))",
        "held.wait.max(Duration::from_secs(600))",
        ("e2e_daemon", "a_daemon_alone_protects"),
    ),
    twin(
        "a job that failed is written down as done",
        "crates/cli/src/verbs/ledger.rs",
        "Err(fault) => (RunOutcome::Failed, Some(fault.exit_code())),",
        "Err(fault) => (RunOutcome::Ok, Some(fault.exit_code())),",
        ("e2e_daemon", "what_fails_is_written_down"),
    ),
    twin(
        "the end of a job that was killed is not written down",
        "crates/daemon/src/act.rs",
        "if was_killed && let Some(name)",
        "if was_killed && false && let Some(name)",
        ("e2e_daemon", "a_job_that_is_killed"),
    ),
    twin(
        "a job that succeeded once is never overdue",
        "crates/watch/src/jobs.rs",
        "let is_done = done.is_some_and(|done| done >= required.plus_micros(-1_000_000));",
        "let is_done = done.is_some();",
        ("watch", "jobs::tests::a_job_is_overdue"),
    ),
    twin(
        "what is left of a backup is forecast as the whole of it",
        "crates/daemon/src/office.rs",
        "so_far * total as f64 / done as f64",
        "so_far * (total - done) as f64 / done as f64",
        ("daemon", "office::tests::how_long_a_backup_will_take"),
    ),
    twin(
        "the service goes on while it is restored",
        "crates/rescue/src/run.rs",
        "commands.stop_service.clone().filter(|_| !self.options.is_side)",
        "commands.stop_service.clone().filter(|_| self.options.is_side)",
        ("e2e_rescue", "one_command_stops"),
    ),
    twin(
        "a hook that fails is believed to have done its work",
        "crates/rescue/src/hooks.rs",
        "if status.success() { Ok(()) }",
        "if status.success() || true { Ok(()) }",
        ("e2e_rescue", "what_fails_says_where_things_stand"),
    ),
    twin(
        "a service must be well at once",
        "crates/rescue/src/hooks.rs",
        "Err(error) if left.is_zero() => return Err(error),",
        "Err(error) => return Err(error),",
        ("rescue", "hooks::tests::a_service_may_take_a_while"),
    ),
];
