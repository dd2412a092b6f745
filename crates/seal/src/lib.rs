//! Plain bytes in, sealed chunks out, and back. No I/O: what the bytes mean and where they go is not known here.
//!
//! The format is written down in docs/format.md; every constant here has its place there.

mod codec;
mod digest;
mod error;
mod frame;
mod growing;
mod key;
mod object;
mod stream;
#[cfg(test)]
mod vectors;
mod wrap;

pub use codec::Compression;
pub use digest::{Digest, Digester};
pub use error::SealError;
pub use frame::{FRAME_HEADER_BYTES, FRAME_OVERHEAD_BYTES, FrameInfo, Opener, PLAIN_BYTES_MAX, SealedChunk, Sealer, frame_bytes};
pub use growing::{GrowingSealer, Grown, open_growing};
pub use key::{DataKey, KeyId, RepositoryId, random_bytes};
pub use object::{HEADER_BYTES, ObjectKind, OpenObject, Protection, SealedObject};
pub use stream::{CHUNK_BYTES, StreamOpener, StreamSealer, open_whole, seal_whole};
pub use wrap::{Recipient, WrapContext, Wrapped};
