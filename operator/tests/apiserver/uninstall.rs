//! When the chart may take the operator away.

use operator::uninstall::{GuardError, guard};

use super::*;

#[tokio::test]
async fn the_operator_stays_as_long_as_there_are_live_clusters() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client.clone(), "guard").await;
    guard(client.clone(), Some("no-such-namespace")).await.unwrap();
    let error = guard(client.clone(), Some(&scene.namespace)).await.unwrap_err();
    let GuardError::InUse(named) = &error else { panic!("{error}") };
    assert_eq!(*named, format!("{}/c", scene.namespace));
    assert!(error.to_string().contains("--no-hooks"), "{error}");
    // Others may be there, too, and more than are named.
    let error = guard(client, None).await.unwrap_err();
    assert!(matches!(error, GuardError::InUse(_)), "{error}");
    scene.remove().await;
}
