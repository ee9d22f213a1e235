//! `postern demo`: the main job with nothing but the binary. A cart service (`shop`) writes its event store, the gateway
//! runs on it by a configuration that can be read and changed, and a receiver (`receiver`) verifies each webhook call.

mod receiver;
mod shop;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::app::{Gateway, Options};
use crate::runtime::{self, Tasks};
use crate::telemetry;

/// How long a stop waits for the shop and the receiver.
const SHOP_CLOSES: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub struct Arguments {
    /// Where the gateway listens; without it, where its configuration says (127.0.0.1:8080). The receiver listens on the
    /// port after it.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Events that the cart service writes in a second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// The folder for the shop's database, the journal and the configuration.
    #[arg(long, default_value = "./postern-demo")]
    dir: PathBuf,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("warn");
    if !(arguments.rate > 0.0 && arguments.rate <= 1_000.0) {
        anyhow::bail!("--rate must be above 0 and at most 1000 events a second");
    }
    let (gateway, tasks) = tokio::select! {
        started = start(&arguments) => started?,
        () = runtime::stop_signal() => return Ok(ExitCode::SUCCESS),
    };
    announce(gateway.public_url(), &arguments.dir);
    let stopping = gateway.failed();
    tokio::select! {
        () = runtime::stop_signal() => {}
        () = stopping.cancelled() => {}
    }
    tasks.drain(SHOP_CLOSES).await;
    let crashed = gateway.stop().await;
    println!("\nstopped; everything is in {}, the next start goes on from there", arguments.dir.display());
    Ok(if crashed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

async fn start(arguments: &Arguments) -> anyhow::Result<(Gateway, Tasks)> {
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("can't make the folder {}", dir.display()))?;
    let shop = shop::Shop::open(&dir.join("shop.db")).await?;
    let config = dir.join("postern.toml");
    if !config.exists() {
        let schemas = dir.join("catalogue");
        std::fs::create_dir_all(&schemas).with_context(|| format!("can't make the folder {}", schemas.display()))?;
        for (path, text) in [(schemas.join("CheckedOut.json"), CHECKED_OUT), (config.clone(), CONFIG)] {
            std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        }
    }
    let mut config = super::load(&config)?;
    if let Some(listen) = arguments.listen {
        config.server.listen = listen;
    }
    let listen = config.server.listen;
    let gateway = Gateway::start(config, Options::default()).await?;
    let tasks = Tasks::default();
    shop.run(&tasks, arguments.rate);
    let port = match listen.port() {
        0 => 0,
        port => port.checked_add(1).context("--listen: the port after it must exist too")?,
    };
    receiver::start(gateway.public_url(), SocketAddr::new(listen.ip(), port), dir, &tasks).await?;
    Ok((gateway, tasks))
}

fn announce(url: &str, dir: &Path) {
    println!(
        "\n\
         A cart service writes events into {dir}/shop.db, table tb_cart_event.\n\
         Postern reads that table (configuration: {dir}/postern.toml) and offers the events that may leave.\n\
         \n\
         Look at it in a browser:\n\
         \n  {url}/\n\
         \n\
         Poll it: the newest events, then everything from the beginning, ten at a time:\n\
         \n  curl '{url}/feeds/all.atom'\
         \n  curl '{url}/feeds/all.atom?after=0&limit=10'\n\
         \n\
         Ask for just the attributes you need:\n\
         \n  curl '{url}/graphql' -H 'content-type: application/json' \\\
         \n       -d '{{\"query\": \"{{ events(last: 3, filter: {{types: [\\\"CheckedOut\\\"]}}) {{ nodes {{ id ... on CheckedOut {{ data {{ total lines {{ sku }} }} }} }} }} }}\"}}'\n\
         \n\
         See your webhook and what was delivered (the receiver prints its calls below):\n\
         \n  curl '{url}/webhooks'\n\
         \n\
         Ctrl-C ends it; a second start goes on where it stopped.\n",
        dir = dir.display()
    );
}

/// The JSON Schema of what a checkout tells.
const CHECKED_OUT: &str = include_str!("CheckedOut.json");

const CONFIG: &str = r#"# The configuration of the demo. Change it and start again; `postern check --config` says what is wrong with it.
# Relative paths start at this file. All keys: README, section "Configuration".

[server]
listen = "127.0.0.1:8080"

[journal]
url = "sqlite://postern.db"            # or postgres://user@host/database

[[source]]
name = "cart"
url = "sqlite://shop.db"               # or postgres://… or mysql://…
table = "tb_cart_event"
poll = { fixed_delay = "100ms" }

[source.columns]
sequence = "seq"
id = "event_id"
type = "event_type"
aggregate_type = { value = "Cart" }
aggregate_id = "cart_id"
aggregate_version = "version"
occurred_at = "occurred_at"
data = "payload"
metadata = "headers"
outbox = "outbox"                      # rows where this is false stay inside

[[feed]]
name = "checkouts"
title = "Carts that were checked out"
filter = { types = ["CheckedOut"] }

[events.CheckedOut]
schema = "catalogue/CheckedOut.json"   # makes its data typed in GraphQL; counted at /sources if it does not fit

[webhooks]
allow = ["127.0.0.1"]                  # the demo's own receiver; without it, loopback is refused
sealing_key_file = "postern.key"
"#;
