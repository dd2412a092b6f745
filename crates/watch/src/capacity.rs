//! How full the repository is, how fast it grows, and when it is full at that rate.

use crate::Trouble;
use crate::disk::Disk;
use crate::facts::{CapacityFacts, Look, Sample};
use crate::settings::Settings;
use repo::{Reader, RepoError};
use terms::Timestamp;

/// Growth is that of so many last days.
const DAYS: f64 = 14.0;
/// Two measurements closer together than this say nothing about growth.
const SPAN_SECONDS_MIN: f64 = 20.0 * 3600.0;
const DAY_SECONDS: f64 = 86_400.0;
/// Each run of expiry measures, and one is due each day: a measurement that is older is of another time.
const OLD_SECONDS: f64 = 3.0 * DAY_SECONDS;

/// Where a quota is set, by the last measurement; else by the disk of the folder, asked now. `None` where neither is.
pub(crate) async fn look(reader: &Reader, settings: &Settings, disk: &mut Disk, now: Timestamp) -> Result<Option<Look<CapacityFacts>>, Trouble> {
    let measured = match reader.capacity().await {
        Err(e @ RepoError::Store(_)) => return Err(Trouble::of(&e)),
        // The next measurement begins it anew; the disk of a folder is asked now.
        Err(e) if settings.quota_bytes.is_some() => return Ok(Some(Look::Unseen(Trouble::of(&e)))),
        measured => measured.unwrap_or_default(),
    };
    let history: Vec<Sample> = measured.samples.into_iter().map(|(at, bytes)| Sample { at, value: bytes as f64 }).collect();
    // A quota says it without the disk.
    let folder = settings.folder.as_deref().filter(|_| settings.quota_bytes.is_none());
    let disk = match disk.look("repository", folder, None).await {
        Ok(disk) => disk,
        Err(silent) => return Ok(Some(Look::Unseen(silent))),
    };
    let (kind, used_bytes, limit_bytes) = match (settings.quota_bytes, disk) {
        (Some(quota), _) => match last_measured(&history, now) {
            Ok(used) => ("quota", used, quota),
            Err(trouble) => return Ok(Some(Look::Unseen(trouble))),
        },
        (None, Some(disk)) => ("disk", disk.total_bytes.saturating_sub(disk.free_bytes), disk.total_bytes),
        (None, None) => return Ok(None),
    };
    let growth = growth_per_day(&history, now);
    let left = limit_bytes.saturating_sub(used_bytes) as f64;
    let days_to_full = growth.filter(|growth| *growth > 0.0).map(|growth| left / growth).filter(|days| days.is_finite());
    let (kind, old_versions) = (kind.to_owned(), measured.old_versions);
    Ok(Some(Look::Seen(CapacityFacts { kind, used_bytes, limit_bytes, growth_bytes_per_day: growth, days_to_full, old_versions, history })))
}

/// How many bytes there were, unless that is too long ago to say anything of now.
fn last_measured(history: &[Sample], now: Timestamp) -> Result<u64, Trouble> {
    let when = match history.last() {
        Some(last) if now.seconds_since(last.at) <= OLD_SECONDS => return Ok(last.value as u64),
        Some(last) => format!("since {}", last.at),
        None => "yet".to_owned(),
    };
    Err(Trouble {
        slug: "not-measured".into(),
        summary: format!("how full the repository is was not measured {when}"),
        detail: String::new(),
        hint: "bowline expire measures it, and says why where it cannot; the daemon runs that after each backup.".into(),
        is_damage: false,
    })
}

/// The slope of the line that lies closest to the last days' measurements, in bytes a day.
fn growth_per_day(history: &[Sample], now: Timestamp) -> Option<f64> {
    let recent: Vec<(f64, f64)> = history
        .iter()
        .map(|sample| (now.seconds_since(sample.at) / -DAY_SECONDS, sample.value))
        .filter(|(day, _)| -*day <= DAYS && *day <= 0.0)
        .collect();
    let (first, last) = (recent.first()?, recent.last()?);
    if (last.0 - first.0) * DAY_SECONDS < SPAN_SECONDS_MIN {
        return None;
    }
    let count = recent.len() as f64;
    let (mean_day, mean_bytes) = (recent.iter().map(|(day, _)| day).sum::<f64>() / count, recent.iter().map(|(_, bytes)| bytes).sum::<f64>() / count);
    let above: f64 = recent.iter().map(|(day, bytes)| (day - mean_day) * (bytes - mean_bytes)).sum();
    let below: f64 = recent.iter().map(|(day, _)| (day - mean_day).powi(2)).sum();
    (below > 0.0).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_of_long_ago_says_nothing_of_now() {
        let now = Timestamp::from_unix_micros(1_800_000_000_000_000);
        let days_ago = |days: f64| vec![Sample { at: now.plus_micros((-days * DAY_SECONDS * 1e6) as i64), value: 62.0 }];
        assert_eq!(last_measured(&days_ago(2.9), now), Ok(62));
        let old = last_measured(&days_ago(30.0), now).expect_err("a month");
        assert!(old.summary.contains("not measured since 2026-"), "{old:?}");
        assert!(last_measured(&[], now).expect_err("never").summary.ends_with("not measured yet"));
    }

    #[test]
    fn growth_is_the_slope_of_the_last_days() {
        let now = Timestamp::from_unix_micros(1_800_000_000_000_000);
        let ago = |days: f64| now.plus_micros((-days * DAY_SECONDS * 1e6) as i64);
        let of = |samples: &[(f64, f64)]| {
            growth_per_day(&samples.iter().map(|(days, value)| Sample { at: ago(*days), value: *value }).collect::<Vec<_>>(), now)
        };
        let close =
            |found: Option<f64>, wanted: f64| assert!((found.expect("a growth") - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{found:?} {wanted}");
        close(of(&[(3.0, 100.0), (2.0, 200.0), (1.0, 300.0), (0.0, 400.0)]), 100.0);
        close(of(&[(3.0, 400.0), (0.0, 100.0)]), -100.0);
        // What was longer ago than two weeks is another time.
        close(of(&[(90.0, 1e9), (2.0, 50.0), (0.0, 70.0)]), 10.0);
        assert_eq!(of(&[(0.5, 1.0), (0.0, 2.0)]), None, "half a day is too short");
        assert_eq!(of(&[]), None);
    }
}
