//! Makes the random words in temporary and probe names; the only place in this room that asks for randomness.

/// A number below `limit` by chance; 0 when there is none.
pub(crate) fn below(limit: u64) -> u64 {
    let mut bytes = [0u8; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source answers");
    u64::from_le_bytes(bytes).checked_rem(limit).unwrap_or(0)
}

/// 128 random bits as 32 hexadecimal digits.
pub(crate) fn token() -> String {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source answers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
