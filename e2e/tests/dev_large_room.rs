//! Do sixteen browsers in one room see each other, and go on when some leave?

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::clients::person::Colour;
use e2e::clients::{Browser, Network, Person, RoomClient, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;
use serde_json::json;

const PORT: u16 = 18_150;
/// Who meets. Each decodes all others: 240 pictures at once.
const PARTICIPANTS: u8 = 16;
/// How many leave in the end.
const LEAVERS: usize = 4;
/// So many decoders share two cores with the server and everything else.
const TIMEOUT: Duration = Duration::from_secs(90);

#[test]
fn sixteen_browsers_see_each_other() -> Result<()> {
    DevServer::run(PORT, |server| {
        let browser = Browser::start(&Network::here())?;
        // Tabs open faster while nothing is decoded.
        let tabs = (0..PARTICIPANTS).map(|number| browser.open(painter(number)));
        let mut tabs = tabs.collect::<Result<Vec<_>>>()?;
        for (number, tab) in tabs.iter().enumerate() {
            let options = json!({
                "url": server.access.url,
                "token": server.access.token(&tab.person().identity, "large")?,
                "colour": tab.person().colour.to_string(),
                "picture": { "width": 160, "height": 90, "framesPerSecond": 5 },
                // Every other one on two connections.
                "singlePeerConnection": number % 2 == 0,
            });
            tab.call("join", options)?;
        }
        everybody_is_seen(&tabs)?;
        for leaver in tabs.drain(..LEAVERS) {
            leaver.leave()?;
        }
        everybody_is_seen(&tabs)
    })
}

/// Somebody with a colour that differs from the others' by more than codecs change.
fn painter(number: u8) -> Person {
    let level = |digit: u8| 32 + 96 * (digit % 3);
    let colour = Colour(level(number), level(number / 3), level(number / 9));
    Person { identity: format!("painter {number}"), colour, tone_hz: 0.0 }
}

/// Waits until each sees exactly the others, and decodes new pictures of every one.
fn everybody_is_seen(tabs: &[Tab]) -> Result<()> {
    let starts = tabs.iter().map(|tab| tab.report()).collect::<Result<Vec<_>>>()?;
    for (watcher, start) in tabs.iter().zip(&starts) {
        let name = &watcher.person().identity;
        eventually(&format!("{name} sees everybody"), TIMEOUT, || {
            let report = watcher.report()?;
            let others = report.participants.len();
            ensure!(others + 1 == tabs.len(), "{others} others");
            for tab in tabs.iter().filter(|tab| tab.person().identity != *name) {
                tab.person().pictured_in(&report, start)?;
            }
            Ok(())
        })?;
        ensure!(watcher.report()?.errors.is_empty(), "{:?}", watcher.report()?.errors);
    }
    Ok(())
}
