//! Reads counts from the media nodes' metrics. A node that does not answer keeps its last counts:
//! silence is not emptiness.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use contract::metrics::{BUSY, PARTICIPANTS, ROOMS, SUBSCRIBERS};
use futures::StreamExt as _;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::build::node::ADMIN_PORT;
use super::nodes::{NodePhase, NodePod, Occupancy};

/// Requests at the same time.
const CONCURRENCY: usize = 16;
/// A node that takes longer does not count this time.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Metrics of a node are a few KiB.
const MAX_BODY: usize = 1 << 20;
/// Counts younger than this are not read again.
pub const MIN_AGE: Duration = Duration::from_secs(2);
/// Time over which it is looked how busy a node is: a key frame is no load.
const BUSY_PERIOD: Duration = Duration::from_secs(10);
/// The same at the first look, when nothing is known.
const FIRST_BUSY_PERIOD: Duration = Duration::from_secs(1);
/// Counts of pods that nobody asked for in this time are forgotten.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Counts of one media node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rooms that have their home there.
    pub rooms: i64,
    /// Participants in these rooms.
    pub participants: i64,
    /// Participants that subscribe to at least one track.
    pub subscribers: i64,
}

/// Counts, and how long ago a node told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The counts.
    pub counts: Counts,
    /// Media workers that were busy, in thousandths, all of the node together; `None` until it
    /// was asked twice.
    pub busy_millis: Option<u32>,
    /// Time since they were read.
    pub age: Duration,
}

/// What a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    counts: Counts,
    /// Microseconds that its media workers have been busy since it started; an image that does not
    /// tell is no reason to believe that nobody is there.
    busy_us: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    counts: Counts,
    busy: Option<Busy>,
    at: Instant,
}

/// How busy the media workers of a node are: the difference of a counter over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Busy {
    /// The counter, and when it was read.
    since: (i64, Instant),
    /// What came of it; `None` until it was read twice.
    millis: Option<u32>,
}

impl Busy {
    /// Takes in a counter that was read; what it begins with says nothing yet.
    fn next(before: Option<Self>, busy_us: i64, now: Instant) -> Self {
        let unknown = Self { since: (busy_us, now), millis: None };
        let Some(before) = before else { return unknown };
        let (begin_us, begin) = before.since;
        let passed = now.saturating_duration_since(begin);
        // A counter that went back is one of another process.
        let Some(busy) = busy_us.checked_sub(begin_us).filter(|busy| *busy >= 0) else {
            return unknown;
        };
        let enough = if before.millis.is_some() { BUSY_PERIOD } else { FIRST_BUSY_PERIOD };
        if passed < enough {
            return before;
        }
        let millis = u128::from(busy.unsigned_abs()) * 1000 / passed.as_micros().max(1);
        let millis = Some(u32::try_from(millis).unwrap_or(u32::MAX));
        // A short look is refined by the next, a long one ends.
        let since = if passed < BUSY_PERIOD { before.since } else { (busy_us, now) };
        Self { since, millis }
    }
}

/// Reads and remembers counts.
#[derive(Debug)]
pub struct Poller {
    client: Client<HttpConnector, Body>,
    port: u16,
    known: Mutex<HashMap<String, Known>>,
}

impl Default for Poller {
    fn default() -> Self {
        Self::new(ADMIN_PORT)
    }
}

impl Poller {
    /// Knows nothing yet, and asks the nodes at this port.
    #[must_use]
    pub fn new(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { client, port, known: Mutex::default() }
    }

    /// Counts of the pods by their unique id; pods never heard of are absent.
    pub async fn poll(&self, pods: &[NodePod]) -> HashMap<String, Reading> {
        let due: Vec<_> = pods.iter().filter_map(|pod| self.due(pod)).collect();
        let reads = futures::stream::iter(due)
            .map(|(uid, address)| async move { (uid, self.read(address).await) })
            .buffer_unordered(CONCURRENCY);
        let answers: Vec<_> = reads.collect().await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (uid, answer) in answers {
            if let Some(Answer { counts, busy_us }) = answer {
                let at = Instant::now();
                let before = known.get(&uid).and_then(|known| known.busy);
                let busy = busy_us.map(|busy_us| Busy::next(before, busy_us, at));
                known.insert(uid, Known { counts, busy, at });
            }
        }
        known.retain(|_, known| known.at.elapsed() < MAX_AGE);
        let of = |pod: &NodePod| {
            let known = known.get(&pod.uid)?;
            let Known { counts, busy, at } = *known;
            let reading = Reading {
                counts,
                busy_millis: busy.and_then(|busy| busy.millis),
                age: at.elapsed(),
            };
            Some((pod.uid.clone(), reading))
        };
        pods.iter().filter_map(of).collect()
    }

    /// Whom to ask at which address.
    fn due(&self, pod: &NodePod) -> Option<(String, IpAddr)> {
        let address = pod.ip.as_ref()?.parse().ok()?;
        // A node that is not ready may have rooms all the same.
        let runs = match pod.phase {
            NodePhase::Ready | NodePhase::Terminating => true,
            NodePhase::Starting => pod.occupancy == Occupancy::Unknown,
            NodePhase::Ended => false,
        };
        (runs && !self.is_young(&pod.uid)).then_some((pod.uid.clone(), address))
    }

    fn is_young(&self, uid: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(uid).is_some_and(|known| known.at.elapsed() < MIN_AGE)
    }

    async fn read(&self, address: IpAddr) -> Option<Answer> {
        let url = format!("http://{}/metrics", SocketAddr::new(address, self.port));
        let request = Request::get(url).body(Body::empty()).ok()?;
        let answer = async {
            let answer = self.client.request(request).await.ok()?;
            if !answer.status().is_success() {
                return None;
            }
            to_bytes(Body::new(answer.into_body()), MAX_BODY).await.ok()
        };
        let body = tokio::time::timeout(TIMEOUT, answer).await.ok()??;
        parse(std::str::from_utf8(&body).ok()?)
    }
}

/// Reads the counts from Prometheus's text format; `None` when one is missing.
fn parse(text: &str) -> Option<Answer> {
    let counts = Counts {
        rooms: sum(text, ROOMS)?,
        participants: sum(text, PARTICIPANTS)?,
        subscribers: sum(text, SUBSCRIBERS)?,
    };
    Some(Answer { counts, busy_us: sum(text, BUSY) })
}

/// The sum of a metric over its labels.
fn sum(text: &str, name: &str) -> Option<i64> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once('}')?.1,
                None => rest.strip_prefix(' ')?,
            };
            // Counts are whole numbers; a time stamp may follow.
            value.split_whitespace().next()?.parse::<f64>().ok()
        })
        .map(|value| value as i64)
        .reduce(|a, b| a.saturating_add(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_metrics_by_their_whole_name() {
        let text = "# TYPE livecluster_rooms gauge\nlivecluster_rooms 3\n\
                    livecluster_rooms_total 9\nlivecluster_participants{kind=\"a\"} 4\n\
                    livecluster_participants{kind=\"b\"} 2 1700000000\nlivecluster_subscribers 5\n\
                    livecluster_media_busy_microseconds_total 1500000\n";
        let counts = Counts { rooms: 3, participants: 6, subscribers: 5 };
        assert_eq!(parse(text), Some(Answer { counts, busy_us: Some(1_500_000) }));
    }

    #[test]
    fn a_missing_metric_is_not_zero() {
        assert_eq!(parse("livecluster_rooms 3\n"), None);
        let counts = "livecluster_rooms 3\nlivecluster_participants 4\nlivecluster_subscribers 5\n";
        assert_eq!(parse(counts).unwrap().busy_us, None);
    }

    #[test]
    fn workers_are_as_busy_as_the_counter_grows() {
        let start = Instant::now();
        let mut busy = None;
        // Milliseconds of the clock, those of the counter, and the thousandths that follow.
        let looks = [
            (0, 5_000, None),
            (500, 5_400, None),
            (2_000, 6_000, Some(500)),
            (4_000, 9_000, Some(500)),
            (10_000, 9_000, Some(400)),
            (15_000, 14_000, Some(400)),
            (20_000, 19_000, Some(1000)),
            (30_000, 100, None),
            (32_000, 4_100, Some(2000)),
        ];
        for (at, counter, expected) in looks {
            let now = start + Duration::from_millis(at);
            let next = Busy::next(busy, counter * 1000, now);
            assert_eq!(next.millis, expected, "at {at} ms");
            busy = Some(next);
        }
    }
}
