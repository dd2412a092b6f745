//! One chunk, compressed and sealed on its own: sixteen bytes of header, the payload, sixteen bytes of tag.

use crate::SealError;
use crate::codec::{Compression, Compressor, Decompressor};
use crate::object::{ObjectCipher, OpenObject, SealedObject};
use aws_lc_rs::aead::{Aad, Nonce};
use aws_lc_rs::digest::{Context, SHA256};

/// Bytes of a frame's header: stored length (payload and tag) 4, plain length 4, number 4 (all little-endian),
/// codec 1, flags 1 (bit 0: last frame of the object), zeros 2. The header is the associated data.
pub const FRAME_HEADER_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// What a frame adds to its payload.
pub const FRAME_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + TAG_BYTES;
/// No frame holds more plain bytes than this (16 MiB); a reader refuses one that says so before it allocates.
pub const PLAIN_BYTES_MAX: usize = 16 << 20;
const FLAG_LAST: u8 = 1;

/// A frame that this room sealed: the only thing that a repository's writer accepts.
pub struct SealedChunk<'a> {
    bytes: &'a [u8],
    plain_bytes: u32,
}

impl SealedChunk<'_> {
    /// The whole frame.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }
    /// How many plain bytes are in it.
    pub fn plain_bytes(&self) -> u32 {
        self.plain_bytes
    }
}

/// Compresses and seals; one for each thread.
pub struct Sealer {
    compressor: Compressor,
    frame: Vec<u8>,
}

impl Sealer {
    /// A sealer that compresses as told.
    pub fn new(compression: Compression) -> Result<Self, SealError> {
        Ok(Self { compressor: Compressor::new(compression)?, frame: Vec::new() })
    }

    /// Seals `plain` (at most [`PLAIN_BYTES_MAX`] bytes) as frame `number` of `object`. Numbers must never repeat within an object.
    pub fn seal(&mut self, object: &SealedObject, number: u32, last: bool, plain: &[u8]) -> Result<SealedChunk<'_>, SealError> {
        if plain.len() > PLAIN_BYTES_MAX {
            return Err(SealError::Malformed { number, what: "a plain length beyond the limit" });
        }
        let (codec, packed) = self.compressor.compress(plain, &mut self.frame, FRAME_HEADER_BYTES)?;
        let end = FRAME_HEADER_BYTES + packed + TAG_BYTES;
        if self.frame.len() < end {
            self.frame.resize(end, 0);
        }
        let header = FrameHeader { stored_bytes: (packed + TAG_BYTES) as u32, plain_bytes: plain.len() as u32, number, codec, last }.to_bytes();
        self.frame[..FRAME_HEADER_BYTES].copy_from_slice(&header);
        let (payload, rest) = self.frame[FRAME_HEADER_BYTES..].split_at_mut(packed);
        let tag = &mut rest[..TAG_BYTES];
        match &object.cipher {
            ObjectCipher::Gcm(key) => {
                let sealed = key
                    .seal_in_place_separate_tag(nonce(number, last), Aad::from(header), payload)
                    .map_err(|_| SealError::Library { what: "AES-256-GCM" })?;
                tag.copy_from_slice(sealed.as_ref());
            }
            ObjectCipher::Plain(context) => tag.copy_from_slice(&checksum(context, &header, payload)),
        }
        Ok(SealedChunk { bytes: &self.frame[..end], plain_bytes: plain.len() as u32 })
    }
}

/// What a frame said of itself, once proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its place in the object.
    pub number: u32,
    /// Whether it is the object's last.
    pub last: bool,
}

/// Opens and decompresses; one for each thread.
pub struct Opener {
    decompressor: Decompressor,
}

impl Opener {
    /// A new opener.
    pub fn new() -> Result<Self, SealError> {
        Ok(Self { decompressor: Decompressor::new()? })
    }

    /// Proves `frame` (one whole frame; it is decrypted in place) and replaces `plain` by what it holds.
    pub fn open(&mut self, object: &OpenObject, frame: &mut [u8], plain: &mut Vec<u8>) -> Result<FrameInfo, SealError> {
        let header = FrameHeader::read(frame)?;
        let FrameHeader { number, last, .. } = header;
        if frame.len() != FRAME_HEADER_BYTES + header.stored_bytes as usize {
            return Err(SealError::Short { number });
        }
        let (head, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
        let packed: &[u8] = match &object.cipher {
            ObjectCipher::Gcm(key) => key.open_in_place(nonce(number, last), Aad::from(&*head), body).map_err(|_| SealError::Forged { number })?,
            ObjectCipher::Plain(context) => {
                let (payload, tag) = body.split_at(body.len() - TAG_BYTES);
                if tag != checksum(context, head, payload) {
                    return Err(SealError::Forged { number });
                }
                payload
            }
        };
        self.decompressor
            .decompress(header.codec, packed, header.plain_bytes as usize, plain)
            .map_err(|what| SealError::Malformed { number, what })?;
        Ok(FrameInfo { number, last })
    }
}

/// How many bytes the frame takes whose header begins `bytes`; at least [`FRAME_HEADER_BYTES`] bytes are needed.
pub fn frame_bytes(bytes: &[u8]) -> Result<usize, SealError> {
    Ok(FRAME_HEADER_BYTES + FrameHeader::read(bytes)?.stored_bytes as usize)
}

struct FrameHeader {
    stored_bytes: u32,
    plain_bytes: u32,
    number: u32,
    codec: u8,
    last: bool,
}

impl FrameHeader {
    fn to_bytes(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0u8; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.plain_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12] = self.codec;
        bytes[13] = if self.last { FLAG_LAST } else { 0 };
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Self, SealError> {
        let header: &[u8; FRAME_HEADER_BYTES] =
            bytes.get(..FRAME_HEADER_BYTES).and_then(|h| h.try_into().ok()).ok_or(SealError::Short { number: 0 })?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (stored_bytes, plain_bytes, number) = (word(0), word(4), word(8));
        let malformed = |what| SealError::Malformed { number, what };
        if plain_bytes as usize > PLAIN_BYTES_MAX {
            return Err(malformed("a plain length beyond the limit"));
        }
        if (stored_bytes as usize) < TAG_BYTES || stored_bytes as usize > plain_bytes as usize + TAG_BYTES {
            return Err(malformed("a stored length that no writer makes"));
        }
        if header[13] & !FLAG_LAST != 0 || header[14] != 0 || header[15] != 0 {
            return Err(malformed("unknown flags"));
        }
        Ok(Self { stored_bytes, plain_bytes, number, codec: header[12], last: header[13] == FLAG_LAST })
    }
}

/// Seven zeros, the frame's number (big-endian), and 1 for the last frame: the STREAM construction's nonce.
fn nonce(number: u32, last: bool) -> Nonce {
    let mut bytes = [0u8; 12];
    bytes[7..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Plain objects: the first 16 bytes of SHA-256 over the object's context, the frame's header and its payload.
fn checksum(object: &[u8; 32], header: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
    let mut context = Context::new(&SHA256);
    for part in [&object[..], header, payload] {
        context.update(part);
    }
    let whole = context.finish();
    let mut first = [0u8; TAG_BYTES];
    first.copy_from_slice(&whole.as_ref()[..TAG_BYTES]);
    first
}
