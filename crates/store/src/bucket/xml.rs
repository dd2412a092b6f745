//! Just enough XML for the few answers and requests about a bucket: elements by name, without attributes that matter.

/// What is between the first `<name>` and its end.
pub(super) fn inside<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    all(text, name).into_iter().next()
}

/// What is between each `<name>` and its end, in order; elements of one name do not nest in these answers.
pub(super) fn all<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(&open) {
        let after = &rest[at + open.len()..];
        // `<Rule>` and `<Rule xmlns=…>`, but not `<Rules>`; `<Rule/>` is empty.
        let Some(end) = after.find('>').filter(|_| after.starts_with(['>', ' ', '/'])) else {
            rest = after;
            continue;
        };
        if after[..end].ends_with('/') {
            found.push("");
            rest = &after[end..];
            continue;
        }
        let Some(length) = after[end + 1..].find(&close) else { break };
        found.push(&after[end + 1..end + 1 + length]);
        rest = &after[end + 1 + length + close.len()..];
    }
    found
}

/// The text without the first `<name>` and all that is in it.
pub(super) fn without(text: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let cut = text.find(&open).and_then(|at| text[at..].find(&close).map(|end| (at, at + end + close.len())));
    cut.map_or_else(|| text.to_owned(), |(from, to)| format!("{}{}", &text[..from], &text[to..]))
}

/// The text of the first `<name>`, with its entities undone.
pub(super) fn text(from: &str, name: &str) -> Option<String> {
    inside(from, name).map(|raw| {
        let plain = raw.trim().replace("&quot;", "\"").replace("&#34;", "\"").replace("&#39;", "'").replace("&apos;", "'");
        plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    })
}

/// A text as XML writes it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_their_whole_name() {
        let answer = "<?xml?><A xmlns=\"x\"><Rules>no</Rules><Rule><ID>a&amp;b</ID></Rule><Rule xmlns=\"y\"><ID>c</ID></Rule><Rule/></A>";
        assert_eq!(all(answer, "Rule"), ["<ID>a&amp;b</ID>", "<ID>c</ID>", ""]);
        assert_eq!(text(answer, "ID").as_deref(), Some("a&b"));
        assert_eq!((inside(answer, "Nothing"), escaped("a&<b>")), (None, "a&amp;&lt;b&gt;".to_owned()));
    }
}
