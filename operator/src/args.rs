//! Arguments and environment of the operator.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::metrics_api::Settings;

/// Runs media nodes for the LiveClusters of a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Least severe level that is logged, or a filter such as `info,operator=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// Form of a log line.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "json", global = true)]
    pub log_format: LogFormat,
    /// What to do; `run` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch LiveClusters and act.
    Run(Box<RunOptions>),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Print everything that the chart installs by default, or write it as a base of kustomize.
    Manifests {
        /// Where the base is written.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Print configuration of another program that sets the number of nodes.
    Alternative {
        /// Of which one; reads a LiveCluster from standard input where that says how many nodes.
        #[command(subcommand)]
        program: Alternative,
    },
    /// Fail while there are LiveClusters, which nobody would care for without the operator.
    UninstallGuard {
        /// Look into one namespace only; into all when absent.
        #[arg(long, env = "WATCH_NAMESPACE")]
        watch_namespace: Option<String>,
    },
}

/// Another program that sets the number of nodes, or has a part in it.
#[derive(Debug, Subcommand)]
pub enum Alternative {
    /// Rules of prometheus-adapter, as values of its chart; reads nothing.
    PrometheusAdapter,
    /// A HorizontalPodAutoscaler that asks prometheus-adapter.
    Hpa,
    /// A ScaledObject of KEDA.
    Keda {
        /// Address of Prometheus.
        #[arg(long, value_name = "URL")]
        prometheus: String,
    },
}

impl Default for Command {
    fn default() -> Self {
        // Without a subcommand everything comes from the environment.
        Self::Run(Box::new(RunOptions::parse_from(["operator"])))
    }
}

/// Options of `run`.
#[derive(Debug, Clone, Parser)]
pub struct RunOptions {
    /// Image of media nodes whose LiveCluster names none.
    #[arg(long, env = "SFU_IMAGE", default_value = concat!("livecluster/sfu:", env!("CARGO_PKG_VERSION")))]
    pub sfu_image: String,
    /// Image of TURN servers whose LiveCluster names none.
    #[arg(long, env = "TURN_IMAGE", default_value = concat!("livecluster/turn-server:", env!("CARGO_PKG_VERSION")))]
    pub turn_image: String,
    /// Image of the managed Redis.
    #[arg(long, env = "REDIS_IMAGE", default_value = "redis:7.0.15")]
    pub redis_image: String,
    /// Watch one namespace only; all when absent.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Read Kubernetes nodes, which takes rights over the whole cluster. Without it clients are told the
    /// internal addresses of Kubernetes nodes, and nobody notices that one is about to end.
    #[arg(long, env = "READ_NODES", default_value_t = true, action = ArgAction::Set)]
    pub read_nodes: bool,
    /// Port of `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, env = "ADMIN_PORT", default_value_t = 9600)]
    pub admin_port: u16,
    /// Service that leads to the custom metrics API of all operators; without it there is none.
    #[arg(long, env = "METRICS_API_SERVICE", requires = "metrics_api_owner")]
    pub metrics_api_service: Option<String>,
    /// ClusterRole that owns the registration of the custom metrics API.
    #[arg(long, env = "METRICS_API_OWNER")]
    pub metrics_api_owner: Option<String>,
    /// Port of the custom metrics API.
    #[arg(long, env = "METRICS_API_PORT", default_value_t = 8443)]
    pub metrics_api_port: u16,
    /// Namespace of the operator, where the Lease is by which one of several leads.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of this operator among several; the host's name when absent.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
}

impl RunOptions {
    /// The custom metrics API, where there shall be one.
    #[must_use]
    pub fn metrics_api(&self) -> Option<Settings> {
        Some(Settings {
            namespace: self.lease_namespace.clone(),
            service: self.metrics_api_service.clone()?,
            owner: self.metrics_api_owner.clone()?,
            port: self.metrics_api_port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_well_formed() {
        Args::command().debug_assert();
    }
}
