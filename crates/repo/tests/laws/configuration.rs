//! Laws of the kept configuration: a bare machine runs its commands, so that nobody who has no key can put one of his own in its place.

use super::*;
use repo::{Authenticity, KeptConfiguration};

const SECOND: i64 = 1_000_000;

/// As anybody can who writes to the store: with the digest that any text may have.
async fn put(memory: &Memory, name: &str, text: &str) {
    let body = format!("{text}# sha256: {}\n", sha256(text.as_bytes()));
    memory.put_new(&path(&format!("config/{name}")), Bytes::from(body)).await.unwrap();
}

fn name(seconds: i64) -> String {
    format!("{}.toml", NOW.plus_micros(seconds * SECOND).compact())
}

async fn kept(writer: &Writer) -> Option<KeptConfiguration> {
    writer.reader().configuration(NOW.plus_micros(10 * SECOND)).await.unwrap()
}

#[test]
fn the_newest_configuration_is_kept_once_and_read_back_as_it_was_written() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let writer = create(&memory, encryption).await;
            assert_eq!(kept(&writer).await, None);
            for (second, text, is_new) in
                [(0, "org = \"a\"", true), (1, "org = \"a\"\n", false), (2, "org = \"b\"\n", true), (3, "org = \"b\"\n", false)]
            {
                assert_eq!(writer.keep_configuration(NOW.plus_micros(second * SECOND), text).await.unwrap(), is_new, "{encryption:?} {second}");
            }
            let found = kept(&writer).await.unwrap();
            assert_eq!((found.object, found.text.as_str()), (path(&format!("config/{}", name(2))), "org = \"b\"\n"));
            let wanted = if encryption == Encryption::Off { Authenticity::Unsigned } else { Authenticity::Authentic };
            assert_eq!((found.authenticity, found.passed_over.len()), (wanted, 0));
        });
    }
}

#[test]
fn a_name_that_bowline_does_not_write_or_from_the_future_counts_for_nothing() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let writer = create(&memory, encryption).await;
            for name in ["zzz.toml", "99999999T000000Z.toml", "20991231T235959Z.toml.toml", &name(3600)] {
                put(&memory, name, "[service]\nstop = \"evil\"\n").await;
            }
            assert_eq!(kept(&writer).await, None, "{encryption:?}");
            writer.keep_configuration(NOW, "org = \"a\"\n").await.unwrap();
            assert_eq!(kept(&writer).await.unwrap().text, "org = \"a\"\n", "{encryption:?}");
        });
    }
}

#[test]
fn what_only_the_store_vouches_for_never_comes_before_what_a_key_vouches_for() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        // Nothing is signed yet: an older Bowline's is as good as anybody's, and the next backup signs it.
        put(&memory, &name(0), "org = \"a\"\n").await;
        assert_eq!(kept(&writer).await.unwrap().authenticity, Authenticity::Unsigned);
        put(&memory, &name(1), "org = \"b\"\n# bowline-mac: 00\n").await;
        assert_eq!(kept(&writer).await.unwrap().authenticity, Authenticity::Forged);
        assert!(writer.keep_configuration(NOW.plus_micros(2 * SECOND), "org = \"a\"\n").await.unwrap());

        // Newer ones: unsigned, forged, damaged, and the signed one in another place.
        let signed = memory.get(&path(&format!("config/{}", name(2)))).await.unwrap();
        put(&memory, &name(3), "org = \"c\"\n").await;
        put(&memory, &name(4), "org = \"c\"\n# bowline-mac: 00\n").await;
        memory.put_new(&path(&format!("config/{}", name(5))), Bytes::from_static(b"org = \"c\"\n")).await.unwrap();
        memory.put_new(&path(&format!("config/{}", name(6))), signed).await.unwrap();
        let found = kept(&writer).await.unwrap();
        assert_eq!((found.text.as_str(), found.authenticity), ("org = \"a\"\n", Authenticity::Authentic));
        let newer: Vec<ObjectPath> = (3..=6).rev().map(|second| path(&format!("config/{}", name(second)))).collect();
        assert_eq!(found.passed_over, newer);
        // One that was written a year later counts: a bare machine's clock may be wrong.
        writer.keep_configuration(NOW.plus_micros(365 * 86_400 * SECOND), "org = \"d\"\n").await.unwrap();
        assert_eq!(kept(&writer).await.unwrap().text, "org = \"d\"\n");
    });
}
