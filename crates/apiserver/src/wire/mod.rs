//! What a request and an answer are on the wire: bodies, paths, queries, media types.

pub mod accept;
pub mod answer;
pub mod body;
pub mod gzip;
pub mod info;
pub mod query;

pub use accept::{Accept, Format, View};
pub use body::Body;
pub use info::RequestInfo;
pub use query::Query;

/// A request on its way through the layers.
pub type Request = http::Request<Body>;
/// An answer on its way back.
pub type Response = http::Response<Body>;
