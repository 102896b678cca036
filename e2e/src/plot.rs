//! Draws a series of a LiveCluster as SVG: rooms and subscribers above, nodes below.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::scaling::Sample;

/// Size of the picture and of what surrounds the panels, in pixels.
const WIDTH: f64 = 840.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const PANEL: f64 = 150.0;
const GAP: f64 = 36.0;
const BOTTOM: f64 = 40.0;
/// Lines of the grid in a panel, at most.
const STEPS: u64 = 5;

/// A line of a panel.
struct Line {
    name: &'static str,
    colour: &'static str,
    value: fn(&Sample) -> u64,
}

const LOAD: [Line; 2] = [
    Line { name: "subscribers", colour: "#0072b2", value: |sample| sample.subscribers },
    Line { name: "rooms", colour: "#d55e00", value: |sample| sample.rooms },
];
const NODES: [Line; 3] = [
    Line { name: "desired nodes", colour: "#000000", value: |sample| sample.desired },
    Line { name: "ready nodes", colour: "#009e73", value: |sample| sample.ready },
    Line { name: "leaving nodes", colour: "#cc79a7", value: |sample| sample.draining },
];

/// Draws the samples, of which there must be some.
pub fn svg(title: &str, samples: &[Sample]) -> Result<String> {
    let last = samples.last().context("there are no samples")?;
    let height = TOP + 2.0 * PANEL + GAP + BOTTOM;
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">"
    )?;
    writeln!(out, "<title>{title}</title>")?;
    writeln!(out, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
    writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>")?;
    let time = Axis { length: WIDTH - LEFT - RIGHT, end: last.seconds.max(1.0) };
    panel(&mut out, TOP, &LOAD, samples, &time)?;
    panel(&mut out, TOP + PANEL + GAP, &NODES, samples, &time)?;
    let end = last.seconds as u64;
    let step = step(end, 8);
    let y = TOP + 2.0 * PANEL + GAP;
    for seconds in (0..=end).step_by(usize::try_from(step)?) {
        let x = LEFT + time.at(seconds as f64);
        writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds}</text>",
            y + 16.0
        )?;
    }
    let middle = LEFT + time.length / 2.0;
    writeln!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">seconds</text>",
        y + 33.0
    )?;
    out.push_str("</svg>\n");
    Ok(out)
}

/// Values from 0 to `end` on so many pixels.
struct Axis {
    length: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        self.length * value / self.end
    }
}

fn panel(
    out: &mut String,
    top: f64,
    lines: &[Line],
    samples: &[Sample],
    time: &Axis,
) -> Result<()> {
    let highest = samples.iter().flat_map(|sample| lines.iter().map(|line| (line.value)(sample)));
    let highest = highest.max().unwrap_or_default().max(1);
    let step = step(highest, STEPS);
    let axis = Axis { length: PANEL, end: highest.next_multiple_of(step) as f64 };
    for value in (0..=highest.next_multiple_of(step)).step_by(usize::try_from(step)?) {
        let y = top + PANEL - axis.at(value as f64);
        let right = LEFT + time.length;
        writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{right:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 8.0,
            y + 4.0
        )?;
    }
    for (index, line) in lines.iter().enumerate() {
        let path = staircase(samples, |sample| {
            (LEFT + time.at(sample.seconds), top + PANEL - axis.at((line.value)(sample) as f64))
        })?;
        let Line { name, colour, value: _ } = line;
        writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>")?;
        let (x, y) = (WIDTH - RIGHT + 12.0, top + 16.0 + 20.0 * index as f64);
        writeln!(
            out,
            "<path d=\"M{x} {y}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            x + 24.0,
            y + 4.0
        )?;
    }
    Ok(())
}

/// Each value holds until the next sample. Only changes are drawn.
fn staircase(samples: &[Sample], place: impl Fn(&Sample) -> (f64, f64)) -> Result<String> {
    let mut path = String::new();
    let mut height = None;
    for sample in samples {
        let (x, y) = place(sample);
        match height {
            None => write!(path, "M{x:.1} {y:.1}")?,
            Some(before) if before != y => write!(path, "H{x:.1}V{y:.1}")?,
            Some(_) => {}
        }
        height = Some(y);
    }
    if let Some(last) = samples.last() {
        write!(path, "H{:.1}", place(last).0)?;
    }
    Ok(path)
}

/// A round number that divides `highest` into `most` parts or fewer.
fn step(highest: u64, most: u64) -> u64 {
    let mut power = 1;
    loop {
        for factor in [1, 2, 5] {
            if highest.div_ceil(factor * power) <= most {
                return factor * power;
            }
        }
        power *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64, rooms: u64, ready: u64) -> Sample {
        Sample { seconds, rooms, ready, ..Sample::default() }
    }

    #[test]
    fn steps_are_round() {
        for (highest, most, expected) in
            [(1, 5, 1), (4, 5, 1), (6, 5, 2), (12, 5, 5), (51, 5, 20), (300, 8, 50)]
        {
            assert_eq!(step(highest, most), expected, "{highest}");
        }
    }

    #[test]
    fn a_value_holds_until_it_changes() {
        let samples = [sample(0.0, 1, 1), sample(1.0, 1, 1), sample(2.0, 3, 1)];
        let path = staircase(&samples, |sample| (sample.seconds, sample.rooms as f64)).unwrap();
        assert_eq!(path, "M0.0 1.0H2.0V3.0H2.0");
    }

    #[test]
    fn a_picture_has_every_line_and_its_name() {
        let text = svg("Title", &[sample(0.0, 1, 1), sample(60.0, 10, 4)]).unwrap();
        for line in LOAD.iter().chain(&NODES) {
            assert!(text.contains(line.name) && text.contains(line.colour), "{}", line.name);
        }
        assert!(text.contains("<title>Title</title>") && text.ends_with("</svg>\n"));
        assert!(svg("Title", &[]).is_err());
    }
}
