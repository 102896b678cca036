//! A node's hold of a room: with a good lease, whether it may admit participants to it.

/// What the store says of a room that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is at home on this node, under this epoch.
    Here(String),
    /// It is not, or not any more.
    Gone,
    /// The store did not answer, or cannot tell yet.
    Unknown,
}

/// What follows for a room from [`Kept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stays,
    /// It stays, but its row may be another and is written anew.
    Rewrite,
    /// Nobody knows; it is asked again.
    AskAgain,
    /// It ends here.
    Gone,
}

/// How the store is asked for a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    term: u64,
    doubts: u64,
    /// The node has acted as the room's home all the time: the room is its own where the store
    /// knows nothing of it. Else it only resumes what nobody took, if it may begin rooms.
    pub asserts: bool,
    /// An order to give the room away may still be under way; the answer's epoch has it refused.
    pub raises: bool,
}

/// A node's hold of one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    epoch: String,
    /// The term of the node's lease in which the home was confirmed; `None` while it is doubtful.
    confirmed: Option<u64>,
    last_confirmed: u64,
    doubts: u64,
    has_moved: bool,
}

impl Hold {
    /// A home that was claimed under this epoch; the node was in this term before it asked.
    pub fn new(epoch: String, term: u64) -> Self {
        Self { epoch, confirmed: Some(term), last_confirmed: term, doubts: 0, has_moved: false }
    }

    /// Whether the room may admit participants, where the node's lease is good.
    pub fn may_admit(&self, term: u64) -> bool {
        self.confirmed == Some(term) && !self.has_moved
    }

    /// What to ask the store in these terms of the node's lease.
    pub fn question(&self, term: u64, fenced_term: u64) -> Question {
        let asserts = self.last_confirmed >= fenced_term;
        Question { term, doubts: self.doubts, asserts, raises: self.confirmed.is_none() }
    }

    /// Takes the store's answer.
    pub fn kept(&mut self, question: Question, kept: Kept) -> Verdict {
        match kept {
            // It may have been given away since.
            Kept::Here(_) if question.doubts != self.doubts => Verdict::AskAgain,
            Kept::Here(epoch) => {
                self.confirmed = Some(question.term);
                self.last_confirmed = question.term;
                let is_same = std::mem::replace(&mut self.epoch, epoch) == self.epoch;
                if is_same { Verdict::Stays } else { Verdict::Rewrite }
            }
            Kept::Gone => {
                self.moved();
                Verdict::Gone
            }
            Kept::Unknown => Verdict::AskAgain,
        }
    }

    /// It may have been given away: nobody is admitted before the store was asked.
    pub fn doubt(&mut self) {
        self.confirmed = None;
        self.doubts += 1;
    }

    /// It was given away.
    pub fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Whether it has another home.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Under which this node is the home.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(epoch: &str) -> Kept {
        Kept::Here(epoch.to_owned())
    }

    #[test]
    fn a_room_of_an_earlier_term_admits_when_it_was_confirmed() {
        let mut hold = Hold::new("1".to_owned(), 0);
        assert!(hold.may_admit(0) && !hold.may_admit(1));
        let question = hold.question(1, 0);
        assert!(question.asserts && !question.raises);
        assert_eq!(hold.kept(question, Kept::Unknown), Verdict::AskAgain);
        assert!(!hold.may_admit(1));
        assert_eq!(hold.kept(question, here("2")), Verdict::Rewrite);
        assert!(hold.may_admit(1));
        assert_eq!(hold.epoch(), "2");
        assert_eq!(hold.kept(question, Kept::Gone), Verdict::Gone);
        assert!(!hold.may_admit(1) && hold.has_moved());
    }

    #[test]
    fn what_a_node_stopped_to_serve_is_not_asserted() {
        let hold = Hold::new("1".to_owned(), 2);
        assert!(hold.question(3, 2).asserts);
        assert!(!hold.question(3, 3).asserts);
    }

    #[test]
    fn an_answer_to_an_older_question_settles_no_doubt() {
        let mut hold = Hold::new("1".to_owned(), 0);
        let before = hold.question(0, 0);
        hold.doubt();
        assert_eq!(hold.kept(before, here("1")), Verdict::AskAgain);
        assert!(!hold.may_admit(0));
        let question = hold.question(0, 0);
        assert!(question.raises);
        assert_eq!(hold.kept(question, here("2")), Verdict::Rewrite);
        assert!(hold.may_admit(0));
    }
}
