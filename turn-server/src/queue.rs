//! What waits for a TCP or TLS client: whole messages, bounded in bytes. When the client is slow,
//! the oldest media goes first; answers of the protocol stay.

use std::collections::VecDeque;

/// A message in the queue.
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    is_media: bool,
}

/// Messages in the order of sending.
#[derive(Debug)]
pub(crate) struct FrameQueue {
    bytes: VecDeque<u8>,
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that have been sent already: it can no longer be dropped.
    sent_of_first: usize,
    limit: usize,
}

impl FrameQueue {
    /// Makes an empty queue of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), frames: VecDeque::new(), sent_of_first: 0, limit }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that can be added without dropping anything.
    pub(crate) fn room(&self) -> usize {
        self.limit - self.bytes.len()
    }

    /// Adds a message given in parts; returns how many messages were dropped for it, which may be
    /// itself.
    pub(crate) fn push(&mut self, parts: &[&[u8]], is_media: bool) -> u64 {
        let length = parts.iter().map(|part| part.len()).sum();
        let mut dropped = 0;
        while self.bytes.len() + length > self.limit {
            if !self.drop_oldest() {
                return dropped + 1;
            }
            dropped += 1;
        }
        for part in parts {
            self.bytes.extend(*part);
        }
        self.frames.push_back(Frame { length, is_media });
        dropped
    }

    /// The bytes to send next.
    pub(crate) fn front(&self) -> &[u8] {
        let (front, back) = self.bytes.as_slices();
        if front.is_empty() { back } else { front }
    }

    /// Removes bytes that were sent.
    pub(crate) fn consume(&mut self, sent: usize) {
        self.bytes.drain(..sent);
        let mut sent = self.sent_of_first + sent;
        while let Some(first) = self.frames.front()
            && sent >= first.length
        {
            sent -= first.length;
            self.frames.pop_front();
        }
        self.sent_of_first = sent;
    }

    /// Drops the oldest message if it is media of which nothing was sent.
    fn drop_oldest(&mut self) -> bool {
        let is_whole = self.sent_of_first == 0;
        match self.frames.front() {
            Some(&Frame { length, is_media: true }) if is_whole => {
                self.bytes.drain(..length);
                self.frames.pop_front();
                true
            }
            // Behind a message that is on its way, or an answer: the next whole media message
            // would have to be cut out of the middle, so the new one is left out instead.
            Some(_) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(queue: &mut FrameQueue) -> Vec<u8> {
        let mut all = Vec::new();
        while !queue.is_empty() {
            let front = queue.front().to_vec();
            queue.consume(front.len());
            all.extend(front);
        }
        all
    }

    #[test]
    fn the_oldest_media_makes_room() {
        let mut queue = FrameQueue::new(8);
        for message in [b"aaa", b"bbb", b"ccc"] {
            queue.push(&[message], true);
        }
        assert_eq!(contents(&mut queue), b"bbbccc");
    }

    #[test]
    fn what_is_on_its_way_is_never_cut() {
        let mut queue = FrameQueue::new(8);
        assert_eq!(queue.push(&[b"aa", b"aa"], true), 0);
        queue.consume(1);
        assert_eq!(queue.push(&[b"bbbb"], true), 0);
        assert_eq!(queue.push(&[b"cccc"], true), 1);
        assert_eq!(contents(&mut queue), b"aaabbbb");
    }

    #[test]
    fn answers_are_kept() {
        let mut queue = FrameQueue::new(8);
        queue.push(&[b"answer"], false);
        assert_eq!(queue.push(&[b"media"], true), 1);
        assert_eq!(contents(&mut queue), b"answer");
    }

    #[test]
    fn frames_are_counted_off_as_they_are_sent() {
        let mut queue = FrameQueue::new(100);
        queue.push(&[b"abc"], true);
        queue.push(&[b"de"], true);
        queue.consume(4);
        assert_eq!(queue.sent_of_first, 1);
        queue.consume(1);
        assert!(queue.is_empty() && queue.frames.is_empty() && queue.sent_of_first == 0);
    }
}
