use kube::api::{Patch, PatchParams};

use super::*;

#[tokio::test]
async fn nobody_overwrites_what_they_have_not_seen() {
    let server = ApiServer::start().await;
    let maps = api::<ConfigMap>(&server);
    let post = PostParams::default();
    let first = maps.create(&post, &config_map("a", "1")).await.expect("created");
    let (code, reason, _) = refused(maps.create(&post, &config_map("a", "1")).await);
    assert_eq!((code, reason.as_str()), (409, "AlreadyExists"));
    let mut changed = first.clone();
    changed.data = Some([("text".to_owned(), "2".to_owned())].into());
    let second = maps.replace("a", &post, &changed).await.expect("replaced");
    assert!(second.resource_version() > first.resource_version());
    let (code, reason, message) = refused(maps.replace("a", &post, &changed).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("the object has been modified"), "{message}");
    let stale = json!({ "metadata": { "resourceVersion": first.resource_version() } });
    let patch = maps.patch("a", &PatchParams::default(), &Patch::Merge(&stale)).await;
    assert_eq!(refused(patch).0, 409);
    // Without a version the last one wins; a change that changes nothing is none.
    let third = maps.replace("a", &post, &config_map("a", "3")).await.expect("replaced");
    let again = maps.replace("a", &post, &config_map("a", "3")).await.expect("replaced");
    assert_eq!(third.resource_version(), again.resource_version());
    let stranger = json!({ "metadata": { "uid": "other" } });
    let patch = maps.patch("a", &PatchParams::default(), &Patch::Merge(&stranger)).await;
    assert_eq!(refused(patch).0, 409);
    assert_eq!(refused(maps.replace("b", &post, &config_map("b", "")).await).0, 404);
}
