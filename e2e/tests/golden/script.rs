//! What the scripted participants do, step by step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use contract::access_token::{ApiKeys, Claims, claims};
use livekit_protocol::{
    AddTrackRequest, DataPacket, LeaveRequest, MuteTrackRequest, Ping, SubscriptionPermission,
    TrackSource, TrackType, UpdateLocalAudioTrack, UpdateParticipantMetadata, UpdateSubscription,
    UpdateTrackSettings, UserPacket, VideoLayer, VideoQuality, data_packet,
    signal_request::Message,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use str0m::media::MediaKind;

use crate::connection::{Change, RELIABLE};
use crate::http;
use crate::pace::{GLANCE, Pace};
use crate::participant::{Mode, Participant};

/// The key pair of both servers.
pub(crate) const KEY: &str = "devkey";
pub(crate) const SECRET: &str = "secret";

/// The room, and client ids of tracks, which are their names, too.
pub(crate) const ROOM: &str = "golden";
const MICROPHONE: &str = "microphone";
const CAMERA: &str = "camera";
const BOBS_MICROPHONE: &str = "bobs-microphone";
/// Answers of the server API are kept under this name.
const API: &str = "api";
/// Longer than the period of everything that comes by the clock.
const A_WHILE: Duration = Duration::from_secs(6);

/// One step of the script and what everybody got by it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    /// What was done.
    pub(crate) name: String,
    /// Messages in their order, by the receiver's name.
    pub(crate) received: BTreeMap<String, Vec<Value>>,
}

/// A script that is played.
struct Stage<'a> {
    url: String,
    mode: Mode,
    pace: &'a Pace<'a>,
    people: BTreeMap<String, Participant>,
    answers: Vec<Value>,
    steps: Vec<Step>,
}

/// Plays the whole script against a server.
pub(crate) async fn play(url: &str, mode: Mode, pace: &Pace<'_>) -> Result<Vec<Step>> {
    let mut stage = Stage {
        url: url.to_owned(),
        mode,
        pace,
        people: BTreeMap::new(),
        answers: Vec::new(),
        steps: Vec::new(),
    };
    stage.publish().await?;
    stage.subscribe().await?;
    stage.change_media().await?;
    stage.change_people().await?;
    stage.ask_in_vain().await?;
    stage.administrate().await?;
    stage.part().await?;
    Ok(stage.steps)
}

impl Stage<'_> {
    async fn publish(&mut self) -> Result<()> {
        self.join("anna", "anna").await?;
        self.settle("anna joins").await?;
        self.signal("anna", Message::AddTrack(audio(MICROPHONE)));
        self.settle("anna announces a microphone").await?;
        let mut changes = vec![Change::Send(MediaKind::Audio, MICROPHONE.to_owned())];
        if self.mode == Mode::Dual {
            changes.insert(0, Change::Channels);
        }
        self.change("anna", changes);
        self.settle("anna sends the microphone").await?;
        self.signal("anna", Message::AddTrack(video(CAMERA)));
        self.settle("anna announces a camera").await?;
        self.change("anna", vec![Change::Send(MediaKind::Video, CAMERA.to_owned())]);
        self.settle("anna sends the camera").await
    }

    async fn subscribe(&mut self) -> Result<()> {
        self.join("bob", "bob").await?;
        self.settle("bob joins").await?;
        self.signal("bob", Message::AddTrack(audio(BOBS_MICROPHONE)));
        self.settle("bob announces a microphone").await?;
        let mut changes = vec![Change::Send(MediaKind::Audio, BOBS_MICROPHONE.to_owned())];
        if self.mode == Mode::Dual {
            changes.insert(0, Change::Channels);
        }
        self.change("bob", changes);
        self.settle("bob sends the microphone").await?;
        self.people["bob"].data(RELIABLE, user_packet("hello", &[]));
        self.people["bob"].data(RELIABLE, user_packet("to anna", &["anna"]));
        self.people["bob"].data(RELIABLE, user_packet("to nobody", &["nobody"]));
        self.settle("bob sends data").await?;
        tokio::time::sleep(A_WHILE).await;
        self.settle("a while passes").await
    }

    async fn change_media(&mut self) -> Result<()> {
        let camera = self.sid("anna", CAMERA)?;
        let microphone = self.sid("anna", MICROPHONE)?;
        let setting = |disabled, quality: VideoQuality| {
            Message::TrackSetting(UpdateTrackSettings {
                track_sids: vec![camera.clone()],
                disabled,
                quality: quality.into(),
                ..UpdateTrackSettings::default()
            })
        };
        self.signal("bob", setting(true, VideoQuality::High));
        self.settle("bob pauses the camera").await?;
        self.signal("bob", setting(false, VideoQuality::High));
        self.settle("bob goes on with the camera").await?;
        for (subscribe, step) in [
            (false, "bob unsubscribes from the microphone"),
            (true, "bob subscribes to the microphone"),
        ] {
            let track_sids = vec![microphone.clone()];
            self.signal(
                "bob",
                Message::Subscription(UpdateSubscription {
                    track_sids,
                    subscribe,
                    ..UpdateSubscription::default()
                }),
            );
            self.settle(step).await?;
        }
        for (muted, step) in [(true, "anna mutes"), (false, "anna unmutes")] {
            self.signal("anna", Message::Mute(MuteTrackRequest { sid: microphone.clone(), muted }));
            self.settle(step).await?;
        }
        Ok(())
    }

    async fn change_people(&mut self) -> Result<()> {
        let update = |request_id| UpdateParticipantMetadata {
            metadata: "second".to_owned(),
            name: "Someone".to_owned(),
            attributes: [("role".to_owned(), "guest".to_owned())].into(),
            request_id,
        };
        self.signal("anna", Message::UpdateMetadata(update(7)));
        self.settle("anna changes her metadata").await?;
        self.signal("bob", Message::UpdateMetadata(update(8)));
        self.settle("bob changes his metadata without leave").await?;
        for (all_participants, step) in
            [(false, "anna lets nobody subscribe"), (true, "anna lets everybody subscribe")]
        {
            self.signal(
                "anna",
                Message::SubscriptionPermission(SubscriptionPermission {
                    all_participants,
                    track_permissions: Vec::new(),
                }),
            );
            self.settle(step).await?;
        }
        self.signal("anna", Message::Ping(12));
        self.signal("anna", Message::PingReq(Ping { timestamp: 13, rtt: 5 }));
        self.settle("anna pings").await
    }

    async fn ask_in_vain(&mut self) -> Result<()> {
        let unknown = "TR_unknown".to_owned();
        self.signal(
            "bob",
            Message::Subscription(UpdateSubscription {
                track_sids: vec![unknown.clone()],
                subscribe: true,
                ..UpdateSubscription::default()
            }),
        );
        self.settle("bob subscribes to an unknown track").await?;
        let muted = MuteTrackRequest { sid: unknown.clone(), muted: true };
        self.signal("bob", Message::Mute(muted));
        self.signal(
            "bob",
            Message::TrackSetting(UpdateTrackSettings {
                track_sids: vec![unknown.clone()],
                disabled: true,
                ..UpdateTrackSettings::default()
            }),
        );
        self.signal(
            "bob",
            Message::UpdateAudioTrack(UpdateLocalAudioTrack {
                track_sid: unknown,
                ..UpdateLocalAudioTrack::default()
            }),
        );
        self.settle("bob changes an unknown track").await?;
        let data = AddTrackRequest { r#type: TrackType::Data.into(), ..audio("data") };
        self.signal("bob", Message::AddTrack(data));
        self.settle("bob announces a track of data").await
    }

    async fn administrate(&mut self) -> Result<()> {
        let camera = self.sid("anna", CAMERA)?;
        for (step, method, body) in [
            ("the API lists rooms", "ListRooms", json!({ "names": [ROOM] })),
            ("the API lists participants", "ListParticipants", json!({ "room": ROOM })),
            (
                "the API changes the room",
                "UpdateRoomMetadata",
                json!({ "room": ROOM, "metadata": "news" }),
            ),
            (
                "the API mutes anna's camera",
                "MutePublishedTrack",
                json!({ "room": ROOM, "identity": "anna", "track_sid": camera, "muted": true }),
            ),
            (
                "the API unmutes anna's camera",
                "MutePublishedTrack",
                json!({ "room": ROOM, "identity": "anna", "track_sid": camera, "muted": false }),
            ),
            (
                "the API names bob",
                "UpdateParticipant",
                json!({ "room": ROOM, "identity": "bob", "name": "Bob", "metadata": "by API",
                        "attributes": { "seat": "1" } }),
            ),
            (
                "the API takes bob's leave to publish",
                "UpdateParticipant",
                json!({ "room": ROOM, "identity": "bob",
                        "permission": { "can_subscribe": true, "can_publish_data": true } }),
            ),
            (
                "the API unsubscribes bob from the camera",
                "UpdateSubscriptions",
                json!({ "room": ROOM, "identity": "bob", "track_sids": [camera] }),
            ),
            (
                "the API sends data",
                "SendData",
                json!({ "room": ROOM, "data": "aGVsbG8=", "kind": "RELIABLE", "topic": "t" }),
            ),
            ("the API asks for nobody", "GetParticipant", json!({ "room": ROOM, "identity": "x" })),
        ] {
            self.call(method, &body).await?;
            self.settle(step).await?;
        }
        self.signal("bob", Message::AddTrack(audio("forbidden")));
        self.settle("bob announces a track without leave").await
    }

    async fn part(&mut self) -> Result<()> {
        self.change("anna", vec![Change::Stop(CAMERA.to_owned())]);
        self.settle("anna stops the camera").await?;
        self.join("bob again", "bob").await?;
        self.settle("bob joins a second time").await?;
        self.call("RemoveParticipant", &json!({ "room": ROOM, "identity": "bob" })).await?;
        self.settle("the API removes bob").await?;
        self.join("clara", "clara").await?;
        self.settle("clara joins").await?;
        self.signal("anna", Message::Leave(LeaveRequest::default()));
        self.settle("anna leaves").await?;
        self.call("DeleteRoom", &json!({ "room": ROOM })).await?;
        self.settle("the API deletes the room").await
    }

    async fn join(&mut self, name: &str, identity: &str) -> Result<()> {
        let token = sign(join_claims(identity)?)?;
        let participant = Participant::join(&self.url, &token, self.mode).await?;
        self.people.insert(name.to_owned(), participant);
        Ok(())
    }

    fn signal(&self, name: &str, message: Message) {
        self.people[name].signal(message);
    }

    fn change(&self, name: &str, changes: Vec<Change>) {
        self.people[name].change(changes);
    }

    async fn call(&mut self, method: &str, body: &Value) -> Result<()> {
        let url = format!("{}/twirp/livekit.RoomService/{method}", self.url);
        let (status, body) = http::post(&url, &sign(admin_claims()?)?, body).await?;
        self.answers.push(json!({ "answer": { "status": status, "body": body } }));
        Ok(())
    }

    /// The sid that the server gave a track.
    fn sid(&self, name: &str, cid: &str) -> Result<String> {
        let all = self.people[name].all();
        let published = all.iter().map(|message| &message["trackPublished"]);
        let track = published.into_iter().find(|published| published["cid"] == cid);
        let sid = track.and_then(|published| published["track"]["sid"].as_str());
        Ok(sid.with_context(|| format!("{name} has no track {cid}"))?.to_owned())
    }

    /// Waits until everybody has got what this step brings, and takes it.
    async fn settle(&mut self, step: &str) -> Result<()> {
        let started = Instant::now();
        self.steps.push(Step { name: step.to_owned(), received: BTreeMap::new() });
        loop {
            tokio::time::sleep(GLANCE).await;
            let mut received: BTreeMap<String, Vec<Value>> =
                self.people.iter().map(|(name, person)| (name.clone(), person.peek())).collect();
            received.insert(API.to_owned(), self.answers.clone());
            received.retain(|_, messages| !messages.is_empty());
            if let Some(last) = self.steps.last_mut() {
                last.received = received;
            }
            if self.pace.is_settled(&self.steps, started) {
                break;
            }
        }
        // What came since the last look belongs to the next step.
        let last = self.steps.last().map(|step| &step.received);
        for (name, person) in &mut self.people {
            person.take(last.and_then(|received| received.get(name)).map_or(0, Vec::len));
        }
        self.answers.clear();
        Ok(())
    }
}

fn audio(cid: &str) -> AddTrackRequest {
    AddTrackRequest {
        cid: cid.to_owned(),
        name: cid.to_owned(),
        r#type: TrackType::Audio.into(),
        source: TrackSource::Microphone.into(),
        ..AddTrackRequest::default()
    }
}

fn video(cid: &str) -> AddTrackRequest {
    let (width, height) = (320, 180);
    let layer = VideoLayer {
        quality: VideoQuality::High.into(),
        width,
        height,
        bitrate: 100_000,
        ..VideoLayer::default()
    };
    AddTrackRequest {
        cid: cid.to_owned(),
        name: cid.to_owned(),
        r#type: TrackType::Video.into(),
        source: TrackSource::Camera.into(),
        width,
        height,
        layers: vec![layer],
        ..AddTrackRequest::default()
    }
}

fn user_packet(text: &str, to: &[&str]) -> DataPacket {
    let user = UserPacket {
        payload: text.as_bytes().to_vec(),
        topic: Some("talk".to_owned()),
        ..UserPacket::default()
    };
    DataPacket {
        value: Some(data_packet::Value::User(user)),
        destination_identities: to.iter().map(|identity| (*identity).to_owned()).collect(),
        ..DataPacket::default()
    }
}

fn join_claims(identity: &str) -> Result<Claims> {
    let mut claims = claims(identity, unix_time()?, Duration::from_secs(3600));
    claims.video.room_join = true;
    ROOM.clone_into(&mut claims.video.room);
    identity.clone_into(&mut claims.name);
    if identity == "anna" {
        claims.video.can_update_own_metadata = Some(true);
        "first".clone_into(&mut claims.metadata);
        claims.attributes = [("role".to_owned(), "host".to_owned())].into();
    }
    Ok(claims)
}

fn admin_claims() -> Result<Claims> {
    let mut claims = claims("admin", unix_time()?, Duration::from_secs(3600));
    claims.video.room_create = true;
    claims.video.room_list = true;
    claims.video.room_admin = true;
    ROOM.clone_into(&mut claims.video.room);
    Ok(claims)
}

fn sign(claims: Claims) -> Result<String> {
    let keys: ApiKeys = [(KEY.to_owned(), SECRET.to_owned())].into_iter().collect();
    keys.sign(KEY, claims).context("signing a token")
}

fn unix_time() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")
}
