//! What a fault did to the clients in rooms, as JSON lines in `target/e2e/faults.jsonl`.

pub mod cases;
mod room;
mod status;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

pub use self::room::{Joins, ROOM, WatchedRoom, three_people};
use crate::clients::RoomClient;
use crate::repository;
use crate::stage::say;

/// What half of the gaps and nearly all of them shall be below, in milliseconds.
type Goals = (f64, f64);

/// Where a room moves in an orderly way.
const ORDERLY: Goals = (1_000.0, 3_000.0);
/// Where its home dies and connections to it are reset.
const DEATH: Goals = (6_000.0, 6_000.0);
/// Where its home falls silent: clients miss it after `ping_timeout`, 6 s.
const SILENCE: Goals = (10_000.0, 10_000.0);
/// Where a pod is deleted through which people are relayed.
const RELAYED: Goals = (5_000.0, 5_000.0);
/// What no gap may exceed, however busy the machine is that clients, pods and the control plane
/// share: pictures come again without anybody's help. In milliseconds.
const MAX_GAP_MS: f64 = 60_000.0;

/// What one client went through.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// Whose.
    pub client: String,
    /// For each publisher the longest time without a new picture, in milliseconds, ascending.
    pub gaps_ms: Vec<f64>,
    /// It was thrown out.
    pub is_lost: bool,
    /// It is in another room than before, if of the same name.
    pub is_other_room: bool,
}

impl Effect {
    /// What a client went through since its gaps were taken last; the room was `room_sid`.
    pub fn on(client: &dyn RoomClient, room_sid: &str) -> Result<Self> {
        let mut gaps_ms: Vec<f64> = client.gaps()?.into_values().collect();
        gaps_ms.sort_by(f64::total_cmp);
        let report = client.report()?;
        Ok(Self {
            client: client.person().identity.clone(),
            gaps_ms,
            is_lost: report.count("disconnected") > 0 || report.state != "connected",
            is_other_room: report.room_sid != room_sid,
        })
    }
}

fn goals(case: &str) -> Goals {
    match case {
        "process_kill" => DEATH,
        "cut_from_clients" | "cut_from_everything" => SILENCE,
        "relayed_pod_restart" => RELAYED,
        _ => ORDERLY,
    }
}

/// The value below which this share of the ascending `values` lies; the next higher of them.
fn percentile(values: &[f64], share: f64) -> f64 {
    let rank = (share * values.len() as f64).ceil().max(1.0);
    // Few values: the rank is small and exact.
    values.get(rank as usize - 1).or_else(|| values.last()).copied().unwrap_or_default()
}

/// What all clients went through together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Others who joined meanwhile.
    pub joins: Joins,
    /// Time until the numbers in the status were right, and stayed so; 0 when they never were wrong.
    /// `None` where nobody looked.
    pub status_wrong: Option<Duration>,
}

/// Appends a line for each client to the results.
pub fn record(case: &str, effects: &[Effect], outcome: &Outcome) -> Result<()> {
    let directory = repository().join("target/e2e");
    fs::create_dir_all(&directory).context("making the directory of results")?;
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("faults.jsonl"))
        .context("opening the results")?;
    let (goal_p50, goal_p99) = goals(case);
    for effect in effects {
        let (p50, p99) = (percentile(&effect.gaps_ms, 0.5), percentile(&effect.gaps_ms, 0.99));
        let line = json!({
            "case": case,
            "client": effect.client,
            "gap_p50_ms": p50.round(),
            "gap_p99_ms": p99.round(),
            "meets_goals": p50 <= goal_p50 && p99 <= goal_p99,
            "participants_lost": u32::from(effect.is_lost),
            "rooms_lost": u32::from(effect.is_other_room),
            "joins_refused": outcome.joins.refused,
            "joins_admitted": outcome.joins.admitted,
            "status_wrong_ms": outcome.status_wrong.map(|time| time.as_millis()),
        });
        say(&line.to_string());
        writeln!(file, "{line}").context("writing the results")?;
    }
    Ok(())
}

/// Checks that a fault was survived: nobody and no room lost, and pictures from everybody again.
pub fn check_move(effects: &[Effect]) -> Result<()> {
    for Effect { client, gaps_ms: _, is_lost, is_other_room } in effects {
        ensure!(!is_lost, "{client} was thrown out");
        ensure!(!is_other_room, "{client} is in another room");
    }
    let gaps: Vec<f64> = effects.iter().flat_map(|effect| effect.gaps_ms.clone()).collect();
    ensure!(!gaps.is_empty(), "no gap was measured");
    ensure!(gaps.iter().all(|gap| *gap <= MAX_GAP_MS), "gaps: {gaps:.0?} ms");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 5.0);
        assert_eq!(percentile(&values, 0.99), 10.0);
        assert_eq!(percentile(&values[..1], 0.5), 1.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_lost_client_or_room_and_long_gaps_are_no_orderly_move() {
        let effect = |gaps: &[f64], is_lost, is_other_room| Effect {
            client: "anna".to_owned(),
            gaps_ms: gaps.to_vec(),
            is_lost,
            is_other_room,
        };
        assert!(check_move(&[effect(&[400.0, 900.0, MAX_GAP_MS], false, false)]).is_ok());
        assert!(check_move(&[effect(&[400.0, 900.0, 1.1 * MAX_GAP_MS], false, false)]).is_err());
        assert!(check_move(&[effect(&[400.0], true, false)]).is_err());
        assert!(check_move(&[effect(&[400.0], false, true)]).is_err());
        assert!(check_move(&[effect(&[], false, false)]).is_err());
    }
}
