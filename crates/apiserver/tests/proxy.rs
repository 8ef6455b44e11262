//! The proxies: what reaches the place behind them, and what comes back.

mod harness;

use std::sync::Arc;

use client::Identity;
use harness::{Cluster, get, raw, send};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NODE: &str = "/api/v1/nodes/n1/proxy";

/// Tells what it was asked, or gives a page or a redirect.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let answer = Response::builder();
    let (answer, text) = match parts.uri.path() {
        "/page" => (answer.header("content-type", "text/html"), "<a href=\"/x\">x</a>".to_owned()),
        "/moved" => (answer.status(302).header("location", "/login/"), String::new()),
        path => {
            let told = json!({
                "method": parts.method.as_str(), "path": path, "query": parts.uri.query(), "body": String::from_utf8_lossy(&body),
                "authorization": parts.headers.contains_key("authorization"), "own": parts.headers.get("x-own").and_then(|v| v.to_str().ok()),
            });
            (answer.header("content-type", "application/json"), told.to_string())
        }
    };
    Ok(answer.body(Full::new(Bytes::from(text))).expect("an answer"))
}

async fn cluster() -> Cluster {
    let dialer: apiserver::KubeletDialer = Arc::new(|_| {
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service_fn(echo)),
            );
            Ok(Box::new(ours) as Box<dyn apiserver::Stream>)
        })
    });
    let cluster = Cluster::with(store::Store::memory(), Some(dialer)).await;
    let node = json!({"metadata": {"name": "n1"}});
    let (code, made) = send(&cluster.admin(), "POST", "/api/v1/nodes", "application/json", &node.to_string()).await;
    assert_eq!(code, 201, "{made}");
    cluster
}

#[tokio::test]
async fn every_method_reaches_the_place_behind_the_proxy_with_its_path_and_body() {
    let cluster = cluster().await;
    let client = cluster.https("admin", &["system:masters"]);
    for method in ["DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"] {
        let request = Request::builder()
            .method(method)
            .uri(format!("{NODE}/some/path%20with/{method}?a=1&b"))
            .header("x-own", "kept")
            .body(b"text".to_vec())
            .expect("a request");
        let (code, _, body) = raw(&client, request).await;
        let told: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, told["method"].as_str()), (200, Some(method)), "{body}");
        assert_eq!(told["path"], format!("/some/path%20with/{method}"));
        assert_eq!((&told["query"], &told["body"], &told["own"]), (&json!("a=1&b"), &json!("text"), &json!("kept")));
        assert_eq!(told["authorization"], false);
    }
    let head = Request::head(format!("{NODE}/x")).body(Vec::new()).expect("a request");
    assert_eq!(raw(&client, head).await.0, 200);
    // Without a path: what only reads is led behind the slash, the rest arrives at the root.
    let bare = Request::get(format!("{NODE}?method=GET")).body(Vec::new()).expect("a request");
    let (code, headers, _) = raw(&client, bare).await;
    assert_eq!((code, headers["location"].to_str().ok()), (301, Some("/api/v1/nodes/n1/proxy/?method=GET")));
    let (code, told) = send(&client, "POST", &format!("{NODE}?method=POST"), "text/plain", "").await;
    assert_eq!((code, &told["path"], &told["query"]), (200, &json!("/"), &json!("method=POST")));
}

#[tokio::test]
async fn pages_and_redirects_lead_through_the_proxy() {
    let cluster = cluster().await;
    let client = cluster.admin();
    assert_eq!(get(&client, &format!("{NODE}/page")).await, (200, format!("<a href=\"{NODE}/x\">x</a>")));
    let moved = Request::get(format!("{NODE}/moved")).body(Vec::new()).expect("a request");
    let (code, headers, _) = raw(&client, moved).await;
    assert_eq!((code, headers["location"].to_str().ok()), (302, Some("/api/v1/nodes/n1/proxy/login/")));
}

#[tokio::test]
async fn what_cannot_be_proxied_to_is_told() {
    let cluster = cluster().await;
    let client = cluster.admin();
    let ports = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(send(&client, "POST", services, "application/json", &ports.to_string()).await.0, 201);
    let table = [
        ("nodes/ftp:n1:1/proxy/", 400, "invalid node request \"ftp:n1:1\""),
        ("nodes/none/proxy/", 404, "nodes \"none\" not found"),
        ("nodes/n1:80/proxy/", 400, "address not allowed"),
        ("namespaces/default/services/web:81/proxy/", 503, "no service port 81 found for service \"web\""),
        ("namespaces/default/services/web:http/proxy/", 503, "no endpoints available for service \"web:http\""),
        ("namespaces/default/services/x/proxy/", 404, "services \"x\" not found"),
    ];
    for (path, expected, message) in table {
        let (code, body) = get(&client, &format!("/api/v1/{path}")).await;
        let status: Value = serde_json::from_str(&body).expect("a Status");
        assert_eq!((code, status["message"].as_str()), (expected, Some(message)), "{path}");
    }
}

#[tokio::test]
async fn a_websocket_needs_the_right_to_create_and_any_protocol_is_passed_on_as_it_is() {
    let dialer: apiserver::KubeletDialer = Arc::new(|_| {
        Box::pin(async {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = theirs.read(&mut head).await.expect("a request");
                let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
                let protocol = head.lines().find_map(|l| l.strip_prefix("upgrade: ")).unwrap_or("").to_owned();
                let method = head.split(' ').next().unwrap_or("").to_owned();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n{method}"
                );
                theirs.write_all(answer.as_bytes()).await.expect("written");
            });
            Ok(Box::new(ours) as Box<dyn apiserver::Stream>)
        })
    });
    let cluster = Cluster::with(store::Store::memory(), Some(dialer)).await;
    let client = cluster.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}}).to_string();
    send(&client, "POST", "/api/v1/namespaces/default/serviceaccounts", "application/json", &account).await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(send(&client, "POST", pods, "application/json", &pod.to_string()).await.0, 201);
    for (method, what, protocol) in
        [("POST", "exec", "SPDY/3.1"), ("GET", "attach", "websocket"), ("POST", "portforward", "SPDY/3.1")]
    {
        let (mut stream, theirs) = tokio::io::duplex(64 * 1024);
        (cluster.server.acceptor())(theirs, Identity::admin("a"));
        let request = format!(
            "{method} {pods}/p/{what}?container=c HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.expect("an answer");
        let said = String::from_utf8_lossy(&said).to_ascii_lowercase();
        assert!(said.starts_with("http/1.1 101") && said.ends_with(&method.to_ascii_lowercase()), "{said}");
        assert!(said.contains(&format!("upgrade: {}", protocol.to_ascii_lowercase())), "{said}");
    }
    let (code, body) = get(&client, &format!("{pods}/p/exec")).await;
    assert!(code == 400 && body.contains("Upgrade request required"), "{body}");
}
