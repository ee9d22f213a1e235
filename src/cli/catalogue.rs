//! `postern catalogue infer`: drafts JSON Schemas from journaled events.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::{Value, json as object};

use crate::catalogue::infer::Inference;
use crate::filter::{Filter, Selection};
use crate::journal::{Columns, Journal, Order, Range, redacted};
use crate::json;
use crate::telemetry;

/// Events that are read at a time.
const PAGE: usize = 200;
const SAMPLE_MAX: usize = 1_000_000;

#[derive(Subcommand)]
pub enum Command {
    /// Writes a JSON Schema for each type of events, from what the newest of them look like. To be looked over: a sample
    /// does not show what is rare.
    #[command(after_help = "Example: postern catalogue infer --sample 1000 --out catalogue/")]
    Infer(Infer),
}

#[derive(clap::Args)]
pub struct Infer {
    /// How many events of each type are looked at, the newest first.
    #[arg(long, default_value_t = 1_000)]
    sample: usize,
    /// The folder for the schemas. A file that is there is left as it is.
    #[arg(long, default_value = "catalogue")]
    out: PathBuf,
    #[command(flatten)]
    config: super::ConfigArgument,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Infer(arguments) = command;
    telemetry::start("error");
    if !(1..=SAMPLE_MAX).contains(&arguments.sample) {
        bail!("--sample is {}; give 1 to {SAMPLE_MAX}", arguments.sample);
    }
    let config = super::load(&arguments.config.config)?;
    let place = redacted(&config.journal.url);
    let journal =
        Journal::open_to_read(&config.journal).await.with_context(|| format!("can't open the journal {place}"))?;
    let Some(journal) = journal else { bail!("there is no journal {place} yet; `postern serve` makes it") };
    let types = journal.event_types(&Selection::visible(&Filter::default())).await?;
    if types.is_empty() {
        bail!("the journal {place} holds no events yet");
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("can't make `{}`", arguments.out.display()))?;
    let folder = config_folder(&arguments.config.config, &arguments.out);
    let mut taken = HashSet::new();
    for (name, known) in types.into_iter().filter(|(name, _)| !name.starts_with("postern.")) {
        let (plain, mut file) = (file_name(&name), format!("{}.json", file_name(&name)));
        for n in 2.. {
            if taken.insert(file.clone()) {
                break;
            }
            file = format!("{plain}_{n}.json");
        }
        let path = arguments.out.join(&file);
        if path.exists() {
            super::print(&format!("# {} is there and stays as it is\n", path.display()));
            continue;
        }
        let (schema, looked_at) = infer(&journal, &name, arguments.sample).await?;
        let draft = object!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$comment": format!("Drafted from {looked_at} of {} events. Look it over.", known.count),
            "title": name,
        });
        let (Value::Object(mut draft), Value::Object(schema)) = (draft, schema) else { continue };
        draft.extend(schema);
        std::fs::write(&path, format!("{:#}\n", Value::Object(draft)))
            .with_context(|| format!("can't write `{}`", path.display()))?;
        let shown = folder.join(&file);
        super::print(&format!("[events.{}]\nschema = {}\n", toml_text(&name), toml_text(&shown.to_string_lossy())));
    }
    Ok(ExitCode::SUCCESS)
}

/// The schema of the newest events of a type, and how many were looked at.
async fn infer(journal: &Journal, r#type: &str, sample: usize) -> anyhow::Result<(Value, usize)> {
    let only = Filter { types: vec![r#type.to_owned()], ..Filter::default() };
    let selection = Selection::visible(&Filter::default()).and(&only);
    let mut range = Range { after: 0, through: None, order: Order::Descending };
    let (mut inference, mut looked_at) = (Inference::default(), 0);
    loop {
        let page = journal.read(&selection, range, PAGE.min(sample - looked_at), Columns::DATA).await?;
        for entry in page.entries.iter().filter(|entry| entry.erased_at.is_none() && entry.event.r#type == r#type) {
            inference.add(&json::parse(&entry.event.data).unwrap_or_default());
            looked_at += 1;
        }
        if !page.more || looked_at >= sample {
            return Ok((inference.schema(), looked_at));
        }
        range.through = Some(page.covered);
    }
}

/// How the configuration names the folder: from its own.
fn config_folder(config: &Path, out: &Path) -> PathBuf {
    let own = config.parent().filter(|parent| !parent.as_os_str().is_empty());
    match own {
        None => out.to_owned(),
        Some(own) => match out.strip_prefix(own) {
            Ok(below) => below.to_owned(),
            Err(_) => std::path::absolute(out).unwrap_or_else(|_| out.to_owned()),
        },
    }
}

fn file_name(r#type: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = r#type.chars().take(100).map(|c| if plain(c) { c } else { '_' }).collect();
    // Not hidden, and not a folder.
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// A JSON text is one of TOML.
fn toml_text(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
