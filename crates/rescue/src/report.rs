//! What a rescue came to: what was restored, what is lost, how long it took, and what is still open.

use crate::{Journal, Started};
use terms::{Advice, RecoveryTarget, Timestamp};

/// What the restore does not hold of what the old server knew.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// At most so many seconds before the asked instant, or before the restore began, are missing; `None` when nobody can tell.
    pub seconds_max: Option<f64>,
    /// For people: what is lost, and how that is known.
    pub why: String,
}

/// The end of a rescue.
#[derive(Debug)]
pub struct RescueReport {
    /// As it stands at the end.
    pub journal: Journal,
    /// How the server was left.
    pub started: Started,
    /// At worst: as if the old server had written until the restore began.
    pub loss: Loss,
    /// When it ended.
    pub ended: Timestamp,
    /// What went wrong after the server ran: it serves, but something is open. A second run goes on there.
    pub open: Vec<Advice>,
}

impl RescueReport {
    /// Seconds until the service was well, or until the server ran where no service is known; `None` when it is not.
    pub fn seconds_to_serve(&self) -> Option<f64> {
        self.journal.serving_since.map(|at| at.seconds_since(self.journal.began))
    }
}

/// Tells what is lost.
pub(crate) fn loss(journal: &Journal, target: &RecoveryTarget) -> Loss {
    // Whatever is stored or lay on the old disk: it ended before that, or somewhere else.
    if let Some(detour) = journal.detour.as_ref().filter(|detour| detour.leads_elsewhere()) {
        let seconds_max = match target {
            RecoveryTarget::Latest => Some(journal.began.seconds_since(detour.loss.kept_until).max(0.0)),
            _ => detour.loss.lost.map(|lost| lost.as_secs_f64()),
        };
        return Loss { seconds_max, why: format!("what came after {}: {}", detour.loss.kept_until, detour.loss.reason) };
    }
    match (target, journal.proven) {
        (RecoveryTarget::Latest, _) if journal.old_log_ended => {
            let how = match journal.salvaged {
                Some((from, to)) => format!("the old pg_wal held the log from {from} to {to} beyond the repository, and that was saved"),
                None => "the old pg_wal held nothing that was not in the repository".to_owned(),
            };
            Loss { seconds_max: Some(0.0), why: format!("nothing: {how}") }
        }
        (RecoveryTarget::Latest, Some(at)) => {
            let seconds = journal.began.seconds_since(at).max(0.0);
            Loss {
                seconds_max: Some(seconds),
                why: format!("what the old server wrote after {at}, the last time everything was known to be stored, if it wrote anything"),
            }
        }
        (RecoveryTarget::Latest, None) => Loss { seconds_max: None, why: "unknown: no mark says until when the stored log is complete".into() },
        _ => Loss { seconds_max: Some(0.0), why: "nothing that was asked for; what came after it is in the repository and in the old data".into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use restore::{Detour, LossWindow, Target, Way, Wish};
    use std::time::Duration;
    use terms::Lsn;

    #[test]
    fn what_is_lost_is_never_told_smaller_than_it_may_be() {
        let at = |seconds: i64| Timestamp::from_unix_micros(1_700_000_000_000_000 + seconds * 1_000_000);
        let dir = tempfile::tempdir().unwrap();
        let target = Target::inspect(&dir.path().join("data")).unwrap();
        let wish = Wish { target: RecoveryTarget::Latest, timeline: None, backup: None };
        let mut journal = Journal::new(&target, &wish, at(100));
        assert_eq!(loss(&journal, &RecoveryTarget::Latest).seconds_max, None);
        assert_eq!(loss(&journal, &RecoveryTarget::Time(at(50))).seconds_max, Some(0.0));
        journal.proven = Some(at(88));
        assert_eq!(loss(&journal, &RecoveryTarget::Latest).seconds_max, Some(12.0));
        journal.old_log_ended = true;
        assert_eq!(loss(&journal, &RecoveryTarget::Latest).seconds_max, Some(0.0));
    }
    #[test]
    fn a_way_around_damage_is_a_loss_also_where_the_old_log_was_read_to_its_end() {
        let at = |seconds: i64| Timestamp::from_unix_micros(1_700_000_000_000_000 + seconds * 1_000_000);
        let dir = tempfile::tempdir().unwrap();
        let target = Target::inspect(&dir.path().join("data")).unwrap();
        let wish = Wish { target: RecoveryTarget::Latest, timeline: None, backup: None };
        let loss_window = LossWindow {
            last_kept: Some(at(40)),
            kept_to: Lsn::from_bytes(0x300_0000),
            kept_until: at(40),
            asked: Some(at(90)),
            lost: Some(Duration::from_secs(50)),
            after_target: false,
            reason: "a segment is damaged".into(),
        };
        let backup = "20231114T220000Z".parse().unwrap();
        let detour = |way: Way| Detour { way, backup, stop: String::new(), loss: loss_window.clone(), words: String::new() };
        let mut journal = Journal::new(&target, &wish, at(100));
        (journal.old_log_ended, journal.detour) = (true, Some(detour(Way::StopBefore)));
        assert_eq!(loss(&journal, &RecoveryTarget::Latest).seconds_max, Some(60.0), "the old server may have written until the restore began");
        assert_eq!(loss(&journal, &RecoveryTarget::Time(at(90))).seconds_max, Some(50.0));
        journal.detour = Some(detour(Way::AnotherBackup));
        assert_eq!(loss(&journal, &RecoveryTarget::Latest).seconds_max, Some(0.0), "another backup leads to what was asked for");
    }
}
