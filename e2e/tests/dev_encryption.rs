//! Does media that clients encrypt end to end pass, and stay closed to who has no key?

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::{
    MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::json;

/// The native stack tries each picture that it cannot decrypt with many keys: on a busy machine it
/// needs a while until it has caught up.
const KEY_TIMEOUT: Duration = Duration::from_secs(120);
const PORT: u16 = 17_940;

#[test]
fn only_who_has_the_key_sees_and_hears() -> Result<()> {
    DevServer::run(PORT, |server| {
        let network = Network::here();
        let anna = PythonClient::start(&network, Person::anna())?;
        let bob = PythonClient::start(&network, Person::bob())?;
        let clara = PythonClient::start(&network, Person::clara())?;
        for (client, key) in [(&anna, "shared"), (&bob, "shared"), (&clara, "another")] {
            let token = server.access.token(&client.person().identity, "secret")?;
            client.join_with(&server.access.url, &token, json!({ "key": key }))?;
        }
        await_everybody_meets(&[&anna, &bob], KEY_TIMEOUT)?;
        // Clara gets anna's packets and no picture of them.
        let start = clara.report()?;
        eventually("packets reach clara", MEDIA_TIMEOUT, || {
            let report = clara.report()?;
            let track = report.participant("anna").and_then(|anna| anna.track("camera"));
            let packets = track.map_or(0, |track| track.packets_received);
            ensure!(packets > 100, "{packets} packets");
            Ok(())
        })?;
        let seen = Person::anna().seen_in(&clara.report()?, &start);
        ensure!(seen.is_err(), "clara sees anna without the key");
        Ok(())
    })
}
