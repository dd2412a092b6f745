//! The tar reader takes what PostgreSQL writes, in whatever pieces it comes, and refuses the rest.

use super::*;
use proptest::prelude::*;
use terms::{Class, Explain};

/// A header as src/port/tar.c writes it: octal with a trailing blank.
fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0100600 ");
    put(108, b"0000145 ");
    put(116, b"0000145 ");
    match size < 1 << 33 {
        true => put(124, format!("{size:011o} ").as_bytes()),
        false => put(124, &[&[0x80, 0, 0, 0], &size.to_be_bytes()[..]].concat()),
    }
    put(136, b"14767512345 ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    sealed(block)
}

fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
    block
}

fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, b'0', content.len() as u64, "");
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn archive() -> Vec<u8> {
    let mut bytes = member("backup_label", b"START WAL LOCATION: 0/2000028\n");
    bytes.extend(header("./pg_wal/", b'5', 0, ""));
    bytes.extend(header("./pg_wal/archive_status", b'5', 0, ""));
    bytes.extend(header("pg_tblspc/16385", b'2', 0, "/srv/space"));
    bytes.extend(member("base/1/112", &[7; 8192]));
    bytes.extend(member("base/1/empty", b""));
    bytes.extend(member("base/1/512", &[9; 512]));
    bytes.extend([0; 2 * BLOCK]);
    bytes
}

/// The items of a stream cut at `cuts`, with each file's pieces of content joined.
fn items(bytes: &[u8], cuts: &[usize]) -> Result<(Vec<TarItem>, bool), PgError> {
    let (mut reader, mut found, mut from) = (TarReader::default(), Vec::new(), 0);
    for to in cuts.iter().copied().chain([bytes.len()]) {
        reader.push(Bytes::copy_from_slice(&bytes[from..to]));
        from = to;
        while let Some(item) = reader.next_item()? {
            match (found.last_mut(), item) {
                (Some(TarItem::Data(before)), TarItem::Data(more)) => *before = [&before[..], &more[..]].concat().into(),
                (_, item) => found.push(item),
            }
        }
    }
    Ok((found, reader.has_ended()))
}

fn refusal(bytes: &[u8]) -> String {
    let error = items(bytes, &[]).unwrap_err();
    assert_eq!(error.class(), Class::Damaged);
    error.detail()
}

#[test]
fn an_archive_yields_its_members_and_their_exact_content() {
    let (found, ended) = items(&archive(), &[]).unwrap();
    assert!(ended);
    let names: Vec<&str> = found.iter().filter_map(|item| if let TarItem::Entry(entry) = item { Some(entry.path.as_str()) } else { None }).collect();
    assert_eq!(names, ["backup_label", "pg_wal", "pg_wal/archive_status", "pg_tblspc/16385", "base/1/112", "base/1/empty", "base/1/512"]);
    assert!(found.contains(&TarItem::Data(Bytes::from(vec![7; 8192]))));
    assert!(matches!(&found[4], TarItem::Entry(TarEntry { kind: TarKind::Symlink { target }, .. }) if target == "/srv/space"));
    assert!(matches!(&found[0], TarItem::Entry(TarEntry { mode: 0o600, mtime, .. }) if *mtime == 0o14767512345));
    assert_eq!(found.last(), Some(&TarItem::End));
}

#[test]
fn a_stream_cut_short_has_not_ended() {
    let whole = archive();
    for cut in [10, 600, 3000, whole.len() - BLOCK, whole.len() - 1] {
        assert!(!items(&whole[..cut], &[]).unwrap().1, "{cut}");
    }
}

#[test]
fn a_size_beyond_octal_comes_in_base_256() {
    let size = 20 << 30;
    let (found, _) = items(&header("base/1/big", b'0', size, ""), &[]).unwrap();
    assert!(matches!(&found[0], TarItem::Entry(TarEntry { kind: TarKind::File { size: read }, .. }) if *read == size));
    assert!(refusal(&header("base/1/big", b'0', u64::MAX, "")).contains("size"));
}

#[test]
fn what_postgresql_never_sends_is_refused() {
    for kind in [b'L', b'x', b'g', b'1', b'3'] {
        assert!(refusal(&header("name", kind, 0, "")).contains("does not send"));
    }
    for path in ["../x", "/etc/passwd", "a/../../b", "a//b", "/", "./..", ""] {
        refusal(&header(path, b'0', 0, ""));
    }
    let mut flipped = archive();
    flipped[3] ^= 1;
    assert!(refusal(&flipped).contains("checksum"));
    let mut gnu = header("x", b'0', 0, "");
    gnu[257..265].copy_from_slice(b"ustar  \0");
    assert!(refusal(&sealed(gnu)).contains("ustar"));
    let mut tail = archive();
    tail.extend(member("late", b"x"));
    assert!(refusal(&tail).contains("after"));
}

#[test]
fn a_prefix_stands_before_its_name() {
    let mut block = header("b", b'0', 0, "");
    block[345..350].copy_from_slice(b"deep/");
    block[349] = 0;
    let (found, _) = items(&sealed(block), &[]).unwrap();
    assert!(matches!(&found[0], TarItem::Entry(entry) if entry.path == "deep/b"));
}

proptest! {
    #[test]
    fn the_pieces_in_which_it_comes_change_nothing(mut cuts in proptest::collection::vec(0usize..14_000, 0..40)) {
        let whole = archive();
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(whole.len()));
        cuts.sort_unstable();
        prop_assert_eq!(items(&whole, &cuts).unwrap(), items(&whole, &[]).unwrap());
    }

    #[test]
    fn bytes_of_any_kind_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..3000), cut in 0usize..3000) {
        let _ = items(&noise, &[cut.min(noise.len())]);
    }

    #[test]
    fn a_header_with_a_byte_changed_is_refused(at in 0usize..512, change in 1u8..=255) {
        let mut bytes = member("base/1/112", &[7; 100]);
        bytes[at] ^= change;
        // The checksum field itself may be written in more than one way, e.g. with a NUL for the blank.
        prop_assert!((148..156).contains(&at) || items(&bytes, &[]).is_err());
    }

    #[test]
    fn headers_of_noise_under_a_right_checksum_never_panic(noise in proptest::collection::vec(any::<u8>(), 512)) {
        let mut block = noise;
        block[257..263].copy_from_slice(b"ustar\0");
        block[156] = b'0' + block[156] % 8;
        let _ = items(&sealed(block), &[]);
    }
}
