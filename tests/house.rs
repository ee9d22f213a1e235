//! The rules of the house that no compiler holds: who may import whom, what every file has, and that `openapi.json`
//! describes exactly what is served. Reads `src` as text; rustc would accept every one of these faults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// In the order in which they may import each other.
const WORDS: [&str; 5] = ["json", "event", "filter", "catalogue", "projection"];
const OUTLETS: [&str; 3] = ["outlet/feed", "outlet/graphql", "outlet/webhook"];
/// Served, but no part of the interface.
const NOT_DESCRIBED: [&str; 2] = ["/style.css", "/graphql/explorer.js"];
/// What is below it is for people; programs have the routes that it speaks to.
const PAGES: &str = "/console";
const METHODS: [&str; 6] = ["get", "post", "put", "delete", "patch", "any"];

/// What a room may import beside itself.
enum May {
    Everything,
    These(Vec<&'static str>),
}

/// The table of `ARCHITECTURE.md`. Nothing for a room that is not in it: a new one is a decision.
fn may_import(room: &str) -> Option<May> {
    let journal = [&WORDS[..], &["runtime", "telemetry"]].concat();
    let web = [&journal[..], &["journal"]].concat();
    let rooms = [&web[..], &["web"]].concat();
    let these = match room {
        "runtime" | "telemetry" | "outlet" => Vec::new(),
        "journal" => journal,
        "web" => web,
        "source" | "console" => rooms,
        "config" => [&rooms[..], &["source"], &OUTLETS].concat(),
        "app" | "cli" | "crate root" => return Some(May::Everything),
        _ if OUTLETS.contains(&room) => rooms,
        _ => WORDS[..WORDS.iter().position(|word| *word == room)?].to_vec(),
    };
    Some(May::These(these))
}

/// The room of a module path. The house of the outlets is a room of its own, which nobody may import from: a name
/// re-exported there would be a way from one outlet to another.
fn room(path: &[String]) -> String {
    match path {
        [] => "crate root".to_owned(),
        [first, outlet, ..] if first == "outlet" && outlet.starts_with(|c: char| c.is_ascii_lowercase()) => {
            format!("outlet/{outlet}")
        }
        [first, ..] => first.clone(),
    }
}

/// Faults against the table, one a line.
fn import_faults(file: &str, source: &str) -> Vec<String> {
    let own = room(&module_of(file));
    let Some(may) = may_import(&own) else {
        return vec![format!("{file}: decide in tests/house.rs what the room `{own}` may import")];
    };
    let May::These(may) = may else { return Vec::new() };
    let list = if may.is_empty() { "nothing of ours".to_owned() } else { may.join(", ") };
    let mut faults = Vec::new();
    for (line, path) in imports(file, source) {
        let other = room(&path);
        if other != own && !may.contains(&other.as_str()) {
            let path = path.join("::");
            faults.push(format!("{file}:{line}: `{own}` imports `{other}` (crate::{path}); it may import {list}"));
        }
    }
    faults
}

/// `src/outlet/feed/atom.rs` → `outlet::feed::atom`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::` and single signs of blanked code.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut rest, mut line) = (Vec::new(), code, 1);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        if !first.is_whitespace() {
            tokens.push(Token { text: &rest[..length], line });
        }
        line += usize::from(first == '\n');
        rest = &rest[length..];
    }
    tokens
}

/// Every path of the crate that the file names, in `use` trees and elsewhere: line and path from the crate's root.
fn imports(file: &str, source: &str) -> Vec<(usize, Vec<String>)> {
    let code = blanked(source);
    let tokens = tokens(&code);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let (mut found, mut module, mut inline, mut depth) = (Vec::new(), module_of(file), Vec::new(), 0);
    for at in 0..tokens.len() {
        match text(at) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
            }
            "mod" if text(at + 2) == "{" => {
                inline.push(depth);
                module.push(text(at + 1).to_owned());
            }
            start @ ("crate" | "self" | "super") if text(at + 1) == "::" && (at == 0 || text(at - 1) != "::") => {
                let (mut base, mut at) = (if start == "crate" { Vec::new() } else { module.clone() }, at);
                while text(at) == "super" {
                    base.pop();
                    at += if text(at + 2) == "super" { 2 } else { 1 };
                }
                at += usize::from(start != "super");
                branch(&tokens, at, base, &mut found);
            }
            _ => {}
        }
    }
    found
}

/// The leaves of a path whose next `::` is at `at`. Returns where it ends.
fn branch(tokens: &[Token<'_>], mut at: usize, mut path: Vec<String>, found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let line = tokens[at - 1].line;
    while text(at) == "::" {
        match text(at + 1) {
            "{" => {
                at += 2;
                while !matches!(text(at), "}" | "") {
                    let mut path = path.clone();
                    if !matches!(text(at), "self" | "*") {
                        path.push(text(at).to_owned());
                    }
                    at = branch(tokens, at + 1, path, found);
                    while !matches!(text(at), "," | "}" | "") {
                        at += 1;
                    }
                    at += usize::from(text(at) == ",");
                }
                return at + 1;
            }
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned());
                at += 2;
            }
            _ => break,
        }
    }
    found.push((line, path));
    at
}

/// The code with comments and the insides of texts and characters as spaces: every byte stays at its place.
fn blanked(source: &str) -> String {
    let (mut code, mut at) = (source.as_bytes().to_vec(), 0);
    while at < source.len() {
        let rest = &source[at..];
        let after_word = source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_text(rest).filter(|_| !after_word || source[..at].ends_with(['b', 'c'])) {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&end).map_or(rest.len(), |inside| start + inside + end.len())
        } else if rest.starts_with('"') {
            quoted(rest, '"')
        } else if rest.starts_with('\'') && !is_lifetime(rest) {
            quoted(rest, '\'')
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        for byte in code[at..at + length].iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        at += length;
    }
    String::from_utf8(code).expect("only whole characters are replaced")
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let end = rest.as_bytes().windows(2).position(|pair| {
        depth += i32::from(pair == b"/*") - i32::from(pair == b"*/");
        depth == 0
    });
    end.map_or(rest.len(), |at| at + 2)
}

/// The number of `#` if a raw text starts here.
fn raw_text(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?;
    let text = hashes.trim_start_matches('#');
    text.starts_with('"').then(|| hashes.len() - text.len())
}

fn is_lifetime(rest: &str) -> bool {
    let mut chars = rest[1..].chars();
    let (first, second) = (chars.next(), chars.next());
    first.is_some_and(|c| c.is_alphabetic() || c == '_') && second != Some('\'')
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |(at, _)| at + 1)
}

/// All files of `src`: name from the repository's root, and text.
fn files() -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() { walk(&path, into) } else { into.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(&root.join("src"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "rs"));
    paths.sort();
    assert!(paths.len() > 20, "only {paths:?} was found in src");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("it was found there").to_string_lossy().replace('\\', "/");
        (name, std::fs::read_to_string(&path).expect("sources are texts"))
    };
    paths.into_iter().map(read).collect()
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn rooms_import_only_what_they_may() {
    let faults: Vec<String> = files().iter().flat_map(|(file, source)| import_faults(file, source)).collect();
    assert_none(&faults);
}

#[test]
fn the_rule_sees_every_way_to_import() {
    for (file, source, other) in [
        ("src/filter.rs", "use crate::{\n  event::{self, Event},\n  journal::Journal as J,\n};", "journal"),
        ("src/web/auth.rs", "fn f() { let x = \"a\\\"\"; crate::source::go::<u8>() }", "source"),
        ("src/outlet/feed/mod.rs", "use super::webhook::{Config, signature};", "outlet/webhook"),
        ("src/outlet/feed/atom.rs", "mod tests { use super::super::super::graphql; }", "outlet/graphql"),
        ("src/outlet/feed/atom.rs", "pub use super::super::Feeds;", "outlet"),
        ("src/journal/mod.rs", "macro_rules! m { () => { $crate::config::Config } }", "config"),
        ("src/event.rs", "const Q: char = '\"'; type T<'a> = &'a crate::runtime::Clock; // '\"'", "runtime"),
        ("src/source/mod.rs", "#[cfg(test)] mod tests { use crate::*; }", "crate root"),
        ("src/catalogue.rs", "use crate::projection;", "projection"),
    ] {
        let faults = import_faults(file, source);
        let named = faults.iter().any(|fault| fault.contains(&format!("imports `{other}`")));
        assert!(named && faults.iter().all(|fault| fault.contains("may import")), "{source}: {faults:?}");
    }
    for (file, source) in [
        ("src/event.rs", "//! [`J`](crate::journal)\n/* /* */ use crate::web; */ const A: &str = r#\"crate::web::\"#;"),
        ("src/outlet/feed/mod.rs", "pub(crate) mod x { use super::atom; pub(in crate::outlet::feed) use self::y; }"),
        ("src/projection.rs", "use crate::{catalogue, event::{Event, Micros}, filter::*};"),
        ("src/app.rs", "use crate::config::Config;"),
    ] {
        assert_none(&import_faults(file, source));
    }
    assert!(import_faults("src/cellar.rs", "")[0].contains("decide"));
}

#[test]
fn every_file_is_finished_and_says_what_it_is_for() {
    let mut faults = Vec::new();
    for (file, source) in files() {
        if !source.starts_with("//!") {
            faults.push(format!("{file}:1: starts without `//!`; say what the file is for"));
        }
        let code = blanked(&source);
        for pair in tokens(&code).windows(2) {
            if matches!(pair[0].text, "todo" | "unimplemented" | "dbg") && pair[1].text == "!" {
                faults.push(format!("{file}:{}: `{}!` must not stay", pair[0].line, pair[0].text));
            }
        }
    }
    assert_none(&faults);
}

fn openapi() -> Value {
    serde_json::from_str(include_str!("../src/web/openapi.json")).expect("openapi.json is JSON")
}

/// The same for `/feeds/{feed}`, `/feeds/{name}` and `/feeds/{feed}.atom`: one route serves them.
fn shape(path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// Paths and methods of the routes that a file adds.
fn routes(file: &str, source: &str) -> Vec<(String, BTreeSet<String>)> {
    let code = blanked(source);
    for unread in [".nest(", ".nest_service(", ".route_service("] {
        assert!(!code.contains(unread), "{file}: this test does not understand `{unread}…)`; use `.route(\"…\", …)`");
    }
    let mut found = Vec::new();
    for (at, call) in code.match_indices(".route(") {
        let arguments = at + call.len();
        let text = source[arguments..].trim_start();
        let path = text.strip_prefix('"').and_then(|text| text.split_once('"')).map(|(path, _)| path);
        let path = path.unwrap_or_else(|| panic!("{file}: a route whose path is no text: {:.60}", text));
        let (mut methods, mut depth) = (BTreeSet::new(), 0);
        for pair in tokens(&code[arguments..]).windows(2) {
            match pair[0].text {
                "(" | "{" => depth += 1,
                ")" | "}" if depth == 0 => break,
                ")" | "}" => depth -= 1,
                word if depth == 0 && pair[1].text == "(" && METHODS.contains(&word) => {
                    methods.insert(word.to_owned());
                }
                _ => {}
            }
        }
        found.push((path.to_owned(), methods));
    }
    found
}

#[test]
fn openapi_describes_exactly_what_is_served() {
    let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // The demo's receiver is somebody else's server.
    for (file, source) in files().iter().filter(|(file, _)| !file.starts_with("src/cli/")) {
        for (path, methods) in routes(file, source) {
            if !NOT_DESCRIBED.contains(&path.as_str()) && !path.starts_with(PAGES) {
                served.entry(shape(&path)).or_default().extend(methods);
            }
        }
    }
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, item) in openapi()["paths"].as_object().expect("an object") {
        let methods = METHODS.iter().filter(|method| item.get(**method).is_some());
        described.entry(shape(path)).or_default().extend(methods.map(|method| (*method).to_owned()));
    }
    let mut faults = Vec::new();
    for (path, methods) in &served {
        match described.get(path) {
            None => faults.push(format!("{path} is served, but not in openapi.json")),
            Some(told) if told != methods && !methods.contains("any") => {
                faults.push(format!("{path} is served for {methods:?}, openapi.json says {told:?}"));
            }
            Some(_) => {}
        }
    }
    let unserved = described.keys().filter(|path| !served.contains_key(*path));
    faults.extend(unserved.map(|path| format!("{path} is in openapi.json, but no route serves it")));
    assert_none(&faults);
}

#[test]
fn openapi_is_of_one_piece() {
    let document = openapi();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    // `web::openapi` puts the gateway's own address in its place.
    assert_eq!(document["servers"][0]["url"], "https://events.example.com");
    let (mut dangling, mut unread) = (Vec::new(), vec![&document]);
    while let Some(value) = unread.pop() {
        if let Some(target) = value["$ref"].as_str()
            && target.strip_prefix('#').and_then(|pointer| document.pointer(pointer)).is_none()
        {
            dangling.push(format!("{target} leads nowhere"));
        }
        match value {
            Value::Object(object) => unread.extend(object.values()),
            Value::Array(list) => unread.extend(list),
            _ => {}
        }
    }
    assert_none(&dangling);
}
