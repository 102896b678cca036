//! Agent workers on a real node, and on the one beside the room's.

use contract::access_token::{VideoGrants, claims};
use futures::{SinkExt as _, StreamExt as _};
use hyper::Method;
use livekit_protocol::server_message::Message as ToWorker;
use livekit_protocol::worker_message::Message as FromWorker;
use livekit_protocol::{
    AvailabilityResponse, Job, JobStatus, JobType, RegisterWorkerRequest, ServerMessage,
    UpdateJobStatus, UpdateWorkerStatus, WorkerMessage, WorkerPing, WorkerStatus,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

use crate::support::{
    Answer, ClusterNode, Files, HOUR, Redis, Socket, admin_token, dev_node, eventually, join,
    join_token, keys, open, request, sign, twirp, unix_time,
};

struct TestWorker(Socket);

impl TestWorker {
    async fn register(base: &str, agent_name: &str, kind: JobType) -> Self {
        let mut claims = claims("worker", unix_time(), HOUR);
        claims.video = VideoGrants { agent: true, ..VideoGrants::default() };
        let path = format!("/agent?access_token={}", sign(claims));
        let mut worker = Self(open(base, &path).await.unwrap());
        let registration = RegisterWorkerRequest {
            r#type: kind.into(),
            agent_name: agent_name.to_owned(),
            version: "test".to_owned(),
            ..RegisterWorkerRequest::default()
        };
        worker.send(FromWorker::Register(registration)).await;
        let ToWorker::Register(registered) = worker.next().await else { panic!() };
        assert!(registered.worker_id.starts_with("AW_"));
        assert_eq!(registered.server_info.unwrap().agent_protocol, 1);
        worker
    }

    async fn send(&mut self, message: FromWorker) {
        let bytes = WorkerMessage { message: Some(message) }.encode_to_vec();
        self.0.send(tungstenite::Message::Binary(bytes.into())).await.unwrap();
    }

    async fn next(&mut self) -> ToWorker {
        let next = async {
            loop {
                if let tungstenite::Message::Binary(bytes) = self.0.next().await.unwrap().unwrap() {
                    return ServerMessage::decode(bytes).unwrap().message.unwrap();
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), next).await.unwrap()
    }

    /// Takes the next job, or leaves it to others; its token.
    async fn answer(&mut self, available: bool) -> (Job, Option<String>) {
        let ToWorker::Availability(offered) = self.next().await else { panic!() };
        let job = offered.job.unwrap();
        let answer = AvailabilityResponse {
            job_id: job.id.clone(),
            available,
            participant_identity: "agent-1".to_owned(),
            participant_name: "Agent".to_owned(),
            ..AvailabilityResponse::default()
        };
        self.send(FromWorker::Availability(answer)).await;
        if !available {
            return (job, None);
        }
        let ToWorker::Assignment(assigned) = self.next().await else { panic!() };
        assert_eq!(assigned.job.as_ref().unwrap().id, job.id);
        (job, Some(assigned.token))
    }
}

async fn dispatch(base: &str, method: &str, token: &str, body: Value) -> Answer {
    let url = format!("{base}/twirp/livekit.AgentDispatchService/{method}");
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    request(Method::POST, &url, &headers, body.to_string()).await
}

#[tokio::test]
async fn a_worker_gets_a_job_whose_token_lets_its_agent_in() {
    let (_node, base) = dev_node().await;
    let mut refusing = TestWorker::register(&base, "", JobType::JtRoom).await;
    let mut worker = TestWorker::register(&base, "", JobType::JtRoom).await;
    let (_anna, _) = join(&base, "with agents", "anna").await;
    // Whichever is asked first: the refusal brings the job to the other.
    let (job, token) = tokio::select! {
        taken = worker.answer(true) => taken,
        _ = refusing.answer(false) => worker.answer(true).await,
    };
    assert_eq!(job.room.unwrap().name, "with agents");
    let claims = keys().verify(token.as_ref().unwrap(), unix_time()).unwrap();
    assert_eq!((claims.kind.as_str(), claims.sub.as_str()), ("agent", "agent-1"));
    assert_eq!(claims.attributes["lk.agent_name"], "");
    let path = format!("/rtc?access_token={}&protocol=16", token.unwrap());
    let _agent = open(&base, &path).await.unwrap();
    let people = twirp(
        &base,
        "GetParticipant",
        &admin_token("with agents"),
        json!({"room": "with agents", "identity": "agent-1"}),
    )
    .await
    .json();
    assert_eq!(people["kind"], "AGENT", "{people}");
}

#[tokio::test]
async fn named_agents_come_by_dispatch_and_go_with_it() {
    let (_node, base) = dev_node().await;
    let mut worker = TestWorker::register(&base, "scribe", JobType::JtRoom).await;
    let token = admin_token("meeting");
    let wish = json!({"room": "meeting", "agent_name": "scribe", "metadata": "m"});
    let denied = dispatch(&base, "CreateDispatch", &join_token("meeting", "x"), wish.clone()).await;
    assert_eq!(denied.status, 401, "{denied:?}");
    let created = dispatch(&base, "CreateDispatch", &token, wish).await;
    assert_eq!(created.status, 200, "{created:?}");
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let (job, _) = worker.answer(true).await;
    assert_eq!((job.agent_name.as_str(), job.metadata.as_str()), ("scribe", "m"));

    let list = || dispatch(&base, "ListDispatch", &token, json!({"room": "meeting"}));
    eventually("the job is listed as running", || async {
        let jobs = list().await.json()["agent_dispatches"][0]["state"]["jobs"].clone();
        jobs[0]["state"]["status"] == "JS_RUNNING" && jobs[0]["id"] == job.id
    })
    .await;
    let wrong = json!({"room": "meeting", "dispatch_id": "AD_none"});
    assert_eq!(dispatch(&base, "DeleteDispatch", &token, wrong).await.status, 404);
    let right = json!({"room": "meeting", "dispatch_id": id});
    assert_eq!(dispatch(&base, "DeleteDispatch", &token, right).await.status, 200);
    let ToWorker::Termination(ended) = worker.next().await else { panic!() };
    assert_eq!(ended.job_id, job.id);
    assert_eq!(list().await.json()["agent_dispatches"], json!([]));
}

#[tokio::test]
async fn a_busy_worker_gets_the_job_when_it_is_free() {
    let (_node, base) = dev_node().await;
    let mut worker = TestWorker::register(&base, "", JobType::JtRoom).await;
    let status = |status: WorkerStatus| {
        let status = Some(status.into());
        FromWorker::UpdateWorker(UpdateWorkerStatus { status, ..Default::default() })
    };
    worker.send(status(WorkerStatus::WsFull)).await;
    worker.send(FromWorker::Ping(WorkerPing { timestamp: 1 })).await;
    assert!(matches!(worker.next().await, ToWorker::Pong(_)), "the status was taken");
    let (_anna, _) = join(&base, "patient", "anna").await;
    worker.send(FromWorker::Ping(WorkerPing { timestamp: 2 })).await;
    assert!(matches!(worker.next().await, ToWorker::Pong(_)), "no job while it is full");
    worker.send(status(WorkerStatus::WsAvailable)).await;
    let (job, _) = worker.answer(true).await;
    assert_eq!(job.room.unwrap().name, "patient");
}

#[tokio::test]
async fn workers_need_the_grant_and_their_pings_are_answered() {
    let (_node, base) = dev_node().await;
    let refused = open(&base, &format!("/agent?access_token={}", join_token("r", "x"))).await;
    assert_eq!(refused.unwrap_err().0, 401);
    let mut worker = TestWorker::register(&base, "x", JobType::JtPublisher).await;
    worker.send(FromWorker::Ping(WorkerPing { timestamp: 7 })).await;
    let ToWorker::Pong(pong) = worker.next().await else { panic!() };
    assert_eq!(pong.last_timestamp, 7);
}

#[tokio::test]
async fn a_lost_worker_is_replaced() {
    let (_node, base) = dev_node().await;
    let mut first = TestWorker::register(&base, "", JobType::JtRoom).await;
    let (_anna, _) = join(&base, "lossy", "anna").await;
    let (job, _) = first.answer(true).await;
    let mut second = TestWorker::register(&base, "", JobType::JtRoom).await;
    drop(first);
    let (again, _) = second.answer(true).await;
    assert_eq!(again.dispatch_id, job.dispatch_id);
    assert_ne!(again.id, job.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_rooms_of_other_nodes() {
    let (files, redis) = (Files::new(), Redis::start().await);
    let nodes = [
        ClusterNode::start(files.settings("a", "u1", redis.port)).await,
        ClusterNode::start(files.settings("b", "u1", redis.port)).await,
    ];
    for node in &nodes {
        eventually("the nodes know each other", || async {
            node.running.node.placement.nodes().len() == 2
        })
        .await;
    }
    let mut worker = TestWorker::register(&nodes[0].base, "far", JobType::JtRoom).await;
    // A room on each node: one of them is not the worker's.
    for number in 0..4 {
        let room = format!("far {number}");
        let token = admin_token(&room);
        let wish = json!({"room": room, "agent_name": "far"});
        let created = dispatch(&nodes[1].base, "CreateDispatch", &token, wish).await;
        assert_eq!(created.status, 200, "{created:?}");
        let (job, _) = worker.answer(true).await;
        let update = UpdateJobStatus {
            job_id: job.id,
            status: JobStatus::JsSuccess.into(),
            error: String::new(),
        };
        worker.send(FromWorker::UpdateJob(update)).await;
        eventually("the room knows that the job is done", || async {
            let list = dispatch(&nodes[1].base, "ListDispatch", &token, json!({"room": room}));
            let jobs = list.await.json()["agent_dispatches"][0]["state"]["jobs"].clone();
            jobs[0]["state"]["status"] == "JS_SUCCESS"
        })
        .await;
    }
}
