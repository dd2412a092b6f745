//! The state between judgements: in the repository when it can be reached, in this process until then.

use crate::fold::Notice;
use crate::state::{Delivery, State};
use repo::{AlertShelf, RepoError, Silence};
use std::time::Duration;
use store::Version;
use terms::Timestamp;
use tokio::time::Instant;

/// How long a judgement waits for the repository before it is told without.
const LIMIT: Duration = Duration::from_secs(4);
/// How old the silences may be that are believed in.
const SILENCES_FOR: Duration = Duration::from_secs(10);
/// How often another process may be faster.
const TRIES: u32 = 8;

/// What this process knows.
pub(crate) struct Memory {
    shelf: Option<AlertShelf>,
    state: State,
    /// Deliveries that are not in the state yet.
    pending: Vec<Delivery>,
    /// Of what is kept, as this process knows it.
    version: Option<Version>,
    /// Whether the state holds what is not kept yet.
    is_ahead: bool,
    silences: Vec<Silence>,
    silences_at: Option<Instant>,
    /// For so long the repository is not asked again after it did not answer.
    pause: Duration,
    away_until: Option<Instant>,
}

impl Memory {
    pub fn new(shelf: Option<AlertShelf>, pause: Duration) -> Self {
        Self {
            shelf,
            state: State::default(),
            pending: Vec::new(),
            version: None,
            is_ahead: false,
            silences: Vec::new(),
            silences_at: None,
            pause,
            away_until: None,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn record(&mut self, delivery: Delivery) {
        self.pending.push(delivery);
    }

    /// Applies this to what is known everywhere, and keeps the outcome: anew when another process was faster. Without the repository it is
    /// applied to what is known here, and kept when the repository is back. Silences are looked up when something may fire then.
    pub async fn fold_in(&mut self, alarmed_at: Option<Timestamp>, fold: impl Fn(State, &[Silence]) -> (State, Vec<Notice>)) -> Vec<Notice> {
        let end = Instant::now() + LIMIT;
        for _ in 0..TRIES {
            let Some(shelf) = self.shelf.clone().filter(|_| self.away_until.is_none_or(|until| until <= Instant::now())) else { break };
            if !matches!(tokio::time::timeout_at(end, self.load(&shelf, alarmed_at)).await, Ok(Ok(()))) {
                self.is_away();
                break;
            }
            let (state, notices) = fold(self.up_to_date(), &self.silences);
            if state == self.state && !self.is_ahead {
                return notices;
            }
            match tokio::time::timeout_at(end, shelf.save(&state, self.version.as_ref())).await {
                Ok(Ok(Some(version))) => {
                    (self.state, self.version, self.is_ahead) = (state, Some(version), false);
                    self.pending.clear();
                    return notices;
                }
                // Another process was faster: what it wrote is read, and everything is judged on it anew.
                Ok(Ok(None)) => self.version = None,
                Ok(Err(_)) | Err(_) => {
                    self.is_away();
                    break;
                }
            }
        }
        let (state, notices) = fold(self.up_to_date(), &self.silences);
        self.pending.clear();
        self.is_ahead |= state != self.state;
        self.state = state;
        notices
    }

    /// With how deliveries went.
    fn up_to_date(&self) -> State {
        let mut state = self.state.clone();
        for delivery in &self.pending {
            state.record(delivery.clone());
        }
        state
    }

    fn is_away(&mut self) {
        self.away_until = Some(Instant::now() + self.pause);
        // A write that was given up may have come about: what is there is looked at again.
        self.version = None;
    }

    async fn load(&mut self, shelf: &AlertShelf, alarmed_at: Option<Timestamp>) -> Result<(), RepoError> {
        match shelf.state::<State>(self.version.as_ref()).await {
            Ok(Some((kept, version))) => {
                self.state = if self.is_ahead { kept.merged(std::mem::take(&mut self.state)) } else { kept };
                self.version = Some(version);
            }
            Ok(None) => {}
            // What cannot be read is of no use to anybody: it is written over.
            Err(RepoError::Document { .. }) => {
                self.version = shelf.version().await?;
                self.is_ahead = true;
            }
            Err(e) => return Err(e),
        }
        if let Some(now) = alarmed_at
            && self.silences_at.is_none_or(|at| at.elapsed() >= SILENCES_FOR)
        {
            self.silences = shelf.silences(now).await?;
            self.silences_at = Some(Instant::now());
        }
        Ok(())
    }
}
