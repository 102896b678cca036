//! What else people do with livekit-client in a browser: sharing the screen, names, rights,
//! elements of many sizes, end-to-end encryption.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, Tab,
    await_everybody_meets, await_media,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::{Value, json};

/// The native stack tries each picture that it cannot decrypt with many keys: on a busy machine it
/// needs a while until it has caught up.
const KEY_TIMEOUT: Duration = Duration::from_secs(120);
const PORT: u16 = 18_140;
const ANNA: &str = "window.client.room.remoteParticipants.get('anna')";
const MYSELF: &str = "window.client.room.localParticipant";
/// Which layers the encoder of the own camera sends, from low to high.
const LAYERS: &str = "window.client.room.localParticipant.getTrackPublication('camera')
    .track.sender.getParameters().encodings.map((encoding) => encoding.active)";

#[test]
fn a_screen_is_shared_beside_the_camera_until_it_is_not() -> Result<()> {
    DevServer::run(PORT, |server| {
        let (anna, bob) = pair(server, "screen", json!({}))?;
        for _ in 0..2 {
            anna.evaluate(&format!(
                "{MYSELF}.setScreenShareEnabled(true, {{ selfBrowserSurface: 'include' }})
                    .then(() => null)"
            ))?;
            eventually("bob sees anna's screen", MEDIA_TIMEOUT, || {
                let report = bob.report()?;
                let anna = report.participant("anna").context("anna is not there")?;
                let screen = anna.track("screen_share").context("there is no screen")?;
                ensure!(screen.frames_decoded > 2, "{screen:?}");
                Ok(())
            })?;
            await_media(&bob, &[anna.person()], MEDIA_TIMEOUT)?;
            anna.evaluate(&format!("{MYSELF}.setScreenShareEnabled(false).then(() => null)"))?;
            let count = format!("{ANNA}.trackPublications.size");
            expect(&bob, &count, json!(2))?;
        }
        Ok(())
    })
}

#[test]
fn names_attributes_and_metadata_reach_everybody_if_the_right_is_there() -> Result<()> {
    DevServer::run(PORT + 1, |server| {
        let (anna, bob) = pair(server, "names", json!({}))?;
        let api = Api::start(server, "names")?;
        let set = format!(
            "(async () => {{
                await {MYSELF}.setName('Anna A.');
                await {MYSELF}.setMetadata('of anna');
                await {MYSELF}.setAttributes({{ hand: 'up', gone: '' }});
                return 'done';
            }})().catch((error) => error.name)"
        );
        let refused = anna.evaluate(&set)?;
        ensure!(refused != "done", "anna changed herself without the right");
        let seen = format!("[{ANNA}.name, {ANNA}.metadata ?? '', {ANNA}.attributes]");
        let before = json!(["anna", "", {}]);
        ensure!(bob.evaluate(&seen)? == before, "{} was seen", bob.evaluate(&seen)?);

        api.permit(json!({ "can_update_metadata": true }))?;
        expect(&anna, &format!("{MYSELF}.permissions.canUpdateMetadata"), json!(true))?;
        let done = anna.evaluate(&set)?;
        ensure!(done == "done", "{done}");
        expect(&bob, &seen, json!(["Anna A.", "of anna", { "hand": "up" }]))?;

        let body = json!({ "room": "names", "metadata": "of the room" });
        api.call("UpdateRoomMetadata", body)?;
        for tab in [&anna, &bob] {
            expect(tab, "window.client.room.metadata", json!("of the room"))?;
        }
        Ok(())
    })
}

#[test]
fn rights_that_are_taken_and_given_back_work_at_once() -> Result<()> {
    DevServer::run(PORT + 2, |server| {
        let (anna, bob) = pair(server, "rights", json!({}))?;
        let api = Api::start(server, "rights")?;
        let sources =
            format!("[...{ANNA}.trackPublications.values()].map((track) => track.source).sort()");
        let bobs_tracks =
            "[...window.client.room.remoteParticipants.get('bob').trackPublications.values()]
                .filter((track) => track.track !== undefined).length";
        expect(&anna, bobs_tracks, json!(2))?;

        api.permit(json!({ "can_subscribe": false }))?;
        expect(&anna, bobs_tracks, json!(0))?;
        api.permit(json!({}))?;
        expect(&anna, bobs_tracks, json!(2))?;
        await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;

        api.permit(json!({ "can_publish_sources": ["MICROPHONE"] }))?;
        expect(&bob, &sources, json!(["microphone"]))?;
        let publish = format!(
            "(() => {{
                const canvas = document.createElement('canvas');
                canvas.getContext('2d');
                const [track] = canvas.captureStream(5).getVideoTracks();
                return {MYSELF}.publishTrack(track, {{ source: 'camera' }})
                    .then(() => 'published', () => 'refused');
            }})()"
        );
        let refused = anna.evaluate(&publish)?;
        ensure!(refused == "refused", "anna's camera is {refused}");
        api.permit(json!({}))?;
        expect(&anna, &format!("{MYSELF}.permissions.canPublishSources.length"), json!(0))?;
        let published = anna.evaluate(&publish)?;
        ensure!(published == "published", "anna's camera is {published}");
        expect(&bob, &sources, json!(["camera", "microphone"]))?;

        api.permit(json!({ "can_publish_data": false }))?;
        expect(&anna, &format!("{MYSELF}.permissions.canPublishData"), json!(false))?;
        // Whether the client sends it or not.
        let _ = anna.send("data", "without the right");
        api.permit(json!({}))?;
        expect(&anna, &format!("{MYSELF}.permissions.canPublishData"), json!(true))?;
        anna.send("data", "with the right")?;
        let texts = "window.client.messages.map((message) => message.text)";
        expect(&bob, texts, json!(["with the right"]))
    })
}

#[test]
fn who_is_thrown_out_knows_why_and_stays_out() -> Result<()> {
    DevServer::run(PORT + 3, |server| {
        let (anna, bob) = pair(server, "out", json!({}))?;
        let api = Api::start(server, "out")?;
        for tab in [&anna, &bob] {
            tab.evaluate(
                "(window.client.room.on('disconnected', (why) => { window.why = why; }), null)",
            )?;
        }
        api.call("RemoveParticipant", json!({ "room": "out", "identity": "anna" }))?;
        // DisconnectReason of the protocol.
        expect(&anna, "window.why ?? null", json!(4))?;
        expect(&bob, "window.client.room.remoteParticipants.size", json!(0))?;
        api.call("DeleteRoom", json!({ "room": "out" }))?;
        expect(&bob, "window.why ?? null", json!(5))?;
        for tab in [&anna, &bob] {
            let report = tab.report()?;
            ensure!(report.state == "disconnected" && report.count("reconnecting") == 0);
        }
        Ok(())
    })
}

#[test]
fn what_is_sent_follows_the_size_of_the_element() -> Result<()> {
    DevServer::run(PORT + 4, |server| {
        let layers = json!({ "simulcast": true, "roomOptions": { "dynacast": true } });
        let (anna, bob) = pair_with(
            server,
            "elements",
            layers,
            json!({ "roomOptions": { "adaptiveStream": { "pixelDensity": 1 } } }),
        )?;
        let watch = |what: &str, style: &str, width: Option<u32>, layers: Value| -> Result<()> {
            bob.evaluate(&format!(
                "(Object.assign(document.querySelector('video').style, {style}), null)"
            ))?;
            eventually(what, MEDIA_TIMEOUT, || {
                let report = bob.report()?;
                let track = report.participant("anna").and_then(|anna| anna.track("camera"));
                let seen = track.map(|track| track.width);
                ensure!(width.is_none() || seen == width, "bob sees {seen:?}");
                let active = anna.evaluate(LAYERS)?;
                ensure!(active == layers, "anna encodes {active}");
                Ok(())
            })
        };
        let size = |width: u32, height: u32| {
            format!("{{ display: 'block', width: '{width}px', height: '{height}px' }}")
        };
        watch("a small element", &size(160, 90), Some(320), json!([true, false]))?;
        watch("a large element", &size(640, 360), Some(640), json!([true, true]))?;
        watch("no element", "{ display: 'none' }", None, json!([false, false]))?;
        watch("the element again", &size(640, 360), Some(640), json!([true, true]))?;
        await_media(&bob, &[anna.person()], MEDIA_TIMEOUT)
    })
}

#[test]
fn browsers_and_the_native_stack_share_a_key_and_others_see_nothing() -> Result<()> {
    DevServer::run(PORT + 5, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let (anna, clara) = (browser.open(Person::anna())?, browser.open(Person::clara())?);
        let bob = browser.open(Person::bob())?;
        let dora = PythonClient::start(&network, Person::dora())?;
        let clients: [(&dyn RoomClient, Value); 4] = [
            (&anna, json!({ "key": "shared", "simulcast": true })),
            (&bob, json!({ "key": "shared", "singlePeerConnection": false })),
            (&dora, json!({ "key": "shared" })),
            (&clara, json!({})),
        ];
        for (client, options) in clients {
            let token = server.access.token(&client.person().identity, "secret")?;
            client.join_with(&server.access.url, &token, options)?;
        }
        await_everybody_meets(&[&anna, &bob, &dora], KEY_TIMEOUT)?;
        let start = clara.report()?;
        eventually("packets reach clara", MEDIA_TIMEOUT, || {
            let report = clara.report()?;
            let track = report.participant("anna").and_then(|anna| anna.track("camera"));
            let packets = track.map_or(0, |track| track.packets_received);
            ensure!(packets > 100, "{packets} packets");
            Ok(())
        })?;
        for person in [anna.person(), bob.person(), dora.person()] {
            let seen = person.pictured_in(&clara.report()?, &start);
            ensure!(seen.is_err(), "clara sees {} without the key", person.identity);
        }
        Ok(())
    })
}

/// Two tabs that see and hear each other.
fn pair(server: &DevServer, room: &str, options: Value) -> Result<(Tab, Tab)> {
    pair_with(server, room, options.clone(), options)
}

fn pair_with(server: &DevServer, room: &str, annas: Value, bobs: Value) -> Result<(Tab, Tab)> {
    let browser = Browser::start(&Network::here())?;
    let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
    for (tab, options) in [(&anna, annas), (&bob, bobs)] {
        let token = server.access.token(&tab.person().identity, room)?;
        tab.join_with(&server.access.url, &token, options)?;
    }
    await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
    Ok((anna, bob))
}

/// The server API for one room.
struct Api<'a> {
    server: &'a DevServer,
    http: HttpClient,
    room: &'static str,
}

impl<'a> Api<'a> {
    fn start(server: &'a DevServer, room: &'static str) -> Result<Self> {
        Ok(Self { server, http: HttpClient::start(&Network::here())?, room })
    }

    fn call(&self, method: &str, body: Value) -> Result<()> {
        let token = self.server.access.admin_token(self.room)?;
        let url = self.server.access.room_service_url(method);
        let answer = self.http.post(&url, Some(&token), &body)?;
        ensure!(answer.status == 200, "{method}: {answer:?}");
        Ok(())
    }

    /// Gives anna all rights of a participant, but for what differs.
    fn permit(&self, different: Value) -> Result<()> {
        let mut permission =
            json!({ "can_subscribe": true, "can_publish": true, "can_publish_data": true });
        if let (Value::Object(all), Value::Object(different)) = (&mut permission, different) {
            all.extend(different);
        }
        let body = json!({ "room": self.room, "identity": "anna", "permission": permission });
        self.call("UpdateParticipant", body)
    }
}

fn expect(tab: &Tab, expression: &str, expected: Value) -> Result<()> {
    eventually(&format!("{expression} is {expected}"), MEDIA_TIMEOUT, || {
        let value = tab.evaluate(expression)?;
        ensure!(value == expected, "{value}");
        Ok(())
    })
}
