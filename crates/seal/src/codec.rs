//! Compression of one chunk at a time.

use crate::SealError;
use crate::frame::PLAIN_BYTES_MAX;
use std::fmt;
use std::str::FromStr;
use terms::ParseError;

/// How chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are.
    None,
    /// LZ4 block format.
    Lz4,
    /// Zstandard at this level (-7 to 19).
    Zstd(i8),
}

impl Default for Compression {
    /// The best trade on the primary: see docs/benchmarks.md.
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Compression {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError { expected: "a compression: zstd, zstd:LEVEL (-7 to 19), lz4 or none", found: text.to_owned() };
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "lz4" => Ok(Self::Lz4),
            None if text == "zstd" => Ok(Self::default()),
            Some(("zstd", level)) => {
                let level: i8 = level.parse().map_err(|_| wrong())?;
                if (-7..=19).contains(&level) && level != 0 { Ok(Self::Zstd(level)) } else { Err(wrong()) }
            }
            _ => Err(wrong()),
        }
    }
}

/// The codec numbers of docs/format.md.
pub(crate) const CODEC_NONE: u8 = 0;
pub(crate) const CODEC_ZSTD: u8 = 1;
pub(crate) const CODEC_LZ4: u8 = 2;

/// Compresses chunks with one reused context.
pub(crate) enum Compressor {
    None,
    Lz4,
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    pub(crate) fn new(how: Compression) -> Result<Self, SealError> {
        Ok(match how {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd(level) => {
                let context = zstd::bulk::Compressor::new(i32::from(level)).map_err(|_| SealError::Library { what: "zstd" })?;
                Self::Zstd(Box::new(context))
            }
        })
    }

    /// Compresses `plain` to `out[at..]`, growing `out` as needed, and returns the codec used and the bytes written.
    /// What does not shrink is stored as it is.
    pub(crate) fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>, at: usize) -> Result<(u8, usize), SealError> {
        let (codec, bound) = match self {
            Self::None => (CODEC_NONE, 0),
            Self::Lz4 => (CODEC_LZ4, lz4_flex::block::get_maximum_output_size(plain.len())),
            Self::Zstd(_) => (CODEC_ZSTD, zstd::zstd_safe::compress_bound(plain.len())),
        };
        // The buffer only grows, so zeroing it costs once, not once a chunk.
        if out.len() < at + bound.max(plain.len()) {
            out.resize(at + bound.max(plain.len()), 0);
        }
        let room = &mut out[at..];
        let written = match self {
            Self::None => None,
            Self::Lz4 => Some(lz4_flex::block::compress_into(plain, room).map_err(|_| SealError::Library { what: "lz4" })?),
            Self::Zstd(context) => Some(context.compress_to_buffer(plain, room).map_err(|_| SealError::Library { what: "zstd" })?),
        };
        match written {
            Some(bytes) if bytes < plain.len() => Ok((codec, bytes)),
            _ => {
                room[..plain.len()].copy_from_slice(plain);
                Ok((CODEC_NONE, plain.len()))
            }
        }
    }
}

/// Decompresses chunks with one reused context.
pub(crate) struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    pub(crate) fn new() -> Result<Self, SealError> {
        zstd::bulk::Decompressor::new().map(Self).map_err(|_| SealError::Library { what: "zstd" })
    }

    /// Replaces `plain` by what `packed` holds, which must be exactly `plain_bytes` bytes.
    pub(crate) fn decompress(&mut self, codec: u8, packed: &[u8], plain_bytes: usize, plain: &mut Vec<u8>) -> Result<(), &'static str> {
        if plain_bytes > PLAIN_BYTES_MAX {
            return Err("a plain length beyond the limit");
        }
        if plain.len() < plain_bytes {
            plain.resize(plain_bytes, 0);
        }
        plain.truncate(plain_bytes);
        let written = match codec {
            CODEC_NONE if packed.len() == plain_bytes => {
                plain.copy_from_slice(packed);
                plain_bytes
            }
            CODEC_NONE => return Err("a stored length that differs from the plain length"),
            CODEC_ZSTD => self.0.decompress_to_buffer(packed, plain.as_mut_slice()).map_err(|_| "zstd cannot read it")?,
            CODEC_LZ4 => lz4_flex::block::decompress_into(packed, plain.as_mut_slice()).map_err(|_| "lz4 cannot read it")?,
            _ => return Err("an unknown codec"),
        };
        if written == plain_bytes { Ok(()) } else { Err("a plain length that is not the frame's") }
    }
}
