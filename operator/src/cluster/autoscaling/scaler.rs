//! The built-in scaler: from what the nodes do to how many there should be. Pure: time comes in.
//!
//! The rules are those of a HorizontalPodAutoscaler (`autoscaling/v2`, behavior), so that both
//! modes do the same, except that here a sum to which a node did not contribute may still scale
//! out: the truth can only be more.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crds::live_cluster::{AutoscalingSpec, ScalingRule};

use super::demand::{Demand, Sum, WHOLE_NODE};

/// Parts into which a window is divided: as exact as a person can tell, and few enough to
/// remember for thousands of LiveClusters.
const PARTS: u32 = 60;
/// Changes of the number of nodes that are remembered; a period holds fewer.
const MAX_CHANGES: usize = 256;

/// What is wanted of the scaler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Fewest nodes.
    pub min: u16,
    /// Most nodes.
    pub max: u16,
    /// Rooms of each node.
    pub rooms: Option<u32>,
    /// Rooms that must find a place at once.
    pub free_slots: u32,
    /// Subscribers of each node.
    pub subscribers: Option<u32>,
    /// Load of each node, in thousandths of a node.
    pub load: Option<u32>,
    /// How nodes come.
    pub scale_out: Pace,
    /// How nodes go.
    pub scale_in: Pace,
}

/// How fast the number of nodes changes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The change was asked for all this time.
    pub window: Duration,
    /// Most nodes in a period.
    pub nodes: u16,
    /// The period.
    pub period: Duration,
}

impl Policy {
    /// What a specification wants; `None` for a length of time that the schema would have refused.
    #[must_use]
    pub fn of(spec: &AutoscalingSpec) -> Option<Self> {
        let pace = |rule: &ScalingRule| {
            let (window, period) = (rule.window.as_duration()?, rule.period.as_duration()?);
            Some(Pace { window, nodes: rule.nodes, period })
        };
        let percent = u32::from(spec.load_percent);
        Some(Self {
            min: spec.min_nodes,
            max: spec.max_nodes,
            rooms: spec.rooms_per_node,
            free_slots: spec.free_slots,
            subscribers: spec.subscribers_per_node,
            load: (percent > 0).then_some(percent * (WHOLE_NODE as u32) / 100),
            scale_out: pace(&spec.behavior.scale_out)?,
            scale_in: pace(&spec.behavior.scale_in)?,
        })
    }

    /// What each target asks for.
    fn needs(&self, demand: &Demand) -> Vec<Need> {
        let slots = Sum {
            value: demand.rooms.value.saturating_add(self.free_slots.into()),
            complete: demand.rooms.complete,
        };
        let targets = [
            (Figure::Rooms { free: self.free_slots }, slots, self.rooms),
            (Figure::Subscribers, demand.subscribers, self.subscribers),
            (Figure::Load, demand.load, self.load),
        ];
        let needs = targets.into_iter().filter_map(|(figure, sum, target)| {
            let nodes = sum.value.div_ceil(u64::from(target?.max(1)));
            Some(Need { figure, sum, nodes: u16::try_from(nodes).unwrap_or(u16::MAX) })
        });
        needs.collect()
    }

    fn clamp(&self, nodes: u16) -> u16 {
        nodes.min(self.max).max(self.min)
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Rooms, and those that must find a place at once.
    Rooms {
        /// The latter.
        free: u32,
    },
    /// Participants that subscribe.
    Subscribers,
    /// Busy media workers.
    Load,
}

/// What one target asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// What is looked at.
    pub figure: Figure,
    /// What the nodes told of it.
    pub sum: Sum,
    /// Nodes for it.
    pub nodes: u16,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.sum.value;
        let least = if self.sum.complete { "" } else { "at least " };
        write!(f, "{} nodes for {least}", self.nodes)?;
        match self.figure {
            Figure::Rooms { free: 0 } => write!(f, "{value} rooms"),
            Figure::Rooms { free } => {
                let rooms = value.saturating_sub(free.into());
                write!(f, "{rooms} rooms and {free} free slots")
            }
            Figure::Subscribers => write!(f, "{value} subscribers"),
            // Rounded: every change is a write to the API server.
            Figure::Load => write!(f, "a load of about {}% of a node", value.div_ceil(100) * 10),
        }
    }
}

/// How many nodes there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Nodes, windows and periods taken into account.
    pub nodes: u16,
    /// Nodes that the last look asked for, within the bounds.
    pub needed: u16,
    /// What asked for them.
    pub need: Option<Need>,
    /// A node does not tell what it does. One that has just started does, while it takes a second
    /// look to see how busy it is.
    pub silent: bool,
}

/// What was asked for within a window, as the extreme that speaks most against a change.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// Begin of each part of the window and its extreme; a part ends where the next begins.
    parts: VecDeque<(Instant, u16)>,
}

impl Asked {
    /// Remembers what is asked for at this moment, and returns the extreme of the window.
    fn over(
        &mut self,
        window: Duration,
        asked: u16,
        now: Instant,
        extreme: fn(u16, u16) -> u16,
    ) -> u16 {
        let passed = |then: Instant| now.saturating_duration_since(then);
        match self.parts.back_mut() {
            Some((since, kept)) if passed(*since) < window / PARTS => {
                *kept = extreme(*kept, asked);
            }
            _ => self.parts.push_back((now, asked)),
        }
        while self.parts.get(1).is_some_and(|(end_of_first, _)| passed(*end_of_first) >= window) {
            self.parts.pop_front();
        }
        self.parts.iter().map(|(_, kept)| *kept).fold(asked, extreme)
    }
}

/// What was asked for lately, and what was done.
#[derive(Debug, Clone, Default)]
pub struct History {
    fewest: Asked,
    most: Asked,
    changes: VecDeque<(Instant, i32)>,
    begun: bool,
}

impl History {
    /// Decides how many nodes there should be, where there should be `current` until now.
    ///
    /// A history that is new begins with `current`: who knows nothing of the past changes nothing
    /// before the window has passed.
    pub fn decide(
        &mut self,
        policy: &Policy,
        demand: &Demand,
        current: u16,
        now: Instant,
    ) -> Decision {
        let needs = policy.needs(demand);
        let complete = needs.iter().all(|need| need.sum.complete);
        // Of those that ask for as many the first.
        let need = needs.into_iter().rev().max_by_key(|need| need.nodes);
        let needed = policy.clamp(need.map_or(current, |need| need.nodes));
        let asked = if complete { needed } else { policy.clamp(needed.max(current)) };
        let silent = !(demand.rooms.complete && demand.subscribers.complete);
        if !std::mem::replace(&mut self.begun, true) {
            self.ask(policy, current, now);
        }
        let (out, inward) = self.ask(policy, asked, now);
        let nodes = if policy.clamp(current) != current {
            // The bounds were moved: that is an order, not an observation.
            current
        } else if out > current {
            out.min(self.most_at(policy.scale_out, current, now))
        } else if inward < current {
            inward.max(self.fewest_at(policy.scale_in, current, now))
        } else {
            current
        };
        Decision { nodes: policy.clamp(nodes), needed, need, silent }
    }

    /// Remembers that the number of nodes was changed.
    pub fn changed(&mut self, before: u16, after: u16, now: Instant) {
        if self.changes.len() >= MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back((now, i32::from(after) - i32::from(before)));
    }

    /// The fewest that was asked for while nodes could come, the most while they could go.
    fn ask(&mut self, policy: &Policy, asked: u16, now: Instant) -> (u16, u16) {
        let fewest = self.fewest.over(policy.scale_out.window, asked, now, u16::min);
        (fewest, self.most.over(policy.scale_in.window, asked, now, u16::max))
    }

    /// Most nodes that the pace allows: so many more than at the begin of the period, or twice as
    /// many.
    fn most_at(&self, pace: Pace, current: u16, now: Instant) -> u16 {
        let begin = self.at_begin(pace, current, now, i32::max);
        begin.saturating_add(pace.nodes.max(begin)).max(current)
    }

    /// Fewest nodes that the pace allows.
    fn fewest_at(&self, pace: Pace, current: u16, now: Instant) -> u16 {
        let begin = self.at_begin(pace, current, now, i32::min);
        begin.saturating_sub(pace.nodes).min(current)
    }

    /// Nodes at the begin of the period, as far as one direction is concerned.
    fn at_begin(
        &self,
        pace: Pace,
        current: u16,
        now: Instant,
        direction: fn(i32, i32) -> i32,
    ) -> u16 {
        let recent =
            self.changes.iter().filter(|(at, _)| now.saturating_duration_since(*at) < pace.period);
        let sum: i32 = recent.map(|(_, change)| direction(*change, 0)).sum();
        let begin = i32::from(current).saturating_sub(sum);
        u16::try_from(begin.clamp(0, u16::MAX.into())).unwrap_or(current)
    }
}

#[cfg(test)]
mod tests;
