//! Do media nodes follow people who come and go, from one node to four and back, by Kubernetes's
//! autoscaler and by the operator's own? `make test-full` runs this: it takes minutes. What it
//! writes to `target/e2e` is plotted in `docs/autoscaling.md`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, HttpClient, Load, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient,
    await_everybody_meets,
};
use e2e::faults::{self, Effect, Outcome};
use e2e::live_cluster::{Addition, LiveCluster, READY_TIMEOUT};
use e2e::livekit::Access;
use e2e::scaling::{Sample, Series};
use e2e::stage::{say, stage};
use e2e::wait::eventually;
use serde_json::{Value, json};

/// Time in which nodes come or go, and in which people who vanish are missed.
const SCALE_TIMEOUT: Duration = Duration::from_secs(300);
/// A room of people who watch each other, before and after; others come to watch them.
const LOBBY: &str = "lobby";
const AUDIENCE: usize = 6;
/// Rooms of one subscriber each.
const LOAD_ROOMS: usize = 6;
/// Four nodes have room for eight rooms, and three for fewer than there are with the lobby.
const MOST: u64 = 4;

#[test]
fn four_nodes_come_and_go_with_the_people() -> Result<()> {
    let spec = json!({
        "autoscaling": autoscaling("HPA"),
        "drain": { "timeout": "5s", "roomsPerSecond": 5 },
        "rooms": { "departureTimeoutSeconds": 1 },
    });
    let addition = Addition { spec, ..Addition::default() };
    LiveCluster::run_with("autoscaling-long", 1, 29_200, &addition, |live_cluster| {
        let network = live_cluster.network()?;
        let browser = Browser::start(&network)?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let case = Case {
            live_cluster,
            http: live_cluster.http()?,
            access: live_cluster.access()?,
            network,
            stayers: [&anna, &bob],
        };
        case.enter(&case.stayers, LOBBY)?;
        stage("by Kubernetes's autoscaler", || case.round("HPA", "autoscaling"))?;
        stage("by the operator", || case.round("BuiltIn", "autoscaling-builtin"))
    })
}

fn autoscaling(mode: &str) -> Value {
    json!({
        "mode": mode, "maxNodes": MOST, "roomsPerNode": 2, "loadPercent": 0,
        "behavior": {"scaleIn": {"window": "15s", "nodes": 3, "period": "15s"}},
    })
}

struct Case<'a> {
    live_cluster: &'a LiveCluster,
    http: HttpClient,
    access: Access,
    network: Network,
    /// In the lobby all the time.
    stayers: [&'a dyn RoomClient; 2],
}

impl Case<'_> {
    /// From one node to four and back.
    fn round(&self, mode: &str, table: &str) -> Result<()> {
        self.live_cluster.patch(&json!({ "autoscaling": autoscaling(mode) }))?;
        self.scaler_becomes(mode)?;
        let mut series = Series::new(self.live_cluster);
        let alone = |sample: &Sample| sample.desired == 1 && sample.pods == 1;
        series.until("one node before", SCALE_TIMEOUT, &self.stayers, alone)?;
        let begun = Instant::now();
        let mut load = self.load(mode)?;
        series.until("a second node", SCALE_TIMEOUT, &self.stayers, |sample| sample.ready > 1)?;
        let second = begun.elapsed().as_secs_f64();
        series.until("four nodes", SCALE_TIMEOUT, &self.stayers, |sample| sample.ready == MOST)?;
        let fourth = begun.elapsed().as_secs_f64();
        say(&format!("    {mode}: from load to Ready: second {second:.1} s, fourth {fourth:.1} s"));

        // They meet on another node than the lobby's, which is fuller.
        let clara = PythonClient::start(&self.network, Person::clara())?;
        let dora = PythonClient::start(&self.network, Person::dora())?;
        let movers: [&dyn RoomClient; 2] = [&clara, &dora];
        let studio_sid = self.enter(&movers, &format!("studio-{mode}"))?;
        let lobby_sid = self.stayers[0].report()?.room_sid;
        let everybody = [self.stayers, movers].concat();
        let people = (2 + AUDIENCE + 2) as u64;
        let rooms = (2 + LOAD_ROOMS) as u64;
        series.until("everybody is counted", SCALE_TIMEOUT, &everybody, |sample| {
            sample.rooms == rooms && sample.subscribers == people && sample.ready == MOST
        })?;
        for load in &mut load {
            load.check()?;
            self.is_full(load)?;
        }
        for client in &everybody {
            client.gaps()?;
        }
        drop(load);
        series.until("one node again", SCALE_TIMEOUT, &everybody, alone)?;
        series.write(table)?;

        await_everybody_meets(&self.stayers, MEDIA_TIMEOUT)?;
        await_everybody_meets(&movers, MEDIA_TIMEOUT)?;
        let of = |clients: &[&dyn RoomClient], sid: &str| -> Result<Vec<Effect>> {
            clients.iter().map(|client| Effect::on(*client, sid)).collect()
        };
        let effects = [of(&self.stayers, &lobby_sid)?, of(&movers, &studio_sid)?].concat();
        faults::record(&format!("scale_in_{mode}"), &effects, &Outcome::default())?;
        faults::check_move(&effects)?;
        ensure!(series.lost() == 0, "somebody was thrown out");
        Ok(())
    }

    fn enter(&self, people: &[&dyn RoomClient], room: &str) -> Result<String> {
        for client in people {
            let token = self.access.token(&client.person().identity, room)?;
            client.join(&self.access.url, &token)?;
        }
        await_everybody_meets(people, MEDIA_TIMEOUT)?;
        Ok(people[0].report()?.room_sid)
    }

    /// An audience for the lobby, and rooms of one.
    fn load(&self, mode: &str) -> Result<Vec<Load>> {
        let rooms = (1..=LOAD_ROOMS).map(|number| (format!("load-{mode}-{number}"), 1));
        let all = std::iter::once((LOBBY.to_owned(), AUDIENCE)).chain(rooms);
        all.map(|(room, people)| Load::start(&self.network, &self.access, &room, people)).collect()
    }

    /// Nobody of the load was thrown out.
    fn is_full(&self, load: &Load) -> Result<()> {
        let room = load.room();
        let expected = if room == LOBBY { AUDIENCE + 2 } else { 1 };
        let url = self.access.room_service_url("ListParticipants");
        let token = self.access.admin_token(room)?;
        let answer = self.http.post(&url, Some(&token), &json!({ "room": room }))?;
        let list: Value = serde_json::from_str(&answer.body)?;
        let found = list["participants"].as_array().map_or(0, Vec::len);
        ensure!(found == expected, "{found} of {expected} are in {room}: {list}");
        Ok(())
    }

    fn scaler_becomes(&self, mode: &str) -> Result<()> {
        eventually(&format!("{mode} scales"), READY_TIMEOUT, || {
            let object = self.live_cluster.object()?;
            let status = &object["status"];
            ensure!(status["autoscaling"]["scaler"] == mode, "it is {status}");
            ensure!(
                status["observedGeneration"] == object["metadata"]["generation"],
                "the specification is not taken yet"
            );
            Ok(())
        })
    }
}
