use super::*;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn address(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 7890).into()
}

fn id(number: u8) -> NodeId {
    NodeId::from(format!("ND_{number}"))
}

/// What Redis says at `at` in `term` where these others live.
fn renewal(at: u64, term: &str, others: &[u8]) -> Renewal {
    Renewal {
        term: term.to_owned(),
        store_time: 1_000_000 + at,
        follows: false,
        quiet: Duration::ZERO,
        others: others.len() as u64,
        living: others.iter().map(|other| (id(*other), address(*other))).collect(),
        gone: Vec::new(),
    }
}

/// A node that renewed last at 10 s beside these others.
fn node_beside(others: &[u8]) -> Lease {
    let mut lease = Lease::default();
    for at in 5..=10 {
        lease.renewed(millis(at * 1_000), millis(at * 1_000), &renewal(at * 1_000, "t", others));
    }
    lease
}

#[test]
fn a_lease_serves_until_a_second_before_its_end() {
    let lease = node_beside(&[1]);
    assert!(!Lease::default().may_serve(millis(0)), "never had a lease");
    assert!(lease.may_serve(millis(12_999)));
    assert!(!lease.may_serve(millis(13_000)));
    assert_eq!(lease.may_begin(millis(11_999)), Some(1_011_998));
    assert_eq!(lease.may_begin(millis(12_000)), None);
}

#[test]
fn with_every_pledge_a_node_serves_on() {
    use PledgeAnswer::{Gone, Pledged, Refused};
    /// Who answered, when it was asked, and what.
    type Answers = &'static [(u8, u64, PledgeAnswer)];
    let ask = |answers: Answers| {
        let mut lease = node_beside(&[1, 2]);
        lease.missed();
        for (other, asked_at, answer) in answers {
            let asked_at = millis(*asked_at);
            lease.heard(address(*other), asked_at, asked_at + millis(100), *answer);
        }
        lease
    };
    let cases: [(Answers, u64, &str); 7] = [
        (&[], 13_000, "nobody answers"),
        (&[(1, 11_300, Pledged)], 13_000, "one is silent"),
        (&[(1, 11_300, Pledged), (2, 11_300, Refused)], 13_000, "one renews: this one is cut off"),
        (&[(1, 11_300, Pledged), (2, 11_500, Pledged)], 14_300, "Redis is down"),
        (&[(1, 11_300, Pledged), (2, 11_500, Gone)], 14_300, "and one died"),
        (&[(1, 12_800, Pledged), (2, 12_950, Pledged)], 13_000, "the last came too late"),
        (&[(1, 11_300, Pledged), (2, 11_500, Pledged), (2, 12_000, Refused)], 14_300, "it is back"),
    ];
    for (answers, until, why) in cases {
        let lease = ask(answers);
        assert!(lease.may_serve(millis(until - 1)), "{why}");
        assert!(!lease.may_serve(millis(until)), "{why}");
    }
}

#[test]
fn pledges_are_asked_for_in_time_and_again() {
    let mut lease = node_beside(&[1, 2]);
    assert!(lease.wants_pledges(millis(11_100)).is_empty());
    assert_eq!(lease.wants_pledges(millis(11_300)), [address(1), address(2)]);
    lease.heard(address(2), millis(11_300), millis(11_400), PledgeAnswer::Pledged);
    assert_eq!(lease.wants_pledges(millis(11_600)), [address(1)]);
    assert_eq!(lease.wants_pledges(millis(12_400)), [address(1), address(2)]);
    assert!(lease.wants_pledges(millis(13_000)).is_empty(), "too late");
}

#[test]
fn a_pledge_binds_for_a_lease_and_is_given_by_those_without_redis() {
    let mut lease = node_beside(&[1]);
    assert!(!lease.pledge(millis(11_000)));
    assert!(lease.pledge(millis(11_500)));
    lease.renewed(millis(11_600), millis(11_600), &renewal(11_600, "t", &[1]));
    assert_eq!(lease.may_begin(millis(11_700)), None);
    lease.renewed(millis(15_000), millis(15_000), &renewal(15_000, "t", &[1]));
    assert_eq!(lease.may_begin(millis(15_499)), None);
    assert!(lease.may_begin(millis(15_500)).is_some());
}

#[test]
fn a_process_that_follows_another_may_be_bound_by_its_pledge() {
    let mut lease = Lease::default();
    let follows = Renewal { follows: true, ..renewal(1_000, "t", &[1]) };
    lease.renewed(millis(1_000), millis(1_000), &follows);
    assert!(lease.is_bound(millis(4_999)) && !lease.has_settled());
    let follows = Renewal { follows: true, ..renewal(5_000, "t", &[1]) };
    lease.renewed(millis(5_000), millis(5_000), &follows);
    assert!(!lease.is_bound(millis(5_000)) && lease.has_settled());
}

#[test]
fn who_sees_nobody_is_the_only_one() {
    let mut lease = node_beside(&[]);
    assert!(lease.may_serve(millis(3_600_000)));
    lease.renewed(millis(11_000), millis(11_000), &renewal(11_000, "t", &[1]));
    assert!(!lease.may_serve(millis(14_000)), "another came");
    lease.renewed(millis(70_000), millis(70_000), &renewal(70_000, "t", &[]));
    assert!(!lease.may_serve(millis(73_000)), "it may live all the same");
    let quiet = Renewal { quiet: millis(1), ..renewal(71_000, "t", &[]) };
    lease.renewed(millis(71_000), millis(71_000), &quiet);
    assert!(!lease.may_serve(millis(74_000)), "others may not have come back yet");
    lease.renewed(millis(72_000), millis(72_000), &renewal(72_000, "t", &[]));
    assert!(lease.may_serve(millis(3_600_000)));
}

#[test]
fn who_is_gone_for_certain_need_not_pledge() {
    let mut lease = node_beside(&[1, 2]);
    let left = Renewal { gone: vec![id(2)], ..renewal(11_000, "t", &[1]) };
    lease.renewed(millis(11_000), millis(11_000), &left);
    assert_eq!(lease.wants_pledges(millis(12_300)), [address(1)]);
    lease.heard(address(1), millis(12_300), millis(12_400), PledgeAnswer::Pledged);
    assert!(lease.may_serve(millis(15_299)));
    // A process that began at the address of one that is gone lives.
    let next = Renewal { gone: vec![id(2)], ..renewal(12_500, "t", &[1]) };
    let next = Renewal { living: vec![(id(1), address(1)), (id(3), address(2))], ..next };
    lease.renewed(millis(12_500), millis(12_500), &next);
    let last = Renewal { gone: vec![id(2)], ..renewal(13_500, "t", &[1]) };
    lease.renewed(millis(13_500), millis(13_500), &last);
    assert_eq!(lease.wants_pledges(millis(14_800)), [address(1), address(2)]);
}

#[test]
fn the_last_one_there_serves_on() {
    let mut lease = node_beside(&[1]);
    let left = Renewal { gone: vec![id(1)], ..renewal(11_000, "t", &[]) };
    lease.renewed(millis(11_000), millis(11_000), &left);
    assert!(lease.may_serve(millis(3_600_000)));
}

#[test]
fn a_lease_that_had_ended_begins_a_new_term() {
    let mut lease = node_beside(&[1]);
    assert_eq!(lease.term(), 0);
    assert!(lease.renewed(millis(11_000), millis(11_000), &renewal(11_000, "u", &[1])));
    assert_eq!((lease.term(), lease.fenced_term()), (1, 0), "it acted as a home all the time");
    assert!(lease.missed() && !lease.missed());
    assert!(lease.renewed(millis(12_000), millis(12_000), &renewal(12_000, "u", &[1])));
    assert_eq!(lease.term(), 1, "Redis was away and kept the lease");
    assert!(lease.renewed(millis(20_000), millis(20_000), &renewal(20_000, "v", &[1])));
    assert_eq!((lease.term(), lease.fenced_term()), (2, 2), "it had stopped");
}

#[test]
fn a_redis_whose_clock_jumps_gets_no_claims_for_a_lease() {
    let mut lease = node_beside(&[1]);
    lease.renewed(millis(11_000), millis(11_010), &renewal(11_500, "t", &[1]));
    assert!(lease.is_bound(millis(15_009)) && !lease.is_bound(millis(15_010)));
}

#[test]
fn who_left_serves_nobody() {
    let mut lease = node_beside(&[]);
    lease.leave();
    assert!(!lease.may_serve(millis(10_001)));
    lease.renewed(millis(11_000), millis(11_000), &renewal(11_000, "t", &[]));
    assert!(!lease.may_serve(millis(11_001)));
}
