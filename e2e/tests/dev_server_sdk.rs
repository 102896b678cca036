//! Do LiveKit's server SDK and agents framework, as PyPI has them, work with a node?

use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::clients::{Browser, MEDIA_TIMEOUT, Network, Person, RoomClient, python::server_program};
use e2e::dev_server::DevServer;
use e2e::process::Run as _;
use e2e::wait::eventually;
use serde::Deserialize;

const PORT: u16 = 17_930;

/// One line of `clients/server/api.py`.
#[derive(Debug, Deserialize)]
struct Outcome {
    method: String,
    allowed: String,
    denied: String,
}

#[test]
fn every_method_of_the_server_sdk_works_with_its_grant_only() -> Result<()> {
    DevServer::run(PORT, |server| {
        let output = server_program("api.py", &[&server.access.url])?.read()?;
        let outcomes: Vec<Outcome> =
            output.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(output)?;
        ensure!(outcomes.len() == 16, "{outcomes:?}");
        for Outcome { method, allowed, denied } in outcomes {
            ensure!(allowed == "ok", "{method}: {allowed}");
            ensure!(denied == "unauthenticated", "{method} without its grant: {denied}");
        }
        Ok(())
    })
}

/// Ends the worker with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_is_sent_to_the_room_and_greets() -> Result<()> {
    DevServer::run(PORT + 1, |server| {
        let url = server.access.url.replacen("http", "ws", 1);
        let worker = server_program("agent.py", &["start"])?
            .env("LIVEKIT_URL", url)
            .env("LIVEKIT_API_KEY", "devkey")
            .env("LIVEKIT_API_SECRET", "secret")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the worker")?;
        let _worker = Worker(worker);
        let browser = Browser::start(&Network::here())?;
        let anna = browser.open(Person::anna())?;
        // A room gets its agents when it begins: rooms follow until the worker is there.
        for attempt in 0..10 {
            let room = format!("agents {attempt}");
            anna.join(&server.access.url, &server.access.token("anna", &room)?)?;
            let greeted = eventually("the agent greets", MEDIA_TIMEOUT / 5, || {
                let messages = anna.report()?.messages;
                let greeting = messages.iter().find(|message| message.topic == "greeting");
                let text = greeting.map(|greeting| greeting.text.as_str());
                ensure!(text == Some(format!("welcome to {room}").as_str()), "{messages:?}");
                Ok(())
            });
            if greeted.is_ok() || attempt == 9 {
                return greeted;
            }
            anna.leave()?;
        }
        Ok(())
    })
}
