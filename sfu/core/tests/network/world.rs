//! An engine, clients and the links between them, moved by a clock that jumps from event to
//! event.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sfu_core::media::engine::Engine;
use sfu_core::media::{MediaCommand, MediaEvent, RoomKey, TrackKey};

use crate::audit::Audit;
use crate::cross::Cross;
use crate::endpoint::{Endpoint, FixedKeys, Received, Send};
use crate::link::{Cargo, Link, LinkConfig};
use crate::publisher::Publisher;
use crate::scalable::Form;
use crate::subscriber::{FeedbackMode, Subscriber, Wanted};

pub(crate) const ROOM: RoomKey = RoomKey(1);

/// A client at the other end of two links.
pub(crate) struct Site<C> {
    pub(crate) endpoint: Endpoint,
    /// Towards the engine.
    pub(crate) up: Link,
    /// From the engine.
    pub(crate) down: Link,
    pub(crate) client: C,
    /// Bytes that came out of `down`.
    pub(crate) received: u64,
}

/// A subscriber's site, with what left the engine for it and what shares its way.
pub(crate) struct SubscriberSite {
    pub(crate) site: Site<Subscriber>,
    pub(crate) audit: Audit,
    pub(crate) cross: Option<Cross>,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) events: Vec<(Instant, MediaEvent)>,
    pub(crate) publishers: Vec<Site<Publisher>>,
    pub(crate) subscribers: Vec<SubscriberSite>,
    seed: u64,
    outbox: Vec<Send>,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    pub(crate) fn new(seed: u64) -> Self {
        let start = Instant::now();
        let engine = Engine::new(Box::new(FixedKeys), StdRng::seed_from_u64(seed), start);
        Self {
            engine,
            start,
            now: start,
            events: Vec::new(),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            seed,
            outbox: Vec::new(),
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A publisher behind `up`, whose transport is connected.
    pub(crate) fn publish(
        &mut self,
        audio: &[TrackKey],
        video: (&[TrackKey], Form),
        up: LinkConfig,
    ) {
        let down = LinkConfig::clean(up.delay.as_millis() as u64);
        let publisher = Publisher::new(audio, video, self.seed, self.start, self.now);
        let receivers = publisher.receivers();
        let site = self.site(2 * self.publishers.len() as u16, up, down, publisher);
        let transport = site.endpoint.id;
        self.publishers.push(site);
        self.command(MediaCommand::SetReceivers { transport, receivers });
    }

    /// A subscriber behind `down` that wants nothing yet.
    pub(crate) fn subscribe(&mut self, mode: FeedbackMode, up: LinkConfig, down: LinkConfig) {
        let round_trip = up.delay + down.delay;
        let subscriber = Subscriber::new(mode, round_trip, self.start, self.now);
        let site = self.site(2 * self.subscribers.len() as u16 + 1, up, down, subscriber);
        self.subscribers.push(SubscriberSite { site, audit: Audit::new(), cross: None });
    }

    /// Changes what a subscriber wants.
    pub(crate) fn want(&mut self, subscriber: usize, wanted: &[Wanted]) {
        let site = &mut self.subscribers[subscriber].site;
        site.client.want(wanted);
        let (transport, senders) = (site.endpoint.id, site.client.senders());
        self.command(MediaCommand::SetSenders { transport, senders });
    }

    pub(crate) fn command(&mut self, command: MediaCommand) {
        self.engine.handle_command(ROOM, command, self.now);
        self.settle();
    }

    /// Lets time pass until `end` from the start.
    pub(crate) fn run_until(&mut self, end: Duration) {
        let end = self.start + end;
        while let Some(next) = self.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn site<C>(&mut self, index: u16, up: LinkConfig, down: LinkConfig, client: C) -> Site<C> {
        let endpoint = Endpoint::new(index);
        let (transport, local) = (endpoint.id, endpoint.credentials.clone());
        self.command(MediaCommand::OpenTransport { transport, worker: 0, local });
        let remote = Endpoint::description();
        self.command(MediaCommand::ConnectTransport { transport, remote });
        // The handshake is not what is tested: it takes no time.
        for mut datagram in [endpoint.check(), Endpoint::handshake()] {
            self.engine.handle_datagram(endpoint.path, &mut datagram, self.now);
            while self.engine.poll_event().is_some() {}
            self.engine.flush(|_, _, _| {});
        }
        let seed = self.seed.wrapping_mul(31).wrapping_add(u64::from(index) * 2);
        Site {
            endpoint,
            up: Link::new(up, seed),
            down: Link::new(down, seed + 1),
            client,
            received: 0,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let publishers = self.publishers.iter().flat_map(|site| {
            [site.up.poll_timeout(), site.down.poll_timeout(), Some(site.client.poll_timeout())]
        });
        let subscribers =
            self.subscribers.iter().flat_map(|SubscriberSite { site, cross, .. }| {
                [
                    site.up.poll_timeout(),
                    site.down.poll_timeout(),
                    Some(site.client.poll_timeout()),
                    cross.as_ref().and_then(Cross::poll_timeout),
                ]
            });
        publishers.chain(subscribers).chain([self.engine.poll_timeout()]).flatten().min()
    }

    fn step(&mut self) {
        let now = self.now;
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
            self.settle();
        }
        for index in 0..self.publishers.len() {
            self.step_publisher(index);
        }
        for index in 0..self.subscribers.len() {
            self.step_subscriber(index);
        }
    }

    fn step_publisher(&mut self, index: usize) {
        let now = self.now;
        let site = &mut self.publishers[index];
        while let Some(delivery) = site.down.receive(now) {
            let Cargo::Datagram(datagram) = delivery.cargo else { continue };
            site.received += datagram.len() as u64;
            if let Received::Rtcp(compound) = site.endpoint.open(&datagram) {
                site.client.handle_rtcp(&compound, now);
            }
        }
        if site.client.poll_timeout() <= now {
            let checks = site.client.poll_transmit(now, &mut self.outbox);
            send(site, &mut self.outbox, checks, now);
        }
        while let Some(delivery) = self.publishers[index].up.receive(now) {
            let path = self.publishers[index].endpoint.path;
            self.deliver(path, delivery.cargo);
        }
    }

    fn step_subscriber(&mut self, index: usize) {
        let now = self.now;
        let SubscriberSite { site, cross, .. } = &mut self.subscribers[index];
        while let Some(delivery) = site.down.receive(now) {
            match delivery.cargo {
                Cargo::Cross(..) => {
                    if let Some(cross) = cross {
                        cross.handle_fate(true, now);
                    }
                }
                Cargo::Datagram(datagram) => {
                    site.received += datagram.len() as u64;
                    match site.endpoint.open(&datagram) {
                        Received::Rtp(header, packet) => {
                            site.client.handle_rtp(&header, &packet, delivery.queued, now);
                        }
                        Received::Rtcp(compound) => site.client.handle_rtcp(&compound, now),
                        Received::Stun | Received::Duplicate => {}
                    }
                }
            }
        }
        if let Some(cross) = cross {
            while let Some((size, number)) = cross.poll_transmit(now) {
                if !site.down.send(Cargo::Cross(size, number), now) {
                    cross.handle_fate(false, now);
                }
            }
        }
        if site.client.poll_timeout() <= now {
            let checks = site.client.poll_transmit(now, &mut self.outbox);
            send(site, &mut self.outbox, checks, now);
        }
        while let Some(delivery) = self.subscribers[index].site.up.receive(now) {
            let path = self.subscribers[index].site.endpoint.path;
            self.deliver(path, delivery.cargo);
        }
    }

    fn deliver(&mut self, path: sfu_core::media::ice::Path, cargo: Cargo) {
        if let Cargo::Datagram(mut datagram) = cargo {
            self.engine.handle_datagram(path, &mut datagram, self.now);
            self.settle();
        }
    }

    /// Collects what the engine has to say and to send.
    fn settle(&mut self) {
        while let Some((room, event)) = self.engine.poll_event() {
            assert_eq!(room, ROOM);
            self.events.push((self.now, event));
        }
        let Self { engine, publishers, subscribers, now, .. } = self;
        engine.flush(|path, bytes, size| {
            for datagram in bytes.chunks(size) {
                let cargo = || Cargo::Datagram(datagram.to_vec());
                if let Some(site) = publishers.iter_mut().find(|site| site.endpoint.path == path) {
                    site.down.send(cargo(), *now);
                } else if let Some(to) =
                    subscribers.iter_mut().find(|to| to.site.endpoint.path == path)
                {
                    to.audit.note(datagram, *now);
                    to.site.down.send(cargo(), *now);
                }
            }
        });
    }
}

/// Seals what a client sends and puts it on its link.
fn send<C>(site: &mut Site<C>, outbox: &mut Vec<Send>, checks: bool, now: Instant) {
    if checks {
        site.up.send(Cargo::Datagram(site.endpoint.check()), now);
    }
    for packet in outbox.drain(..) {
        let datagram = site.endpoint.seal(packet);
        site.up.send(Cargo::Datagram(datagram), now);
    }
}
