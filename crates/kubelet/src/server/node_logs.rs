//! `/logs/`: the files below the machine's log directory, listed and read as a file server does.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt;

use super::{Body, Query, Refusal, full};

const TOP: &str = "/var/log";
const CHUNK: usize = 64 * 1024;

/// Answers for the path after `/logs/`.
pub async fn answer(path: &str, query: &Query) -> Result<Response<Body>, Refusal> {
    if query.contains_key("query") {
        return Err(Refusal::bad_request("the node's log query (NodeLogQuery) is disabled on this node"));
    }
    serve(Path::new(TOP), path).await
}

async fn serve(top: &Path, path: &str) -> Result<Response<Body>, Refusal> {
    let missing = || Refusal::not_found("404 page not found\n");
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.iter().any(|part| *part == ".." || part.contains('\0')) {
        return Err(Refusal::bad_request("invalid URL path"));
    }
    let found: PathBuf = std::iter::once(top).chain(parts.iter().map(Path::new)).collect();
    let meta = tokio::fs::metadata(&found).await.map_err(|_| missing())?;
    if meta.is_dir() {
        return list(&found).await;
    }
    if !meta.is_file() {
        return Err(missing());
    }
    let file = tokio::fs::File::open(&found).await.map_err(|_| missing())?;
    // A log that is written to meanwhile is sent as long as it was.
    let pieces = futures::stream::try_unfold(file.take(meta.len()), |mut file| async move {
        let mut buffer = vec![0; CHUNK];
        let count = file.read(&mut buffer).await?;
        buffer.truncate(count);
        Ok::<_, io::Error>((count > 0).then(|| (Frame::data(Bytes::from(buffer)), file)))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(meta.len()));
    Ok(response)
}

async fn list(directory: &Path) -> Result<Response<Body>, Refusal> {
    let mut entries = tokio::fs::read_dir(directory).await.map_err(Refusal::internal)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(Refusal::internal)? {
        let mark = if entry.path().is_dir() { "/" } else { "" };
        names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let lines = names.iter().map(|name| format!("<a href=\"{}\">{}</a>\n", escaped_path(name), escaped_text(name)));
    let page = format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{}</pre>\n",
        lines.collect::<String>()
    );
    let mut response = Response::new(full(page));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

fn escaped_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn escaped_text(name: &str) -> String {
    let table = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")];
    let one = |c: char| {
        table.iter().find(|(plain, _)| *plain == c).map_or_else(|| c.to_string(), |(_, text)| (*text).to_owned())
    };
    name.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directories_are_listed_files_are_sent_and_nothing_above_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        std::fs::write(directory.path().join("sub/a<b"), "words").unwrap();
        let get = |path: &'static str| {
            let top = directory.path().to_owned();
            async move {
                match serve(&top, path).await {
                    Ok(response) => {
                        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
                    }
                    Err(Refusal(status, _)) => status.as_u16().to_string(),
                }
            }
        };
        assert!(get("").await.contains("<a href=\"sub/\">sub/</a>\n"));
        assert!(get("sub").await.contains("<a href=\"a%3Cb\">a&lt;b</a>"));
        assert_eq!(get("sub/a<b").await, "words");
        assert_eq!(
            (get("none").await, get("../x").await, get("sub/../../x").await),
            ("404".into(), "400".into(), "400".into())
        );
    }
}
