//! Reads the plain ustar stream that PostgreSQL's BASE_BACKUP sends: bytes in, entries and contents out, no I/O.

use crate::PgError;
use bytes::{Buf, Bytes, BytesMut};

/// Tar works in blocks of this many bytes.
const BLOCK: usize = 512;
/// More than any file of a cluster has (the largest segment is 1 GiB, but operators put other things there).
const LARGEST_FILE: u64 = 1 << 46;

/// What the next bytes of the stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarItem {
    /// A file, folder or link; a file's content follows as [`TarItem::Data`], its size exactly.
    Entry(TarEntry),
    /// A piece of the present file's content, never empty.
    Data(Bytes),
    /// The two zero blocks that end an archive; nothing but zeros may follow.
    End,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Relative, without `./` or a final `/`, and without `..`; empty for the archive's own root folder.
    pub path: String,
    /// What it is.
    pub kind: TarKind,
    /// Permission bits.
    pub mode: u32,
    /// Modification time in seconds since the Unix epoch.
    pub mtime: i64,
}

/// The kinds of member that PostgreSQL writes (src/port/tar.c, `tarCreateHeader`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarKind {
    /// A plain file of this many bytes.
    File {
        /// Exactly so many bytes of content follow.
        size: u64,
    },
    /// A folder; what it holds follows as members of its own.
    Dir,
    /// A symbolic link, its target as written.
    Symlink {
        /// Absolute or relative; it is not followed.
        target: String,
    },
}

/// The reader. Whatever it cannot be sure of is an error: a backup is not the place for guessing.
#[derive(Debug, Default)]
pub struct TarReader {
    input: Bytes,
    header: BytesMut,
    state: State,
    /// Bytes of the present content and, after it, of the padding to a whole block.
    content_left: u64,
    padding_left: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Members,
    OneZeroBlock,
    Ended,
}

impl TarReader {
    /// Gives the reader the next bytes of the stream; call [`TarReader::next_item`] until it has no more.
    pub fn push(&mut self, bytes: Bytes) {
        if self.input.is_empty() {
            self.input = bytes;
        } else {
            let mut both = BytesMut::with_capacity(self.input.len() + bytes.len());
            both.extend_from_slice(&self.input);
            both.extend_from_slice(&bytes);
            self.input = both.freeze();
        }
    }

    /// The next item, or `None` when more bytes are needed. [`PgError::Tar`] for anything but what PostgreSQL writes.
    pub fn next_item(&mut self) -> Result<Option<TarItem>, PgError> {
        loop {
            if self.content_left > 0 {
                let length = self.input.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
                self.content_left -= length as u64;
                return Ok((length > 0).then(|| TarItem::Data(self.input.split_to(length))));
            }
            if self.padding_left > 0 {
                let length = self.input.len().min(self.padding_left);
                self.input.advance(length);
                self.padding_left -= length;
            }
            let Some(block) = self.block() else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                match self.state {
                    State::Members => self.state = State::OneZeroBlock,
                    State::OneZeroBlock => {
                        self.state = State::Ended;
                        return Ok(Some(TarItem::End));
                    }
                    State::Ended => {}
                }
                continue;
            }
            if self.state != State::Members {
                return Err(wrong("There is something after the zero blocks that end it"));
            }
            let entry = entry_of(&block)?;
            if let TarKind::File { size } = entry.kind {
                self.content_left = size;
                self.padding_left = (size.next_multiple_of(BLOCK as u64) - size) as usize;
            }
            return Ok(Some(TarItem::Entry(entry)));
        }
    }

    /// Whether the stream may end here: after its zero blocks and between two blocks.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended && self.header.is_empty() && self.input.is_empty()
    }

    /// The next whole block, gathered across pushes when need be.
    fn block(&mut self) -> Option<Bytes> {
        if self.header.is_empty() && self.input.len() >= BLOCK {
            return Some(self.input.split_to(BLOCK));
        }
        let length = self.input.len().min(BLOCK - self.header.len());
        self.header.extend_from_slice(&self.input.split_to(length));
        (self.header.len() == BLOCK).then(|| self.header.split().freeze())
    }
}

fn wrong(what: impl Into<String>) -> PgError {
    PgError::Tar { what: what.into() }
}

/// Reads a header block (POSIX.1-1988 "ustar"; src/include/pgtar.h names the offsets).
fn entry_of(block: &[u8]) -> Result<TarEntry, PgError> {
    let sum: u64 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if number(&block[148..156]) != Some(sum) {
        return Err(wrong("A header's checksum does not match"));
    }
    if &block[257..263] != b"ustar\0" {
        return Err(wrong("A header is not ustar"));
    }
    let path = match text(&block[345..500])? {
        "" => text(&block[..100])?.to_owned(),
        prefix => format!("{prefix}/{}", text(&block[..100])?),
    };
    let size = number(&block[124..136]).filter(|size| *size <= LARGEST_FILE).ok_or_else(|| wrong(format!("{path:?} has no readable size")))?;
    let kind = match block[156] {
        b'0' | 0 => TarKind::File { size },
        b'5' if size == 0 => TarKind::Dir,
        b'2' if size == 0 => TarKind::Symlink { target: text(&block[157..257])?.to_owned() },
        // Long names ('L', 'x') and the like: PostgreSQL refuses names over 99 bytes instead of sending them.
        other => return Err(wrong(format!("{path:?} is of type {:?}, which PostgreSQL does not send", char::from(other)))),
    };
    let mode = number(&block[100..108]).ok_or_else(|| wrong(format!("{path:?} has no readable mode")))?;
    let mtime = number(&block[136..148]).ok_or_else(|| wrong(format!("{path:?} has no readable time")))?;
    Ok(TarEntry { path: relative(&path)?, kind, mode: (mode & 0o7777) as u32, mtime: i64::try_from(mtime).unwrap_or(0) })
}

/// A number in octal digits, or in base 256 when it has its top bit set (src/port/tar.c, `print_tar_number`).
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len() - 1 - 8.min(field.len() - 1));
        return high.iter().all(|b| *b == 0).then(|| low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if digits.is_empty() || !digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

/// A name up to its first NUL.
fn text(field: &[u8]) -> Result<&str, PgError> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).map_err(|_| wrong(format!("The name {:?} is not UTF-8", String::from_utf8_lossy(&field[..end]))))
}

/// The path without `./` and a final `/`; one that leads outside is refused, since a restore will write there.
fn relative(path: &str) -> Result<String, PgError> {
    let trimmed = path.strip_prefix("./").unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() || trimmed == "." {
        return if path.starts_with('.') { Ok(String::new()) } else { Err(wrong(format!("{path:?} is not a relative path"))) };
    }
    if trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(wrong(format!("{path:?} leads outside the archive's folder")));
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
