//! What was measured last, in words.

use crate::fault::Fault;
use repo::Reader;

/// A line for each thing that was measured.
pub async fn lines(_reader: &Reader) -> Result<Vec<String>, Fault> {
    Ok(Vec::new())
}
