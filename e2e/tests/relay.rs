//! Does a call go on by the TURN servers of the cluster when nothing else leads in, whatever
//! happens to certificates, keys and pods?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contract::sfu_config::MediaConfig;
use crds::names;
use e2e::certificate::Certificate;
use e2e::clients::{
    Browser, HttpClient, MEDIA_TIMEOUT, Network, Person, RoomClient, Tab, await_everybody_meets,
    await_media,
};
use e2e::faults::{self, Effect, Outcome};
use e2e::firewall::Firewall;
use e2e::live_cluster::{Addition, LiveCluster, NAME, READY_TIMEOUT};
use e2e::livekit::Access;
use e2e::process::Run as _;
use e2e::wait::eventually;
use serde_json::json;

const FIRST_PORT: u16 = 26_000;
/// Slots that the nodes of this test may get while they are replaced.
const SLOTS: u16 = 6;
/// Name in the certificate of TURN.
const TURN_DOMAIN: &str = "turn.relay.example.com";
/// Port of TURN by TLS on every Kubernetes node.
const TLS_PORT: u16 = 31_443;
const TLS_SECRET: &str = "turn-tls";
/// Time in which a changed Secret must be in force: the kubelet looks every 60 to 90 s, then our
/// programs do.
const SECRET_TIMEOUT: Duration = Duration::from_secs(180);
/// Time in which every client must be back with media on another node.
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections that must all show the renewed certificate: they go to either node by chance.
const LOOKS: usize = 12;
/// An API key for the rotation, and its secret.
const NEW_KEY: (&str, &str) = ("APIrotated", "a-secret-of-the-second-day-0123456789abcdef");

#[test]
fn calls_go_by_turn_over_udp_tcp_and_tls_while_certificates_keys_and_pods_change() -> Result<()> {
    let (first, second) = (Certificate::new(TURN_DOMAIN)?, Certificate::new(TURN_DOMAIN)?);
    let addition = Addition {
        spec: json!({ "turn": { "tls": {
            "domain": TURN_DOMAIN,
            "secretName": TLS_SECRET,
            "port": TLS_PORT,
            "service": { "type": "NodePort" },
        } } }),
        objects: vec![first.secret(TLS_SECRET)],
    };
    LiveCluster::run_with("relay", 2, FIRST_PORT, &addition, |live_cluster| {
        let turn = live_cluster.node_address()?;
        let outside = live_cluster.network()?.with_host(TURN_DOMAIN, turn);
        let firewall = Firewall::start(&outside)?;
        let media = MediaConfig { first_port: FIRST_PORT, ..MediaConfig::default() };
        firewall.block_media(&media, SLOTS)?;
        let keys = [first.key_hash(), second.key_hash()];
        let browser = Browser::start_trusting(firewall.network(), &keys)?;
        let call = Call::start(live_cluster, &browser)?;
        call.goes_on("a renewed certificate", || {
            certificate_is_renewed(live_cluster, firewall.network(), &second)
        })?;
        home_is_deleted(live_cluster, &call)?;
        // Last, since tokens by the old key are good for nothing afterwards.
        call.goes_on("rotated keys", || keys_are_rotated(live_cluster, &browser))?;
        ensure!(firewall.dropped()? > 0, "dora's browser did not try the media ports");
        Ok(())
    })
}

/// Three people, each by another transport to the TURN server.
struct Call {
    anna: Tab,
    bob: Tab,
    clara: Tab,
}

impl Call {
    fn start(live_cluster: &LiveCluster, browser: &Browser) -> Result<Self> {
        let access = live_cluster.access()?;
        let call = Self {
            anna: browser.open(Person::anna())?,
            bob: browser.open(Person::bob())?,
            clara: browser.open(Person::clara())?,
        };
        for (tab, transport) in call.tabs() {
            let token = access.token(&tab.person().identity, "lobby")?;
            tab.join_with(&access.url, &token, json!({ "relayBy": transport }))?;
        }
        await_everybody_meets(&call.clients(), MEDIA_TIMEOUT)?;
        call.assert_relayed()?;
        Ok(call)
    }

    /// The people with the transport of their relays.
    fn tabs(&self) -> [(&Tab, &'static str); 3] {
        [(&self.anna, "udp"), (&self.bob, "tcp"), (&self.clara, "tls")]
    }

    fn clients(&self) -> [&dyn RoomClient; 3] {
        [&self.anna, &self.bob, &self.clara]
    }

    fn assert_relayed(&self) -> Result<()> {
        for (tab, transport) in self.tabs() {
            assert_relayed(tab, transport)?;
        }
        Ok(())
    }

    /// New pictures and sound come to everybody after something happened, and nobody had to
    /// connect again.
    fn goes_on(&self, what: &str, happens: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.reconnections()?;
        happens().context(what.to_owned())?;
        await_everybody_meets(&self.clients(), MEDIA_TIMEOUT).context(what.to_owned())?;
        let after = self.reconnections()?;
        ensure!(before == after, "{what}: {after:?} reconnections instead of {before:?}");
        self.assert_relayed()
    }

    fn reconnections(&self) -> Result<Vec<usize>> {
        let count = |client: &dyn RoomClient| {
            let report = client.report()?;
            Ok(report.count("reconnecting") + report.count("signalReconnecting"))
        };
        self.clients().into_iter().map(count).collect()
    }
}

fn assert_relayed(tab: &Tab, transport: &str) -> Result<()> {
    let (name, paths) = (&tab.person().identity, tab.paths()?);
    let expected = format!("relay {transport}");
    let is_relayed = !paths.is_empty() && paths.iter().all(|path| *path == expected);
    ensure!(is_relayed, "{name} goes by {paths:?} instead of {expected}");
    Ok(())
}

fn certificate_is_renewed(
    live_cluster: &LiveCluster,
    network: &Network,
    second: &Certificate,
) -> Result<()> {
    let http = HttpClient::start(network)?;
    let before = http.certificate(TURN_DOMAIN, TLS_PORT)?;
    ensure!(before != second.fingerprint(), "the second certificate is there already");
    live_cluster.namespace().apply(&second.secret(TLS_SECRET))?;
    eventually("the renewed certificate is shown", SECRET_TIMEOUT, || {
        live_cluster.refresh_files()?;
        for _ in 0..LOOKS {
            let shown = http.certificate(TURN_DOMAIN, TLS_PORT)?;
            ensure!(shown == second.fingerprint(), "{shown} is shown");
        }
        Ok(())
    })
}

/// Puts another API key in the place of the generated one; somebody joins with it who may take any
/// way. The firewall leaves her TURN, by whichever transport her browser has first.
fn keys_are_rotated(live_cluster: &LiveCluster, browser: &Browser) -> Result<()> {
    let (key, secret) = NEW_KEY;
    let patch = json!({ "stringData": { "keys.yaml": format!("{key}: {secret}\n") } });
    let mut kubectl = live_cluster.namespace().kubectl();
    kubectl.args(["patch", "secret", &names::keys_secret(NAME), "--patch", &patch.to_string()]);
    kubectl.run()?;
    let access = Access::new(&live_cluster.access()?.url, key, secret);
    let dora = browser.open(Person::dora())?;
    eventually("somebody with the new key is in the call", SECRET_TIMEOUT, || {
        live_cluster.refresh_files()?;
        let token = access.token("dora", "lobby")?;
        dora.join(&access.url, &token)
    })?;
    let others = [Person::anna(), Person::bob(), Person::clara()];
    let others: Vec<&Person> = others.iter().collect();
    await_media(&dora, &others, MEDIA_TIMEOUT)?;
    let paths = dora.paths()?;
    let is_relayed = !paths.is_empty() && paths.iter().all(|path| path.starts_with("relay "));
    ensure!(is_relayed, "dora goes by {paths:?}");
    dora.leave()
}

fn home_is_deleted(live_cluster: &LiveCluster, call: &Call) -> Result<()> {
    let home = live_cluster.home_of("lobby")?;
    let room = call.anna.report()?.room_sid;
    for client in call.clients() {
        client.gaps()?;
    }
    live_cluster.namespace().kubectl().args(["delete", "pod", &home.name, "--wait=false"]).run()?;
    eventually("the clients notice", RETURN_TIMEOUT, || {
        for client in call.clients() {
            let report = client.report()?;
            ensure!(report.count("reconnected") > 0, "{} saw {:?}", report.identity, report.events);
        }
        Ok(())
    })?;
    await_everybody_meets(&call.clients(), RETURN_TIMEOUT)?;
    call.assert_relayed()?;
    let effects: Result<Vec<Effect>> =
        call.clients().into_iter().map(|client| Effect::on(client, &room)).collect();
    let effects = effects?;
    // The time is a result; the bound is that of the waits above.
    faults::record("relayed_pod_restart", &effects, &Outcome::default())?;
    ensure!(effects.iter().all(|effect| !effect.is_lost), "somebody was thrown out: {effects:?}");
    let uid = live_cluster.home_of("lobby")?.uid;
    ensure!(uid != home.uid, "the room is still at home on the deleted pod");
    live_cluster.await_ready(2)?;
    eventually("every TURN server runs", READY_TIMEOUT, || {
        let status = &live_cluster.object()?["status"];
        let conditions = status["conditions"].as_array().context("no conditions")?;
        let turn = conditions.iter().find(|condition| condition["type"] == "TurnReady");
        let turn = turn.context("no condition TurnReady")?;
        ensure!(turn["status"] == "True", "{turn}");
        Ok(())
    })
}
