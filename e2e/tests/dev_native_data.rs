//! Do calls and streams of LiveKit's native stack work at their edges, towards browsers too?

use anyhow::{Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::{Value, json};

const PORT: u16 = 18_130;
/// Streams that are sent at once.
const MANY: usize = 200;

/// The methods of a browser.
const BROWSERS_METHODS: &str = "(() => {
    const { room } = window.client;
    room.registerRpcMethod('echo', async ({ payload }) => payload);
    room.registerRpcMethod('slow', () => new Promise(() => {}));
    room.registerRpcMethod('fail', () => { throw new Error('no') });
    return null;
})()";

/// The methods of a native client.
const NATIVE_METHODS: &str = "
    async def echo(call):
        return call.payload
    async def slow(call):
        await asyncio.sleep(600)
    async def fail(call):
        raise ValueError('no')
    async def refuse(call):
        raise rtc.RpcError(418, 'I am a teapot', 'short and stout')
    for method in [echo, slow, fail, refuse]:
        room.local_participant.register_rpc_method(method.__name__, method)";

#[test]
fn calls_end_with_their_answer_or_the_right_error() -> Result<()> {
    DevServer::run(PORT, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let bob = browser.open(Person::bob())?;
        let anna = PythonClient::start(&network, Person::anna())?;
        let clara = PythonClient::start(&network, Person::clara())?;
        for client in [&bob as &dyn RoomClient, &anna, &clara] {
            enter(server, client, "calls")?;
        }
        bob.evaluate(BROWSERS_METHODS)?;
        clara.evaluate(NATIVE_METHODS)?;
        for callee in ["bob", "clara"] {
            let expect = |method: &str, payload: &str, answer: Value| -> Result<()> {
                let got = anna.evaluate(&call(callee, method, payload))?;
                ensure!(got == answer, "{method} of {callee}: {got} instead of {answer}");
                Ok(())
            };
            expect("echo", "'hello'", json!(["hello"]))?;
            expect("echo", "''", json!([""]))?;
            expect("echo", "'🙂' * 1000", json!(["🙂".repeat(1000)]))?;
            // Longer than one packet of the old calls may be.
            expect("echo", "'x' * 200_000", json!(["x".repeat(200_000)]))?;
            expect("unknown", "''", json!([1400, ""]))?;
            expect("fail", "''", json!([1500, ""]))?;
            expect("slow", "''", json!([1502, ""]))?;
        }
        let got = anna.evaluate(&call("clara", "refuse", "''"))?;
        ensure!(got == json!([418, "short and stout"]), "{got}");
        let got = anna.evaluate(&call("nobody", "echo", "''"))?;
        ensure!(got[0] == 1501 || got[0] == 1401, "{got}");
        many_calls(&anna)?;
        the_callee_leaves(&anna, &clara)
    })
}

/// A call whose result is a list: the answer, or code and data of the error.
fn call(callee: &str, method: &str, payload: &str) -> String {
    format!(
        "try:
             return [await room.local_participant.perform_rpc(
                 destination_identity='{callee}', method='{method}', payload={payload},
                 response_timeout=4, max_round_trip_latency=2,
             )]
         except rtc.RpcError as error:
             return [error.code, error.data or '']"
    )
}

fn many_calls(anna: &PythonClient) -> Result<()> {
    let answers = anna.evaluate(
        "calls = [
             room.local_participant.perform_rpc(
                 destination_identity=['bob', 'clara'][number % 2], method='echo', payload=str(number))
             for number in range(100)
         ]
         return await asyncio.gather(*calls)",
    )?;
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    ensure!(answers == json!(expected), "{answers}");
    Ok(())
}

/// A call that nobody will answer any more ends before its time.
fn the_callee_leaves(anna: &PythonClient, clara: &PythonClient) -> Result<()> {
    anna.evaluate(
        "async def call():
             try:
                 await room.local_participant.perform_rpc(
                     destination_identity='clara', method='slow', payload='', response_timeout=60)
             except rtc.RpcError as error:
                 kept['code'] = error.code
         kept['call'] = asyncio.create_task(call())",
    )?;
    clara.leave()?;
    eventually("the call ends", MEDIA_TIMEOUT, || {
        let code = anna.evaluate("return kept.get('code')")?;
        ensure!(code == 1503, "{code}");
        Ok(())
    })
}

/// What a browser keeps of the streams that it gets.
const BROWSER_LISTENS: &str = "(() => {
    const { room } = window.client;
    const got = (window.got = []);
    room.registerTextStreamHandler('text', async (reader, from) => {
        const text = await reader.readAll();
        got.push([from.identity, text, reader.info.attributes ?? {}]);
    });
    room.registerByteStreamHandler('bytes', async (reader, from) => {
        const chunks = await reader.readAll();
        const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
        got.push([from.identity, size, reader.info.attributes ?? {}]);
    });
    return null;
})()";

/// The same for a native client.
const NATIVE_LISTENS: &str = "
    kept['got'] = []
    kept['readers'] = set()
    async def read_text(reader, sender):
        text = await reader.read_all()
        kept['got'].append([sender, text, reader.info.attributes or {}])
    async def read_bytes(reader, sender):
        size = sum([len(chunk) async for chunk in reader])
        kept['got'].append([sender, size, reader.info.attributes or {}])
    def begin(read):
        def opened(reader, sender):
            task = asyncio.create_task(read(reader, sender))
            kept['readers'].add(task)
        return opened
    room.register_text_stream_handler('text', begin(read_text))
    room.register_byte_stream_handler('bytes', begin(read_bytes))";

#[test]
fn streams_arrive_once_whole_and_where_they_shall() -> Result<()> {
    DevServer::run(PORT + 1, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let bob = browser.open(Person::bob())?;
        let anna = PythonClient::start(&network, Person::anna())?;
        let clara = PythonClient::start(&network, Person::clara())?;
        for client in [&bob as &dyn RoomClient, &anna, &clara] {
            enter(server, client, "streams")?;
        }
        bob.evaluate(BROWSER_LISTENS)?;
        clara.evaluate(NATIVE_LISTENS)?;
        let all = Listeners { bob: &bob, clara: &clara };

        anna.evaluate(
            "local = room.local_participant
             await local.send_text('', topic='text', attributes={'kind': 'empty'})
             await local.send_bytes(b'', topic='bytes')
             await local.send_bytes(bytes(2_000_000), topic='bytes', attributes={'kind': 'large'})
             await local.send_text('y' * 300_000, topic='text', compress=False)",
        )?;
        all.expect(&[
            json!(["anna", "", { "kind": "empty" }]),
            json!(["anna", 0, {}]),
            json!(["anna", 2_000_000, { "kind": "large" }]),
            json!(["anna", "y".repeat(300_000), {}]),
        ])?;
        anna.evaluate(&format!(
            "sends = [
                 room.local_participant.send_text(str(number), topic='text')
                 for number in range({MANY})
             ]
             await asyncio.gather(*sends)"
        ))?;
        let many: Vec<Value> =
            (0..MANY).map(|number| json!(["anna", number.to_string(), {}])).collect();
        all.expect(&many)?;
        only_for_one(&anna, &all)?;
        interleaved(&anna, &all)?;
        over_a_reconnection(&anna, &all)?;
        nothing_too_large(&anna, &all)
    })
}

fn only_for_one(anna: &PythonClient, all: &Listeners<'_>) -> Result<()> {
    for name in ["bob", "clara", "nobody"] {
        anna.evaluate(&format!(
            "await room.local_participant.send_text(
                 'for {name}', topic='text', destination_identities=['{name}'])"
        ))?;
    }
    anna.evaluate("await room.local_participant.send_text('for all', topic='text')")?;
    let to = |name: &str| vec![json!(["anna", format!("for {name}"), {}])];
    let for_all = to("all");
    expect("bob", &[to("bob"), for_all.clone()].concat(), || all.of_bob())?;
    expect("clara", &[to("clara"), for_all].concat(), || all.of_clara())
}

/// Two streams that are written in turn.
fn interleaved(anna: &PythonClient, all: &Listeners<'_>) -> Result<()> {
    anna.evaluate(
        "local = room.local_participant
         streams = [await local.stream_text(topic='text') for _ in range(2)]
         for part in range(50):
             for name, stream in zip('ab', streams):
                 await stream.write(name)
         for stream in streams:
             await stream.aclose()",
    )?;
    all.expect(&["a", "b"].map(|name| json!(["anna", name.repeat(50), {}])))
}

/// A stream that goes on after its sender, and a receiver, resumed.
fn over_a_reconnection(anna: &PythonClient, all: &Listeners<'_>) -> Result<()> {
    anna.evaluate(
        "kept['stream'] = await room.local_participant.stream_text(topic='text')
         await kept['stream'].write('before, ')",
    )?;
    let resume = "await room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_SIGNAL_RECONNECT)";
    for (number, client) in [anna, all.clara].into_iter().enumerate() {
        client.evaluate(resume)?;
        anna.evaluate(&format!("await kept['stream'].write('during {number}, ')"))?;
        eventually("the client is back", MEDIA_TIMEOUT, || {
            let report = client.report()?;
            ensure!(report.count("reconnected") == 1, "{:?}", report.events);
            Ok(())
        })?;
    }
    anna.evaluate(
        "await kept['stream'].write('after')
         await kept['stream'].aclose()",
    )?;
    all.expect(&[json!(["anna", "before, during 0, during 1, after", {}])])
}

/// A message over the limit is refused where it is sent, and what comes after it arrives.
fn nothing_too_large(anna: &PythonClient, all: &Listeners<'_>) -> Result<()> {
    anna.evaluate(
        "try:
             await room.local_participant.publish_data(bytes(300_000), reliable=True)
         except rtc.participant.PublishDataError:
             pass
         await room.local_participant.publish_data(b'next', reliable=True, topic='next')
         await room.local_participant.send_text('last', topic='text')",
    )?;
    all.expect(&[json!(["anna", "last", {}])])?;
    for client in [all.bob as &dyn RoomClient, all.clara] {
        let messages = client.report()?.messages;
        let next = messages.iter().filter(|message| message.topic == "next").count();
        ensure!(next == 1, "{} of {messages:?}", client.person().identity);
    }
    Ok(())
}

/// Keeps the frames of all data tracks that others publish, and when these end.
const NATIVE_WATCHES: &str = "
    kept['frames'] = []
    kept['ended'] = 0
    kept['watches'] = set()
    def published(track):
        async def read():
            async for frame in track.subscribe():
                text = frame.payload.decode()
                kept['frames'].append([track.publisher_identity, track.info.name, len(text), text[:1]])
        kept['watches'].add(asyncio.create_task(read()))
    def unpublished(sid):
        kept['ended'] += 1
    room.on('data_track_published', published)
    room.on('data_track_unpublished', unpublished)";

/// The same in a browser.
const BROWSER_WATCHES: &str = "(() => {
    window.frames_of = [];
    window.client.room.on('dataTrackPublished', (track) => {
        const read = async () => {
            const reader = track.subscribe().getReader();
            for (;;) {
                const { value, done } = await reader.read();
                if (done) { return; }
                const text = new TextDecoder().decode(value.payload);
                const { publisherIdentity: from, info: { name } } = track;
                window.frames_of.push([from, name, text.length, text.slice(0, 1)]);
            }
        };
        void read();
    });
    return null;
})()";

/// A frame of several packets.
const LARGE: usize = 30_000;

#[test]
fn data_tracks_go_between_the_native_stack_and_browsers() -> Result<()> {
    DevServer::run(PORT + 2, |server| {
        let network = Network::here();
        let browser = Browser::start(&network)?;
        let bob = browser.open(Person::bob())?;
        let anna = PythonClient::start(&network, Person::anna())?;
        let clara = PythonClient::start(&network, Person::clara())?;
        for client in [&anna, &clara] {
            client.evaluate(NATIVE_WATCHES)?;
        }
        enter(server, &bob, "data tracks")?;
        bob.evaluate(BROWSER_WATCHES)?;
        enter(server, &anna, "data tracks")?;
        anna.evaluate(
            "kept['track'] = await room.local_participant.publish_data_track(name='position')",
        )?;
        bob.evaluate(
            "window.client.room.localParticipant.publishDataTrack({ name: 'pointer' })
                .then((track) => { window.track = track; return null; })",
        )?;
        // She comes when the tracks are there.
        enter(server, &clara, "data tracks")?;
        let of_bob = || bob.evaluate("window.frames_of");
        let of = |client: &PythonClient| client.evaluate("return kept['frames']");
        for (letter, size) in [("s", 5), ("l", LARGE)] {
            let annas = json!(["anna", "position", size, letter]);
            arrives("bob", &annas, || push(&anna, letter, size), of_bob)?;
            arrives("clara", &annas, || push(&anna, letter, size), || of(&clara))?;
            let bobs = json!(["bob", "pointer", size, letter]);
            arrives("anna", &bobs, || push_in_browser(&bob, letter, size), || of(&anna))?;
            arrives("clara", &bobs, || push_in_browser(&bob, letter, size), || of(&clara))?;
        }
        anna.evaluate("await kept['track'].unpublish()")?;
        eventually("clara sees the track end", MEDIA_TIMEOUT, || {
            let ended = clara.evaluate("return kept['ended']")?;
            ensure!(ended == 1, "{ended}");
            Ok(())
        })?;
        // A track of the same name is another.
        anna.evaluate(
            "kept['track'] = await room.local_participant.publish_data_track(name='position')",
        )?;
        let annas = json!(["anna", "position", 7, "n"]);
        arrives("bob", &annas, || push(&anna, "n", 7), of_bob)?;
        arrives("clara", &annas, || push(&anna, "n", 7), || of(&clara))
    })
}

/// Frames are sent without retransmission: sends one until it arrives.
fn arrives(
    who: &str,
    frame: &Value,
    push: impl Fn() -> Result<()>,
    frames: impl Fn() -> Result<Value>,
) -> Result<()> {
    eventually(&format!("{who} gets the frame"), MEDIA_TIMEOUT, || {
        push()?;
        let frames = frames()?;
        let got = frames.as_array().is_some_and(|frames| frames.contains(frame));
        ensure!(got, "not {frame}, but {frames}");
        Ok(())
    })
}

fn push(client: &PythonClient, letter: &str, size: usize) -> Result<()> {
    client
        .evaluate(&format!(
            "payload = ('{letter}' * {size}).encode()
             kept['track'].try_push(rtc.DataTrackFrame(payload=payload))"
        ))
        .map(drop)
}

fn push_in_browser(tab: &Tab, letter: &str, size: usize) -> Result<()> {
    let payload = format!("new TextEncoder().encode('{letter}'.repeat({size}))");
    tab.evaluate(&format!("(window.track.tryPush({{ payload: {payload} }}), null)")).map(drop)
}

/// Those who keep what they get.
struct Listeners<'a> {
    bob: &'a Tab,
    clara: &'a PythonClient,
}

impl Listeners<'_> {
    /// Waits until both got these streams and no other, in whatever order they ended.
    fn expect(&self, streams: &[Value]) -> Result<()> {
        expect("bob", streams, || self.of_bob())?;
        expect("clara", streams, || self.of_clara())
    }

    fn of_bob(&self) -> Result<Value> {
        self.bob.evaluate("window.got.splice(0)")
    }

    fn of_clara(&self) -> Result<Value> {
        self.clara.evaluate("got, kept['got'][:] = list(kept['got']), []\nreturn got")
    }
}

/// Collects what somebody got until it is all that was sent.
fn expect(who: &str, streams: &[Value], mut take: impl FnMut() -> Result<Value>) -> Result<()> {
    let key = |value: &Value| value.to_string();
    let mut expected: Vec<String> = streams.iter().map(key).collect();
    expected.sort();
    let mut got: Vec<String> = Vec::new();
    eventually(&format!("{who} gets the streams"), MEDIA_TIMEOUT, || {
        got.extend(take()?.as_array().into_iter().flatten().map(key));
        got.sort();
        let show = |list: &[String]| {
            list.iter().map(|entry| entry.chars().take(60).collect()).collect::<Vec<String>>()
        };
        ensure!(got == expected, "{:?} instead of {:?}", show(&got), show(&expected));
        Ok(())
    })
}

fn enter(server: &DevServer, client: &dyn RoomClient, room: &str) -> Result<()> {
    let token = server.access.token(&client.person().identity, room)?;
    client.call("join", json!({ "url": server.access.url, "token": token })).map(drop)
}
