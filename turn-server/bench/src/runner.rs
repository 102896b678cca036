//! Runs workloads: every server once a round, medians over the rounds.

mod bounds;
mod servers;

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use e2e::process::Run as _;
use e2e::stage::say;

use crate::load::LoadReport;
use crate::report::{self, Comparison};
use crate::workload::{Transport, Workload};
pub(crate) use bounds::Bound;
use e2e::bench::{Namespaces, Side};
use servers::Programs;
pub(crate) use servers::{PASSWORD, PORT, Server, TLS_PORT, USER};

/// Fewer clients say nothing.
const LEAST_CLIENTS: usize = 20;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seconds: f64,
    pub(crate) runs: usize,
    /// A look, not a result.
    pub(crate) is_quick: bool,
    pub(crate) servers: Vec<Server>,
    pub(crate) clients: Option<usize>,
    pub(crate) program: Option<PathBuf>,
}

/// Runs workloads one after the other.
pub(crate) struct Runner {
    namespaces: Namespaces,
    programs: Programs,
    options: Options,
}

impl Runner {
    /// Makes the namespaces and finds the programs.
    pub(crate) fn new(options: Options) -> Result<Self> {
        let directory = e2e::repository().join("target/bench/run");
        fs::create_dir_all(&directory)?;
        let ours = options
            .program
            .clone()
            .unwrap_or_else(|| e2e::repository().join("target/release/turn-server"));
        if options.servers.contains(&Server::Ours) && !ours.is_file() {
            bail!("{} is missing: cargo build --release --package turn-server", ours.display());
        }
        let programs = Programs::new(ours, &options.servers, directory)?;
        Ok(Self { namespaces: Namespaces::create()?, programs, options })
    }

    /// Measures one workload, at the largest number of clients that every server sustains.
    pub(crate) fn run(&self, workload: &Workload) -> Result<Comparison> {
        let servers: Vec<Server> = self
            .options
            .servers
            .iter()
            .copied()
            .filter(|server| *server != Server::Floor || workload.transport == Transport::Udp)
            .collect();
        let mut clients = self.options.clients.unwrap_or(workload.clients);
        'size: loop {
            let mut comparison = Comparison::new(workload, clients);
            for run in 1..=self.options.runs {
                say(&format!("  {} run {run} of {}", workload.name, self.options.runs));
                for &server in &servers {
                    let report = self.measure(server, workload, clients)?;
                    let is_valid = report::is_valid(&report);
                    comparison.add(server, report);
                    let may_shrink = self.options.clients.is_none() && run == 1;
                    if !is_valid && may_shrink && clients / 2 >= LEAST_CLIENTS {
                        clients /= 2;
                        say(&format!("  too much for {}: {clients} clients", server.name()));
                        continue 'size;
                    }
                }
            }
            return Ok(comparison);
        }
    }

    fn measure(&self, server: Server, workload: &Workload, clients: usize) -> Result<LoadReport> {
        let mut running = self.programs.start(server, workload, &self.namespaces)?;
        let report = match self.load(server, running.pid(), workload, clients) {
            Ok(report) => report,
            Err(error) if running.has_ended() => bail!("{} ended: {error:#}", server.name()),
            Err(error) => return Err(error),
        };
        say(&format!("    {:6} {}", server.name(), report::summary(&report)));
        Ok(report)
    }

    /// Offers a workload to a running server.
    fn load(
        &self,
        server: Server,
        pid: u32,
        workload: &Workload,
        clients: usize,
    ) -> Result<LoadReport> {
        let mut load = self.namespaces.command(Side::Load, &std::env::current_exe()?);
        load.arg("load")
            .args(["--workload", workload.name, "--clients", &clients.to_string()])
            .args(["--server", &Side::Server.address().to_string()])
            .args(["--address", &Side::Load.address().to_string()])
            .args(["--server-pid", &pid.to_string()])
            .args(["--seconds", &self.options.seconds.to_string()]);
        if server == Server::Floor {
            load.arg("--raw");
        }
        bounds::last_line(&load.read()?)
    }
}
