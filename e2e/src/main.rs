//! Brings up, uses and takes down the cluster that LiveCluster is tried and tested on.
#![allow(clippy::print_stdout, reason = "some subcommands answer on standard output")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::cluster::forward::Forward;
use e2e::cluster::{Cluster, engine, forward, oci_runtime};
use e2e::control_plane;
use e2e::doctor;
use e2e::images::programs;
use e2e::plot;
use e2e::release;
use e2e::scaling;
use e2e::stage::{print_summary, say, stage};
use e2e::tools::{BARE_MACHINE, Toolchain};

#[derive(Parser)]
#[command(name = "cluster", about = "The Kubernetes cluster of LiveCluster's tests")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the cluster up; one that is up stays as it is.
    Up,
    /// Take the cluster down and leave nothing behind.
    Down,
    /// Build the programs that a bare machine needs, and keep them.
    Tools,
    /// Assemble the images of LiveCluster into archives.
    Images,
    /// Load image archives into the cluster; without any, those of LiveCluster.
    Load {
        /// Archives in the form of `docker save`.
        archives: Vec<PathBuf>,
    },
    /// Print the settings with which a shell works on the cluster: `eval "$(… env)"`.
    Env,
    /// Run kubectl on the cluster.
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run helm on the cluster.
    Helm {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a command where clients are.
    Client {
        /// Domains that the command finds at the ingress.
        #[arg(long = "domain")]
        domains: Vec<String>,
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Run a command beside a control plane of its own, which has no nodes.
    ControlPlane {
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Say what this machine has and lacks.
    Doctor,
    /// Bring the cluster up, install the chart and print the URL of a room.
    Demo,
    /// Draw a series of `target/e2e` for the documentation.
    Plot {
        /// Its table.
        table: PathBuf,
        /// The picture, as SVG.
        picture: PathBuf,
        /// What the picture is called.
        #[arg(long)]
        title: String,
    },
    /// Install what a part of the work needs, or say what is missing.
    Install {
        /// The part.
        part: doctor::Part,
    },
    #[command(name = engine::OCI_RUNTIME_COMMAND, hide = true)]
    OciRuntime {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    #[command(name = engine::INIT_COMMAND, hide = true)]
    EngineInit {
        #[arg(long)]
        address: String,
        #[arg(long)]
        directory: PathBuf,
    },
    #[command(name = forward::COMMAND, hide = true)]
    Forward { forwards: Vec<Forward> },
}

fn main() -> ExitCode {
    let result = run(Arguments::parse().command);
    print_summary();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The causes in one line; a backtrace of this program helps nobody.
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up => {
            let cluster = Cluster::up()?;
            say(&format!("cluster is up; export KUBECONFIG={}", cluster.kubeconfig().display()));
            Ok(())
        }
        Command::Down => Cluster::down(),
        Command::Tools => build_tools(),
        Command::Images => write_images(),
        Command::Load { archives } => load(archives),
        Command::Env => print_environment(),
        Command::Kubectl { arguments } => become_command(Cluster::attach()?.kubectl(), &arguments),
        Command::Helm { arguments } => become_command(Cluster::attach()?.helm(), &arguments),
        Command::Client { domains, command } => run_client(&domains, &command),
        Command::ControlPlane { command } => beside_control_plane(&command),
        Command::Doctor => doctor::examine(),
        Command::Demo => demo(),
        Command::Plot { table, picture, title } => {
            let svg = plot::svg(&title, &scaling::read(&table)?)?;
            Ok(std::fs::write(picture, svg)?)
        }
        Command::Install { part } => doctor::install(part.requirements()),
        Command::OciRuntime { arguments } => oci_runtime::run(&arguments),
        Command::EngineInit { address, directory } => engine::init(&directory, &address),
        Command::Forward { forwards } => forward::run(&forwards),
    }
}

fn demo() -> Result<()> {
    let url = e2e::demo::run()?;
    println!("Room:  {url}\nStop:  make cluster-down");
    Ok(())
}

fn build_tools() -> Result<()> {
    doctor::install(doctor::BARE_MACHINE)?;
    let go = Toolchain::find()?;
    for tool in BARE_MACHINE {
        println!("{}", tool.build(&go)?.display());
    }
    Ok(())
}

fn write_images() -> Result<()> {
    doctor::install(images_requirements())?;
    programs::write_all()?;
    for archive in programs::archives() {
        let megabytes = std::fs::metadata(&archive)?.len() >> 20;
        say(&format!("{} ({megabytes} MB)", archive.display()));
    }
    Ok(())
}

const fn images_requirements() -> &'static [doctor::Requirement] {
    // Elsewhere Docker builds the images.
    if cfg!(target_os = "linux") { doctor::IMAGES } else { &[] }
}

fn load(archives: Vec<PathBuf>) -> Result<()> {
    let cluster = Cluster::attach()?;
    let archives = if archives.is_empty() { programs::archives() } else { archives };
    for archive in &archives {
        stage(&format!("load {}", archive.display()), || cluster.load(archive))?;
    }
    release::restart(&cluster)
}

fn print_environment() -> Result<()> {
    for (name, value) in Cluster::attach()?.environment() {
        println!("export {name}='{value}'");
    }
    Ok(())
}

fn run_client(domains: &[String], words: &[OsString]) -> Result<()> {
    let cluster = Cluster::attach()?;
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let program = program.to_string_lossy();
    if domains.is_empty() {
        return become_command(cluster.client_command(&program), arguments);
    }
    let mappings: Vec<_> = domains.iter().map(|domain| cluster.host_mapping(domain)).collect();
    become_command(cluster.client_command_with_hosts(&program, &mappings)?, arguments)
}

fn beside_control_plane(words: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let status = control_plane::run(std::process::Command::new(program).args(arguments))?;
    anyhow::ensure!(status.success(), "{} ended with {status}", program.to_string_lossy());
    Ok(())
}

/// The command takes the place of this process, with its input, output and exit status.
fn become_command(mut command: std::process::Command, arguments: &[OsString]) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    Err(command.args(arguments).exec().into())
}
