//! Do the SDKs notice a server that hangs as soon as its ping interval and timeout promise?

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{
    Browser, MEDIA_TIMEOUT, Network, Person, PythonClient, RoomClient, await_everybody_meets,
};
use e2e::dev_server::DevServer;
use e2e::stage::say;
use e2e::wait::eventually;

const PORT: u16 = 18_140;
/// `ping_interval` of the join response.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// `ping_timeout` of the join response.
const PING_TIMEOUT: Duration = Duration::from_secs(6);
/// For two clients that share a busy machine, far below LiveKit's timeout of 15 s.
const MARGIN: Duration = Duration::from_secs(3);
/// What clients call it when they look for their server.
const NOTICED: [&str; 2] = ["signalReconnecting", "reconnecting"];

#[test]
fn a_server_that_hangs_is_noticed_within_the_ping_timeout() -> Result<()> {
    DevServer::run(PORT, |server| {
        let browser = Browser::start(&Network::here())?;
        let anna = browser.open(Person::anna())?;
        let bob = PythonClient::start(&Network::here(), Person::bob())?;
        let clients: [&dyn RoomClient; 2] = [&anna, &bob];
        for client in clients {
            let token = server.access.token(&client.person().identity, "ping")?;
            client.join(&server.access.url, &token)?;
        }
        await_everybody_meets(&clients, MEDIA_TIMEOUT)?;
        for client in clients {
            let report = client.report()?;
            let early = NOTICED.iter().any(|event| report.count(event) > 0);
            ensure!(!early, "{} looks for a server that answers", client.person().identity);
        }
        server.freeze()?;
        let frozen = Instant::now();
        for client in clients {
            let name = &client.person().identity;
            let left = (PING_INTERVAL + PING_TIMEOUT + MARGIN).saturating_sub(frozen.elapsed());
            eventually(&format!("{name} notices"), left, || {
                let report = client.report()?;
                let noticed = NOTICED.iter().any(|event| report.count(event) > 0);
                ensure!(noticed, "{}: {:?}", report.state, report.events);
                Ok(())
            })?;
            say(&format!("    {name} noticed within {:.1} s", frozen.elapsed().as_secs_f64()));
        }
        let log = anna.log();
        let why = log.iter().find(|line| line.contains("ping timeout"));
        why.with_context(|| format!("it was not for the pings:\n{}", log.join("\n")))?;
        Ok(())
    })
}
