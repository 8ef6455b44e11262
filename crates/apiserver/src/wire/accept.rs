//! Content negotiation: what a client accepts and what it sends.

use api::Status;
use api::status::Reason;
use http::{HeaderMap, header};

use super::Query;

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// How an object or a list is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Object,
    Table,
    /// `PartialObjectMetadata` or its list.
    Metadata,
}

/// What an answer will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    pub format: Format,
    pub view: View,
    /// Indented JSON was asked for by `pretty` in the media type.
    pub pretty: bool,
}

/// One clause of an Accept header.
pub struct Media<'a> {
    pub essence: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: u32,
}

impl<'a> Media<'a> {
    fn parse(clause: &'a str) -> Option<Self> {
        let mut parts = clause.split(';').map(str::trim);
        let essence = parts.next().filter(|e| !e.is_empty())?;
        let parameters: Vec<_> =
            parts.filter_map(|p| p.split_once('=')).map(|(n, v)| (n.trim(), v.trim().trim_matches('"'))).collect();
        let quality =
            parameters.iter().find(|(n, _)| *n == "q").and_then(|(_, v)| v.parse::<f32>().ok()).unwrap_or(1.0);
        Some(Media { essence, parameters, quality: (quality.clamp(0.0, 1.0) * 1000.0) as u32 })
    }

    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// The clauses of the Accept headers, best first.
pub fn clauses(headers: &HeaderMap) -> Vec<Media<'_>> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut clauses: Vec<Media> = texts.flat_map(|t| t.split(',')).filter_map(Media::parse).collect();
    clauses.sort_by_key(|media| std::cmp::Reverse(media.quality));
    clauses.retain(|media| media.quality > 0);
    clauses
}

/// The format that a media type names.
pub fn format(essence: &str) -> Option<Format> {
    match essence {
        "application/json" | "*/*" | "application/*" | "text/json" => Some(Format::Json),
        "application/yaml" | "text/yaml" | "application/x-yaml" => Some(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
        _ => None,
    }
}

impl Accept {
    pub const JSON: Accept = Accept { format: Format::Json, view: View::Object, pretty: false };

    /// The answer's form to a request that may ask for indented JSON, or comes from a person at a terminal or browser.
    pub fn of(headers: &HeaderMap, query: &Query, views: bool) -> Result<Accept, Status> {
        let mut accept = Accept::choose(headers, views)?;
        accept.pretty |= match query.get("pretty") {
            Some(text) => matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE"),
            None => {
                let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
                ["curl", "Wget", "Mozilla/5.0"].iter().any(|person| agent.starts_with(person))
            }
        };
        Ok(accept)
    }

    /// Chooses the answer's form. `views` says whether tables and bare metadata can be had.
    pub fn choose(headers: &HeaderMap, views: bool) -> Result<Accept, Status> {
        if !headers.contains_key(header::ACCEPT) {
            return Ok(Accept::JSON);
        }
        let clauses = clauses(headers);
        if clauses.is_empty() {
            return Ok(Accept::JSON);
        }
        clauses
            .iter()
            .find_map(|media| media.accept(views))
            .ok_or_else(|| not_acceptable("application/json, application/yaml, application/vnd.kubernetes.protobuf"))
    }

    /// The same for a watch, which YAML has no form for.
    pub fn stream(self) -> Result<Accept, Status> {
        if self.format == Format::Yaml {
            return Err(not_acceptable(
                "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            ));
        }
        Ok(self)
    }

    /// The media type of the answer; `stream` for a watch.
    pub fn content_type(&self, stream: bool) -> &'static str {
        match (self.format, stream) {
            (Format::Json, _) => "application/json",
            (Format::Yaml, _) => "application/yaml",
            (Format::Protobuf, false) => "application/vnd.kubernetes.protobuf",
            (Format::Protobuf, true) => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

fn not_acceptable(list: &str) -> Status {
    Status::new(Reason::NotAcceptable, format!("only the following media types are accepted: {list}"))
}

impl Media<'_> {
    fn accept(&self, views: bool) -> Option<Accept> {
        let format = format(self.essence)?;
        let meta = self.parameter("g").is_none_or(|g| g == "meta.k8s.io");
        let version = self.parameter("v").is_none_or(|v| v == "v1" || v == "v1beta1");
        let view = match self.parameter("as") {
            None => View::Object,
            Some("Table") if views && meta && version => View::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if views && meta && version => View::Metadata,
            Some(_) => return None,
        };
        Some(Accept { format, view, pretty: self.parameter("pretty").is_some_and(|p| p != "0" && p != "false") })
    }
}

/// The format of a request's body. No Content-Type means JSON.
pub fn content_format(headers: &HeaderMap) -> Result<Format, Status> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let text = value.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    match format(essence) {
        Some(format) => Ok(format),
        None if essence.is_empty() => Ok(Format::Json),
        None => Err(unsupported(&["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])),
    }
}

/// The 415 that names what would have been accepted.
pub fn unsupported(accepted: &[&str]) -> Status {
    Status::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: &str) -> Option<(Format, View)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header value"));
        Accept::choose(&headers, true).ok().map(|a| (a.format, a.view))
    }

    #[test]
    fn json_is_indented_for_people_and_where_it_is_asked_for() {
        let table = [
            ("curl/8.1", "", true),
            ("Mozilla/5.0 (X11)", "", true),
            ("kubectl/v1.36", "", false),
            ("kubectl/v1.36", "pretty=true", true),
            ("curl/8.1", "pretty=0", false),
        ];
        for (agent, query, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().expect("a header value"));
            let accept = Accept::of(&headers, &Query::parse(query), true).expect("a form");
            assert_eq!(accept.pretty, expected, "{agent} {query}");
        }
    }

    #[test]
    fn the_best_clause_that_can_be_served_wins() {
        let table = [
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Format::Json, View::Table))),
            ("application/json;as=Nothing;v=v1;g=meta.k8s.io,application/json", Some((Format::Json, View::Object))),
            ("application/yaml", Some((Format::Yaml, View::Object))),
            ("application/json;q=0.5, application/vnd.kubernetes.protobuf", Some((Format::Protobuf, View::Object))),
            ("text/html, */*;q=0.8", Some((Format::Json, View::Object))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Some((Format::Protobuf, View::Metadata)),
            ),
            ("image/png", None),
        ];
        for (accept, expected) in table {
            assert_eq!(choose(accept), expected, "{accept}");
        }
    }
}
