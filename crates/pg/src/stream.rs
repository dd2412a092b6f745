//! Streams WAL: START_REPLICATION, its messages, and both ways in which it ends.

use crate::frames::columns;
use crate::wire::slot_ident;
use crate::{PgError, Replication, Reporter};
use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::frontend;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use terms::{Clock, Lsn, SystemClock, Timeline, Timestamp};

/// A connection that streams WAL of one timeline.
pub struct WalStream {
    connection: Replication,
    state: State,
    /// The furthest position that a [`Reporter`] has told.
    reported: Arc<AtomicU64>,
}

/// What comes next in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// WAL from `start` on; pieces follow each other without gaps.
    Data {
        /// The position of the first of these bytes.
        start: Lsn,
        /// Up to where the server could send when it sent this: what is durable there, or the end of a timeline that was left.
        end_of_server_wal: Lsn,
        /// As they lie in the segments, page headers included.
        bytes: Bytes,
    },
    /// A sign of life. When a reply is requested and none comes, the server ends the connection (`wal_sender_timeout`).
    Keepalive {
        /// How far the server had sent.
        end: Lsn,
        /// Whether to answer at once.
        reply_requested: bool,
        /// The server's clock when it was at `end`.
        sent_at: Timestamp,
    },
    /// The timeline ends at `at`; go on with `next` there. Numbers may be skipped, and `at` may lie before what was
    /// received: the rest is a record that was never completed. [`WalStream::stop`] gives the connection back.
    TimelineEnded {
        /// What the server's history names after this one.
        next: Timeline,
        /// The position at which this one was left.
        at: Lsn,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// One side has sent CopyDone; results and ReadyForQuery follow.
    Closing {
        next: Option<(Timeline, Lsn)>,
    },
    Ended {
        next: Option<(Timeline, Lsn)>,
    },
}

const DOING: &str = "stream WAL";

impl Replication {
    /// Streams `timeline` from `from` on, holding WAL by `slot` when one is given. `from` is at or before the timeline's
    /// end; exactly there, the stream ends at once. Refusals: the slot is in use (class Held), the server's history has no
    /// such point. That the WAL is gone (slug pg-wal-removed) comes with the first [`WalStream::next`].
    pub async fn start_physical(mut self, slot: Option<&str>, from: Lsn, timeline: Timeline) -> Result<WalStream, PgError> {
        let doing = format!("stream WAL from {from} on timeline {timeline}");
        let slot = slot.map(slot_ident).transpose()?.map(|name| format!("SLOT {name} ")).unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}");
        self.frames.queue(|out| frontend::query(&command, out))?;
        let frame = self.frames.next(&doing).await?;
        let state = match frame.tag {
            b'W' => State::Copying,
            // Nothing to stream on that timeline: the answer is the next one (walsender.c, `StartReplication`).
            b'T' => State::Closing { next: None },
            b'E' => return Err(self.refused(frame.body, &doing).await),
            other => return Err(self.frames.unexpected(other, &doing)),
        };
        Ok(WalStream { connection: self, state, reported: Arc::default() })
    }
}

impl WalStream {
    /// The next event. Dropping the future loses nothing, so it may stand in `tokio::select!`.
    /// After [`StreamEvent::TimelineEnded`] the same event is given again.
    pub async fn next(&mut self) -> Result<StreamEvent, PgError> {
        loop {
            match self.state {
                State::Ended { next: Some((next, at)) } => return Ok(StreamEvent::TimelineEnded { next, at }),
                State::Ended { next: None } => {
                    return Err(self.connection.frames.protocol("The server ended the stream without naming the next timeline"));
                }
                State::Copying => {
                    if let Some(event) = self.copied().await? {
                        return Ok(event);
                    }
                }
                State::Closing { .. } => self.close().await?,
            }
        }
    }

    /// Whether [`WalStream::next`] has something to give without asking the server's socket.
    pub fn has_next(&self) -> bool {
        self.connection.frames.has_next()
    }

    /// What tells the server how far we are from another thread; `None` where that cannot be. Drop it before the stream is stopped.
    pub fn reporter(&mut self) -> Option<Reporter> {
        self.connection.frames.reporter(&self.reported)
    }

    /// How far a [`Reporter`] has told the server that we are.
    pub fn reported(&self) -> Lsn {
        Lsn::from_bytes(self.reported.load(Ordering::Acquire))
    }

    /// Tells the server how far we are. `flushed` may only cover what is durable for good: the server forgets WAL before
    /// it, and commits may wait for it. `applied` is for standbys; under `remote_apply` commits wait for it.
    /// Dropping the future loses nothing: the rest is sent with the next call.
    pub async fn send_status(&mut self, written: Lsn, flushed: Lsn, applied: Option<Lsn>, reply_requested: bool) -> Result<(), PgError> {
        if self.state != State::Copying {
            return Ok(());
        }
        let clock = SystemClock.now().postgres_micros();
        let frames = &mut self.connection.frames;
        frames.queue(|out| {
            let mut body = [0; 34];
            let mut at = &mut body[..];
            at.put_u8(b'r');
            at.put_u64(written.bytes());
            at.put_u64(flushed.bytes());
            // Zero is `InvalidXLogRecPtr`: nothing is said of it.
            at.put_u64(applied.map_or(0, Lsn::bytes));
            at.put_i64(clock);
            at.put_u8(u8::from(reply_requested));
            frontend::CopyData::new(&body[..])?.write(out);
            Ok(())
        })?;
        frames.flush(DOING).await
    }

    /// Ends the stream properly and gives the connection back for the next command; also after the timeline's end.
    /// WAL that is still on its way is thrown away.
    pub async fn stop(mut self) -> Result<Replication, PgError> {
        if self.state == State::Copying {
            self.say_done()?;
        }
        while !matches!(self.state, State::Ended { .. }) {
            self.close().await?;
        }
        Ok(self.connection)
    }

    /// The server we stream from.
    pub fn describe(&self) -> &str {
        self.connection.describe()
    }

    /// One message of the copy phase; `None` when it changed the state.
    async fn copied(&mut self) -> Result<Option<StreamEvent>, PgError> {
        let frame = self.connection.frames.next(DOING).await?;
        match frame.tag {
            b'd' => self.event(frame.body).map(Some),
            b'c' => self.say_done().map(|()| None),
            b'E' => {
                // A walsender ends with its error: waiting for more could only hide it behind the closed connection.
                Err(self.connection.frames.said_no(frame.body, DOING))
            }
            // At a shutdown the walsender sends all it has, then this, then ends (walsender.c, `WalSndDone`).
            b'C' => Err(PgError::ConnectionLost {
                address: self.describe().to_owned(),
                doing: DOING.into(),
                why: "the server is shutting down and has sent all of its WAL".into(),
            }),
            other => Err(self.connection.frames.unexpected(other, DOING)),
        }
    }

    fn event(&self, mut body: Bytes) -> Result<StreamEvent, PgError> {
        let short = |_| self.connection.frames.protocol("A message of the WAL stream is cut short");
        match body.try_get_u8().map_err(short)? {
            b'w' => {
                let start = Lsn::from_bytes(body.try_get_u64().map_err(short)?);
                let end_of_server_wal = Lsn::from_bytes(body.try_get_u64().map_err(short)?);
                body.try_get_i64().map_err(short)?;
                Ok(StreamEvent::Data { start, end_of_server_wal, bytes: body })
            }
            b'k' => {
                let end = Lsn::from_bytes(body.try_get_u64().map_err(short)?);
                let sent_at = Timestamp::from_postgres_micros(body.try_get_i64().map_err(short)?);
                Ok(StreamEvent::Keepalive { end, reply_requested: body.try_get_u8().map_err(short)? != 0, sent_at })
            }
            other => Err(self.connection.frames.protocol(format!("The WAL stream holds a message {:?}", char::from(other)))),
        }
    }

    fn say_done(&mut self) -> Result<(), PgError> {
        self.state = State::Closing { next: None };
        self.connection.frames.queue(|out| {
            frontend::copy_done(out);
            Ok(())
        })
    }

    /// One message after CopyDone: what was under way, the next timeline, two CommandCompletes, ReadyForQuery.
    async fn close(&mut self) -> Result<(), PgError> {
        let State::Closing { next } = self.state else { return Ok(()) };
        let frame = self.connection.frames.next(DOING).await?;
        match frame.tag {
            b'd' | b'c' | b'T' | b'C' => {}
            b'D' => {
                let row = columns(frame.body).ok_or_else(|| self.connection.frames.protocol("A row is cut short"))?;
                let timeline = self.connection.value(&row, 0, DOING)?;
                self.state = State::Closing { next: Some((timeline, self.connection.value(&row, 1, DOING)?)) };
            }
            b'Z' => self.state = State::Ended { next },
            b'E' => return Err(self.connection.frames.said_no(frame.body, DOING)),
            other => return Err(self.connection.frames.unexpected(other, DOING)),
        }
        Ok(())
    }
}
