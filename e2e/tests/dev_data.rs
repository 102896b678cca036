//! Do messages, streams, calls and data tracks of livekit-client pass between two browsers?

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{Browser, HttpClient, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::{Value, json};

const PORT: u16 = 17_910;

/// What bob keeps of what he gets.
const LISTEN: &str = "(() => {
    const { room } = window.client;
    const got = (window.got = { text: [], bytes: [], frames: [] });
    room.registerTextStreamHandler('chat', async (reader, from) =>
        got.text.push([from.identity, await reader.readAll()]));
    room.registerByteStreamHandler('file', async (reader, from) => {
        const chunks = await reader.readAll();
        got.bytes.push([from.identity, chunks.reduce((sum, chunk) => sum + chunk.length, 0)]);
    });
    room.registerRpcMethod('greet', async ({ callerIdentity, payload }) =>
        `${callerIdentity} says ${payload}`);
    return null;
})()";

#[test]
fn everything_that_is_sent_arrives() -> Result<()> {
    DevServer::run(PORT, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
        // One on a single connection, one on two.
        anna.join(&server.access.url, &server.access.token("anna", "data")?)?;
        let two = json!({ "singlePeerConnection": false });
        bob.join_with(&server.access.url, &server.access.token("bob", "data")?, two)?;
        bob.evaluate(LISTEN)?;
        streams(&anna, &bob)?;
        calls(&anna)?;
        data_tracks(&anna, &bob)?;
        server_calls(server, &HttpClient::start(&network)?)
    })
}

fn streams(anna: &Tab, bob: &Tab) -> Result<()> {
    // Longer than one packet may be.
    let send =
        "window.client.room.localParticipant.sendText('x'.repeat(100000), { topic: 'chat' })";
    anna.evaluate(&format!("{send}.then(() => null)"))?;
    let bytes = "window.client.room.localParticipant.sendFile(
        new File([new Uint8Array(200000)], 'f.bin'), { topic: 'file' })";
    anna.evaluate(&format!("{bytes}.then(() => null)"))?;
    eventually("the streams arrive whole", MEDIA_TIMEOUT, || {
        let got = bob.evaluate(
            "[window.got.text.map(([from, text]) => [from, text.length]), window.got.bytes]",
        )?;
        ensure!(got == json!([[["anna", 100_000]], [["anna", 200_000]]]), "{got}");
        Ok(())
    })
}

fn calls(anna: &Tab) -> Result<()> {
    let call = |destination: &str, method: &str| {
        let call = format!(
            "window.client.room.localParticipant.performRpc({{
                destinationIdentity: '{destination}', method: '{method}', payload: 'hello',
            }}).catch((error) => error.code)"
        );
        anna.evaluate(&call)
    };
    ensure!(call("bob", "greet")? == "anna says hello");
    ensure!(call("bob", "unknown")? == 1400, "unsupported method");
    Ok(())
}

fn data_tracks(anna: &Tab, bob: &Tab) -> Result<()> {
    anna.evaluate(
        "window.client.room.localParticipant.publishDataTrack({ name: 'position' })
            .then((track) => { window.track = track; return null; })",
    )?;
    eventually("bob sees the data track", MEDIA_TIMEOUT, || {
        let subscribed = bob.evaluate(
            "(() => {
                const anna = window.client.room.remoteParticipants.get('anna');
                const track = anna && [...anna.dataTracks.values()][0];
                if (!track) { return false; }
                if (!window.reading) {
                    window.reading = track.subscribe().getReader();
                    const read = async () => {
                        for (;;) {
                            const { value, done } = await window.reading.read();
                            if (done) { return; }
                            window.got.frames.push([...value.payload]);
                        }
                    };
                    void read();
                }
                return true;
            })()",
        )?;
        ensure!(subscribed == true, "there is none");
        Ok(())
    })?;
    eventually("frames of the data track arrive", MEDIA_TIMEOUT, || {
        // Frames are sent without retransmission: until one arrives.
        anna.evaluate("window.track.tryPush({ payload: new Uint8Array([1, 2, 3]) })")?;
        let frames = bob.evaluate("window.got.frames[0] ?? null")?;
        ensure!(frames == json!([1, 2, 3]), "{frames}");
        Ok(())
    })
}

/// What the server API sends to participants.
fn server_calls(server: &DevServer, http: &HttpClient) -> Result<()> {
    let token = server.access.admin_token("data")?;
    let call = |method: &str, body: Value| -> Result<Value> {
        let answer = http.post(&server.access.room_service_url(method), Some(&token), &body)?;
        ensure!(answer.status == 200, "{method}: {answer:?}");
        serde_json::from_str(&answer.body).with_context(|| format!("reading {}", answer.body))
    };
    let body = json!({
        "room": "data", "destination_identity": "bob", "method": "greet", "payload": "hi",
    });
    let answer = call("PerformRpc", body)?;
    let payload = answer["payload"].as_str().unwrap_or_default();
    ensure!(payload.ends_with(" says hi"), "{answer}");
    Ok(())
}
