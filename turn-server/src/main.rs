//! `turn-server --config FILE` on a server, `turn-server --dev` on a laptop.

use anyhow::Context as _;
use clap::Parser as _;
use turn_server::program::{self, Running, Termination};
use turn_server::settings::{Args, DEV_USER, Settings};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let settings = Settings::load(&args)?;
    program::start_log(&settings.config.log);
    let is_dev = settings.dev;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("failed to start the admin runtime")?;
    runtime.block_on(async {
        let termination = Termination::new().context("failed to listen for signals")?;
        let running = Running::start(settings).await?;
        if is_dev {
            let (user, password) = DEV_USER;
            for address in running.addresses() {
                tracing::info!("turn:{address} with user {user} and password {password}");
            }
        }
        termination.wait().await;
        running.stop().await;
        Ok(())
    })
}
