//! Does `sfu call` find a call that works, and say what is wrong with one that does not?

use std::net::{IpAddr, Ipv4Addr};

use sfu::call::{self, CallArgs, CallError};
use sfu::program::Running;
use sfu::settings::Settings;
use tempfile::TempDir;

use crate::support::dev_node;

/// Seconds for a call on a busy machine.
const LONG: u64 = 60;
/// The same where none can work.
const SHORT: u64 = 4;

async fn call(url: &str, keys: &str, timeout: u64) -> Result<call::CallReport, CallError> {
    let directory = TempDir::new().unwrap();
    let keys_file = directory.path().join("keys.yaml");
    std::fs::write(&keys_file, keys).unwrap();
    let url = url.parse().unwrap();
    call::run(&CallArgs { url, keys_file, room: "call".to_owned(), timeout }).await
}

fn causes(error: &CallError) -> String {
    let first: &dyn std::error::Error = error;
    let chain = std::iter::successors(Some(first), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_works_is_timed() {
    let (running, url) = dev_node().await;
    let report = call(&url, "devkey: secret\n", LONG).await.unwrap();
    assert!(report.connected <= report.complete);
    // A path in the address is where the LiveCluster is.
    let error = call(&format!("{url}/elsewhere"), "devkey: secret\n", 1).await.unwrap_err();
    assert!(causes(&error).contains("404"), "{}", causes(&error));
    drop(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_an_empty_file_and_silence_are_told_apart() {
    let (running, url) = dev_node().await;
    for (url, keys, expected) in [
        (url.as_str(), "devkey: other\n", "refused"),
        (url.as_str(), "{}\n", "holds no API key"),
        ("http://127.0.0.1:9", "devkey: secret\n", "cannot reach 127.0.0.1:9"),
        ("ftp://127.0.0.1", "devkey: secret\n", "no address of a LiveCluster"),
    ] {
        let error = call(url, keys, 1).await.unwrap_err();
        assert!(causes(&error).contains(expected), "{expected}: {}", causes(&error));
    }
    drop(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn media_that_does_not_arrive_is_no_call() {
    let mut settings = Settings::dev(None, 0);
    // For documentation (RFC 5737): nobody is there.
    settings.host_addresses = vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))];
    let running = Running::start(settings).await.unwrap();
    let url = format!("http://{}", running.public);
    let error = call(&url, "devkey: secret\n", SHORT).await.unwrap_err();
    assert!(causes(&error).contains("reached no media node by UDP"), "{}", causes(&error));
}
