//! What a browser and the server API ask of others' media: does it take effect?

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab, await_everybody_meets,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::{Value, json};

const PORT: u16 = 17_920;
/// Bob's view of anna's camera.
const ANNAS_CAMERA: &str =
    "window.client.room.remoteParticipants.get('anna').getTrackPublication('camera')";
/// Which layers anna's encoder sends, from low to high.
const ANNAS_LAYERS: &str = "window.client.room.localParticipant.getTrackPublication('camera')
    .track.sender.getParameters().encodings.map((encoding) => encoding.active)";

/// Anna publishes in layers, bob watches.
fn two_tabs(server: &DevServer, room: &str) -> Result<(Tab, Tab)> {
    let browser = Browser::start(&Network::here())?;
    let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
    let options = json!({ "simulcast": true, "roomOptions": { "dynacast": true } });
    anna.join_with(&server.access.url, &server.access.token("anna", room)?, options)?;
    bob.join(&server.access.url, &server.access.token("bob", room)?)?;
    await_everybody_meets(&[&anna, &bob], MEDIA_TIMEOUT)?;
    Ok((anna, bob))
}

#[test]
fn the_quality_that_is_asked_for_arrives_and_no_other_is_encoded() -> Result<()> {
    DevServer::run(PORT, |server| {
        let (anna, bob) = two_tabs(server, "quality")?;
        let watch = |what: &str, change: &str, width: u32, layers: Value| -> Result<()> {
            bob.evaluate(&format!("({ANNAS_CAMERA}.{change}, null)"))?;
            eventually(what, MEDIA_TIMEOUT, || {
                let report = bob.report()?;
                let track = report.participant("anna").and_then(|anna| anna.track("camera"));
                let seen = track.map(|track| track.width);
                ensure!(width == 0 || seen == Some(width), "bob sees {seen:?}");
                let active = anna.evaluate(ANNAS_LAYERS)?;
                ensure!(active == layers, "anna encodes {active}");
                Ok(())
            })
        };
        watch("the low layer", "setVideoQuality(0)", 320, json!([true, false]))?;
        watch("the high layer", "setVideoQuality(2)", 640, json!([true, true]))?;
        watch("nothing", "setEnabled(false)", 0, json!([false, false]))?;
        watch("all again", "setEnabled(true)", 640, json!([true, true]))
    })
}

#[test]
fn who_unsubscribes_gets_nothing_until_it_subscribes_again() -> Result<()> {
    DevServer::run(PORT + 1, |server| {
        let (anna, bob) = two_tabs(server, "subscriptions")?;
        for subscribe in [false, true, false, true] {
            bob.evaluate(&format!("({ANNAS_CAMERA}.setSubscribed({subscribe}), null)"))?;
            eventually("the subscription changes", MEDIA_TIMEOUT, || {
                let track = bob.evaluate(&format!("{ANNAS_CAMERA}.isSubscribed"))?;
                ensure!(track == subscribe, "{track}");
                Ok(())
            })?;
        }
        e2e::clients::await_media(&bob, &[&Person::anna()], MEDIA_TIMEOUT)?;
        // The same at the publisher's wish.
        let rights = "window.client.room.localParticipant.setTrackSubscriptionPermissions";
        for (everybody, allowed) in [(false, json!(false)), (true, json!(true))] {
            anna.evaluate(&format!("({rights}({everybody}), null)"))?;
            expect(&bob, &format!("{ANNAS_CAMERA}.isSubscribed"), allowed)?;
        }
        e2e::clients::await_media(&bob, &[&Person::anna()], MEDIA_TIMEOUT)
    })
}

#[test]
fn the_server_api_mutes_restricts_and_removes() -> Result<()> {
    DevServer::run(PORT + 2, |server| {
        let (anna, bob) = two_tabs(server, "governed")?;
        let http = HttpClient::start(&Network::here())?;
        let token = server.access.admin_token("governed")?;
        let call = |method: &str, mut body: Value| -> Result<Value> {
            body["room"] = json!("governed");
            body["identity"] = json!("anna");
            let answer = http.post(&server.access.room_service_url(method), Some(&token), &body)?;
            ensure!(answer.status == 200, "{method}: {answer:?}");
            serde_json::from_str(&answer.body).with_context(|| format!("reading {}", answer.body))
        };
        let report = bob.report()?;
        let track = report.participant("anna").and_then(|anna| anna.track("microphone"));
        let sid = &track.context("anna has a microphone")?.sid;
        call("MutePublishedTrack", json!({ "track_sid": sid, "muted": true }))?;
        expect(&anna, "window.client.room.localParticipant.isMicrophoneEnabled", json!(false))?;

        let permission = json!({ "can_subscribe": true, "can_publish": false });
        call("UpdateParticipant", json!({ "permission": permission, "metadata": "watched" }))?;
        expect(&anna, "window.client.room.localParticipant.trackPublications.size", json!(0))?;
        let annas = "window.client.room.remoteParticipants.get('anna')";
        expect(&bob, &format!("{annas}.metadata"), json!("watched"))?;
        expect(&bob, &format!("{annas}.trackPublications.size"), json!(0))?;

        // Whom nobody may see any more is gone for the others only.
        for (hidden, others) in [(true, 0), (false, 1)] {
            let permission = json!({ "can_subscribe": true, "hidden": hidden });
            call("UpdateParticipant", json!({ "permission": permission }))?;
            expect(&bob, "window.client.room.remoteParticipants.size", json!(others))?;
            expect(&anna, "window.client.room.state", json!("connected"))?;
        }

        call("RemoveParticipant", json!({}))?;
        expect(&anna, "window.client.room.state", json!("disconnected"))?;
        expect(&bob, "window.client.room.remoteParticipants.size", json!(0))?;
        // Its token was made before.
        let again = anna.join(&server.access.url, &server.access.token("anna", "governed")?);
        ensure!(again.is_err(), "anna is back");
        expect(&bob, "window.client.room.remoteParticipants.size", json!(0))
    })
}

#[test]
fn a_moved_participant_is_in_the_other_room() -> Result<()> {
    DevServer::run(PORT + 3, |server| {
        let (anna, bob) = two_tabs(server, "here")?;
        let http = HttpClient::start(&Network::here())?;
        let token = server.access.mover_token("here", "there")?;
        let body = json!({ "room": "here", "identity": "anna", "destination_room": "there" });
        let url = server.access.room_service_url("MoveParticipant");
        let answer = http.post(&url, Some(&token), &body)?;
        ensure!(answer.status == 200, "{answer:?}");
        expect(&bob, "window.client.room.remoteParticipants.size", json!(0))?;
        expect(
            &anna,
            "[window.client.room.name, window.client.room.state]",
            json!(["there", "connected"]),
        )
    })
}

#[test]
fn a_forwarded_participant_is_seen_and_heard_in_both_rooms() -> Result<()> {
    DevServer::run(PORT + 5, |server| {
        let (anna, bob) = two_tabs(server, "here")?;
        let browser = Browser::start(&Network::here())?;
        let clara = browser.open(Person::clara())?;
        clara.join(&server.access.url, &server.access.token("clara", "there")?)?;
        let http = HttpClient::start(&Network::here())?;
        let token = server.access.mover_token("here", "there")?;
        let body = json!({ "room": "here", "identity": "anna", "destination_room": "there" });
        let url = server.access.room_service_url("ForwardParticipant");
        let answer = http.post(&url, Some(&token), &body)?;
        ensure!(answer.status == 200, "{answer:?}");
        e2e::clients::await_media(&clara, &[&Person::anna()], MEDIA_TIMEOUT)?;
        let annas = "window.client.room.remoteParticipants.get('anna')";
        anna.evaluate("(window.client.room.localParticipant.setMicrophoneEnabled(false), null)")?;
        for tab in [&bob, &clara] {
            expect(tab, &format!("{annas}.isMicrophoneEnabled"), json!(false))?;
            let start = tab.report()?;
            eventually("pictures go on", MEDIA_TIMEOUT, || {
                Person::anna().pictured_in(&tab.report()?, &start)
            })?;
        }
        anna.leave()?;
        expect(&clara, "window.client.room.remoteParticipants.size", json!(0))
    })
}

/// Makes a tab offer to receive VP8 only, like a browser without other decoders.
const VP8_ONLY: &str = "(() => {
    const add = RTCPeerConnection.prototype.addTransceiver;
    RTCPeerConnection.prototype.addTransceiver = function (kind, init) {
        const transceiver = add.call(this, kind, init);
        if (kind === 'video') {
            const { codecs } = RTCRtpReceiver.getCapabilities('video');
            transceiver.setCodecPreferences(
                codecs.filter(({ mimeType }) => /VP8|rtx/i.test(mimeType)));
        }
        return transceiver;
    };
    return null;
})()";

#[test]
fn who_does_not_decode_vp9_gets_a_copy_in_vp8() -> Result<()> {
    DevServer::run(PORT + 4, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let clara = browser.open(Person::clara())?;
        bob.evaluate(VP8_ONLY)?;
        let vp9 = json!({ "videoCodec": "vp9", "roomOptions": { "dynacast": true } });
        anna.join_with(&server.access.url, &server.access.token("anna", "codecs")?, vp9)?;
        for (tab, codec) in [(&clara, "video/VP9"), (&bob, "video/VP8")] {
            let token = server.access.token(&tab.person().identity, "codecs")?;
            tab.call("join", json!({ "url": server.access.url, "token": token }))?;
            eventually(&format!("anna in {codec}"), MEDIA_TIMEOUT, || {
                let report = tab.report()?;
                let track = report.participant("anna").and_then(|anna| anna.track("camera"));
                ensure!(
                    track.is_some_and(|track| track.codec == codec && track.frames_decoded > 10),
                    "{track:?}"
                );
                Ok(())
            })?;
        }
        // The copy changes nothing for who takes the original.
        e2e::clients::await_media(&bob, &[&Person::anna()], MEDIA_TIMEOUT)?;
        e2e::clients::await_media(&clara, &[&Person::anna()], MEDIA_TIMEOUT)
    })
}

#[test]
fn in_a_narrow_network_tracks_rest_until_it_widens() -> Result<()> {
    DevServer::run(PORT + 6, |server| {
        let (_anna, bob) = two_tabs(server, "narrow")?;
        let simulate = |bits: u32| {
            bob.evaluate(&format!(
                "(window.client.room.simulateScenario('subscriber-bandwidth', {bits}), null)"
            ))
        };
        simulate(40_000)?;
        expect(&bob, &format!("{ANNAS_CAMERA}.track.streamState"), json!("paused"))?;
        simulate(0)?;
        expect(&bob, &format!("{ANNAS_CAMERA}.track.streamState"), json!("active"))?;
        e2e::clients::await_media(&bob, &[&Person::anna()], MEDIA_TIMEOUT)
    })
}

/// Makes a tab offer to receive Opus without redundancy, like a browser that has none.
const NO_REDUNDANCY: &str = "(() => {
    const add = RTCPeerConnection.prototype.addTransceiver;
    RTCPeerConnection.prototype.addTransceiver = function (kind, init) {
        const transceiver = add.call(this, kind, init);
        if (kind === 'audio') {
            const { codecs } = RTCRtpReceiver.getCapabilities('audio');
            transceiver.setCodecPreferences(
                codecs.filter(({ mimeType }) => !/red/i.test(mimeType)));
        }
        return transceiver;
    };
    return null;
})()";

/// Bytes of a packet of anna's microphone, on average: at her, and at who hears her.
const SENT: &str = "window.client.room.localParticipant.getTrackPublication('microphone')
    .track.sender.getStats().then((stats) => [...stats.values()]
        .find(({ type }) => type === 'outbound-rtp'))
    .then(({ bytesSent, packetsSent }) => bytesSent / packetsSent)";
const RECEIVED: &str = "window.client.room.remoteParticipants.get('anna')
    .getTrackPublication('microphone').track.receiver.getStats().then((stats) =>
        [...stats.values()].find(({ type }) => type === 'inbound-rtp'))
    .then(({ bytesReceived, packetsReceived }) => bytesReceived / packetsReceived)";

#[test]
fn sound_is_sent_redundantly_and_as_opus_to_who_has_no_redundancy() -> Result<()> {
    DevServer::run(PORT + 7, |server| {
        let browser = Browser::start(&Network::here())?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        let clara = browser.open(Person::clara())?;
        clara.evaluate(NO_REDUNDANCY)?;
        anna.join(&server.access.url, &server.access.token("anna", "sound")?)?;
        // Each frame comes twice, or once.
        for (tab, share) in [(&bob, 0.9..1.1), (&clara, 0.4..0.6)] {
            tab.join(&server.access.url, &server.access.token(&tab.person().identity, "sound")?)?;
            e2e::clients::await_media(tab, &[&Person::anna()], MEDIA_TIMEOUT)?;
            let sent = anna.evaluate(SENT)?.as_f64().context("anna sends sound")?;
            let received = tab.evaluate(RECEIVED)?.as_f64().context("sound is received")?;
            ensure!(share.contains(&(received / sent)), "{received} of {sent} bytes a packet");
        }
        Ok(())
    })
}

fn expect(tab: &Tab, expression: &str, expected: Value) -> Result<()> {
    eventually(&format!("{expression} is {expected}"), MEDIA_TIMEOUT, || {
        let value = tab.evaluate(expression)?;
        ensure!(value == expected, "{value}");
        Ok(())
    })
}
