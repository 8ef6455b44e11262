//! What a proxied place says about where things are: redirects and the links of HTML pages are made to lead through the proxy.

use std::io::{Read, Write};

use api::Status;
use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::forward::unreachable;
use crate::wire::{Body, Response};

/// The largest page that is looked through; compressed or not.
const LARGEST: usize = 16 << 20;

/// The attributes that hold URLs, by tag.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// What stands in these elements is text, whatever it looks like.
const RAW_TEXT: [&str; 4] = ["script", "style", "textarea", "title"];

/// Knows where the proxy and the place behind it are.
pub struct Rewriter {
    /// The path of the proxied place's root, without a closing slash.
    prefix: String,
    /// The place's own host and port.
    origin: String,
    /// What the client took for the host.
    host: String,
    bodiless: bool,
}

impl Rewriter {
    /// `path` is the client's, of which `onward` is what goes on.
    pub fn new(path: &str, onward: &str, origin: &str, host: &str, bodiless: bool) -> Self {
        let prefix = path.strip_suffix(onward).unwrap_or(path).trim_end_matches('/').to_owned();
        Rewriter { prefix, origin: origin.to_owned(), host: host.to_owned(), bodiless }
    }

    /// The answer with its redirect, or the links of its page, led through the proxy.
    pub async fn rewrite(&self, mut response: Response) -> Result<Response, Status> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        if let Some(location) = response.headers().get(header::LOCATION) {
            if let Some(url) = location.to_str().ok().and_then(|url| self.url(url))
                && let Ok(value) = HeaderValue::from_str(&url)
            {
                response.headers_mut().insert(header::LOCATION, value);
            }
            return Ok(response);
        }
        let Some(coding) = self.coding(response.headers()) else { return Ok(response) };
        let (mut parts, body) = response.into_parts();
        let page = Limited::new(body, LARGEST).collect().await.map_err(unreachable)?.to_bytes();
        let page = self.recode(&page, &coding).map_err(unreachable)?;
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
        Ok(Response::from_parts(parts, Body::from(page)))
    }

    /// How the page is compressed; `None` for what is no page, or one that is not looked through.
    fn coding(&self, headers: &HeaderMap) -> Option<String> {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        let html = text(header::CONTENT_TYPE).split(';').next().is_some_and(|t| t.trim() == "text/html");
        let fits = text(header::CONTENT_LENGTH).parse::<usize>().unwrap_or(0) <= LARGEST;
        let coding = text(header::CONTENT_ENCODING);
        let known = matches!(coding, "" | "gzip" | "deflate");
        (html && fits && known && !self.bodiless).then(|| coding.to_owned())
    }

    fn recode(&self, page: &[u8], coding: &str) -> std::io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let most = LARGEST as u64;
        match coding {
            "gzip" => GzDecoder::new(page).take(most).read_to_end(&mut plain)?,
            "deflate" => DeflateDecoder::new(page).take(most).read_to_end(&mut plain)?,
            _ => return Ok(self.page(page)),
        };
        let page = self.page(&plain);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
        if coding == "gzip" {
            gzip.write_all(&page)?;
            return gzip.finish();
        }
        deflate.write_all(&page)?;
        deflate.finish()
    }

    /// The URL as it leads through the proxy; `None` where it stays as it is.
    fn url(&self, url: &str) -> Option<String> {
        let (before, rest) = match url.find("//") {
            Some(0) => ("", &url[2..]),
            Some(at) if url[..at].ends_with(':') => (&url[..at + 2], &url[at + 2..]),
            _ => return self.path(url),
        };
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = self.path(path)?;
        match host {
            _ if host == self.host => Some(format!("{before}{host}{path}")),
            _ if host == self.origin => Some(path),
            _ => None,
        }
    }

    /// A path from the root, below the proxy's; one that leads there already stays.
    fn path(&self, path: &str) -> Option<String> {
        let absolute = path.starts_with('/');
        match path.starts_with(&self.prefix) {
            true if absolute => Some(path.to_owned()),
            _ => absolute.then(|| format!("{}{path}", self.prefix)),
        }
    }

    /// A page whose links lead through the proxy.
    fn page(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + page.len() / 8);
        let mut rest = page;
        while let Some(at) = rest.iter().position(|b| *b == b'<') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let length = self.markup(rest, &mut out);
            rest = &rest[length..];
        }
        out.extend_from_slice(rest);
        out
    }

    /// Writes the markup that begins here; gives its length.
    fn markup(&self, text: &[u8], out: &mut Vec<u8>) -> usize {
        if text.starts_with(b"<!--") {
            let end = find(text, b"-->").map_or(text.len(), |at| at + 3);
            out.extend_from_slice(&text[..end]);
            return end;
        }
        let name_end = 1 + text[1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let tag = String::from_utf8_lossy(&text[1..name_end]).to_ascii_lowercase();
        out.extend_from_slice(&text[..name_end]);
        if !tag.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return name_end;
        }
        let links = LINKS.iter().find(|(name, _)| *name == tag).map_or(&[][..], |(_, links)| links);
        let mut at = name_end;
        while at < text.len() && text[at] != b'>' {
            at += self.attribute(&text[at..], links, out);
        }
        if at < text.len() {
            out.push(b'>');
            at += 1;
        }
        if RAW_TEXT.contains(&tag.as_str()) {
            let closing = format!("</{tag}");
            let end = find(&text[at..], closing.as_bytes()).unwrap_or(text.len() - at);
            out.extend_from_slice(&text[at..at + end]);
            at += end;
        }
        at
    }

    /// Writes one attribute, or one byte between attributes; gives its length.
    fn attribute(&self, text: &[u8], links: &[&str], out: &mut Vec<u8>) -> usize {
        let is_name = |b: &&u8| !b.is_ascii_whitespace() && !matches!(b, b'>' | b'=' | b'/' | b'"' | b'\'');
        let name = text.iter().take_while(is_name).count();
        if name == 0 {
            out.push(text[0]);
            return 1;
        }
        let spaces = |at: usize| text[at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        let equals = name + spaces(name);
        if text.get(equals) != Some(&b'=') {
            out.extend_from_slice(&text[..name]);
            return name;
        }
        let value = equals + 1 + spaces(equals + 1);
        let quote = text.get(value).copied().filter(|b| matches!(b, b'"' | b'\''));
        let begin = value + usize::from(quote.is_some());
        let length = text[begin..]
            .iter()
            .take_while(|b| quote.map_or(!b.is_ascii_whitespace() && **b != b'>', |quote| **b != quote))
            .count();
        let end = begin + length;
        let is_link = links.iter().any(|link| link.as_bytes().eq_ignore_ascii_case(&text[..name]));
        let url = std::str::from_utf8(&text[begin..end]).ok().filter(|_| is_link).and_then(|url| self.url(url));
        out.extend_from_slice(&text[..begin]);
        out.extend_from_slice(url.as_ref().map_or(&text[begin..end], |url| url.as_bytes()));
        let closing = usize::from(quote.is_some() && end < text.len());
        out.extend_from_slice(&text[end..end + closing]);
        end + closing
    }
}

/// Where one text stands in another, letters of either case.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Rewriter {
        Rewriter::new("/api/v1/namespaces/n/pods/p/proxy/a/b", "/a/b", "10.0.0.5:80", "localhost:8001", false)
    }

    #[test]
    fn links_from_the_root_lead_through_the_proxy_and_others_stay() {
        let p = "/api/v1/namespaces/n/pods/p/proxy";
        let table = [
            (r#"<a href="/x">t</a>"#, format!(r#"<a href="{p}/x">t</a>"#)),
            ("<A HREF=/x/>t", format!("<A HREF={p}/x/>t")),
            ("<img alt='a>b' src='/i.png'/>", format!("<img alt='a>b' src='{p}/i.png'/>")),
            (r#"<a href="x">t</a><a href="http://o/x">"#, r#"<a href="x">t</a><a href="http://o/x">"#.to_owned()),
            (r#"<a href="http://10.0.0.5:80/x?q#f">"#, format!(r#"<a href="{p}/x?q#f">"#)),
            (r#"<a href="http://localhost:8001/x">"#, format!(r#"<a href="http://localhost:8001{p}/x">"#)),
            (r#"<!-- <a href="/x"> --><p title="/x">1 < 2"#, r#"<!-- <a href="/x"> --><p title="/x">1 < 2"#.to_owned()),
            (r#"<script>"<a href='/x'>"</script><a"#, r#"<script>"<a href='/x'>"</script><a"#.to_owned()),
            (r#"<a href="/x"#, format!(r#"<a href="{p}/x"#)),
        ];
        for (page, expected) in table {
            assert_eq!(String::from_utf8_lossy(&rewriter().page(page.as_bytes())), expected, "{page}");
        }
        let again = format!("{p}/x");
        assert_eq!(rewriter().url(&again), Some(again));
    }

    #[tokio::test]
    async fn redirects_and_compressed_pages_are_rewritten() {
        let mut moved = Response::new(Body::empty());
        moved.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/login"));
        let moved = rewriter().rewrite(moved).await.expect("rewritten");
        assert_eq!(moved.headers()[header::LOCATION], "/api/v1/namespaces/n/pods/p/proxy/login");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"<a href='/x'>").expect("into memory");
        let mut page = Response::new(Body::from(encoder.finish().expect("into memory")));
        page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        page.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let page = rewriter().rewrite(page).await.expect("rewritten").into_body().collect().await.expect("a body");
        let mut plain = String::new();
        GzDecoder::new(&page.to_bytes()[..]).read_to_string(&mut plain).expect("gzip");
        assert_eq!(plain, "<a href='/api/v1/namespaces/n/pods/p/proxy/x'>");
    }

    #[test]
    fn no_page_makes_it_panic() {
        for page in
            ["<", "<a", "<a ", "<a href", "<a href=", "<a href='", "<!--", "<script>", "</", "<a =x>", "<é href='/x'>"]
        {
            rewriter().page(page.as_bytes());
        }
    }
}
