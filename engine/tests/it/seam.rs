//! The smallest use of the seam on a real core.

use engine::rt::{BLOCK_BYTES, ListenOptions, OpenMode};
use engine::rt::{CoreOptions, start_core};

#[test]
fn a_file_keeps_what_was_written() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("f");
    let read = start_core(&CoreOptions::default(), move |rt| async move {
        let file = rt.open(&path, OpenMode::Create).await.unwrap();
        let mut buf = rt.alloc(2 * BLOCK_BYTES);
        buf[BLOCK_BYTES..].fill(7);
        file.write_at(buf, 0).await.unwrap();
        file.sync().await.unwrap();
        let back = file.read_at(BLOCK_BYTES as u64, BLOCK_BYTES).await.unwrap().to_vec();
        file.close().await.unwrap();
        back
    })
    .unwrap();
    assert_eq!(read, vec![7u8; BLOCK_BYTES]);
}

/// Whatever the umask lets through: data is for the user whom the process runs as.
#[test]
fn what_is_created_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let below = dir.path().join("a");
    let made = below.clone();
    start_core(&CoreOptions::default(), move |rt| async move {
        rt.create_dir_all(&made.join("b")).await.unwrap();
        rt.open(&made.join("direct"), OpenMode::Create).await.unwrap().close().await.unwrap();
        rt.replace_small(&made.join("small"), b"x").await.unwrap();
        let _lock = rt.lock_dir(&made).await.unwrap();
    })
    .unwrap();
    let mode = |name: &str| std::fs::metadata(below.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["", "b"].map(mode), [0o700; 2]);
    assert_eq!(["direct", "small", "LOCK"].map(mode), [0o600; 3]);
}

#[test]
fn a_stream_carries_bytes_both_ways() {
    let echoed = start_core(&CoreOptions::default(), |rt| async move {
        let listener = rt.listen("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let server = rt.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buf = [0u8; 64];
            let n = stream.read(&mut buf).await.unwrap();
            stream.write_all(&buf[..n]).await.unwrap();
        });
        let mut client = rt.connect(addr).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut buf = [0u8; 64];
        let n = client.read(&mut buf).await.unwrap();
        server.await;
        buf[..n].to_vec()
    })
    .unwrap();
    assert_eq!(echoed, b"hello");
}
