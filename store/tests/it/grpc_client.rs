//! The published Rust client, unmodified, against our ports.

use std::sync::mpsc;

use engine::rt::chan;
use store::wire::grpc::Options;
use tikv_client::{Config, RawClient};

use crate::grpc::{on_core, serve_pd, serve_tikv};

/// What every raw client does, against any node whose PD port is given. Uses keys that begin with `conformance/`.
pub(crate) async fn raw_client_is_served(pd: String, config: Config) {
    let client = RawClient::new_with_config(vec![pd], config).await.unwrap();
    let key = |name: &str| format!("conformance/{name}").into_bytes();
    client.delete_range(key("")..key("~")).await.unwrap();

    assert_eq!(client.get(key("a")).await.unwrap(), None);
    client.put(key("a"), "1".to_owned()).await.unwrap();
    assert_eq!(client.get(key("a")).await.unwrap(), Some(b"1".to_vec()));
    client.put(key("empty"), Vec::new()).await.unwrap();
    assert_eq!(client.get(key("empty")).await.unwrap(), Some(Vec::new()));

    let numbered = |n: usize| key(&format!("n{n:04}"));
    let pairs: Vec<_> = (0..500).map(|n| (numbered(n), n.to_string().into_bytes())).collect();
    client.batch_put(pairs.clone()).await.unwrap();
    let found = client.batch_get((490..510).map(numbered)).await.unwrap();
    assert_eq!(found.len(), 10, "only those that exist");
    let found = client.scan(numbered(10)..numbered(20), 100).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|pair| (Vec::from(pair.0), pair.1)).collect();
    assert_eq!(found, pairs[10..20]);
    let found = client.scan(numbered(0)..key("~"), 7).await.unwrap();
    assert_eq!(found.len(), 7);
    let keys = client.scan_keys(numbered(498)..key("~"), 100).await.unwrap();
    assert_eq!(keys.into_iter().map(Vec::from).collect::<Vec<_>>(), [numbered(498), numbered(499)]);

    client.delete(key("a")).await.unwrap();
    assert_eq!(client.get(key("a")).await.unwrap(), None);
    client.batch_delete((0..250).map(numbered)).await.unwrap();
    let left = client.scan_keys(numbered(0)..key("o"), 1000).await.unwrap();
    assert_eq!(left.len(), 250);
    client.delete_range(numbered(300)..numbered(400)).await.unwrap();
    let left = client.scan_keys(numbered(0)..key("o"), 1000).await.unwrap();
    assert_eq!(left.len(), 150);

    let atomic = client.with_atomic_for_cas();
    let swap = |previous: Option<&str>, new: &str| {
        let previous = previous.map(|text| text.as_bytes().to_vec());
        atomic.compare_and_swap(key("cas"), previous, new.as_bytes().to_vec())
    };
    assert_eq!(swap(None, "1").await.unwrap(), (None, true));
    assert_eq!(swap(Some("0"), "2").await.unwrap(), (Some(b"1".to_vec()), false));
    assert_eq!(swap(Some("1"), "2").await.unwrap(), (Some(b"1".to_vec()), true));

    let refused = atomic.put(vec![b'k'; 8193], Vec::new()).await.unwrap_err().to_string();
    assert!(refused.contains("over the bound of 8192"), "the client shows our sentence: {refused}");

    // Many calls at once on the one connection that this client has.
    let calls = (0..2000).map(|n| atomic.get(numbered(250 + n % 50)));
    for found in futures_util::future::join_all(calls).await {
        assert!(found.unwrap().is_some());
    }
    client.delete_range(key("")..key("~")).await.unwrap();
}

#[test]
fn the_raw_client_of_tikv_is_served() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    let (announce, addresses) = mpsc::channel();
    let (stop, stopped) = chan::queue::<()>(1);
    let server = std::thread::spawn(move || {
        on_core(move |rt| async move {
            let (tikv, _server, _) = serve_tikv(&rt, Options::default());
            let (pd, _placement) = serve_pd(&rt, &path, tikv).await;
            announce.send(pd).unwrap();
            stopped.recv().await;
        });
    });
    let pd = addresses.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(raw_client_is_served(pd.to_string(), Config::default()));
    drop(runtime);
    drop(stop);
    server.join().unwrap();
}
