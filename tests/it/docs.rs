//! What `README.md` and `docs/` show is true: configurations load, every key is told of, commands are there, links lead
//! somewhere, and blocks marked `sh run` are run as they stand (`docs/run.rs`).

mod pages;
mod run;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use postern::config::Config;
use postern::outlet::feed;
use postern::source;
use postern::web::auth::Auth;

use crate::support::provider;
use pages::{Page, ROOT, pages};

const BINARY: &str = env!("CARGO_BIN_EXE_postern");
/// What stands for variables and files of secrets: a text that is a database's URL, too.
const SECRET: &str = "postgres://reader@db/shop";
const UNKNOWN: &str = "no_such_key";

fn load(text: &str, folder: &Path) -> Result<Config, String> {
    let variables = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
    let environment: Vec<_> = variables.map(|(name, _)| (name.to_owned(), SECRET.to_owned())).collect();
    let path = folder.join("postern.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path, &environment).map_err(|cause| cause.to_string())
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Loads a block and checks it as far as that goes without databases.
fn check(text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let files = text.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| key.trim().ends_with("_file"));
    for file in files.filter_map(|(_, value)| value.split('"').nth(1)).filter(|file| !file.starts_with('/')) {
        write(&folder.join(file), SECRET);
    }
    let config = load(text, folder)?;
    for schema in config.events.values().flat_map(|event| &event.schema) {
        write(schema, "{}");
    }
    source::check_names(&config.sources)?;
    feed::check(&config.all_feeds, &config.feeds)?;
    Auth::new(&config.auth, &config.clients)?;
    config.catalogue().map(|_| ())
}

#[test]
fn every_configuration_that_is_shown_can_be_used() {
    provider();
    let mut checked = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "toml") {
            if !["", "postern.toml"].contains(&block.name.as_str()) {
                continue;
            }
            check(&block.text).unwrap_or_else(|fault| panic!("{}: {fault}\n{}", page.path, block.text));
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked}");
}

/// The keys of a table that the loader knows, as it lists them when it refuses another one; nothing for what is no table.
fn known_keys(text: &str) -> Option<BTreeSet<String>> {
    let folder = tempfile::tempdir().unwrap();
    let fault = load(text, folder.path()).expect_err(text);
    let (_, list) = fault.split_once(&format!("unknown field `{UNKNOWN}`, expected "))?;
    Some(list.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// The tables of `docs/configure.md`: the heading, such as `[server]`, and the keys in its first column.
fn told_keys() -> Vec<(String, BTreeSet<String>)> {
    let page = Page::read("docs/configure.md");
    let mut told: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in page.prose().lines() {
        if line.starts_with('#') {
            told.push((line.split('`').nth(1).unwrap_or_default().to_owned(), BTreeSet::new()));
        } else if let (Some(row), Some((_, keys))) = (line.strip_prefix("| `"), told.last_mut()) {
            let cell = row.split('|').next().unwrap();
            keys.extend(cell.split('`').step_by(2).map(str::to_owned));
        }
    }
    told.retain(|(heading, _)| heading.starts_with('['));
    told
}

fn path_of(heading: &str) -> &str {
    heading.trim_matches(['[', ']'])
}

fn root_of(heading: &str) -> &str {
    path_of(heading).split('.').next().unwrap()
}

#[test]
fn every_key_is_told_of_and_no_other() {
    let told = told_keys();
    let is_list = |root: &str| told.iter().any(|(heading, _)| *heading == format!("[[{root}]]"));
    let roots: BTreeSet<String> = told.iter().map(|(heading, _)| root_of(heading).to_owned()).collect();
    assert_eq!(Some(roots), known_keys(&format!("{UNKNOWN} = 1\n")), "the tables");
    for (heading, keys) in &told {
        let root = root_of(heading);
        let opening = match !heading.starts_with("[[") && is_list(root) {
            true => format!("[[{root}]]\n{heading}\n"),
            false => format!("{heading}\n"),
        };
        assert_eq!(Some(keys), known_keys(&format!("{opening}{UNKNOWN} = 1\n")).as_ref(), "{heading}");
        for key in keys {
            let is_table = known_keys(&format!("{opening}{key} = {{ {UNKNOWN} = 1 }}\n")).is_some();
            let inner = format!("[{}.{key}]", path_of(heading));
            let is_told = told.iter().any(|(heading, _)| *heading == inner);
            assert_eq!(is_table, is_told, "{inner}: a table has a heading of its own");
        }
    }
}

#[test]
fn every_preset_is_told_of_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[source]]\nname = \"a\"\nurl = \"postgres://db/a\"\npreset = \"none\"\n";
    let fault = load(text, folder.path()).expect_err("there is no such preset");
    let (_, known) = fault.split_once("known are ").unwrap();
    let known: BTreeSet<&str> = known.trim().split(", ").collect();
    let prose = Page::read("docs/sources.md").prose();
    let (_, section) = prose.split_once("\n## Presets\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let told: BTreeSet<&str> = rows.skip(1).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert_eq!(told, known);
}

/// Lets a shell take the words apart, and the binary say whether it knows them.
fn try_command(command: &str) -> Result<(), String> {
    let script = format!("postern() {{ \"$BINARY\" \"$@\" --help; }}\n{command}");
    let output = Command::new("bash").args(["-c", &script]).env("BINARY", BINARY).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn every_command_that_is_shown_is_there_with_its_options() {
    let mut commands: Vec<(String, String)> = Vec::new();
    for page in pages() {
        commands.extend(page.commands().into_iter().map(|command| (page.path.clone(), command)));
    }
    let distinct: BTreeSet<&String> = commands.iter().map(|(_, command)| command).collect();
    for command in ["postern check", "postern serve", "postern audit --source cart --repair"] {
        assert!(distinct.contains(&command.to_owned()), "{command} is not found any more");
    }
    for command in distinct {
        let path = &commands.iter().find(|(_, other)| other == command).unwrap().0;
        try_command(command).unwrap_or_else(|fault| panic!("{path}: {command}: {fault}"));
    }
}

#[test]
fn every_json_that_is_shown_can_be_parsed() {
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.language == "json" && !block.text.contains('…')) {
            let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
            parsed.unwrap_or_else(|fault| panic!("{}: {fault}\n{}", page.path, block.text));
        }
    }
}

#[test]
fn every_link_leads_somewhere_and_the_index_to_every_page() {
    let mut from_index = BTreeSet::new();
    for page in pages() {
        let folder = Path::new(&page.path).parent().unwrap();
        for link in page.links() {
            let (file, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if file.is_empty() { page.path.clone() } else { pages::joined(folder, file) };
            let exists = Path::new(ROOT).join(&target).exists();
            assert!(exists, "{}: there is no {target}, to which ({link}) leads", page.path);
            if !anchor.is_empty() {
                let anchors = Page::read(&target).anchors();
                assert!(anchors.iter().any(|it| it == anchor), "{}: {link} is none of {anchors:?}", page.path);
            }
            if page.path == "docs/README.md" {
                from_index.insert(target);
            }
        }
    }
    for page in pages().iter().filter(|page| !page.path.ends_with("README.md")) {
        assert!(from_index.contains(&page.path), "docs/README.md does not name {}", page.path);
    }
}
