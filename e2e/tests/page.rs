//! Does the web page lead two people into the same call?

use std::path::PathBuf;

use anyhow::{Result, ensure};
use e2e::clients::person::Colour;
use e2e::clients::{Browser, MEDIA_TIMEOUT, Network, Person, Tab};
use e2e::dev_server::DevServer;
use e2e::wait::eventually;

const PORT: u16 = 17_881;
const VIEWER_PORT: u16 = 17_882;
/// Where to put pictures of the page, for a person to look at.
const PICTURES_VARIABLE: &str = "LIVECLUSTER_PICTURES";

/// The videos of the page that show something.
const PLAYING: &str = "[...document.querySelectorAll('#tiles video')] \
    .filter((video) => video.videoWidth > 0 && video.currentTime > 0.5).length";

#[test]
fn two_people_enter_a_room_by_the_page() -> Result<()> {
    DevServer::run(PORT, two_people_meet)
}

fn two_people_meet(server: &DevServer) -> Result<()> {
    let browser = Browser::start(&Network::here())?;
    let page = format!("{}/?room=meeting", server.access.url);
    let anna = browser.open_at(visitor("Anna Lund"), &page)?;
    let bob = browser.open_at(visitor("Bob"), &page)?;

    ensure!(anna.evaluate("document.querySelector('[name=room]').value")? == "meeting");
    picture(&anna, "entrance")?;
    enter(&anna, "Anna Lund")?;
    enter(&bob, "Bob")?;
    for tab in [&anna, &bob] {
        eventually("both videos play", MEDIA_TIMEOUT, || {
            let playing = tab.evaluate(PLAYING)?;
            ensure!(playing == 2, "{playing} videos play; {}", text(tab, "body")?);
            Ok(())
        })?;
        ensure!(text(tab, "#room-state")? == "2 participants");
        ensure!(text(tab, "#tiles")?.contains("Anna Lund"), "{}", text(tab, "#tiles")?);
    }

    anna.click("#toggle-chat")?;
    bob.click("#toggle-chat")?;
    bob.fill("#chat-text", "Can you hear me?")?;
    bob.click("#chat-form button")?;
    eventually("the message arrives", MEDIA_TIMEOUT, || {
        let log = text(&anna, "#chat-log")?;
        ensure!(log.contains("Bob") && log.contains("Can you hear me?"), "the log is {log:?}");
        Ok(())
    })?;
    picture(&anna, "call")?;

    bob.click("#camera")?;
    eventually("bob's video is gone", MEDIA_TIMEOUT, || {
        ensure!(anna.evaluate(PLAYING)? == 1, "it still plays");
        Ok(())
    })?;

    bob.click("#leave")?;
    eventually("anna is alone", MEDIA_TIMEOUT, || {
        let state = text(&anna, "#room-state")?;
        ensure!(state == "1 participant", "there are {state}");
        Ok(())
    })?;
    ensure!(bob.evaluate("document.querySelector('#entrance').hidden")? == false);
    Ok(())
}

#[test]
fn without_devices_one_watches_and_is_told_why() -> Result<()> {
    DevServer::run(VIEWER_PORT, a_viewer_joins)
}

fn a_viewer_joins(server: &DevServer) -> Result<()> {
    let browser = Browser::start(&Network::here())?;
    let page = format!("{}/#lounge", server.access.url);
    let bob = browser.open_at(visitor("Bob"), &page)?;
    enter(&bob, "Bob")?;
    let viewer = browser.open_at(visitor("Viewer"), &page)?;
    viewer.evaluate(
        "navigator.mediaDevices.getUserMedia = () => \
         Promise.reject(new DOMException('Requested device not found', 'NotFoundError'))",
    )?;
    enter(&viewer, "Viewer")?;
    eventually("the viewer is told what is missing", MEDIA_TIMEOUT, || {
        let notices = text(&viewer, "#notices")?;
        for device in ["microphone", "camera"] {
            ensure!(notices.contains(&format!("No {device} was found")), "told: {notices}");
        }
        Ok(())
    })?;
    eventually("the viewer sees bob", MEDIA_TIMEOUT, || {
        let playing = viewer.evaluate(PLAYING)?;
        ensure!(playing == 1, "{playing} videos play");
        Ok(())
    })?;
    ensure!(viewer.evaluate("document.querySelector('#camera').ariaPressed")? == "false");
    Ok(())
}

/// The page gives an identity of its own; this one only names the tab.
fn visitor(name: &str) -> Person {
    Person { identity: name.to_owned(), colour: Colour(0, 0, 0), tone_hz: 0.0 }
}

fn enter(tab: &Tab, name: &str) -> Result<()> {
    tab.fill("[name=name]", name)?;
    tab.click("#entry-form button")
}

fn text(tab: &Tab, selector: &str) -> Result<String> {
    let text = tab.evaluate(&format!("document.querySelector('{selector}').innerText"))?;
    Ok(text.as_str().unwrap_or_default().trim().to_owned())
}

fn picture(tab: &Tab, name: &str) -> Result<()> {
    match std::env::var_os(PICTURES_VARIABLE) {
        Some(directory) => tab.screenshot(&PathBuf::from(directory).join(format!("{name}.png"))),
        None => Ok(()),
    }
}
