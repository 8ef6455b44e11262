//! Bodies: what a handler answers with, and how a request's body is read within its bounds.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use api::status::Reason;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

/// The largest request body, as upstream's limit for resource requests.
pub const LIMIT: usize = 3 * 1024 * 1024;

/// How much of a body that is too large is read on, and for how long.
const DISCARDED: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// A boxed error of a body that is passed through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer, or of a request that is passed on.
pub enum Body {
    Full(Bytes),
    /// Lists and watches: chunks made as the client takes them.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// Passed through from elsewhere.
    Through(hyper::body::Incoming),
}

impl Body {
    pub fn empty() -> Self {
        Body::Full(Bytes::new())
    }

    /// A body that tells its length when it has been made.
    pub fn measured(self, tell: impl FnOnce(usize) + Send + 'static) -> Self {
        match self {
            Body::Full(bytes) => {
                tell(bytes.len());
                Body::Full(bytes)
            }
            Body::Stream(mut stream) => {
                let (mut tell, mut length) = (Some(tell), 0);
                Self::stream(futures::stream::poll_fn(move |cx| {
                    let next = std::task::ready!(stream.as_mut().poll_next(cx));
                    match &next {
                        Some(part) => length += part.len(),
                        None => drop(tell.take().map(|tell| tell(length))),
                    }
                    std::task::Poll::Ready(next)
                }))
            }
            through @ Body::Through(_) => through,
        }
    }

    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Stream(Box::pin(stream))
    }

    /// A body that keeps something until it has been made, where it is one that takes its time.
    pub fn held<G: Send + 'static>(self, guard: G) -> Self {
        let Body::Stream(mut stream) = self else { return self };
        Self::stream(futures::stream::poll_fn(move |cx| {
            let _held = &guard;
            stream.as_mut().poll_next(cx)
        }))
    }

    /// Reads a request's body whole. One that is larger than [`LIMIT`] is refused without being read to its end.
    pub async fn read(self) -> Result<Bytes, Status> {
        match self {
            Body::Full(bytes) => Ok(bytes),
            Body::Stream(_) => Ok(Bytes::new()),
            Body::Through(incoming) => read(incoming).await,
        }
    }
}

async fn read(mut incoming: hyper::body::Incoming) -> Result<Bytes, Status> {
    if incoming.size_hint().lower() > LIMIT as u64 {
        discard(incoming).await;
        return Err(too_large());
    }
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("reading the request's body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match &mut whole {
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity((first.len() + data.len()) * 2);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                whole = Some(joined);
            }
            Some(joined) => joined.extend_from_slice(&data),
        }
        if whole.as_ref().map_or(first.len(), BytesMut::len) > LIMIT {
            discard(incoming).await;
            return Err(too_large());
        }
    }
    Ok(whole.map_or(first, BytesMut::freeze))
}

/// Reads on for a little without keeping anything: who is still sending does not see the answer.
async fn discard(mut incoming: hyper::body::Incoming) {
    let mut left = DISCARDED;
    let reading = async {
        while let Some(Ok(frame)) = incoming.frame().await
            && left > 0
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

fn too_large() -> Status {
    Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {LIMIT}"))
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::Full(text.into())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Full(bytes.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|chunk| chunk.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)).map_err(|e| match e {}))),
            Body::Through(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.is_empty(),
            Body::Stream(_) => false,
            Body::Through(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
            Body::Through(incoming) => incoming.size_hint(),
        }
    }
}
