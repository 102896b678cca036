//! The operator's program; see [`operator`].

use anyhow::{Context as _, Result};
use clap::Parser as _;
use operator::alternative;
use operator::args::{Alternative, Args, Command, LogFormat};
use operator::manifests;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log_level).context("--log-level")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    match args.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    // Several TLS back ends are linked; ours is ring. A second call would be harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match args.command.unwrap_or_default() {
        Command::Run(options) => run(*options).await,
        Command::Crd => print(&manifests::definition()?),
        Command::Manifests { directory: None } => print(&manifests::stream()?),
        Command::Manifests { directory: Some(directory) } => Ok(manifests::write_base(&directory)?),
        Command::Alternative { program } => print(&alternative_to(&program)?),
        Command::UninstallGuard { watch_namespace } => {
            let client = kube::Client::try_default().await.context("no Kubernetes API")?;
            Ok(operator::uninstall::guard(client, watch_namespace.as_deref()).await?)
        }
    }
}

async fn run(options: operator::args::RunOptions) -> Result<()> {
    operator::controller::run(options).await.context("the operator ended")
}

fn alternative_to(program: &Alternative) -> Result<String> {
    let manifest = || std::io::read_to_string(std::io::stdin()).context("reading a LiveCluster");
    Ok(match program {
        Alternative::PrometheusAdapter => alternative::prometheus_adapter()?,
        Alternative::Hpa => alternative::horizontal_pod_autoscaler(&manifest()?)?,
        Alternative::Keda { prometheus } => alternative::keda(&manifest()?, prometheus)?,
    })
}

fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
