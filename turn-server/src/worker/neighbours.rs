//! Connections that change their worker. A ConnectionBind (RFC 6062) comes on a connection of its
//! own, which the kernel may have given to another worker than the one with the allocation.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use mio::{Poll, Waker};
use turn_server_core::api::ConnectionId;
use turn_server_core::stun::{Message, Method};

use super::streams::StreamClient;
use super::{Source, Worker};

/// Connections on their way to a worker; more are closed.
const MOVING: usize = 64;

/// Why a connection goes.
pub(super) struct Moving {
    /// Where to.
    worker: usize,
    /// The request that asks for it.
    request: Vec<u8>,
}

/// A connection on its way.
struct Moved {
    stream: StreamClient,
    request: Vec<u8>,
}

/// What a worker waits with, and how it reaches the others.
pub(crate) struct Line {
    poll: Poll,
    own: usize,
    neighbours: Neighbours,
}

/// How a worker reaches the others.
pub(super) struct Neighbours {
    moved: Receiver<Moved>,
    others: Arc<[(Sender<Moved>, Arc<Waker>)]>,
}

/// Makes the lines of so many workers.
pub(crate) fn lines(count: usize) -> io::Result<Vec<Line>> {
    let (mut others, mut polls) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Source::Commands.token())?);
        let (sender, moved) = crossbeam_channel::bounded(MOVING);
        others.push((sender, waker));
        polls.push((poll, moved));
    }
    let others: Arc<[_]> = others.into();
    let line = |(own, (poll, moved))| {
        let neighbours = Neighbours { moved, others: Arc::clone(&others) };
        Line { poll, own, neighbours }
    };
    Ok(polls.into_iter().enumerate().map(line).collect())
}

impl Line {
    /// What wakes the worker.
    pub(crate) fn waker(&self) -> &Arc<Waker> {
        &self.neighbours.others[self.own].1
    }

    pub(super) fn split(self) -> (Poll, Neighbours) {
        (self.poll, self.neighbours)
    }
}

impl Worker {
    /// Whether a message is for another worker.
    pub(super) fn moves(&self, frame: &[u8]) -> Option<Moving> {
        // Its type, before the whole message is read.
        if frame.first_chunk() != Some(&[0x00, 0x0b]) {
            return None;
        }
        let message = Message::parse(frame).ok().filter(|m| m.method == Method::ConnectionBind)?;
        let worker = usize::from(ConnectionId(message.connection?).worker());
        let is_other = worker != self.number && worker < self.neighbours.others.len();
        is_other.then(|| Moving { worker, request: frame.to_vec() })
    }

    /// Gives a connection away.
    pub(super) fn hand_over(&mut self, mut stream: StreamClient, moving: Moving) {
        if let Some(client) = stream.client {
            self.by_client.remove(&client);
        }
        let Moving { worker, request } = moving;
        let (sender, waker) = &self.neighbours.others[worker];
        let sent = stream.connection.leave(&self.registry).is_ok()
            && sender.try_send(Moved { stream, request }).is_ok()
            && waker.wake().is_ok();
        if !sent {
            self.shell.refused += 1;
        }
    }

    /// Takes connections that others gave away.
    pub(super) fn take_moved(&mut self, now: Instant) {
        while let Ok(Moved { mut stream, request }) = self.neighbours.moved.try_recv() {
            let number = self.next_connection();
            let token = Source::Connection(number).token();
            let (Ok(()), Some(client)) =
                (stream.connection.join(token, &self.registry), stream.client)
            else {
                continue;
            };
            self.connections.insert(number, stream);
            self.by_client.insert(client, number);
            self.server.handle_client(client, &request, now);
            self.dirty.push(number);
        }
    }
}
