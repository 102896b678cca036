//! `sfu --config FILE` in a cluster, `sfu --dev` on a laptop.

use anyhow::Context as _;
use clap::Parser as _;
use sfu::program::{Running, start_log, terminated};
use sfu::settings::{Args, Settings};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let settings = Settings::load(&args)?;
    start_log(&settings.config.log);
    let is_dev = settings.dev;
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
