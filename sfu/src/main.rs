//! `sfu --config FILE` in a cluster, `sfu --dev` on a laptop, `sfu livekit` with what was
//! written for `livekit-server`, `sfu call` to see whether calls work.

use anyhow::Context as _;
use clap::Parser as _;
use contract::sfu_config::{LogConfig, LogFormat};
use sfu::call::{self, CallArgs};
use sfu::livekit;
use sfu::program::{Running, start_log, terminated};
use sfu::settings::{Args, Mode, Settings};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let is_dev = args.dev;
    let settings = match &args.mode {
        Some(Mode::Livekit { flags }) => livekit::load(flags, std::env::vars())?,
        Some(Mode::Call(args)) => return call(args).await,
        None => Settings::load(&args)?,
    };
    start_log(&settings.config.log);
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    let running = Running::start(settings).await?;
    if is_dev {
        let url = &running.node.settings.config.public_url;
        tracing::info!("Open {url} in a browser; API key devkey, secret \"secret\"");
    }
    terminated().await.context("failed to listen for signals")?;
    tokio::select! {
        () = running.stop() => {}
        again = terminated() => again.context("failed to listen for signals")?,
    }
    Ok(())
}

async fn call(args: &CallArgs) -> anyhow::Result<()> {
    // What str0m says of its own matters to nobody here.
    let level = "warn,sfu=info".to_owned();
    start_log(&LogConfig { level, format: LogFormat::Text });
    let report = call::run(args).await.with_context(|| format!("no call through {}", args.url))?;
    let (connected, complete) = (report.connected, report.complete);
    tracing::info!(?connected, ?complete, "Both heard and read each other");
    Ok(())
}
