//! A small HTTP server that returns its name: the backend of the tests and the demo.
//!
//! Invariant: every answer except that of `/counters` is `server=NAME` and a line end, so that a client can
//! identify the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::serve::ListenerExt as _;
use axum::{Json, Router, routing};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Counters of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Requests answered, without those for `/counters`.
    pub requests: u64,
}

/// How much work a server can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Milliseconds of work on a request.
    pub service_ms: u32,
    /// Requests that are worked on at a time; others wait.
    pub places: u32,
}

impl Default for Capacity {
    /// Answers at once.
    fn default() -> Self {
        Self {
            service_ms: 0,
            places: 1024,
        }
    }
}

#[derive(Default)]
struct Live {
    connections: AtomicU64,
    requests: AtomicU64,
}

/// Serves concurrent keep-alive connections until the process ends.
pub async fn serve(addresses: &[SocketAddr], name: &str, capacity: Capacity) -> Result<()> {
    let places = Arc::new(Semaphore::new(usize::try_from(capacity.places)?));
    let live = Arc::new(Live::default());
    let mut servers = tokio::task::JoinSet::new();
    for address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let counted = Arc::clone(&live);
        let router = router(Arc::clone(&live), name, capacity, Arc::clone(&places));
        let listener = listener.tap_io(move |connection| {
            counted.connections.fetch_add(1, Ordering::Relaxed);
            // Without TCP_NODELAY answers are only slightly later.
            drop(connection.set_nodelay(true));
        });
        servers.spawn(async move { axum::serve(listener, router).await });
    }
    // Tells the parent process that connections are accepted.
    println!("ready");
    while let Some(ended) = servers.join_next().await {
        ended
            .context("a server task panicked")?
            .context("a server ended")?;
    }
    Ok(())
}

fn router(live: Arc<Live>, name: &str, capacity: Capacity, places: Arc<Semaphore>) -> Router {
    let answer = format!("server={name}\n");
    let counters = Arc::clone(&live);
    Router::new()
        .route(
            "/counters",
            routing::get(async move || {
                Json(Counters {
                    connections: counters.connections.load(Ordering::Relaxed),
                    requests: counters.requests.load(Ordering::Relaxed),
                })
            }),
        )
        .fallback(async move || {
            live.requests.fetch_add(1, Ordering::Relaxed);
            if capacity.service_ms > 0 {
                // It is never closed; without a place the server would only be faster.
                let _place = places.acquire().await;
                sleep(Duration::from_millis(capacity.service_ms.into())).await;
            }
            answer
        })
}
