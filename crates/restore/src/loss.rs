//! What of the stored log a restored cluster will not have: what lies behind the place where recovery stops.

use crate::plan::Stop;
use serde::Serialize;
use terms::{Lsn, Timestamp};

/// What is left out, as far as the repository tells. What never was stored nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Where recovery stops; `None` when only replaying tells.
    pub stops_at: Option<Lsn>,
    /// Where the stored log of the followed timeline ends.
    pub stored_to: Lsn,
    /// How much log lies between.
    pub bytes: Option<u64>,
    /// When the last transaction ended that is near before the stop.
    pub last_kept: Option<Timestamp>,
    /// When the first one ended that is near behind it.
    pub first_lost: Option<Timestamp>,
    /// When the last stored transaction ended.
    pub last_stored: Option<Timestamp>,
    /// Until when everything that the server had promised is proven to be stored.
    pub covered_until: Option<Timestamp>,
}

impl Loss {
    /// In words. Times are of ends of transactions, by the server's clock.
    pub fn words(&self, stop: &Stop) -> String {
        let newest = self.last_stored.map_or_else(|| "the end of what is stored".into(), |at| format!("{at}, the newest that is stored"));
        let bytes = self.bytes.map_or_else(String::new, |bytes| format!("{} of log: ", size(bytes)));
        match stop {
            Stop::EndOfWal { .. } => {
                let newest = self.last_stored.map_or_else(String::new, |at| format!("; its newest transaction ended at {at}"));
                let covered = self.covered_until.map_or_else(
                    || "; nothing proves until when that is all there was".into(),
                    |at| format!("; all until {at} is proven to be stored"),
                );
                format!("nothing that is stored{newest}{covered}")
            }
            // Nothing ended behind the place, as far as was looked.
            Stop::Before(_) | Stop::Consistent if self.bytes == Some(0) => "nothing that is stored".into(),
            Stop::Time(at) => format!("transactions that ended after {at}, until {newest}"),
            Stop::Name(name) => format!("{bytes}transactions that ended after restore point {name}, until {newest}"),
            Stop::Before(lsn) => {
                let from = self.first_lost.map_or_else(|| format!("behind {lsn}"), |at| format!("from {at}"));
                format!("{bytes}transactions that ended {from}, until {newest}")
            }
            Stop::Consistent => format!("{bytes}transactions that ended after the backup was consistent, until {newest}"),
        }
    }
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stop_says_what_lies_behind_it() {
        let lsn = Lsn::from_bytes(0x3000028);
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let loss = Loss {
            bytes: Some(512),
            first_lost: at("2026-11-22 14:05:01 UTC"),
            last_stored: at("2026-11-22 14:32:10 UTC"),
            covered_until: at("2026-11-22 14:33:00 UTC"),
            stops_at: None,
            stored_to: lsn,
            last_kept: None,
        };
        let latest = loss.words(&Stop::EndOfWal { at: lsn });
        assert_eq!(
            latest,
            "nothing that is stored; its newest transaction ended at 2026-11-22 14:32:10 UTC; all until 2026-11-22 14:33:00 UTC is proven to be stored"
        );
        let timed = loss.words(&Stop::Time("2026-11-22 14:05:00 UTC".parse().unwrap()));
        assert_eq!(timed, "transactions that ended after 2026-11-22 14:05:00 UTC, until 2026-11-22 14:32:10 UTC, the newest that is stored");
        let placed = loss.words(&Stop::Before(lsn));
        assert!(placed.starts_with("512 bytes of log: transactions that ended from 2026-11-22 14:05:01 UTC, until"), "{placed}");
        let unproven = Loss { covered_until: None, ..loss }.words(&Stop::EndOfWal { at: lsn });
        assert!(unproven.ends_with("nothing proves until when that is all there was"), "what is not proven is not said to be");
    }
}
