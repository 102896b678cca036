//! A room with Chromium and Python clients in it, watched while something breaks.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::status::watch_status;
use super::{Effect, Outcome, check_move, record};
use crate::clients::{
    Browser, HttpAnswer, HttpClient, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient,
    await_everybody_meets,
};
use crate::live_cluster::{LiveCluster, MediaPod};
use crate::livekit::Access;
use crate::stage::stage;

/// Its name.
pub const ROOM: &str = "lobby";
/// Time in which everybody sees everybody again: clients try anew after up to 7 s, and again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(90);
/// Joins while something was broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// How many were let in.
    pub admitted: u32,
    /// How many were refused.
    pub refused: u32,
}

/// Two tabs and a Python client, who join the room.
pub fn three_people(
    browser: &Browser,
    network: &Network,
    access: &Access,
) -> Result<[Box<dyn RoomClient>; 3]> {
    let clients: [Box<dyn RoomClient>; 3] = [
        Box::new(browser.open(Person::anna())?),
        Box::new(browser.open(Person::bob())?),
        Box::new(PythonClient::start(network, Person::clara())?),
    ];
    for client in &clients {
        client.join(&access.url, &access.token(&client.person().identity, ROOM)?)?;
    }
    Ok(clients)
}

/// A room of three clients, who see each other.
pub struct WatchedRoom<'a> {
    /// Where it is.
    pub live_cluster: &'a LiveCluster,
    access: Access,
    http: HttpClient,
    clients: [Box<dyn RoomClient>; 3],
    room_sid: String,
}

impl<'a> WatchedRoom<'a> {
    /// Has three clients meet in a room.
    pub fn start(live_cluster: &'a LiveCluster) -> Result<Self> {
        let access = live_cluster.access()?;
        let network = live_cluster.network()?;
        let http = live_cluster.http()?;
        let browser = Browser::start(&network)?;
        let clients = three_people(&browser, &network, &access)?;
        let mut room = Self { live_cluster, access, http, clients, room_sid: String::new() };
        room.await_everybody(MEDIA_TIMEOUT)?;
        room.room_sid = room.clients[0].report()?.room_sid;
        Ok(room)
    }

    fn await_everybody(&self, timeout: Duration) -> Result<()> {
        let clients: Vec<&dyn RoomClient> = self.clients.iter().map(AsRef::as_ref).collect();
        await_everybody_meets(&clients, timeout)
    }

    /// The pod that is its home.
    pub fn home(&self) -> Result<MediaPod> {
        self.live_cluster.home_of(ROOM)
    }

    /// Somebody joins a room and leaves at once.
    pub fn visit(&self, room: &str) -> Result<HttpAnswer> {
        self.http.upgrade(&self.access.join_url(&self.access.token("guest", room)?))
    }

    /// Ends a room.
    pub fn delete(&self, room: &str) -> Result<()> {
        let url = self.access.room_service_url("DeleteRoom");
        let token = self.access.admin_token(room)?;
        let answer = self.http.post(&url, Some(&token), &json!({ "room": room }))?;
        ensure!(answer.status == 200, "{room} is not deleted: {answer:?}");
        Ok(())
    }

    /// Somebody joins this room and leaves at once.
    pub fn try_join(&self, joins: &mut Joins) -> Result<()> {
        let is_in = self.visit(ROOM)?.status == 101;
        joins.admitted += u32::from(is_in);
        joins.refused += u32::from(!is_in);
        Ok(())
    }

    /// How often each client has connected anew or tried to.
    pub fn reconnections(&self) -> Result<Vec<usize>> {
        let count = |client: &dyn RoomClient| {
            let report = client.report()?;
            let events = ["signalReconnecting", "reconnecting", "reconnected", "disconnected"];
            Ok(events.iter().map(|event| report.count(event)).sum())
        };
        self.clients.iter().map(AsRef::as_ref).map(count).collect()
    }

    /// Measures what `fault` does to the clients and to the numbers in the status, until everybody
    /// is back and the numbers are right. Nobody and no room may be lost.
    pub fn observe(&self, case: &str, fault: impl FnOnce() -> Result<Joins>) -> Result<Joins> {
        for client in &self.clients {
            client.gaps()?;
        }
        let (over, is_over) = channel();
        let (live_cluster, people) = (self.live_cluster, self.clients.len());
        let (joins, status_wrong) = stage(case, || {
            thread::scope(move |scope| {
                // Dropped at the first error: then nobody looks at the status any more.
                let over = over;
                let status = scope.spawn(move || watch_status(live_cluster, people, &is_over));
                let joins = fault()?;
                self.await_everybody(RETURN_TIMEOUT)?;
                over.send(()).context("nobody watches the status")?;
                let watched = status.join();
                Ok((joins, Some(watched.ok().context("the status was not watched")??)))
            })
        })?;
        let effects: Result<Vec<Effect>> =
            self.clients.iter().map(|client| Effect::on(client.as_ref(), &self.room_sid)).collect();
        let effects = effects?;
        record(case, &effects, &Outcome { joins, status_wrong })?;
        check_move(&effects)?;
        Ok(joins)
    }
}
