//! How a LiveCluster's nodes follow its rooms over time: samples for a table and a plot.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::clients::RoomClient;
use crate::live_cluster::LiveCluster;
use crate::repository;
use crate::stage::say;
use crate::wait::eventually;

/// Columns of the table.
const HEADER: &str = "t_s,rooms,subscribers,desired,ready,draining,participants_lost";

/// What a LiveCluster was like at a time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Since the beginning of the series.
    pub seconds: f64,
    /// Rooms on all nodes.
    pub rooms: u64,
    /// Participants that subscribe to something.
    pub subscribers: u64,
    /// Nodes that are wanted.
    pub desired: u64,
    /// Nodes that take traffic.
    pub ready: u64,
    /// Nodes that leave.
    pub draining: u64,
    /// Participants that were thrown out so far.
    pub lost: usize,
    /// Nodes that there are, in whatever state; not in the table.
    pub pods: u64,
}

/// Samples of a LiveCluster over time.
pub struct Series<'a> {
    live_cluster: &'a LiveCluster,
    start: Instant,
    samples: Vec<Sample>,
}

impl<'a> Series<'a> {
    /// Begins a series.
    #[must_use]
    pub fn new(live_cluster: &'a LiveCluster) -> Self {
        Self { live_cluster, start: Instant::now(), samples: Vec::new() }
    }

    /// Takes samples until one is as expected, and says how long it took.
    pub fn until(
        &mut self,
        what: &str,
        timeout: Duration,
        clients: &[&dyn RoomClient],
        expected: impl Fn(&Sample) -> bool,
    ) -> Result<Duration> {
        let begun = self.start.elapsed();
        eventually(what, timeout, || {
            let sample = self.sample(clients)?;
            self.samples.push(sample.clone());
            ensure!(expected(&sample), "it is {sample:?}");
            Ok(())
        })?;
        let took = self.start.elapsed().saturating_sub(begun);
        say(&format!("    {what} after {:.0} s", took.as_secs_f64()));
        Ok(took)
    }

    fn sample(&self, clients: &[&dyn RoomClient]) -> Result<Sample> {
        let object = self.live_cluster.object()?;
        let status = &object["status"];
        let count = |name: &str| status[name].as_u64().unwrap_or_default();
        let mut lost = 0;
        for client in clients {
            let report = client.report()?;
            lost += usize::from(report.count("disconnected") > 0);
        }
        Ok(Sample {
            seconds: self.start.elapsed().as_secs_f64(),
            rooms: count("rooms"),
            subscribers: count("subscribers"),
            desired: object["spec"]["nodes"].as_u64().context("spec.nodes")?,
            ready: count("readyNodes"),
            draining: count("drainingNodes"),
            lost,
            pods: status["members"].as_array().map_or(0, |members| members.len() as u64),
        })
    }

    /// Participants that were thrown out.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.samples.iter().map(|sample| sample.lost).max().unwrap_or_default()
    }

    /// Writes the table `target/e2e/<name>.csv`.
    pub fn write(&self, name: &str) -> Result<()> {
        let path = path(name);
        let directory = path.parent().context("a table is in a directory")?;
        fs::create_dir_all(directory).context("making the directory of results")?;
        fs::write(path, table(&self.samples)?).context("writing the series")
    }
}

/// Where the table of this name is.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    repository().join("target/e2e").join(format!("{name}.csv"))
}

fn table(samples: &[Sample]) -> Result<String> {
    let mut text = format!("{HEADER}\n");
    for sample in samples {
        let Sample { seconds, rooms, subscribers, desired, ready, draining, lost, pods: _ } =
            sample;
        writeln!(text, "{seconds:.1},{rooms},{subscribers},{desired},{ready},{draining},{lost}")?;
    }
    Ok(text)
}

/// Reads a table.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEADER), "{} is no series", path.display());
    lines.map(|line| row(line).with_context(|| format!("reading {line:?}"))).collect()
}

fn row(line: &str) -> Result<Sample> {
    let cells: Vec<&str> = line.split(',').collect();
    let [seconds, rooms, subscribers, desired, ready, draining, lost] = cells[..] else {
        anyhow::bail!("{} columns", cells.len());
    };
    Ok(Sample {
        seconds: seconds.parse()?,
        rooms: rooms.parse()?,
        subscribers: subscribers.parse()?,
        desired: desired.parse()?,
        ready: ready.parse()?,
        draining: draining.parse()?,
        lost: lost.parse()?,
        pods: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let sample = Sample {
            seconds: 1.5,
            rooms: 2,
            subscribers: 3,
            desired: 4,
            ready: 5,
            draining: 6,
            lost: 7,
            pods: 0,
        };
        let text = table(&[Sample::default(), sample.clone()]).unwrap();
        let rows: Vec<Sample> = text.lines().skip(1).map(|line| row(line).unwrap()).collect();
        assert_eq!(rows, [Sample::default(), sample]);
        assert!(row("1,2,3").is_err() && row("1,2,3,4,5,6,x").is_err());
    }
}
