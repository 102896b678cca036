//! Do media nodes follow the rooms, by Kubernetes's autoscaler and without it, and does nobody lose
//! a call over it?

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::faults::{self, Effect, Outcome};
use e2e::live_cluster::{Addition, LiveCluster, NAME, READY_TIMEOUT, condition_reason};
use e2e::livekit::Access;
use e2e::process::Run as _;
use e2e::scaling::Series;
use e2e::stage::{say, stage};
use e2e::wait::eventually;
use serde_json::{Value, json};

/// A room that begins on the only node.
const LOBBY: &str = "lobby";
/// A room that begins on another when there are three, as the others are fuller.
const STUDIO: &str = "studio";
/// Rooms without people, which ask for two more nodes.
const LOAD: [&str; 4] = ["load-1", "load-2", "load-3", "load-4"];
/// Time in which nodes come or go: the autoscaler looks every 15 s, and pods start on a machine that
/// has calls to carry.
const SCALE_TIMEOUT: Duration = Duration::from_secs(180);
/// Registration of another program that serves the same group, as prometheus-adapter does.
const FOREIGN: &str = "v1beta1.custom.metrics.k8s.io";
const OURS: &str = "v1beta2.custom.metrics.k8s.io";

#[test]
fn nodes_follow_rooms_and_nobody_loses_a_call() -> Result<()> {
    let spec = json!({
        "autoscaling": {
            "mode": "HPA", "maxNodes": 3, "roomsPerNode": 2, "loadPercent": 0,
            "behavior": {"scaleIn": {"window": "10s", "nodes": 2, "period": "10s"}},
        },
        "drain": { "timeout": "5s", "roomsPerSecond": 5 },
        "rooms": { "emptyTimeoutSeconds": 3600 },
    });
    let addition = Addition { spec, ..Addition::default() };
    LiveCluster::run_with("autoscaling", 1, 29_000, &addition, nodes_follow_rooms)
}

fn nodes_follow_rooms(live_cluster: &LiveCluster) -> Result<()> {
    let access = live_cluster.access()?;
    let network = live_cluster.network()?;
    let http = live_cluster.http()?;
    let browser = Browser::start(&network)?;
    let (anna, bob) = (browser.open(Person::anna())?, browser.open(Person::bob())?);
    let clara = PythonClient::start(&network, Person::clara())?;
    let dora = PythonClient::start(&network, Person::dora())?;
    let case = Case { live_cluster, http, access: access.clone() };
    case.metric_becomes("rooms", |value| value == "0")?;
    let enter = |people: &[&dyn RoomClient], room: &str| {
        for client in people {
            client.join(&access.url, &access.token(&client.person().identity, room)?)?;
        }
        await_everybody_meets(people, MEDIA_TIMEOUT)?;
        Ok::<_, anyhow::Error>(people[0].report()?.room_sid)
    };
    let in_lobby: [&dyn RoomClient; 2] = [&anna, &bob];
    let lobby = enter(&in_lobby, LOBBY)?;
    case.metric_becomes("rooms", |value| value == "1")?;
    case.metric_becomes("subscribers", |value| value == "2")?;
    // Thousandths of a node.
    case.metric_becomes("load", |value| value.ends_with('m') && value != "0m")?;
    let mut series = Series::new(live_cluster);
    stage("three nodes for five rooms", || {
        case.load(true)?;
        series.until("three nodes", SCALE_TIMEOUT, &in_lobby, |sample| sample.ready == 3)
    })?;

    let in_studio: [&dyn RoomClient; 2] = [&clara, &dora];
    let studio = enter(&in_studio, STUDIO)?;
    let everybody: [&dyn RoomClient; 4] = [&anna, &bob, &clara, &dora];
    for client in everybody {
        client.gaps()?;
    }
    stage("one node for two rooms", || {
        case.load(false)?;
        series.until("one node", SCALE_TIMEOUT, &everybody, |sample| {
            sample.desired == 1 && sample.pods == 1
        })
    })?;
    series.write("autoscaling")?;
    await_everybody_meets(&in_lobby, MEDIA_TIMEOUT)?;
    await_everybody_meets(&in_studio, MEDIA_TIMEOUT)?;
    let of_lobby = in_lobby.iter().map(|client| Effect::on(*client, &lobby));
    let of_studio = in_studio.iter().map(|client| Effect::on(*client, &studio));
    let effects: Vec<Effect> = of_lobby.chain(of_studio).collect::<Result<_>>()?;
    faults::record("scale_in", &effects, &Outcome::default())?;
    faults::check_move(&effects)?;
    ensure!(series.lost() == 0, "somebody was thrown out meanwhile");
    stage("another owner of the metrics API", || case.another_owner_comes_and_goes())
}

/// A LiveCluster, and how to make rooms there.
struct Case<'a> {
    live_cluster: &'a LiveCluster,
    http: HttpClient,
    access: Access,
}

impl Case<'_> {
    /// Makes the rooms without people, or ends them.
    fn load(&self, wanted: bool) -> Result<()> {
        for room in LOAD {
            let (method, body) = if wanted {
                ("CreateRoom", json!({ "name": room }))
            } else {
                ("DeleteRoom", json!({ "room": room }))
            };
            let url = self.access.room_service_url(method);
            let answer = self.http.post(&url, Some(&self.access.admin_token(room)?), &body)?;
            ensure!(answer.status == 200, "{method} {room}: {answer:?}");
        }
        Ok(())
    }

    /// Asks for a metric as Kubernetes's autoscaler does, until it is as expected.
    fn metric_becomes(&self, metric: &str, expected: impl Fn(&str) -> bool) -> Result<()> {
        let namespace = self.live_cluster.namespace();
        let path = format!(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/liveclusters.livecluster.dev/{NAME}/{metric}",
            namespace.name()
        );
        eventually(&format!("the metrics API tells {metric}"), READY_TIMEOUT, || {
            let text = namespace.kubectl().args(["get", "--raw", &path]).read()?;
            let list: Value = serde_json::from_str(&text)?;
            let value = list["items"][0]["value"].as_str();
            ensure!(value.is_some_and(&expected), "it answers {list}");
            Ok(())
        })
    }

    /// Waits until the condition `MetricsAPIAvailable` has this reason, and Kubernetes's autoscaler
    /// and our registration are there or not.
    fn scaler_becomes(&self, reason: &str, scaler: &str, registered: bool) -> Result<()> {
        let namespace = self.live_cluster.namespace();
        let found = |kind: &str, name: &str| {
            let arguments = ["get", kind, name, "--ignore-not-found", "-o", "name"];
            Ok::<_, anyhow::Error>(!namespace.kubectl().args(arguments).read()?.trim().is_empty())
        };
        eventually(&format!("the metrics API is {reason}"), READY_TIMEOUT, || {
            let object = self.live_cluster.object()?;
            let told = condition_reason(&object, "MetricsAPIAvailable");
            ensure!(told.as_deref() == Some(reason), "it is {told:?}");
            ensure!(object["status"]["autoscaling"]["scaler"] == scaler, "{}", object["status"]);
            ensure!(found("apiservices", OURS)? == registered, "ours is registered or not");
            let autoscaler = found("horizontalpodautoscalers", &format!("{NAME}-nodes"))?;
            ensure!(autoscaler == registered, "there is an autoscaler of Kubernetes or not");
            Ok(())
        })
    }

    /// Theirs stays, ours goes, and nodes follow the rooms all the same.
    fn another_owner_comes_and_goes(&self) -> Result<()> {
        let foreign = ForeignOwner::register(self.live_cluster)?;
        self.scaler_becomes("OwnedByOther", "BuiltIn", false)?;
        self.load(true)?;
        eventually("the operator adds nodes", SCALE_TIMEOUT, || {
            let object = self.live_cluster.object()?;
            ensure!(object["spec"]["nodes"] == 3, "there are {}", object["spec"]["nodes"]);
            Ok(())
        })?;
        ensure!(foreign.is_there()?, "nobody may take their registration away");
        drop(foreign);
        self.scaler_becomes("Registered", "HPA", true)
    }
}

/// A registration that leads nowhere; dropping it takes it away.
struct ForeignOwner<'a> {
    live_cluster: &'a LiveCluster,
}

impl<'a> ForeignOwner<'a> {
    fn register(live_cluster: &'a LiveCluster) -> Result<Self> {
        let owner = Self { live_cluster };
        live_cluster.namespace().apply(&json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": { "name": FOREIGN },
            "spec": {
                "group": "custom.metrics.k8s.io",
                "version": "v1beta1",
                "service": { "namespace": "monitoring", "name": "prometheus-adapter" },
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": true,
            },
        }))?;
        Ok(owner)
    }

    fn is_there(&self) -> Result<bool> {
        let arguments = ["get", "apiservice", FOREIGN, "--ignore-not-found", "-o", "name"];
        let found = self.live_cluster.namespace().kubectl().args(arguments).read()?;
        Ok(!found.trim().is_empty())
    }
}

impl Drop for ForeignOwner<'_> {
    fn drop(&mut self) {
        let arguments = ["delete", "apiservice", FOREIGN, "--ignore-not-found"];
        if let Err(error) = self.live_cluster.namespace().kubectl().args(arguments).run() {
            say(&format!("the registration {FOREIGN} stays: {error:#}"));
        }
    }
}
