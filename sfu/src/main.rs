//! `sfu --config FILE` in a cluster, `sfu --dev` on a laptop, `sfu livekit` with what was
//! written for `livekit-server`.

use anyhow::Context as _;
use clap::Parser as _;
use sfu::livekit;
use sfu::program::{Running, start_log, terminated};
use sfu::settings::{Args, Mode, Settings};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let is_dev = args.dev;
    let settings = match &args.mode {
        Some(Mode::Livekit { flags }) => livekit::load(flags, std::env::vars())?,
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
