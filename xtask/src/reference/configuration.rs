//! The page of configuration keys: the fields of the structs that the program reads it into, with their comments. Those structs take no
//! other keys, so the page can name neither too many nor too few. A key without a comment is an error.

use super::{Outcome, cell, doc, literal, parsed};
use crate::root;
use std::collections::BTreeMap;
use syn::{Fields, GenericArgument, Item, PathArguments, Type};

const SOURCES: [&str; 3] = ["crates/cli/src/config.rs", "crates/cli/src/config/alerts.rs", "crates/cli/src/config/packages.rs"];

const HEAD: &str = "# Configuration\n\n\
`--config FILE`, `$BOWLINE_CONFIG`, or `/etc/bowline/bowline.toml`, in TOML. A key that this version does not know is an error. Written by `cargo xtask\n\
reference` out of the program's own definitions.\n\n\
- **Secrets** are never in the file: they are given as `env:NAME` or `file:PATH`.\n\
- **Durations** are like `30s`, `10m` or `4h`, **sizes** like `50MB` or `2GiB`, **shares** like `10%`, **schedules** cron's five fields.\n";

/// A struct of the configuration, or the words of an enum.
enum Known {
    Table {
        about: Vec<String>,
        fields: Vec<Field>,
    },
    /// Stands for what is in it.
    Around(String),
    Words(Vec<String>),
}

struct Field {
    name: String,
    about: Vec<String>,
    kind: Type,
    is_required: bool,
}

pub fn page() -> Outcome<String> {
    let known = known()?;
    let Some(Known::Table { fields, .. }) = known.get("Config") else { return Err("there is no struct Config".into()) };
    let mut faults = Vec::new();
    let (mut keys, mut sections) = (String::new(), String::new());
    for field in fields {
        let (name, _) = inner(&field.kind);
        match known.get(&name) {
            Some(Known::Table { about, .. }) => {
                sections.push_str(&format!("\n## [{}]\n\n", field.name));
                let about = if field.about.is_empty() { about } else { &field.about };
                if !about.is_empty() {
                    sections.push_str(&format!("{}\n\n", about.join(" ")));
                }
                sections.push_str(TABLE);
                rows(&known, &name, "", &mut sections, &mut faults);
            }
            _ => keys.push_str(&row(&known, "", field, &mut faults)),
        }
    }
    match faults.is_empty() {
        true => Ok(format!("{HEAD}\n{TABLE}{keys}{sections}")),
        false => Err(faults.join("\n")),
    }
}

const TABLE: &str = "| key | type | default | is |\n|---|---|---|---|\n";

fn rows(known: &BTreeMap<String, Known>, table: &str, prefix: &str, text: &mut String, faults: &mut Vec<String>) {
    let Some(Known::Table { fields, .. }) = known.get(table) else { return };
    for field in fields {
        let (name, is_list) = inner(&field.kind);
        let below = match known.get(&name) {
            Some(Known::Around(name)) => Some(name.clone()),
            Some(Known::Table { .. }) => Some(name),
            _ => None,
        };
        text.push_str(&row(known, prefix, field, faults));
        if let Some(below) = below {
            let prefix = format!("{prefix}{}{}.", field.name, if is_list { "[]" } else { "" });
            rows(known, &below, &prefix, text, faults);
        }
    }
}

fn row(known: &BTreeMap<String, Known>, prefix: &str, field: &Field, faults: &mut Vec<String>) -> String {
    let key = format!("{prefix}{}", field.name);
    let (usual, about): (Vec<&String>, Vec<&String>) =
        field.about.iter().filter(|line| !line.is_empty()).partition(|line| line.starts_with("Default: "));
    let default = match (&usual[..], field.is_required) {
        ([], true) => "required".to_owned(),
        ([usual], false) => usual.trim_start_matches("Default: ").trim_end_matches('.').to_owned(),
        _ => {
            faults.push(format!("{key}: needs one line \"Default: …\" where it may be left out, and none where not"));
            return String::new();
        }
    };
    let about = about.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join(" ");
    if about.is_empty() {
        faults.push(format!("{key}: has no comment that says what it is"));
    }
    format!("| `{key}` | {} | {} | {} |\n", kind(known, field), cell(&default), cell(about.trim_end_matches('.')))
}

/// What may be written there, in a word.
fn kind(known: &BTreeMap<String, Known>, field: &Field) -> String {
    let (name, is_list) = inner(&field.kind);
    let one = match name.as_str() {
        "String" | "Text" | "Spec" => "text".to_owned(),
        "PathBuf" => "path".to_owned(),
        "bool" => "true or false".to_owned(),
        "u16" | "u32" | "usize" => "number".to_owned(),
        "f64" => "share".to_owned(),
        "Duration" => "duration".to_owned(),
        "ByteSize" => "size".to_owned(),
        "SecretRef" => "secret".to_owned(),
        "Zone" => "time zone".to_owned(),
        "Compression" => "`zstd:LEVEL`, `lz4`, `none`".to_owned(),
        "LockMode" => "`governance`, `compliance`".to_owned(),
        "Urgency" => "`warning`, `critical`".to_owned(),
        "Expectation" => "comparison".to_owned(),
        "BTreeMap" => "table of texts".to_owned(),
        _ => match known.get(&name) {
            Some(Known::Words(words)) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Some(Known::Around(_)) => "text or table".to_owned(),
            Some(Known::Table { .. }) => "table".to_owned(),
            None => name,
        },
    };
    if is_list { format!("list of: {one}") } else { one }
}

/// The name of a type without Option and Vec around it, and whether there are many.
fn inner(kind: &Type) -> (String, bool) {
    let Type::Path(path) = kind else { return (String::new(), false) };
    let Some(last) = path.path.segments.last() else { return (String::new(), false) };
    let of = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => arguments.args.iter().find_map(|argument| match argument {
            GenericArgument::Type(kind) => Some(inner(kind)),
            _ => None,
        }),
        _ => None,
    };
    match (last.ident.to_string().as_str(), of) {
        ("Option", Some(inside)) => inside,
        ("Vec", Some((name, _))) => (name, true),
        (name, _) => (name.to_owned(), false),
    }
}

fn known() -> Outcome<BTreeMap<String, Known>> {
    let mut known = BTreeMap::new();
    for source in SOURCES {
        for item in parsed(&root().join(source))?.items {
            match item {
                Item::Struct(item) => {
                    let of_serde = serde_words(&item.attrs);
                    let found = match &item.fields {
                        Fields::Named(named) => Known::Table {
                            about: doc(&item.attrs),
                            fields: named.named.iter().filter_map(|field| read(field, of_serde.contains("default"))).collect(),
                        },
                        Fields::Unnamed(one) if one.unnamed.len() == 1 => Known::Around(inner(&one.unnamed[0].ty).0),
                        _ => continue,
                    };
                    known.insert(item.ident.to_string(), found);
                }
                Item::Enum(item) => {
                    let words = item.variants.iter().map(|variant| variant.ident.to_string().to_lowercase()).collect();
                    known.insert(item.ident.to_string(), Known::Words(words));
                }
                _ => {}
            }
        }
    }
    Ok(known)
}

fn read(field: &syn::Field, has_defaults: bool) -> Option<Field> {
    let words = serde_words(&field.attrs);
    if words.contains("skip") {
        return None;
    }
    let renamed = words.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"')).map(|(name, _)| name.to_owned());
    let is_option = matches!(&field.ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"));
    Some(Field {
        name: renamed.or_else(|| field.ident.as_ref().map(ToString::to_string))?,
        about: doc(&field.attrs),
        kind: field.ty.clone(),
        is_required: !has_defaults && !is_option && !words.contains("default"),
    })
}

/// What serde is told, as text.
fn serde_words(attributes: &[syn::Attribute]) -> String {
    let mut words = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        // Told word by word: `name`, or `name = "value"`.
        let read = attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            match meta.value() {
                Ok(value) => words.push_str(&format!("{name} = \"{}\" ", literal(&value.parse()?).unwrap_or_default())),
                Err(_) => words.push_str(&format!("{name} ")),
            }
            Ok(())
        });
        drop(read);
    }
    words
}
