//! Instructions for each packet by stage, counted by valgrind: the same on a busy machine. What the
//! kernel does is not in them.
#![expect(clippy::print_stdout, reason = "a program of the command line")]

mod forwarding {
    pub(crate) mod room;
    pub(crate) mod stages;
}

use std::process::Command;

use forwarding::room::{FRAME_PACKETS, Room};
use forwarding::stages::{PROFILES, protect, protected, rewrite, unprotect};

/// Packets, or frames, that the difference of two counts is divided by.
const TIMES: usize = 200;
/// Subscribers of the engine's stages.
const SUBSCRIBERS: [usize; 3] = [1, 10, 60];

/// A stage by its name, and the packets that leave for each time that it runs.
struct Stage {
    name: String,
    packets: usize,
    /// Prepares what `2 * TIMES` need and does so many.
    run: Box<dyn Fn(usize)>,
}

fn stages() -> Vec<Stage> {
    let one = |name: String, run: Box<dyn Fn(usize)>| Stage { name, packets: 1, run };
    let mut stages = vec![one("rewrite".to_owned(), Box::new(|times| repeat(times, rewrite())))];
    for (name, profile) in PROFILES {
        let sealing = move |times| repeat(times, protect(profile));
        stages.push(one(format!("protect/{name}"), Box::new(sealing)));
        let opening = move |times| {
            let mut next = protected(profile);
            let packets: Vec<_> = (0..2 * TIMES).map(|_| next()).collect();
            packets.into_iter().take(times).for_each(unprotect(profile));
        };
        stages.push(one(format!("unprotect/{name}"), Box::new(opening)));
    }
    stages.extend(SUBSCRIBERS.map(|subscribers| Stage {
        name: format!("engine/frame to {subscribers}"),
        packets: subscribers * FRAME_PACKETS,
        run: Box::new(move |times| forward(subscribers, times)),
    }));
    stages
}

fn repeat(times: usize, work: impl FnMut()) {
    std::iter::repeat_with(work).take(times).for_each(drop);
}

/// The publisher's work and timers are the same whatever is forwarded of its frames.
fn forward(subscribers: usize, times: usize) {
    let mut room = Room::new(subscribers);
    for number in 0..2 * TIMES {
        let mut frame = room.next_frame();
        if number < times {
            let sent = room.forward(&mut frame);
            assert_eq!(sent, subscribers * FRAME_PACKETS, "{:?}", room.counters());
        }
    }
}

/// Instructions of this program while it does a stage so many times.
fn count(stage: &str, times: usize) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([stage, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{stage} ended with {}: {text}", output.status));
    }
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, number) = collected.ok_or_else(|| format!("valgrind counted nothing: {text}"))?;
    number.trim().parse().map_err(|error| format!("{number}: {error}"))
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let stages = stages();
    if let [name, times] = &arguments[..] {
        let stage = stages.iter().find(|stage| stage.name == *name).ok_or("no such stage")?;
        (stage.run)(times.parse().map_err(|error| format!("{times}: {error}"))?);
        return Ok(());
    }
    println!("{:<36} {:>24}", "stage", "instructions a packet");
    for Stage { name, packets, .. } in &stages {
        let difference = count(name, 2 * TIMES)?.saturating_sub(count(name, TIMES)?);
        println!("{name:<36} {:>24}", difference / (TIMES * packets) as u64);
    }
    Ok(())
}
