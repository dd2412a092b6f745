//! Small readable JSON objects that end in their own digest.

use crate::RepoError;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::ObjectPath;

/// The newest format of documents that this program reads and the one it writes.
pub(crate) const FORMAT: u32 = 1;

const DIGEST: &str = ",\n  \"digest\": \"";
const TAIL: &str = "\"\n}\n";

/// Pretty JSON whose last member, `digest`, is the SHA-256 (hexadecimal) of every byte before the comma in front of it.
pub(crate) fn write(value: &impl Serialize) -> Result<Bytes, RepoError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| RepoError::Bug(e.to_string()))?;
    text.truncate(text.len() - "\n}".len());
    let digest = sha256(text.as_bytes());
    Ok(Bytes::from(text + DIGEST + &digest + TAIL))
}

/// Reads what [`write`] wrote. A newer format is told apart from damage.
pub(crate) fn read<T: DeserializeOwned>(path: &ObjectPath, bytes: &[u8]) -> Result<T, RepoError> {
    let damaged = |why: &str| RepoError::Document { path: path.to_string(), why: why.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let body = text.rfind(DIGEST).ok_or_else(|| damaged("it has no digest"))?;
    let digest = text[body + DIGEST.len()..].strip_suffix(TAIL).ok_or_else(|| damaged("it does not end in its digest"))?;
    if digest != sha256(&bytes[..body]) {
        return Err(damaged("it does not match its own digest"));
    }
    #[derive(serde::Deserialize)]
    struct Gate {
        format: u32,
    }
    let gate: Gate = serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
    refuse_newer(path, gate.format)?;
    serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))
}

/// What a newer program wrote is told apart from damage.
pub(crate) fn refuse_newer(path: &ObjectPath, found: u32) -> Result<(), RepoError> {
    match found {
        ..=FORMAT => Ok(()),
        found => Err(RepoError::Newer { path: path.to_string(), found, known: FORMAT }),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Sample {
        format: u32,
        note: String,
    }

    #[test]
    fn a_document_reads_back_and_any_flipped_bit_is_found() {
        let sample = Sample { format: 1, note: "tricky: ,\n  \"digest\": \"x".into() };
        let path = ObjectPath::new("repository.json").unwrap();
        let bytes = write(&sample).unwrap();
        assert_eq!(read::<Sample>(&path, &bytes).unwrap(), sample);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read::<Sample>(&path, &flipped).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(read::<Sample>(&path, &bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_newer_format_is_not_called_damage() {
        let path = ObjectPath::new("repository.json").unwrap();
        let bytes = write(&Sample { format: 2, note: String::new() }).unwrap();
        assert!(matches!(read::<Sample>(&path, &bytes), Err(RepoError::Newer { found: 2, known: 1, .. })));
    }
}
