//! `cargo xtask reference`: writes docs/reference out of the code: commands by asking the program, configuration, errors and events by
//! reading the sources that define them. A test demands that what is committed is what comes out.

mod commands;
mod configuration;
mod errors;
mod events;

use crate::root;
use std::fs;
use std::path::{Path, PathBuf};

type Outcome<T> = Result<T, String>;

/// Entry of `cargo xtask reference`.
pub fn run() -> Outcome<()> {
    for (name, text) in pages(&beside()?)? {
        fs::write(folder().join(name), text).map_err(|error| format!("cannot write {name}: {error}"))?;
    }
    Ok(())
}

/// Every page with its text.
fn pages(program: &Path) -> Outcome<Vec<(&'static str, String)>> {
    Ok(vec![
        ("commands.md", commands::page(program)?),
        ("configuration.md", configuration::page()?),
        ("errors.md", errors::page()?),
        ("events.md", events::page()?),
    ])
}

fn folder() -> PathBuf {
    root().join("docs/reference")
}

/// The program that was built beside this one.
fn beside() -> Outcome<PathBuf> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = own.with_file_name("bowline");
    if program.is_file() { Ok(program) } else { Err(format!("{} is missing: cargo build --workspace --bins", program.display())) }
}

fn parsed(path: &Path) -> Outcome<syn::File> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    syn::parse_file(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The lines of a comment for readers of the documentation.
fn doc(attributes: &[syn::Attribute]) -> Vec<String> {
    let line = |attribute: &syn::Attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => literal(&pair.value).map(|text| text.trim().to_owned()),
        _ => None,
    };
    attributes.iter().filter_map(line).collect()
}

fn literal(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_comes_out_of_the_code() {
        for (name, text) in pages(&testkit::bowline::program()).unwrap() {
            let path = folder().join(name);
            if std::env::var_os("BOWLINE_GOLDEN").is_some() {
                fs::write(&path, &text).unwrap();
            }
            let committed = fs::read_to_string(&path).unwrap_or_default();
            let differs = committed.lines().zip(text.lines()).find(|(old, new)| old != new);
            assert!(committed == text, "docs/reference/{name} is not what the code says (cargo xtask reference, or BOWLINE_GOLDEN=1): {differs:?}");
        }
    }
}
