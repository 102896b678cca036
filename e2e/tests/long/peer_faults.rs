//! What do people in a room notice when a media node or Redis fails, with ours and with
//! livekit-server? The table in `docs/faults.md` is made of this; `make test-full` runs it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Network, RoomClient, await_everybody_meets,
};
use e2e::faults::{self, Effect, Joins, Outcome, ROOM, three_people};
use e2e::server_pair::{Kind, ServerPair};
use e2e::stage::{say, stage};

/// Time after which a node that was killed starts again, as the kubelet does it.
const RESTART: Duration = Duration::from_secs(2);
/// How long Redis is away, or out of reach.
const OUTAGE: Duration = Duration::from_secs(15);
/// Time that a node gets to end in order, as a pod does.
const GRACE: Duration = Duration::from_secs(30);
/// Time in which everybody must be back.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);

/// A fault beneath a room: what is done, while somebody tries to join again and again.
type Fault = fn(&mut Scene, home: usize) -> Result<()>;

const FAULTS: [(&str, Fault); 4] = [
    ("redis_outage", Scene::redis_outage),
    ("node_ends", Scene::node_ends),
    ("node_killed", Scene::node_killed),
    ("node_cut_from_redis", Scene::node_cut_from_redis),
];

/// A pair of servers, and who knocks at their door.
struct Scene {
    pair: ServerPair,
    http: HttpClient,
    joins: Joins,
}

impl Scene {
    /// Somebody joins for a while, again and again.
    fn knock_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let access = &self.pair.access;
            let answer = self.http.upgrade(&access.join_url(&access.token("guest", ROOM)?));
            let is_in = answer.is_ok_and(|answer| answer.status == 101);
            self.joins.admitted += u32::from(is_in);
            self.joins.refused += u32::from(!is_in);
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn node_killed(&mut self, home: usize) -> Result<()> {
        self.pair.kill(home);
        self.knock_for(RESTART)?;
        self.pair.start_node(home)
    }

    fn node_ends(&mut self, home: usize) -> Result<()> {
        self.pair.terminate(home)?;
        let end = Instant::now() + GRACE;
        while !self.pair.has_ended(home)? && Instant::now() < end {
            self.knock_for(Duration::from_millis(500))?;
        }
        self.pair.kill(home);
        self.pair.start_node(home)
    }

    fn redis_outage(&mut self, _home: usize) -> Result<()> {
        self.pair.kill_redis();
        self.knock_for(OUTAGE)?;
        self.pair.start_redis()
    }

    fn node_cut_from_redis(&mut self, home: usize) -> Result<()> {
        self.pair.way(home).cut();
        let knocked = self.knock_for(OUTAGE);
        self.pair.way(home).mend();
        knocked
    }
}

/// Three people in a room of a new pair, and one fault.
fn observe(kind: Kind, port: u16, case: &str, fault: Fault) -> Result<Vec<Effect>> {
    let pair = ServerPair::start(kind, port)?;
    let network = Network::here();
    let browser = Browser::start(&network)?;
    let clients = three_people(&browser, &network, &pair.access)?;
    let people: Vec<&dyn RoomClient> = clients.iter().map(AsRef::as_ref).collect();
    await_everybody_meets(&people, MEDIA_TIMEOUT)?;
    let room = clients[0].report()?.room_sid;
    let home = pair.home()?;
    for client in &people {
        client.gaps()?;
    }
    let http = HttpClient::start(&network)?;
    let mut scene = Scene { pair, http, joins: Joins::default() };
    fault(&mut scene, home)?;
    let Scene { pair, joins, .. } = scene;
    let back = await_everybody_meets(&people, RETURN_TIMEOUT);
    if let Err(error) = &back {
        say(&format!("{} {case}: not everybody is back: {error:#}", kind.name()));
    }
    let effects: Result<Vec<Effect>> =
        people.iter().map(|client| Effect::on(*client, &room)).collect();
    let effects = effects?;
    let outcome = Outcome { joins, status_wrong: None };
    faults::record(&format!("{} {case}", kind.name()), &effects, &outcome)?;
    if kind == Kind::LiveCluster {
        let logs = || format!("the nodes wrote:\n{}\n{}", pair.log(0), pair.log(1));
        back.with_context(logs)?;
        faults::check_move(&effects).with_context(logs)?;
        ensure!(joins.admitted > 0, "nobody could join: {joins:?}");
    }
    Ok(effects)
}

#[test]
fn people_notice_less_than_with_livekit_server() -> Result<()> {
    for (number, (case, fault)) in (0_u16..).zip(FAULTS) {
        for (kind, port) in [(Kind::LiveCluster, 18_500), (Kind::LiveKit, 18_540)] {
            let port = port + 100 * number;
            stage(&format!("{} {case}", kind.name()), || observe(kind, port, case, fault))?;
        }
    }
    Ok(())
}
