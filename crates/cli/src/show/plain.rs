//! Text of a configuration, a repository or a server is shown, and never obeyed by the terminal.

use std::borrow::Cow;

/// As it is, but for what moves the cursor, erases or turns the direction of writing: that is spelled out.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Every control character but the end of a line and the tab, and those of Unicode that reorder what is beside them.
fn is_obeyed(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_erase_a_line_is_spelled_out() {
        assert_eq!(plain("rm -rf /\u{1b}[1A\u{1b}[2K"), r"rm -rf /\u{1b}[1A\u{1b}[2K");
        assert_eq!(plain("a\rb\u{7}\u{9b}2K\u{202e}c"), r"a\u{d}b\u{7}\u{9b}2K\u{202e}c");
        assert_eq!(plain("Größe\tin\nMiB →"), "Größe\tin\nMiB →");
    }
}
