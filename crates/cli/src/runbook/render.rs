//! The runbook as Markdown and as a page of HTML that needs nothing else.

use super::Part;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6675;--line:#d9dee5;--paper:#fff;--code:#f3f5f8}\
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf0;--soft:#9aa5b4;--line:#343d4a;--paper:#14181f;--code:#1d232d}}\
body{font:17px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:56rem;margin:2rem auto;padding:0 1.25rem}\
h1{font-size:1.7rem}h2{font-size:1.2rem;margin:2.75rem 0 .5rem;padding-top:.75rem;border-top:2px solid var(--line)}\
pre{background:var(--code);padding:.75rem 1rem;overflow-x:auto;font:.88rem/1.5 ui-monospace,monospace;border-radius:.3rem}\
pre.expect{background:none;border-left:.25rem solid var(--line);border-radius:0;color:var(--soft)}\
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;white-space:nowrap;color:var(--soft)}\
td,th{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}\
.soft{color:var(--soft);margin-bottom:.2rem}@media print{h2{break-before:auto}pre{white-space:pre-wrap}}\
@media(max-width:40rem){pre{white-space:pre-wrap;overflow-wrap:anywhere}th{white-space:normal;overflow-wrap:normal}}";

/// As Markdown.
pub fn markdown(parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Title(title) => out.push_str(&format!("# {title}\n\n")),
            Part::Chapter(title) => out.push_str(&format!("## {title}\n\n")),
            Part::Text(text) => out.push_str(&format!("{text}\n\n")),
            Part::Facts(facts) => {
                out.push_str("| | |\n|---|---|\n");
                facts.iter().for_each(|(name, value)| out.push_str(&format!("| {name} | {} |\n", value.replace('|', "\\|"))));
                out.push('\n');
            }
            Part::Ask(asked) => out.push_str(&format!("```sh\n{}```\n\n", asked.iter().map(assignment).collect::<String>())),
            Part::Run(commands) => out.push_str(&format!("```sh\n{}\n```\n\n", commands.join("\n"))),
            Part::Expect(lines) => out.push_str(&format!("Expected, among other lines:\n\n```text\n{}\n```\n\n", lines.join("\n"))),
        }
    }
    format!("{}\n", out.trim_end())
}

fn assignment((name, example, what): &(&str, &str, &str)) -> String {
    format!("{name}='{example}'  # {what}\n")
}

/// As a page of HTML.
pub fn html(parts: &[Part]) -> String {
    let title = parts.iter().find_map(|part| if let Part::Title(title) = part { Some(title.as_str()) } else { None }).unwrap_or("Runbook");
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{}</title><style>{STYLE}</style></head><body>\n",
        escaped(title)
    );
    for part in parts {
        match part {
            Part::Title(title) => out.push_str(&format!("<h1>{}</h1>\n", escaped(title))),
            Part::Chapter(title) => out.push_str(&format!("<h2>{}</h2>\n", escaped(title))),
            Part::Text(text) => out.push_str(&format!("<p>{}</p>\n", escaped(text))),
            Part::Facts(facts) => {
                let rows: String =
                    facts.iter().map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value))).collect();
                out.push_str(&format!("<table>{rows}</table>\n"));
            }
            Part::Ask(asked) => {
                out.push_str(&format!(
                    "<p class=\"soft\">Set these first:</p><pre>{}</pre>\n",
                    escaped(&asked.iter().map(assignment).collect::<String>())
                ));
            }
            Part::Run(commands) => out.push_str(&format!("<pre>{}</pre>\n", escaped(&commands.join("\n")))),
            Part::Expect(lines) => {
                out.push_str(&format!(
                    "<p class=\"soft\">Expected, among other lines:</p><pre class=\"expect\">{}</pre>\n",
                    escaped(&lines.join("\n"))
                ));
            }
        }
    }
    out + "</body></html>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runbook::{Names, book};

    /// `docs/runbook.md` is the runbook for generic names; `BOWLINE_WRITE=1` writes it anew.
    #[test]
    fn the_documented_form_is_the_one_that_is_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbook.md");
        let printed = markdown(&book(&Names::generic()));
        if std::env::var_os("BOWLINE_WRITE").is_some() {
            std::fs::write(path, &printed).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), printed, "write it anew: BOWLINE_WRITE=1 cargo test -p cli runbook");
    }

    #[test]
    fn what_a_name_holds_does_not_become_markup() {
        let names = Names { org: "<b>&".into(), ..Names::generic() };
        assert!(html(&book(&names)).contains("<h1>Disaster recovery of &lt;b&gt;&amp;</h1>"));
    }
}
