//! The page of errors: each word in brackets with its exit code, when it comes and what to do, out of the rooms' own explanations.

use super::{Outcome, cell, literal, parsed};
use crate::{listed, root};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::{Expr, ImplItem, Item, Pat, Stmt};

const HEAD: &str = "# Errors\n\n\
An error ends with a word in brackets that stays the same in every version; with `--json` it is `slug`. Its class decides the exit code. In what is said here `…`\n\
stands for names, paths and numbers. Written by `cargo xtask reference` out of the rooms' own explanations. `wal fetch` keeps PostgreSQL's codes instead: 0 delivered,\n\
1 proven absent, 200 failed.\n\n\
| class | exit code |\n|---|---|\n| misuse | 2 |\n| missing | 3 |\n| refused | 4 |\n| transient | 5 |\n| damaged | 6 |\n| held | 7 |\n| bug | 70 |\n\n\
| error | class | says | what to do |\n|---|---|---|---|\n";

/// What is known of one word.
#[derive(Default)]
struct Entry {
    classes: BTreeSet<String>,
    says: BTreeSet<String>,
    hints: BTreeSet<String>,
}

pub fn page() -> Outcome<String> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut files = Vec::new();
    for room in listed(&root().join("crates"))?.into_iter().filter(|room| !room.ends_with("testkit")) {
        sources(&room.join("src"), &mut files)?;
    }
    for path in files {
        let file = parsed(&path)?;
        of_explanations(&file, &mut entries);
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        of_faults(text.parse::<TokenStream>().map_err(|error| format!("{}: {error}", path.display()))?, &mut entries);
    }
    let mut text = HEAD.to_owned();
    for (slug, entry) in entries {
        let join = |words: BTreeSet<String>, by: &str| words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(by);
        let class = match join(entry.classes, ", ") {
            none if none.is_empty() => "by its cause".to_owned(),
            classes => classes,
        };
        // What is put together while it runs is not in the source.
        let or = |words: String, else_: &str| if words.is_empty() { else_.to_owned() } else { cell(&words) };
        let (says, hints) = (or(join(entry.says, "; "), "depends on the cause"), or(join(entry.hints, " · "), "what its hint says, if any"));
        text.push_str(&format!("| `{slug}` | {class} | {says} | {hints} |\n"));
    }
    Ok(text)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Outcome<()> {
    for path in listed(folder)? {
        match path.is_dir() {
            true => sources(&path, found)?,
            false if path.extension().is_some_and(|extension| extension == "rs") && !path.to_string_lossy().ends_with("_tests.rs") => {
                found.push(path)
            }
            false => {}
        }
    }
    Ok(())
}

/// What an `Explain` says of each variant, and the error's own words.
fn of_explanations(file: &syn::File, entries: &mut BTreeMap<String, Entry>) {
    for item in &file.items {
        let Item::Impl(found) = item else { continue };
        let arms = |name: &str| arms_of(&found.items, name);
        let slugs = arms("slug");
        let (classes, hints) = (arms("class"), [arms("hint"), arms("next_step")].concat());
        let says = file.items.iter().flat_map(said_by_itself).collect::<BTreeMap<_, _>>();
        for (variants, body) in slugs {
            for slug in texts(body).into_iter().filter(|text| is_slug(text)) {
                let entry = entries.entry(slug).or_default();
                for variant in &variants {
                    entry.says.extend(says.get(variant).cloned());
                    let about = |all: &[(Vec<String>, TokenStream)]| all.iter().find(|(of, _)| of.contains(variant)).map(|(_, body)| body.clone());
                    entry.classes.extend(about(&classes).into_iter().flat_map(classes_in));
                    let sentences = about(&hints).into_iter().flat_map(texts).filter(|text| text.len() > 15 && text.contains(' '));
                    entry.hints.extend(sentences.map(|text| shown(&text)));
                }
                // One class for all of them.
                if classes.is_empty() {
                    entry.classes.extend(whole(&found.items, "class").into_iter().flat_map(classes_in));
                }
            }
        }
    }
}

/// The variants and the body of each arm of the match that this function is.
fn arms_of(items: &[ImplItem], name: &str) -> Vec<(Vec<String>, TokenStream)> {
    let body = items.iter().find_map(|item| match item {
        ImplItem::Fn(found) if found.sig.ident == name => found.block.stmts.last(),
        _ => None,
    });
    let all = match body {
        Some(Stmt::Expr(Expr::Match(all), _)) => all.arms.clone(),
        _ => match items.iter().find_map(|item| match item {
            ImplItem::Fn(found) if found.sig.ident == name => found.block.stmts.first(),
            _ => None,
        }) {
            Some(Stmt::Local(local)) => match local.init.as_ref().map(|init| &*init.expr) {
                Some(Expr::Match(all)) => all.arms.clone(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        },
    };
    all.into_iter().map(|arm| (variants(&arm.pat), arm.body.to_token_stream())).collect()
}

fn whole(items: &[ImplItem], name: &str) -> Option<TokenStream> {
    items.iter().find_map(|item| match item {
        ImplItem::Fn(found) if found.sig.ident == name => Some(found.block.to_token_stream()),
        _ => None,
    })
}

/// The variants that a pattern names.
pub fn variants(pattern: &Pat) -> Vec<String> {
    let last = |path: &syn::Path| path.segments.last().map(|segment| segment.ident.to_string()).into_iter().collect();
    match pattern {
        Pat::Or(all) => all.cases.iter().flat_map(variants).collect(),
        Pat::Struct(one) => last(&one.path),
        Pat::TupleStruct(one) => last(&one.path),
        Pat::Path(one) => last(&one.path),
        _ => Vec::new(),
    }
}

/// `#[error("…")]` of each variant.
fn said_by_itself(item: &Item) -> Vec<(String, String)> {
    let Item::Enum(found) = item else { return Vec::new() };
    let words = |variant: &syn::Variant| {
        let attribute = variant.attrs.iter().find(|attribute| attribute.path().is_ident("error"))?;
        let text = attribute.parse_args_with(|input: syn::parse::ParseStream<'_>| {
            let text: Expr = input.parse()?;
            input.parse::<TokenStream>()?;
            Ok(text)
        });
        let text = literal(&text.ok()?).filter(|text| text != "{}")?;
        Some((variant.ident.to_string(), shown(&text)))
    };
    found.variants.iter().filter_map(words).collect()
}

/// Explanations that are made where they are needed: `Fault::of(…)` and `Fault::misuse(…)`.
fn of_faults(stream: TokenStream, entries: &mut BTreeMap<String, Entry>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (number, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before = tokens[number.saturating_sub(4)..number].iter().map(ToString::to_string).collect::<String>();
        if before.ends_with("Fault::of") || before.ends_with("Fault::misuse") {
            let mut arguments = vec![TokenStream::new()];
            for token in group.stream() {
                match &token {
                    TokenTree::Punct(comma) if comma.as_char() == ',' => arguments.push(TokenStream::new()),
                    _ => arguments.last_mut().expect("it begins with one").extend([token]),
                }
            }
            arguments.retain(|argument| !argument.is_empty());
            let first = |argument: Option<&TokenStream>| argument.cloned().and_then(|argument| texts(argument).into_iter().next());
            let Some(slug) = first(arguments.first()).filter(|slug| is_slug(slug)) else { continue };
            let entry = entries.entry(slug).or_default();
            let is_misuse = before.ends_with("misuse");
            match is_misuse {
                true => entry.classes.extend(["misuse".to_owned()]),
                false => entry.classes.extend(classes_in(group.stream())),
            }
            entry.says.extend(first(arguments.get(if is_misuse { 1 } else { 2 })).map(|text| shown(&text)));
            entry.hints.extend(first(arguments.last()).filter(|text| text.contains(' ')).map(|text| shown(&text)));
        }
        of_faults(group.stream(), entries);
    }
}

fn is_slug(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && text.len() > 2
}

/// Every text in it, in order.
fn texts(stream: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    for token in stream {
        match token {
            TokenTree::Group(group) => found.extend(texts(group.stream())),
            TokenTree::Literal(text) => found.extend(syn::parse_str::<syn::LitStr>(&text.to_string()).ok().map(|text| text.value())),
            _ => {}
        }
    }
    found
}

/// Each `Class::Name` in it.
fn classes_in(stream: TokenStream) -> BTreeSet<String> {
    let (mut found, mut before) = (BTreeSet::new(), String::new());
    for token in stream {
        match &token {
            TokenTree::Group(group) => found.extend(classes_in(group.stream())),
            TokenTree::Ident(name) if before.ends_with("Class::") => drop(found.insert(name.to_string().to_lowercase())),
            _ => {}
        }
        before.push_str(&token.to_string());
    }
    found
}

/// A text of a program, for people: `…` for what it fills in.
fn shown(text: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0;
    for c in text.replace("{{", "\u{1}").replace("}}", "\u{2}").chars() {
        match c {
            '{' => {
                depth += 1;
                plain.push('…');
            }
            '}' => depth -= 1,
            '\u{1}' => plain.push('{'),
            '\u{2}' => plain.push('}'),
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain.trim().replace('<', "&lt;")
}
