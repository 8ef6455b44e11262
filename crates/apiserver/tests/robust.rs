//! Bad input at every class of endpoint: always a correct `Status`, never a 500, a panic or a hang, and bounded memory.

mod harness;

use std::time::Duration;

use client::Identity;
use harness::{Cluster, ask, complaint, raw, send};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JSON: &str = "application/json";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// One of each class: its collection, its objects, and a subresource.
const COLLECTIONS: &[(&str, &str, &str)] = &[
    ("/api/v1/namespaces/default/configmaps", "c", ""),
    ("/api/v1/namespaces/default/pods", "p", "status"),
    ("/api/v1/namespaces/default/services", "s", "status"),
    ("/api/v1/nodes", "n", "status"),
    ("/api/v1/namespaces", "default", "finalize"),
    ("/apis/apps/v1/namespaces/default/deployments", "d", "scale"),
    ("/apis/events.k8s.io/v1/namespaces/default/events", "e", ""),
    ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", "exempt", "status"),
    ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "r", "approval"),
];
/// What is created and never stored, or by a POST below an object.
const CREATIONS: &[&str] = &[
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    "/apis/authentication.k8s.io/v1/tokenreviews",
    "/api/v1/namespaces/default/bindings",
    "/api/v1/namespaces/default/pods/p/binding",
    "/api/v1/namespaces/default/pods/p/eviction",
    "/api/v1/namespaces/default/serviceaccounts/default/token",
];

/// Bodies that are wrong everywhere.
fn bodies() -> Vec<Vec<u8>> {
    let texts: &[&[u8]] = &[
        b"",
        b"{",
        b"[]",
        b"null",
        b"\"x\"",
        b"1e999",
        b"{\"metadata\":",
        b"{\"kind\":\"Other\"}",
        b"{\"apiVersion\":\"v9\",\"kind\":1}",
        b"{\"metadata\":[]}",
        b"{\"metadata\":{\"name\":{}}}",
        b"{\"metadata\":{\"name\":\"../x\"}}",
        b"{\"metadata\":{\"name\":\"a/b\"}}",
        b"{\"metadata\":{\"labels\":{\"a\":1}}}",
        b"{\"metadata\":{\"ownerReferences\":[null]}}",
        b"{\"metadata\":{\"managedFields\":[{\"fieldsV1\":{\"f:x\":1}}]}}",
        b"{\"metadata\":{\"creationTimestamp\":\"yesterday\"}}",
        b"{\"spec\":1,\"status\":[],\"data\":\"x\"}",
        b"{\"spec\":{\"replicas\":\"many\",\"containers\":{}}}",
        b"{\"metadata\":{\"name\":\"\xff\xfe\"}}",
        b"k8s\0\x0a\xff\xff\xff\xff\x0f",
        b"a: &a [*a]",
        b"a: [&x 1, *x, *y]",
        b"- - - -\n\t- x",
    ];
    let mut bodies: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
    bodies.push(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes());
    bodies.push(format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000)).into_bytes());
    let laughs: String =
        (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))).collect();
    bodies.push(format!("a0: &a0 [x]\n{laughs}").into_bytes());
    bodies
}

async fn objects(client: &kube::Client) {
    let account = json!({"metadata": {"name": "default"}});
    send(client, "POST", "/api/v1/namespaces/default/serviceaccounts", JSON, &account.to_string()).await;
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let specs = [
        (0, json!({"data": {"k": "v"}})),
        (1, json!({"spec": pod})),
        (2, json!({"spec": {"ports": [{"port": 80}]}})),
        (3, json!({})),
        (
            5,
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}),
        ),
    ];
    for (index, mut object) in specs {
        let (path, name, _) = COLLECTIONS[index];
        object["metadata"] = json!({"name": name});
        let (code, made) = send(client, "POST", path, JSON, &object.to_string()).await;
        assert_eq!(code, 201, "{made}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bodies_are_refused_everywhere_with_the_right_status() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    objects(&client).await;
    let (mut wrong, mut asked) = (Vec::new(), 0);
    let formats = [JSON, "application/yaml", "application/vnd.kubernetes.protobuf", "image/png", "\u{7f}"];
    let mut requests: Vec<(&str, String, &str)> = Vec::new();
    for (path, name, sub) in COLLECTIONS {
        for content in &formats[..4] {
            requests.push(("POST", path.to_string(), content));
            requests.push(("PUT", format!("{path}/{name}"), content));
            requests.push(("DELETE", format!("{path}/no-such-name"), content));
            if !sub.is_empty() {
                requests.push(("PUT", format!("{path}/{name}/{sub}"), content));
            }
        }
        for content in PATCHES.iter().chain([&JSON]) {
            requests.push(("PATCH", format!("{path}/{name}?fieldManager=m"), content));
        }
    }
    for path in CREATIONS {
        requests.extend(formats[..4].iter().map(|content| ("POST", path.to_string(), *content)));
    }
    for (method, path, content) in &requests {
        for body in bodies() {
            let (code, answer) = ask(&client, method, path, content, &body).await;
            asked += 1;
            let about = format!("{method} {path} {content} {:.60}", String::from_utf8_lossy(&body));
            if let Some(why) = complaint(code, &answer) {
                wrong.push(format!("{about}: {why}"));
            }
            let unread = *content == "image/png" && !body.is_empty() && *method != "DELETE";
            if unread && !matches!(code, 415 | 404 | 405) {
                wrong.push(format!("{about}: {code}, not 415"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
    // What was there before is there still, and the server serves.
    let (code, map) = send(&client, "GET", "/api/v1/namespaces/default/configmaps/c", JSON, "").await;
    assert_eq!((code, &map["data"]), (200, &json!({"k": "v"})), "{map}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enormous_bodies_are_refused_before_they_are_read() {
    let cluster = Cluster::start().await;
    let client = cluster.https("admin", &["system:masters"]);
    objects(&client).await;
    let enormous = vec![b' '; 4 << 20];
    for (path, name, _) in COLLECTIONS {
        for (method, path) in [("POST", path.to_string()), ("PUT", format!("{path}/{name}"))] {
            let (code, body) = ask(&client, method, &path, JSON, &enormous).await;
            assert_eq!((code, complaint(code, &body)), (413, None), "{method} {path}");
        }
    }
    // Of unknown length, and never ending: refused when it has become too much.
    let (mut stream, theirs) = tokio::io::duplex(64 * 1024);
    (cluster.server.acceptor())(theirs, Identity::admin("a"));
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while writer.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    let mut said = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(30), reader.read(&mut said)).await.expect("in time");
    let said = String::from_utf8_lossy(&said[..read.expect("an answer")]).into_owned();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    sending.abort();
}

#[tokio::test]
async fn bad_queries_paths_and_headers_are_refused_or_passed_over() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    objects(&client).await;
    let long = "a%3Db%2C".repeat(7_000);
    let queries = [
        "labelSelector=%3D%3D%3D",
        "labelSelector=a%20in",
        "labelSelector=a%20in%20(",
        "labelSelector=-a%3Db",
        &format!("labelSelector={long}a"),
        "fieldSelector=x%3D1",
        "fieldSelector=metadata.name",
        "fieldSelector=metadata.name%3D..",
        "limit=-1",
        "limit=99999999999999999999",
        "continue=!!",
        "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTUsInN0YXJ0IjoiYSJ9",
        "resourceVersion=-1",
        "resourceVersion=99999999999999999999999",
        "resourceVersionMatch=Sometimes",
        "timeoutSeconds=abc&watch=1",
        "watch=1&resourceVersion=abc",
        "pretty=maybe&unknown=1&%zz=%zz&&&=",
        "fieldValidation=Harder",
        "dryRun=Some",
        "includeObject=Everything",
    ];
    let mut wrong = Vec::new();
    for (path, name, _) in COLLECTIONS {
        for query in queries {
            for (method, path) in
                [("GET", format!("{path}?{query}")), ("DELETE", format!("{path}/none-{name}?{query}"))]
            {
                let (code, body) = ask(&client, method, &path, JSON, b"").await;
                if let Some(why) = complaint(code, &body) {
                    wrong.push(format!("{method} {path:.200}: {why}"));
                }
            }
        }
    }
    let paths = [
        "/api/v1/namespaces/default/pods/..%2f..%2fx",
        "/api/v1/namespaces/%2e%2e/pods",
        "/api/v1/namespaces/default/pods/%ff%fe",
        "/api/v1/namespaces/default/pods/%zz",
        "/api/v1/namespaces//pods",
        "/api/v1/namespaces/default/pods/p/nothing",
        "/api/v1/namespaces/default/pods/p/status/more",
        "/api/v1/namespaces/default/pods/p/log?tailLines=x",
        "/api/v1/namespaces/default/pods/p/exec",
        "/api/v1/namespaces/default/pods/a:b:c:d/proxy/x",
        "/apis/apps/v9/deployments",
        "/apis/nobody/v1/things",
        "/openapi/v3/apis/none",
        "/healthz/none",
    ];
    for path in paths {
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
            let (code, body) = ask(&client, method, path, JSON, b"{}").await;
            if code >= 500 && code != 503 {
                wrong.push(format!("{method} {path}: {code} {body:.200}"));
            }
        }
    }
    let accepts = ["image/png", "application/json;as=Nothing;g=x;v=y", ";;;,,,", "application/json;q=abc", "*/*;q=0"];
    for accept in accepts {
        let request = http::Request::get("/api/v1/namespaces/default/pods").header("accept", accept);
        let (code, _, body) = raw(&client, request.body(Vec::new()).expect("a request")).await;
        if let Some(why) = complaint(code, &body) {
            wrong.push(format!("{accept}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_stops_reading_holds_up_nobody_and_finds_out_what_it_missed() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    objects(&client).await;
    let (mut stalled, theirs) = tokio::io::duplex(4096);
    (cluster.server.acceptor())(theirs, Identity::admin("a"));
    let from = cluster.store.revision();
    let path = format!("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={from}");
    stalled.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("sent");
    // More than the history keeps.
    let filler = "x".repeat(64 * 1024);
    for n in 0..400 {
        let patch = json!({"data": {"n": n.to_string(), "filler": filler}}).to_string();
        let (code, answer) =
            send(&client, "PATCH", "/api/v1/namespaces/default/configmaps/c", "application/merge-patch+json", &patch)
                .await;
        assert_eq!(code, 200, "{answer}");
    }
    let mut said = Vec::new();
    let reading = async {
        let mut block = vec![0; 64 * 1024];
        while !said.windows(8).any(|w| w == b"\"Expired") {
            match stalled.read(&mut block).await {
                Ok(read) if read > 0 => said.extend_from_slice(&block[..read]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("told in time");
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("\"type\":\"ERROR\"") && said.contains("\"code\":410"),
        "{:.300}",
        &said[said.len().saturating_sub(300)..]
    );
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection_and_nothing_else() {
    let cluster = Cluster::start().await;
    let garbage: &[&[u8]] = &[
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for bytes in garbage {
        let (mut stream, theirs) = tokio::io::duplex(64 * 1024);
        (cluster.server.acceptor())(theirs, Identity::admin("a"));
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "{:?} hangs", String::from_utf8_lossy(bytes));
        assert!(!said.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&said));
    }
    assert_eq!(harness::get(&cluster.admin(), "/readyz").await.0, 200);
}
