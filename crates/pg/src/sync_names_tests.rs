//! Tests of reading `synchronous_standby_names`; a live test compares with what real servers accept.

use super::*;

fn parse(text: &str) -> SyncNames {
    SyncNames::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_form_is_read() {
    let cases: &[(&str, Method, u32, &[&str])] = &[
        ("", Method::Priority, 0, &[]),
        (" \u{c}a\n", Method::Priority, 1, &["a"]),
        ("a", Method::Priority, 1, &["a"]),
        ("a,b , c", Method::Priority, 1, &["a", "b", "c"]),
        ("*", Method::Priority, 1, &["*"]),
        ("2 (a, b, c)", Method::Priority, 2, &["a", "b", "c"]),
        ("first 2(a,b)", Method::Priority, 2, &["a", "b"]),
        ("ANY 1 (\"s 1\", s2)", Method::Quorum, 1, &["s 1", "s2"]),
        ("any 2 (*)", Method::Quorum, 2, &["*"]),
        ("\"any\", \"a\"\"b\"", Method::Priority, 1, &["any", "a\"b"]),
        ("1, 2", Method::Priority, 1, &["1", "2"]),
        ("3", Method::Priority, 1, &["3"]),
        ("1 (2)", Method::Priority, 1, &["2"]),
        ("a_1$, Ünde", Method::Priority, 1, &["a_1$", "Ünde"]),
    ];
    for (text, method, wanted, names) in cases {
        let read = parse(text);
        assert_eq!(
            (read.method, read.wanted, read.names.iter().map(String::as_str).collect::<Vec<_>>()),
            (*method, *wanted, names.to_vec()),
            "{text:?}"
        );
        assert_eq!(parse(&read.to_string()), read, "{text:?}");
    }
}

#[test]
fn what_the_server_refuses_is_refused() {
    for text in [
        " ",
        "a,",
        ",a",
        "a b",
        "ANY (a)",
        "ANY a",
        "ANY 1 ()",
        "ANY 1 (a",
        "1 (a))",
        "0 (a)",
        "FIRST 0 (a)",
        "a-b",
        "\"a",
        "(a)",
        "first",
        "any, b",
        "1 a",
        "2147483648 (a)",
    ] {
        assert!(SyncNames::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_standby_is_ranked_as_the_server_would() {
    let cases = [
        ("", None),
        ("other", None),
        ("bowline", Some(Rank::Required)),
        ("BowLine", Some(Rank::Required)),
        ("\"bowline\"", Some(Rank::Required)),
        ("bowline2", None),
        ("FIRST 2 (bowline, b)", Some(Rank::Required)),
        ("ANY 2 (b, bowline)", Some(Rank::Required)),
        ("bowline, b", Some(Rank::Replaceable)),
        ("ANY 1 (bowline, b)", Some(Rank::Replaceable)),
        ("b, bowline", Some(Rank::Potential)),
        ("FIRST 2 (a, b, bowline)", Some(Rank::Potential)),
        ("*", Some(Rank::Replaceable)),
        ("\"*\"", Some(Rank::Replaceable)),
        ("a, *", Some(Rank::Potential)),
        ("FIRST 2 (a, *)", Some(Rank::Replaceable)),
        ("ANY 2 (*)", Some(Rank::Replaceable)),
    ];
    for (text, rank) in cases {
        assert_eq!(parse(text).rank("bowline"), rank, "{text:?}");
    }
}

#[test]
fn the_names_to_write_leave_this_standby_out() {
    let others = ["s1".to_owned(), "bowline".to_owned(), "s-2".to_owned(), "S1".to_owned()];
    for (text, without) in [
        ("*", "s1, \"s-2\""),
        ("bowline", ""),
        ("ANY 2 (bowline, a)", "ANY 1 (a)"),
        ("FIRST 2 (a, bowline, b)", "FIRST 2 (a, b)"),
        ("FIRST 2 (a, *)", "FIRST 2 (a, s1, \"s-2\")"),
        ("any, *", "unread"),
    ] {
        match SyncNames::parse(text) {
            Ok(names) => {
                let written = names.without("bowline", &others);
                assert_eq!(written.to_string(), without, "{text:?}");
                assert_eq!(written.rank("bowline"), None);
            }
            Err(_) => assert_eq!(without, "unread"),
        }
    }
    assert_eq!(parse("*").without("bowline", &[]).to_string(), "");
}
