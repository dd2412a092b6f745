//! The page of events: each kind of `terms::Event` with its comment, and the names under which its JSON line tells it.

use super::{Outcome, cell, doc, parsed};
use crate::root;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeMap;
use syn::Item;

const HEAD: &str = "# Events\n\n\
With `--json` each command prints one object a line: its events while it runs, `{\"result\": …}` last, or `{\"error\": …}` ([errors](errors.md)). Written by\n\
`cargo xtask reference`.\n\n| event | fields | is |\n|---|---|---|\n";

pub fn page() -> Outcome<String> {
    let told = told()?;
    let Some(Item::Enum(events)) =
        parsed(&root().join("crates/terms/src/event.rs"))?.items.into_iter().find(|item| matches!(item, Item::Enum(found) if found.ident == "Event"))
    else {
        return Err("there is no enum Event".into());
    };
    let mut text = HEAD.to_owned();
    for variant in events.variants {
        let name = variant.ident.to_string();
        let (event, fields) = told.get(&name).ok_or_else(|| format!("the event {name} is not told as JSON"))?;
        let about = doc(&variant.attrs).join(" ");
        if about.is_empty() {
            return Err(format!("the event {name} has no comment"));
        }
        let fields = fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("| `{event}` | {fields} | {} |\n", cell(about.trim_end_matches('.'))));
    }
    Ok(text)
}

/// Of each variant, its name in JSON and its fields there, out of `event_json`.
fn told() -> Outcome<BTreeMap<String, (String, Vec<String>)>> {
    let file = parsed(&root().join("crates/cli/src/show/events.rs"))?;
    let body = file.items.iter().find_map(|item| match item {
        Item::Fn(found) if found.sig.ident == "event_json" => Some(&found.block),
        _ => None,
    });
    let Some(syn::Stmt::Expr(syn::Expr::Match(all), _)) = body.and_then(|block| block.stmts.last()) else {
        return Err("event_json is no match".into());
    };
    let mut told = BTreeMap::new();
    for arm in &all.arms {
        let mut names = Vec::new();
        strings(arm.body.to_token_stream(), &mut names);
        let mut names = names.into_iter();
        if names.next().as_deref() != Some("event:") {
            return Err(format!("an event does not begin with its name: {}", arm.pat.to_token_stream()));
        }
        let event = names.next().unwrap_or_default();
        let fields: Vec<String> = names.filter_map(|name| name.strip_suffix(':').map(str::to_owned)).collect();
        for variant in super::errors::variants(&arm.pat) {
            told.insert(variant, (event.clone(), fields.clone()));
        }
    }
    Ok(told)
}

/// The texts in order, with a colon behind those that name a field.
fn strings(stream: TokenStream, found: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (number, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Literal(text) if text.to_string().starts_with('"') => {
                let is_field = matches!(tokens.get(number + 1), Some(TokenTree::Punct(next)) if next.as_char() == ':');
                // `told["name"] = …` names a field as well.
                let name = text.to_string().trim_matches('"').to_owned();
                found.push(if is_field { format!("{name}:") } else { name });
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket && number > 0 => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                match &inside[..] {
                    [TokenTree::Literal(text)] => found.push(format!("{}:", text.to_string().trim_matches('"'))),
                    _ => strings(group.stream(), found),
                }
            }
            TokenTree::Group(group) => strings(group.stream(), found),
            _ => {}
        }
    }
}
