//! Makes the random words in temporary and probe names; the only place in this room that asks for randomness.

/// 128 random bits as 32 hexadecimal digits.
pub(crate) fn token() -> String {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source answers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
