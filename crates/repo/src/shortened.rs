//! A result cut to a size: that there was one, and the worst of it, is kept whatever it weighs.

use serde_json::{Value, json};

/// So many items of each list are kept at first, and so many letters of each text.
const ITEMS: usize = 128;
const LETTERS: usize = 1024;
/// No text is cut below this: names and times stay whole.
const LETTERS_MIN: usize = 64;

/// The result, in no more than `bytes_max` bytes of JSON. Of a list that is too long the first items are kept, after those that no restore gets
/// past and before those that are well; how many there were is told beside it, as `{name}_count`, and `shortened` is true.
pub fn shortened(mut result: Value, bytes_max: usize) -> Value {
    let (mut items, mut letters) = (ITEMS, LETTERS);
    while result.to_string().len() > bytes_max {
        if items == 0 {
            return json!({ "shortened": true });
        }
        cut(&mut result, items, letters);
        if let Value::Object(members) = &mut result {
            members.insert("shortened".to_owned(), Value::Bool(true));
        }
        (items, letters) = (items / 2, (letters / 2).max(LETTERS_MIN));
    }
    result
}

fn cut(value: &mut Value, items: usize, letters: usize) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(letters) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(list) => {
            if list.len() > items {
                list.sort_by_key(|one| (one["verdict"] == "ok", one["unreachable"]["is_last"] != true));
                list.truncate(items);
            }
            list.iter_mut().for_each(|one| cut(one, items, letters));
        }
        Value::Object(members) => {
            let count = |(name, value): (&String, &Value)| {
                let length = value.as_array().map(Vec::len).filter(|length| *length > items)?;
                Some((format!("{name}_count"), length))
            };
            let counts: Vec<(String, usize)> = members.iter().filter_map(count).collect();
            members.values_mut().for_each(|one| cut(one, items, letters));
            for (name, length) in counts {
                // The first cut counted them all.
                members.entry(name).or_insert_with(|| json!(length));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_too_long_keeps_the_worst_and_says_how_much_there_was() {
        let damage = |number: u32| {
            let unreachable = json!({ "from": "2026-11-26 13:00:00 UTC", "is_last": number == 2999 });
            json!({ "first": format!("0000000100000000{number:08X}"), "reason": "r".repeat(3000), "unreachable": unreachable })
        };
        let audit = json!({ "audit": { "damaged": (0..3000).map(damage).collect::<Vec<_>>(), "gaps": [] }, "whole": false });
        let short = shortened(audit.clone(), 64 << 10);
        assert!(short.to_string().len() <= 64 << 10);
        let damaged = short["audit"]["damaged"].as_array().expect("a list");
        assert_eq!((&damaged[0]["unreachable"]["is_last"], &damaged[0]["unreachable"]["from"]), (&json!(true), &json!("2026-11-26 13:00:00 UTC")));
        assert_eq!((&short["audit"]["damaged_count"], &short["shortened"], &short["whole"]), (&json!(3000), &json!(true), &json!(false)));
        assert_eq!(short["audit"].get("gaps_count"), None);
        assert_eq!(shortened(short.clone(), 16 << 10)["audit"]["damaged_count"], 3000, "cut once more it says the same");
        let check = json!({ "findings": (0..500).map(|number| json!({ "verdict": if number == 499 { "fail" } else { "ok" } })).collect::<Vec<_>>() });
        assert_eq!(shortened(check.clone(), 1 << 10)["findings"][0]["verdict"], "fail");
        assert_eq!(shortened(check.clone(), 1 << 20), check, "what fits stays as it is");
        assert_eq!(shortened(json!({ "a": { "b": "x".repeat(5000) } }), 20), json!({ "shortened": true }));
    }
}
