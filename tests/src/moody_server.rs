//! A small server whose behaviour a file sets: it answers normally, with errors, late, or not at all.
//!
//! Invariant: the mood in the file when a connection or datagram arrives determines its treatment. A changed
//! mood closes no connection.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::sleep;

/// The delay of a late answer.
pub const LATE: Duration = Duration::from_secs(1);
/// The maximum size of a request's head, in bytes: a line and a few headers.
const HEAD_BYTES_MAX: usize = 4096;

/// How a server treats its clients.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mood {
    /// Answers an HTTP request with status 200 and the server's name, and a datagram with the name.
    Well,
    /// Answers with status 500.
    Failing,
    /// Like [`Mood::Well`], after [`LATE`].
    Late,
    /// Accepts and reads, and never answers.
    Hanging,
    /// Sends endlessly.
    Flooding,
    /// Accepts connections and resets them.
    Resetting,
    /// Sends this text at once and closes the connection.
    Saying(String),
}

impl Mood {
    /// Writes a server's mood file, atomically.
    pub fn put(&self, file: &Path) -> Result<()> {
        let beside = file.with_extension("next");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(&beside, file).with_context(|| format!("cannot replace {}", file.display()))
    }

    /// Reads a mood file; without a valid one the mood is [`Mood::Well`].
    fn of(file: &Path) -> Self {
        let text = fs::read(file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Self::Well)
    }
}

/// State shared by a server's tasks.
#[derive(Debug)]
struct Server {
    name: String,
    mood: Box<Path>,
}

/// Serves TCP and UDP on consecutive ports, beginning with the address's, until the process ends.
pub async fn serve(listen: SocketAddr, ports: u16, name: &str, mood: &Path) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .context("cannot raise the limit of open files")?;
    let server = Arc::new(Server {
        name: name.to_owned(),
        mood: mood.into(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for port in (listen.port()..).take(ports.into()) {
        let address = SocketAddr::new(listen.ip(), port);
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        tasks.spawn(accept(listener, Arc::clone(&server)));
        let socket = UdpSocket::bind(address).await;
        let socket = socket.with_context(|| format!("cannot bind to {address}"))?;
        tasks.spawn(echo(socket, Arc::clone(&server)));
    }
    // Tells the parent process that connections are accepted.
    println!("ready");
    while let Some(ended) = tasks.join_next().await {
        ended.context("a server task panicked")??;
    }
    Ok(())
}

async fn accept(listener: TcpListener, server: Arc<Server>) -> Result<()> {
    loop {
        let (connection, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            // Sending fails only if the client is gone.
            drop(server.treat(connection).await);
        });
    }
}

async fn echo(socket: UdpSocket, server: Arc<Server>) -> Result<()> {
    let socket = Arc::new(socket);
    let mut datagram = [0; HEAD_BYTES_MAX];
    loop {
        // An error reports only that a client is gone; continue.
        let Ok((_, from)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        let (socket, server) = (Arc::clone(&socket), Arc::clone(&server));
        tokio::spawn(async move {
            if let Some(answer) = server.answer_in_time(&Mood::of(&server.mood)).await {
                drop(socket.send_to(answer.as_bytes(), from).await);
            }
        });
    }
}

impl Server {
    async fn treat(&self, mut connection: TcpStream) -> Result<()> {
        // Without TCP_NODELAY answers are only slightly later.
        drop(connection.set_nodelay(true));
        match Mood::of(&self.mood) {
            Mood::Resetting => connection.set_zero_linger()?,
            Mood::Hanging => drain(&mut connection).await?,
            Mood::Flooding => loop {
                connection.write_all(&[b'x'; HEAD_BYTES_MAX]).await?;
            },
            Mood::Saying(text) => {
                connection.write_all(text.as_bytes()).await?;
                connection.shutdown().await?;
                drain(&mut connection).await?;
            }
            Mood::Well | Mood::Failing | Mood::Late => self.speak_http(&mut connection).await?,
        }
        Ok(())
    }

    /// Answers each request by the current mood.
    async fn speak_http(&self, connection: &mut TcpStream) -> Result<()> {
        while let Some(head) = read_head(connection).await? {
            let mood = Mood::of(&self.mood);
            let Some(body) = self.answer_in_time(&mood).await else {
                return drain(connection).await;
            };
            let status = match mood {
                Mood::Failing => "500 Internal Server Error",
                _ => "200 OK",
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            connection.write_all(answer.as_bytes()).await?;
            if head.to_ascii_lowercase().contains("connection: close") {
                break;
            }
        }
        Ok(())
    }

    /// Returns the mood's answer after the mood's delay; `None` if the mood sends no answer.
    async fn answer_in_time(&self, mood: &Mood) -> Option<String> {
        match mood {
            Mood::Hanging | Mood::Flooding | Mood::Resetting => return None,
            Mood::Saying(text) => return Some(text.clone()),
            Mood::Late => sleep(LATE).await,
            Mood::Well | Mood::Failing => {}
        }
        Some(format!("server={}\n", self.name))
    }
}

/// Reads the head of the next request, which has no body; `None` at the end of the stream.
async fn read_head(connection: &mut TcpStream) -> Result<Option<String>> {
    let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if connection.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// Reads until the client closes.
async fn drain(connection: &mut TcpStream) -> Result<()> {
    let mut bytes = [0; HEAD_BYTES_MAX];
    while connection.read(&mut bytes).await? > 0 {}
    Ok(())
}
