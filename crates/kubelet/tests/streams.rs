//! Logs, exec, attach and port-forward, from a client through the API server to the kubelet.

mod harness;
#[allow(dead_code, reason = "the test is one side of the connection")]
#[path = "../src/server/spdy.rs"]
mod spdy;

use std::time::Duration;

use futures::AsyncReadExt as _;
use harness::{Node, ready};
use kube::api::{AttachParams, LogParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_read_and_followed_to_the_containers_end() {
    let node = Node::start().await;
    node.create("p", json!({"containers": [{"name": "a", "image": "app", "command": ["run", "one"]}]})).await;
    node.until("p", ready).await;
    let pods = node.pods();
    assert_eq!(pods.logs("p", &LogParams::default()).await.unwrap(), "run one\n");
    let tail = LogParams { tail_lines: Some(0), ..Default::default() };
    assert_eq!(pods.logs("p", &tail).await.unwrap(), "");

    let follow = LogParams { follow: true, ..Default::default() };
    let mut lines = Box::pin(pods.log_stream("p", &follow).await.unwrap());
    let mut first = [0; 8];
    lines.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"run one\n");
    let id = node.runtime.running("a").remove(0);
    let path = node.runtime.state.lock().containers[&id].1.log_path.clone();
    let mut log = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut log, b"2030-01-01T00:00:00Z stderr F two\n").unwrap();
    let mut second = [0; 4];
    lines.read_exact(&mut second).await.unwrap();
    assert_eq!(&second, b"two\n");
    node.runtime.end(&id, 0);
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), lines.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_comes_in_the_frames_of_a_websocket() {
    use futures::StreamExt as _;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    let node = Node::start().await;
    node.create("p", json!({"containers": [{"name": "a", "image": "app", "command": ["run", "one"]}]})).await;
    node.until("p", ready).await;
    for (protocol, expected) in [
        (Some("binary.k8s.io"), Message::Binary("run one\n".into())),
        (Some("base64.binary.k8s.io"), Message::Text("cnVuIG9uZQo=".into())),
        (None, Message::Binary("run one\n".into())),
    ] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        node.kubelet.as_ref().unwrap().server().accept(far);
        let mut request = "ws://node/containerLogs/default/p/a".into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (mut socket, answer) = tokio_tungstenite::client_async(request, near).await.unwrap();
        assert_eq!(answer.status(), 101);
        assert_eq!(socket.next().await.unwrap().unwrap(), expected, "{protocol:?}");
        let Message::Close(Some(end)) = socket.next().await.unwrap().unwrap() else { panic!("{protocol:?}") };
        assert_eq!(end.code, CloseCode::Normal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_carries_all_streams_and_the_exit_code() {
    let node = Node::start().await;
    node.create("p", json!({})).await;
    node.until("p", ready).await;
    let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut process = node.pods().exec("p", ["a", "b", "c"], &params).await.unwrap();
    let status = process.take_status().unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (process.stdin().unwrap(), process.stdout().unwrap(), process.stderr().unwrap());
    stdin.write_all(b"hello").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).await.unwrap();
    stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("hello", "HELLO"));
    let status = status.await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!((causes[0].reason.as_deref(), causes[0].message.as_deref()), (Some("ExitCode"), Some("3")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_forwarded_into_the_pod() {
    let node = Node::start().await;
    node.create("p", json!({})).await;
    node.until("p", ready).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = [0; 4];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
    });
    let mut forward = node.pods().portforward("p", &[port]).await.unwrap();
    let mut stream = forward.take_stream(port).unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"pong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_forwarded_by_spdy_inside_a_websocket() {
    use spdy::Frame;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    let node = Node::start().await;
    node.create("p", json!({})).await;
    node.until("p", ready).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got.reverse();
        stream.write_all(&got).await.unwrap();
    });
    let (near, far) = tokio::io::duplex(64 * 1024);
    node.kubelet.as_ref().unwrap().server().accept(far);
    let mut request = "ws://node/portForward/default/p".into_client_request().unwrap();
    let protocol = "SPDY/3.1+portforward.k8s.io";
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, near).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    let (mut sink, mut source) = futures::StreamExt::split(socket);

    let mut writer = spdy::Writer::new().unwrap();
    let headers = |kind: &str, port: u16| {
        [("streamtype", kind), ("port", &port.to_string()), ("requestid", "0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    };
    let frames = [
        Frame::SynStream { stream: 1, fin: true, headers: headers("error", port) },
        Frame::SynStream { stream: 3, fin: false, headers: headers("data", port) },
        Frame::Data { stream: 3, fin: false, data: b"abc".to_vec() },
        Frame::Data { stream: 3, fin: true, data: Vec::new() },
    ];
    for frame in &frames {
        let bytes = writer.encode(frame).unwrap();
        futures::SinkExt::send(&mut sink, Message::Binary(bytes.into())).await.unwrap();
    }
    let (mut pipe, plain) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(data))) = futures::StreamExt::next(&mut source).await {
            pipe.write_all(&data).await.unwrap();
        }
    });
    let mut reader = spdy::Reader::new(plain);
    let (mut got, mut ended) = (Vec::new(), Vec::new());
    while ended.len() < 2 {
        match tokio::time::timeout(Duration::from_secs(30), reader.next()).await.unwrap().unwrap().unwrap() {
            Frame::Data { stream, fin, data } => {
                if stream == 3 {
                    got.extend(data);
                }
                if fin {
                    ended.push(stream);
                }
            }
            Frame::SynReply { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, b"cba");
}

/// Reads frames until the streams have ended; gives what came on each.
async fn read_streams(
    reader: &mut spdy::Reader<impl tokio::io::AsyncRead + Unpin>,
    streams: &[u32],
) -> std::collections::BTreeMap<u32, Vec<u8>> {
    let mut got: std::collections::BTreeMap<u32, Vec<u8>> = Default::default();
    let mut open = streams.to_vec();
    while !open.is_empty() {
        match tokio::time::timeout(Duration::from_secs(30), reader.next()).await.unwrap().unwrap().unwrap() {
            spdy::Frame::Data { stream, fin, data } => {
                got.entry(stream).or_default().extend(data);
                open.retain(|id| !fin || *id != stream);
            }
            spdy::Frame::SynReply { .. } | spdy::Frame::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_by_spdy_carries_all_streams_and_tells_its_end_as_the_protocol_does() {
    use spdy::Frame;

    let node = Node::start().await;
    node.create("p", json!({})).await;
    node.until("p", ready).await;
    for (protocol, end) in [
        ("v4.channel.k8s.io", "\"reason\":\"NonZeroExitCode\""),
        ("v2.channel.k8s.io", "command terminated with non-zero exit code"),
    ] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        node.kubelet.as_ref().unwrap().server().accept(far);
        let request = format!(
            "POST /exec/default/p/a?command=a&command=b&command=c&input=1&output=1&error=1 HTTP/1.1\r\nhost: node\r\n\
             connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v9\r\n\
             x-stream-protocol-version: {protocol}\r\n\r\n"
        );
        near.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains(protocol), "{head}");
        let (read, mut write) = tokio::io::split(near);
        let (mut reader, mut writer) = (spdy::Reader::new(read), spdy::Writer::new().unwrap());
        let make = |stream, kind: &str| Frame::SynStream {
            stream,
            fin: false,
            headers: vec![("streamtype".to_owned(), kind.to_owned())],
        };
        let frames = [
            make(1, "error"),
            make(3, "stdin"),
            make(5, "stdout"),
            Frame::Ping(1),
            make(7, "stderr"),
            Frame::Data { stream: 3, fin: false, data: b"hel".to_vec() },
            Frame::Data { stream: 3, fin: false, data: b"lo".to_vec() },
            Frame::Data { stream: 3, fin: true, data: Vec::new() },
        ];
        for frame in &frames {
            write.write_all(&writer.encode(frame).unwrap()).await.unwrap();
        }
        let got = read_streams(&mut reader, &[1, 5, 7]).await;
        assert_eq!((got[&5].as_slice(), got[&7].as_slice()), (&b"hello"[..], &b"HELLO"[..]));
        let told = String::from_utf8(got[&1].clone()).unwrap();
        assert!(told.contains(end), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_not_checkpointed_where_the_runtime_cannot() {
    let node = Node::start().await;
    node.create("p", json!({})).await;
    node.until("p", ready).await;
    for (method, path, code, expected) in [
        ("POST", "default/p/a", 500, "checkpointing of default/p/a failed (checkpoint/restore is not supported: CRIU"),
        ("POST", "default/p/a?timeout=soon", 404, "cannot parse value of timeout parameter"),
        ("POST", "default/p/b", 404, "container b does not exist"),
        ("POST", "default/q/a", 404, "pod \"q_default\" does not exist"),
        ("GET", "default/p/a", 405, "405: Method Not Allowed"),
    ] {
        let path = format!("/api/v1/nodes/node/proxy/checkpoint/{path}");
        let request = http::Request::builder().method(method).uri(&path).body(kube::client::Body::empty()).unwrap();
        let response = node.client.send(request).await.unwrap();
        assert_eq!(response.status(), code, "{path}");
        let text = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains(expected), "{path}: {text:?}");
    }
}
