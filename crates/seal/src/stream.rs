//! Objects that are read from front to back: manifests, WAL segments, history files.

use crate::frame::{FRAME_HEADER_BYTES, Opener, SealedChunk, Sealer, frame_bytes};
use crate::object::{HEADER_BYTES, OpenObject, SealedObject};
use crate::{Compression, SealError};

/// Plain bytes of every chunk but an object's or file's last: 1 MiB.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Cuts a stream of bytes into frames and hands each to its taker.
pub struct StreamSealer {
    object: SealedObject,
    sealer: Sealer,
    pending: Vec<u8>,
    number: u32,
}

impl StreamSealer {
    /// Begins; the object's header must have been written by the caller.
    pub fn begin(object: SealedObject, compression: Compression) -> Result<Self, SealError> {
        Ok(Self { object, sealer: Sealer::new(compression)?, pending: Vec::with_capacity(CHUNK_BYTES), number: 0 })
    }

    /// The object's header.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        self.object.header()
    }

    /// Takes more plain bytes; every full chunk is sealed and given to `take`.
    pub fn push<E: From<SealError>>(&mut self, mut plain: &[u8], mut take: impl FnMut(SealedChunk<'_>) -> Result<(), E>) -> Result<(), E> {
        while !plain.is_empty() {
            // A full chunk waits for the next byte, since the last frame is marked.
            if self.pending.len() == CHUNK_BYTES {
                self.seal_pending(false, &mut take)?;
            }
            let (now, later) = plain.split_at(plain.len().min(CHUNK_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            plain = later;
        }
        Ok(())
    }

    /// Seals the rest as the last frame.
    pub fn finish<E: From<SealError>>(mut self, mut take: impl FnMut(SealedChunk<'_>) -> Result<(), E>) -> Result<(), E> {
        self.seal_pending(true, &mut take)
    }

    fn seal_pending<E: From<SealError>>(&mut self, last: bool, take: &mut impl FnMut(SealedChunk<'_>) -> Result<(), E>) -> Result<(), E> {
        take(self.sealer.seal(&self.object, self.number, last, &self.pending)?)?;
        self.number = after(self.number)?;
        self.pending.clear();
        Ok(())
    }
}

/// Opens an object's frames in order as its bytes arrive.
pub struct StreamOpener {
    object: OpenObject,
    opener: Opener,
    pending: Vec<u8>,
    plain: Vec<u8>,
    number: u32,
    ended: bool,
}

impl StreamOpener {
    /// Begins after the object's header.
    pub fn begin(object: OpenObject) -> Result<Self, SealError> {
        Ok(Self { object, opener: Opener::new()?, pending: Vec::new(), plain: Vec::new(), number: 0, ended: false })
    }

    /// Takes more of the object's bytes; the plain bytes of every whole frame are given to `take`, in order.
    pub fn push<E: From<SealError>>(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while self.pending.len() - at >= FRAME_HEADER_BYTES {
            let end = at + frame_bytes(&self.pending[at..])?;
            if self.pending.len() < end {
                break;
            }
            if self.ended {
                return Err(SealError::OutOfOrder { number: self.number }.into());
            }
            let info = self.opener.open(&self.object, &mut self.pending[at..end], &mut self.plain)?;
            if info.number != self.number {
                return Err(SealError::OutOfOrder { number: self.number }.into());
            }
            self.number = after(self.number)?;
            self.ended = info.last;
            take(&self.plain)?;
            at = end;
        }
        self.pending.drain(..at);
        Ok(())
    }

    /// All bytes were given: the object must end exactly with its last frame.
    pub fn finish(self) -> Result<(), SealError> {
        match (self.ended, self.pending.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(SealError::OutOfOrder { number: self.number }),
            (false, _) => Err(SealError::Short { number: self.number }),
        }
    }
}

/// A number that came round again would be a nonce used twice.
pub(crate) fn after(number: u32) -> Result<u32, SealError> {
    number.checked_add(1).ok_or(SealError::Malformed { number, what: "more frames than can be numbered" })
}

/// Seals a whole object in memory: header, then frames of 1 MiB.
pub fn seal_whole(object: SealedObject, compression: Compression, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    // Room for what does not compress, and a little for each frame: memory that is not written to costs nothing, growing costs a copy.
    let mut sealed = Vec::with_capacity(HEADER_BYTES + plain.len() + (plain.len() >> 10) + 256);
    sealed.extend_from_slice(object.header());
    let mut append = |chunk: SealedChunk<'_>| -> Result<(), SealError> {
        sealed.extend_from_slice(chunk.bytes());
        Ok(())
    };
    let mut stream = StreamSealer::begin(object, compression)?;
    stream.push(plain, &mut append)?;
    stream.finish(&mut append)?;
    Ok(sealed)
}

/// Opens a whole object in memory; `sealed` begins with the header that `object` was made from.
pub fn open_whole(object: OpenObject, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut plain = Vec::with_capacity(sealed.len() * 2);
    let mut stream = StreamOpener::begin(object)?;
    let body = sealed.get(HEADER_BYTES..).ok_or(SealError::NotBowline)?;
    stream.push(body, |bytes| -> Result<(), SealError> {
        plain.extend_from_slice(bytes);
        Ok(())
    })?;
    stream.finish()?;
    Ok(plain)
}
