//! What is measured: who publishes what to whom, and what must come out.

use serde::{Deserialize, Serialize};

use crate::source::{LayerSpec, Media};

/// One row of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Name on the command line and in results.
    pub(crate) name: &'static str,
    /// What it is, in words.
    pub(crate) about: &'static str,
    /// Size that is named in the goal: what `shape` counts.
    pub(crate) size: usize,
    /// Most that our cost may be of the peer's, as its divisor; 0 without such a goal.
    pub(crate) goal_ratio: u32,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One room; the size counts subscribers that nobody sees.
    Broadcast { publishers: usize, media: Media },
    /// One room where everybody publishes simulcast; the size counts participants.
    Meeting { speakers: usize },
    /// Many rooms of equal size; the size counts rooms.
    Rooms { participants: usize },
    /// Connected subscribers of a silent room.
    Idle,
}

/// All workloads, in the order of running.
pub(crate) const WORKLOADS: [Workload; 8] = [
    Workload {
        name: "video-60",
        about: "1 publisher of H264 at 1.5 Mbit/s to 60",
        size: 60,
        goal_ratio: 10,
        shape: Shape::Broadcast { publishers: 1, media: Media::H264 },
    },
    Workload {
        name: "video-500",
        about: "the same to 500",
        size: 500,
        goal_ratio: 0,
        shape: Shape::Broadcast { publishers: 1, media: Media::H264 },
    },
    Workload {
        name: "video-3000",
        about: "the same at 10 frames/s and 500 kbit/s to 3000",
        size: 3000,
        goal_ratio: 0,
        shape: Shape::Broadcast { publishers: 1, media: Media::H264Slow },
    },
    Workload {
        name: "audio-100",
        about: "1 publisher of Opus to 100",
        size: 100,
        goal_ratio: 8,
        shape: Shape::Broadcast { publishers: 1, media: Media::Opus },
    },
    Workload {
        name: "audio-10x300",
        about: "10 publishers of Opus to 300",
        size: 300,
        goal_ratio: 8,
        shape: Shape::Broadcast { publishers: 10, media: Media::Opus },
    },
    Workload {
        name: "meeting-20",
        about: "20 with simulcast, mixed layers, 3 speak",
        size: 20,
        goal_ratio: 8,
        shape: Shape::Meeting { speakers: 3 },
    },
    Workload {
        name: "rooms-50x4",
        about: "50 rooms of 4 with simulcast and audio",
        size: 50,
        goal_ratio: 6,
        shape: Shape::Rooms { participants: 4 },
    },
    Workload {
        name: "idle-500",
        about: "500 connected subscribers, memory",
        size: 500,
        goal_ratio: 0,
        shape: Shape::Idle,
    },
];

/// Finds a workload by its name.
pub(crate) fn named(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

/// Everybody who joins, in the order of joining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) participants: Vec<Participant>,
}

/// A participant's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) room: String,
    pub(crate) identity: String,
    pub(crate) publishes: Vec<Media>,
    pub(crate) subscribes: bool,
    /// The others are not told of it, as is usual for the audience of a broadcast.
    pub(crate) hidden: bool,
    /// Number in its room; decides which layers it asks for.
    pub(crate) seat: usize,
}

/// Layer that a subscriber asks for, in rising quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Quality {
    Low,
    Medium,
    High,
}

/// Layer that the subscriber on `seat` asks for of the publisher on `other`: one speaker is
/// large, three are medium, the rest are thumbnails.
pub(crate) fn quality(seat: usize, other: usize) -> Quality {
    match other.wrapping_sub(seat) % 7 {
        1 => Quality::High,
        2 | 3 => Quality::Medium,
        _ => Quality::Low,
    }
}

impl Workload {
    /// Whether memory is measured and not packets.
    pub(crate) fn is_idle(&self) -> bool {
        self.shape == Shape::Idle
    }

    /// Who joins at this size.
    pub(crate) fn scenario(&self, size: usize) -> Scenario {
        let participants = match self.shape {
            Shape::Broadcast { publishers, media } => broadcast(publishers, media, size),
            Shape::Meeting { speakers } => room("meeting", size, speakers),
            Shape::Rooms { participants } => (0..size)
                .flat_map(|index| room(&format!("room-{index}"), participants, participants))
                .collect(),
            Shape::Idle => broadcast(0, Media::Opus, size),
        };
        Scenario { participants }
    }
}

fn broadcast(publishers: usize, media: Media, audience: usize) -> Vec<Participant> {
    let publisher = |seat| Participant {
        room: "broadcast".to_owned(),
        identity: format!("publisher-{seat}"),
        publishes: vec![media],
        subscribes: false,
        hidden: false,
        seat,
    };
    let subscriber = |seat| Participant {
        room: "broadcast".to_owned(),
        identity: format!("subscriber-{seat}"),
        publishes: Vec::new(),
        subscribes: true,
        hidden: true,
        seat,
    };
    (0..publishers)
        .map(publisher)
        .chain((publishers..publishers + audience).map(subscriber))
        .collect()
}

fn room(name: &str, participants: usize, speakers: usize) -> Vec<Participant> {
    (0..participants)
        .map(|seat| Participant {
            room: name.to_owned(),
            identity: format!("participant-{seat}"),
            publishes: if seat < speakers {
                vec![Media::Simulcast, Media::Opus]
            } else {
                vec![Media::Simulcast]
            },
            subscribes: true,
            hidden: false,
            seat,
        })
        .collect()
}

/// One layer of a published track and who gets it: all that the floor needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flow {
    pub(crate) spec: LayerSpec,
    /// Indices of the subscribing participants.
    pub(crate) to: Vec<usize>,
}

impl Scenario {
    /// What is forwarded to whom, one entry for each layer of a track that somebody gets.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        let mut flows = Vec::new();
        for publisher in &self.participants {
            for media in &publisher.publishes {
                let layers = media.layers();
                for (index, spec) in layers.iter().enumerate() {
                    let gets = |(at, other): (usize, &Participant)| {
                        let wanted = media.layer_of(quality(other.seat, publisher.seat));
                        let takes = other.subscribes
                            && other.room == publisher.room
                            && other.identity != publisher.identity;
                        (takes && wanted == index).then_some(at)
                    };
                    let to: Vec<usize> =
                        self.participants.iter().enumerate().filter_map(gets).collect();
                    if !to.is_empty() {
                        flows.push(Flow { spec: *spec, to });
                    }
                }
            }
        }
        flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_of_a_broadcast_gets_every_publisher_once() {
        let flows = named("audio-10x300").unwrap().scenario(7).flows();
        assert_eq!(flows.len(), 10);
        assert!(flows.iter().all(|flow| flow.to == (10..17).collect::<Vec<_>>()));
    }

    #[test]
    fn a_meeting_forwards_one_layer_of_each_camera_to_each_other_seat() {
        let scenario = named("meeting-20").unwrap().scenario(20);
        let video = |flow: &&Flow| flow.spec.media == Media::Simulcast;
        let flows = scenario.flows();
        let sent: usize = flows.iter().filter(video).map(|flow| flow.to.len()).sum();
        assert_eq!(sent, 20 * 19);
        // All three layers are in use.
        let mut rids: Vec<_> = flows.iter().filter(video).map(|flow| flow.spec.rid).collect();
        rids.sort_unstable();
        rids.dedup();
        assert_eq!(rids, ["f", "h", "q"]);
    }

    #[test]
    fn rooms_do_not_mix() {
        let scenario = named("rooms-50x4").unwrap().scenario(3);
        assert_eq!(scenario.participants.len(), 12);
        for flow in scenario.flows() {
            let rooms: Vec<_> = flow.to.iter().map(|at| &scenario.participants[*at].room).collect();
            assert!(rooms.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}
