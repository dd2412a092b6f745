//! How far a receiver is behind the server, in bytes and in seconds of what the server wrote.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Outcome;
use super::server::Server;

/// Where both were at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the first sample.
    seconds: f64,
    /// What the server had flushed, and what the receiver had reported as safe; bytes of the log.
    written: u64,
    stored: u64,
}

/// Behind at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    pub bytes: u64,
    /// How long ago the server had written what is now safe.
    pub seconds: f64,
}

/// The lag of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lags {
    /// The greatest of each.
    pub worst: Lag,
    /// When the load had just ended.
    pub end: Lag,
}

/// Runs `work` and looks once a second at where the receiver of this `application_name` is.
pub fn during<T>(server: &Server, name: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Lags)> {
    let over = AtomicBool::new(false);
    let (done, samples) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| follow(server, name, &over).map_err(|error| error.to_string()));
        let done = work();
        over.store(true, Ordering::Release);
        (done, sampler.join())
    });
    let samples = samples.map_err(|_| "the sampling thread failed")??;
    Ok((done?, lags(&samples)))
}

/// Once a second until it is over, and once more then.
fn follow(server: &Server, name: &str, over: &AtomicBool) -> Outcome<Vec<Sample>> {
    let text = format!(
        "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn, flush_lsn - '0/0'::pg_lsn FROM pg_stat_replication \
         WHERE application_name = '{name}'"
    );
    let (started, mut samples) = (Instant::now(), Vec::new());
    loop {
        let is_last = over.load(Ordering::Acquire);
        let line = server.sql("postgres", &text)?;
        // Nothing is reported yet when the second is empty.
        let (written, stored) = line.split_once('|').ok_or_else(|| format!("{name} does not stream any more"))?;
        samples.push(Sample { seconds: started.elapsed().as_secs_f64(), written: written.parse()?, stored: stored.parse().unwrap_or(0) });
        if is_last {
            return Ok(samples);
        }
        let next = Duration::from_secs(samples.len() as u64);
        while started.elapsed() < next && !over.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lags(samples: &[Sample]) -> Lags {
    let all: Vec<Lag> = samples.iter().map(|sample| lag(samples, *sample)).collect();
    let worst = Lag { bytes: all.iter().map(|lag| lag.bytes).max().unwrap_or(0), seconds: all.iter().map(|lag| lag.seconds).fold(0.0, f64::max) };
    Lags { worst, end: all.last().copied().unwrap_or_default() }
}

/// The moment at which the server had written what is stored now lies between two samples, taken as even in between.
fn lag(samples: &[Sample], now: Sample) -> Lag {
    if now.stored >= now.written {
        return Lag::default();
    }
    let later = samples.iter().position(|sample| sample.written > now.stored).unwrap_or(0);
    let to = samples[later];
    let then = match later.checked_sub(1).map(|before| samples[before]) {
        None => to.seconds,
        Some(from) => {
            let share = (now.stored - from.written) as f64 / (to.written - from.written) as f64;
            from.seconds + share * (to.seconds - from.seconds)
        }
    };
    Lag { bytes: now.written - now.stored, seconds: now.seconds - then }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_in_seconds_is_how_long_ago_the_server_had_written_what_is_safe() {
        let sample = |seconds, written, stored| Sample { seconds, written, stored };
        let samples = [sample(0.0, 100, 100), sample(1.0, 200, 100), sample(2.0, 400, 150), sample(3.0, 400, 400)];
        assert_eq!(lag(&samples, samples[0]).seconds, 0.0);
        assert_eq!((lag(&samples, samples[1]).bytes, lag(&samples, samples[1]).seconds), (100, 1.0));
        assert_eq!((lag(&samples, samples[2]).bytes, lag(&samples, samples[2]).seconds), (250, 1.5));
        let lags = lags(&samples);
        assert_eq!((lags.worst.bytes, lags.worst.seconds, lags.end.bytes), (250, 1.5, 0));
    }
}
