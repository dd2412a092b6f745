//! The test vectors of docs/format.md: what this room writes and reads is byte for byte what docs/format/vectors.json says.
//!
//! The payloads of compressed frames belong to the libraries, which may write them otherwise one day, so they are only read here;
//! everything that this room writes by itself is written again and compared.

use crate::frame::{FRAME_HEADER_BYTES, Opener, Sealer};
use crate::object::{HEADER_BYTES, ObjectKind, OpenObject, Protection, SealedObject, object_key};
use crate::{Compression, DataKey, Digester, GrowingSealer, Grown, KeyId, RepositoryId, open_growing, open_whole, seal_whole};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

const TEXT: &str = include_str!("../../../docs/format/vectors.json");
const PAGE: &str = include_str!("../../../docs/format.md");
const PATH: &str = "full/20261122T020000Z/data/000001";
const WAL_PATH: &str = "wal/7412345678901234567/00000002.history";
const INDEX_PATH: &str = "wal/7412345678901234567/00000001/index/000000010000000A000000C3-000000010000000A000000C3";
const INDEX: &str = concat!(
    r#"{"header":{"format":1,"system_id":"7412345678901234567","timeline":1,"made":"2026-11-22T14:06:00Z"}}"#,
    "\n",
    r#"{"entry":{"segment":"000000010000000A000000C3","bytes_stored":1048576,"digest":"adf5253d5752487d4d14dc6e98f8edf4","#,
    r#""first_record":"A/C3000060","end":"A/C4000000","min_end":"2026-11-22T14:04:59Z","max_end":"2026-11-22T14:05:00.25Z"}}"#,
    "\n",
);
const LOG_PATH: &str = "wal/7412345678901234567/00000001/000000010000000A000000C3.pieces/0000000AC3000000-0000002a.log";
/// What is added to the log: the first as little as a frame may hold.
const ADDED: [&[u8]; 3] = [b"\x19", b"what comes of a segment, ", b"one commit after the other"];
const HISTORY: &[u8] = b"1\t0/3000000\tno recovery target specified\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a text of hexadecimal digits");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits")).collect()
}

/// Consecutive bytes from `first`.
fn counted<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|at| first.wrapping_add(at as u8))
}

struct Known {
    repository: RepositoryId,
    key: DataKey,
    salt: [u8; 32],
}

fn known() -> Known {
    let key = DataKey::from_bytes(KeyId::from_bytes(counted(0x10)), Zeroizing::new(counted(0x80)));
    Known { repository: RepositoryId::from_bytes(counted(0xa0)), key, salt: counted(0x40) }
}

/// A few lines that shrink under every codec.
fn plain() -> Vec<u8> {
    (0..20).flat_map(|line| format!("{line:02} bowline\n").into_bytes()).collect()
}

fn object(protection: &Protection, kind: ObjectKind, path: &str) -> SealedObject {
    SealedObject::with_salt(protection, kind, &known().repository, path, known().salt)
}

fn frame(object: &SealedObject, compression: Compression, number: u32, last: bool, plain: &[u8]) -> Value {
    let mut sealer = Sealer::new(compression).unwrap();
    let sealed = sealer.seal(object, number, last, plain).unwrap();
    json!({ "codec": compression.to_string(), "number": number, "last": last, "plain": hex(plain), "frame": hex(sealed.bytes()) })
}

/// Everything as it is made now.
fn make() -> Value {
    let Known { repository, key, .. } = known();
    let sealed = Protection::Sealed(key.clone());
    let pack = object(&sealed, ObjectKind::Pack, PATH);
    let plain_pack = object(&Protection::Plain, ObjectKind::Pack, PATH);
    let frames: Vec<Value> = [(Compression::None, 0, false), (Compression::Zstd(1), 1, false), (Compression::Lz4, 2, false)]
        .into_iter()
        .map(|(how, number, last)| frame(&pack, how, number, last, &plain()))
        .chain([frame(&pack, Compression::None, 3, true, b"")])
        .collect();
    let index = || {
        let object = object(&sealed, ObjectKind::WalIndex, INDEX_PATH);
        let stored = seal_whole(object, Compression::None, INDEX.as_bytes()).unwrap();
        json!({ "kind": 5, "path": INDEX_PATH, "plain": hex(INDEX.as_bytes()), "object": hex(&stored) })
    };
    let whole = |protection: &Protection| {
        let object = object(protection, ObjectKind::WalFile, WAL_PATH);
        json!({ "kind": 4, "path": WAL_PATH, "plain": hex(HISTORY), "object": hex(&seal_whole(object, Compression::None, HISTORY).unwrap()) })
    };
    let digests: Vec<Value> = [0, 1, 1024, 1025, 3072, 5000]
        .into_iter()
        .map(|length| {
            let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let (keyed, unkeyed) = (Digester::keyed(key.reveal()).digest(&plain), Digester::plain().digest(&plain));
            json!({ "bytes": length, "keyed": keyed.to_string(), "unkeyed": unkeyed.to_string() })
        })
        .collect();
    json!({
        "about": "Test vectors of docs/format.md. Bytes are hexadecimal digits. Written by crates/seal/src/vectors.rs.",
        "repository_id": repository.to_string(),
        "key_id": key.id().to_string(),
        "data_key": hex(key.reveal()),
        "pack": {
            "kind": 1,
            "path": PATH,
            "header": hex(pack.header()),
            "object_key": hex(&object_key(&key, pack.header(), &repository, PATH)[..]),
            "frames": frames,
        },
        "plain_pack": {
            "kind": 1,
            "path": PATH,
            "header": hex(plain_pack.header()),
            "frames": [frame(&plain_pack, Compression::None, 0, false, b"0123456789abcdef")],
        },
        "whole": whole(&sealed),
        "plain_whole": whole(&Protection::Plain),
        "index": index(),
        "log": log(&sealed),
        "plain_log": log(&Protection::Plain),
        "digests": { "note": "byte i of the input is i mod 251; the key is data_key", "of": digests },
        "wrapped": wrapped(),
        "bound": bound(),
    })
}

/// A log, whole and frame by frame.
fn log(protection: &Protection) -> Value {
    let object = object(protection, ObjectKind::WalLog, LOG_PATH);
    let mut sealer = GrowingSealer::begin(object, Compression::None).unwrap();
    let mut whole = sealer.header().to_vec();
    let mut frames = Vec::new();
    for (number, plain) in ADDED.into_iter().enumerate() {
        let frame = sealer.seal(plain).unwrap().bytes().to_vec();
        frames.push(json!({ "codec": "none", "number": number, "last": false, "plain": hex(plain), "frame": hex(&frame) }));
        whole.extend_from_slice(&frame);
    }
    json!({ "kind": 7, "path": LOG_PATH, "plain": hex(&ADDED.concat()), "object": hex(&whole), "frames": frames })
}

/// What a key file makes of a data key (crates/keys), computed here on its own: rooms share no code for it.
fn wrapped() -> Value {
    let Known { repository, key, .. } = known();
    let file_key: [u8; 32] = counted(0x00);
    let nonce: [u8; 12] = counted(0xf0);
    let associated = [&b"bowline wrap 1"[..], repository.bytes(), key.id().bytes()].concat();
    let mut sealed = key.reveal().to_vec();
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &file_key).unwrap())
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed)
        .unwrap();
    let check = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[&b"bowline key file 1"[..], &file_key].concat());
    let check = hex(&check.as_ref()[..8]);
    json!({
        "key_file": format!("bowline-key-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8:{check}"),
        "file_key": hex(&file_key),
        "recipient": format!("file:{check}"),
        "wrapped": hex(&[&nonce[..], &sealed].concat()),
    })
}

/// The data key as recipients without associated data get it; the room `keys` makes it, and holds itself to the same vector.
fn bound() -> Value {
    let Known { repository, key, .. } = known();
    json!({ "bound": hex(&[&b"bowline bound 1"[..], repository.bytes(), key.id().bytes(), key.reveal()].concat()) })
}

/// Not a check: writes the file anew, after a format that has a new number.
#[test]
#[ignore = "writes docs/format/vectors.json"]
fn write_the_vectors() {
    let text = serde_json::to_string_pretty(&make()).unwrap() + "\n";
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format/vectors.json"), text).unwrap();
}

#[test]
fn what_is_written_is_what_the_format_says() {
    let (said, mut made) = (serde_json::from_str::<Value>(TEXT).unwrap(), make());
    for (at, frame) in said["pack"]["frames"].as_array().unwrap().iter().enumerate() {
        if frame["codec"] != "none" {
            made["pack"]["frames"][at]["frame"] = frame["frame"].clone();
        }
    }
    assert_eq!(said, made, "the format changed: repositories that were written before can no longer be read");
}

#[test]
fn the_frames_of_the_format_are_read() {
    let said: Value = serde_json::from_str(TEXT).unwrap();
    let Known { repository, key, .. } = known();
    for pack in [&said["pack"], &said["plain_pack"]] {
        let header = bytes(&pack["header"]);
        assert_eq!(header.len(), HEADER_BYTES);
        let path = pack["path"].as_str().unwrap();
        let object = OpenObject::open(&header, ObjectKind::Pack, &repository, path, false, |_| Some(key.clone())).unwrap();
        for (at, frame) in pack["frames"].as_array().unwrap().iter().enumerate() {
            let (mut stored, mut found) = (bytes(&frame["frame"]), Vec::new());
            let codec = ["none", "zstd:1", "lz4"].iter().position(|name| frame["codec"] == *name).unwrap();
            assert_eq!(usize::from(stored[FRAME_HEADER_BYTES - 4]), codec);
            let info = Opener::new().unwrap().open(&object, &mut stored, &mut found).unwrap();
            assert_eq!((info.number as usize, info.last, found), (at, frame["last"] == true, bytes(&frame["plain"])));
        }
    }
}

#[test]
fn the_page_shows_the_values_of_the_vectors() {
    let said: Value = serde_json::from_str(TEXT).unwrap();
    let shown: String = PAGE.split_whitespace().collect();
    let (pack, wrapped, digests) = (&said["pack"], &said["wrapped"], &said["digests"]["of"][0]);
    let of_the_pack = [&pack["path"], &pack["header"], &pack["object_key"], &pack["frames"][3]["frame"]];
    let of_the_keys = [&said["repository_id"], &said["key_id"], &said["data_key"], &wrapped["file_key"], &wrapped["key_file"], &wrapped["wrapped"]];
    for value in of_the_pack.into_iter().chain(of_the_keys).chain([&digests["keyed"], &digests["unkeyed"]]) {
        assert!(shown.contains(value.as_str().unwrap()), "docs/format.md does not show {value}");
    }
}

#[test]
fn the_whole_objects_of_the_format_are_read() {
    let said: Value = serde_json::from_str(TEXT).unwrap();
    let Known { repository, key, .. } = known();
    for (whole, kind) in [("whole", ObjectKind::WalFile), ("plain_whole", ObjectKind::WalFile), ("index", ObjectKind::WalIndex)] {
        let whole = &said[whole];
        let stored = bytes(&whole["object"]);
        let path = whole["path"].as_str().unwrap();
        let object = OpenObject::open(&stored, kind, &repository, path, false, |_| Some(key.clone())).unwrap();
        assert_eq!(open_whole(object, &stored).unwrap(), bytes(&whole["plain"]));
    }
}

#[test]
fn the_logs_of_the_format_are_read_as_far_as_they_were_written() {
    let said: Value = serde_json::from_str(TEXT).unwrap();
    let Known { repository, key, .. } = known();
    for log in [&said["log"], &said["plain_log"]] {
        let stored = bytes(&log["object"]);
        let path = log["path"].as_str().unwrap();
        let (mut ends, mut wanted) = (vec![(HEADER_BYTES, 0)], Vec::new());
        for frame in log["frames"].as_array().unwrap() {
            wanted.extend(bytes(&frame["plain"]));
            ends.push((ends[ends.len() - 1].0 + bytes(&frame["frame"]).len(), wanted.len()));
        }
        assert_eq!((wanted, ends[3].0), (bytes(&log["plain"]), stored.len()));
        for cut in HEADER_BYTES..=stored.len() {
            let object = OpenObject::open(&stored, ObjectKind::WalLog, &repository, path, false, |_| Some(key.clone())).unwrap();
            let Grown { plain, damage } = open_growing(&object, &stored[..cut]).unwrap();
            let length = ends.iter().rev().find(|(end, _)| *end <= cut).map_or(0, |(_, length)| *length);
            assert!(damage.is_none() && plain == bytes(&log["plain"])[..length], "cut at {cut}");
        }
    }
}
