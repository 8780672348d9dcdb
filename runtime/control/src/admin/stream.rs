//! Answers that are written while they are sent: lists of sessions, metrics.
//!
//! Invariant: a writer has a thread of its own and waits for a slow reader, so it takes none of the threads
//! that the control loop needs. There are at most as many as [`Writers`] has places.

use std::io::{self, BufWriter, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, mpsc};

/// The size of the parts in which an answer is sent, in bytes.
const CHUNK: usize = 32 << 10;

/// The most parts that are queued for a slow reader.
const CHUNKS_QUEUED: usize = 4;

/// The threads that write answers of one kind.
#[derive(Clone)]
pub(crate) struct Writers {
    /// What they write, for the thread's name and errors.
    what: &'static str,
    max: usize,
    places: Arc<Semaphore>,
}

/// Where an answer is written to. An error means that its reader is gone.
pub(crate) type Answer = BufWriter<Chunks>;

impl Writers {
    pub(crate) fn new(what: &'static str, max: usize) -> Self {
        Self {
            what,
            max,
            places: Arc::new(Semaphore::new(max)),
        }
    }

    /// Answers with what `write` writes; 429 if all places are taken.
    pub(crate) fn answer(
        &self,
        content_type: &'static str,
        write: impl FnOnce(&mut Answer) -> io::Result<()> + Send + 'static,
    ) -> Response {
        let Self { what, max, places } = self;
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            let text =
                format!("{max} answers with {what} are being read; ask again when one has ended");
            return (StatusCode::TOO_MANY_REQUESTS, text).into_response();
        };
        let (chunks, queued) = mpsc::channel(CHUNKS_QUEUED);
        let thread = std::thread::Builder::new()
            .name((*what).into())
            .spawn(move || {
                let _place = place;
                let mut answer = BufWriter::with_capacity(CHUNK, Chunks(chunks));
                // Its only error: the reader is gone.
                let _ = write(&mut answer).and_then(|()| answer.flush());
            });
        if let Err(error) = thread {
            let text = format!("cannot start a thread to write {what}: {error}");
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        }
        let body = futures_util::stream::unfold(queued, async |mut queued| {
            let chunk: Vec<u8> = queued.recv().await?;
            Some((Ok::<_, io::Error>(chunk), queued))
        });
        let content_type = [(header::CONTENT_TYPE, content_type)];
        (content_type, Body::from_stream(body)).into_response()
    }
}

/// Sends what is written to the connection.
pub(crate) struct Chunks(mpsc::Sender<Vec<u8>>);

impl io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(bytes.to_vec());
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    /// An error if the reader is gone.
    fn flush(&mut self) -> io::Result<()> {
        match self.0.is_closed() {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}
