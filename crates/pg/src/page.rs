//! Checks the checksums of PostgreSQL's data pages, fast enough to be free beside reading them.

use terms::Lsn;

/// The size of a data page in bytes (`BLCKSZ`); Bowline supports the default build only.
pub const PAGE_SIZE: usize = 8192;

/// A page whose bytes are not what PostgreSQL wrote there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// Its number within the relation, counted across 1 GiB segments.
    pub block: u32,
    /// The position of its last change (`pd_lsn`). At or after the backup's start replay repairs the page.
    pub lsn: Lsn,
    /// The checksum on the page.
    pub stored: u16,
    /// The checksum of its bytes; zero for a page that is marked as new and yet not all zeros.
    pub computed: u16,
}

/// The checksum of one page as block `block` of its relation (`pg_checksum_page`,
/// src/include/storage/checksum_impl.h). The page's own checksum field does not count.
pub fn page_checksum(page: &[u8; PAGE_SIZE], block: u32) -> u16 {
    // Mixing in the block number finds pages that were written to the wrong place; the offset of one keeps zero free.
    ((fold(page) ^ block) % 65535 + 1) as u16
}

/// Goes through the pages of `bytes`, whose first is block `first_block` of its relation, and yields the bad ones.
/// A page marked as new (`pd_upper` is zero) must be all zeros (`PageIsVerified`, src/backend/storage/page/bufpage.c).
/// Bytes after the last whole page are not looked at. Allocates nothing.
pub fn verify_pages(bytes: &[u8], first_block: u32) -> impl Iterator<Item = BadPage> + '_ {
    let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
    pages.iter().zip(0u32..).filter_map(move |(page, index)| verify_page(page, first_block.wrapping_add(index)))
}

/// Checks one page; `None` when it is as PostgreSQL wrote it.
pub fn verify_page(page: &[u8; PAGE_SIZE], block: u32) -> Option<BadPage> {
    let stored = u16_at(page, 8);
    let is_new = u16_at(page, 14) == 0;
    let computed = match is_new {
        true if page.iter().all(|&b| b == 0) => return None,
        true => 0,
        false => page_checksum(page, block),
    };
    if !is_new && computed == stored {
        return None;
    }
    Some(BadPage { block, lsn: page_lsn(page), stored, computed })
}

/// The position of the page's last change (`PageXLogRecPtr`: the high half comes first).
pub fn page_lsn(page: &[u8; PAGE_SIZE]) -> Lsn {
    let half = |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    Lsn::from_bytes(half(0) << 32 | half(4))
}

fn u16_at(page: &[u8; PAGE_SIZE], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;

/// What each lane begins with (`checksumBaseOffsets`, src/include/storage/checksum_impl.h).
const OFFSETS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA,
    0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

fn fold(page: &[u8; PAGE_SIZE]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked and has AVX2.
        return unsafe { fold_avx2(page) };
    }
    fold_lanes(page)
}

/// The same code again, compiled for AVX2: the 32 lanes then live in four registers' worth of eight.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fold_avx2(page: &[u8; PAGE_SIZE]) -> u32 {
    fold_lanes(page)
}

#[inline(always)]
fn fold_lanes(page: &[u8; PAGE_SIZE]) -> u32 {
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    let mut sums = OFFSETS;
    // The checksum field is the low half of the third word; it counts as zero.
    let mut first = words(&rows[0]);
    first[2] &= 0xFFFF_0000;
    mix(&mut sums, &first);
    for row in &rows[1..] {
        mix(&mut sums, &words(row));
    }
    mix(&mut sums, &[0; LANES]);
    mix(&mut sums, &[0; LANES]);
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[inline(always)]
fn words(row: &[u8; LANES * 4]) -> [u32; LANES] {
    let (words, _) = row.as_chunks::<4>();
    std::array::from_fn(|lane| u32::from_le_bytes(words[lane]))
}

#[inline(always)]
fn mix(sums: &mut [u32; LANES], values: &[u32; LANES]) {
    for lane in 0..LANES {
        let mixed = sums[lane] ^ values[lane];
        sums[lane] = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seed: u32) -> [u8; PAGE_SIZE] {
        let mut state = seed;
        let mut page = std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        page[14..16].copy_from_slice(&8000u16.to_le_bytes());
        page
    }

    fn sealed(seed: u32, block: u32) -> [u8; PAGE_SIZE] {
        let mut page = page(seed);
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn the_fast_path_and_the_portable_one_agree() {
        for seed in 0..50 {
            assert_eq!(fold(&page(seed)), fold_lanes(&page(seed)));
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_so_is_a_page_in_the_wrong_place() {
        let good = sealed(1, 7);
        assert_eq!(verify_page(&good, 7), None);
        assert!(verify_page(&good, 8).is_some());
        let flipped = |bit: usize| {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        };
        let missed = (0..PAGE_SIZE * 8).filter(|&bit| verify_page(&flipped(bit), 7).is_none()).count();
        // Sixteen bits of checksum let one change in 65536 pass.
        assert!(missed <= 8, "{missed} flipped bits were missed");
    }

    #[test]
    fn blocks_are_numbered_across_the_buffer_and_a_new_page_must_be_all_zeros() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&sealed(1, 100));
        bytes.extend_from_slice(&[0; PAGE_SIZE]);
        bytes.extend_from_slice(&sealed(2, 999));
        bytes.extend_from_slice(&[0; PAGE_SIZE]);
        *bytes.last_mut().unwrap() = 1;
        bytes.extend_from_slice(&[7; 100]);
        let bad: Vec<u32> = verify_pages(&bytes, 100).map(|b| b.block).collect();
        assert_eq!(bad, [102, 103]);
    }

    /// `cargo test --release -p pg page_speed -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn page_speed() {
        for mib in [1, 256] {
            let bytes: Vec<u8> = (0..mib * 128).flat_map(|block| sealed(block, block)).collect();
            let mut best = f64::MAX;
            for _ in 0..20 {
                let begun = std::time::Instant::now();
                assert_eq!(verify_pages(std::hint::black_box(&bytes), 0).count(), 0);
                best = best.min(begun.elapsed().as_secs_f64());
            }
            println!("verify_pages over {mib} MiB: {:.1} GB/s", bytes.len() as f64 / best / 1e9);
        }
    }
}
