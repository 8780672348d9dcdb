//! Where the balancer is asked: its sockets, and its TCP port if it has one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::admin::listener::Listener;
use crate::admin::report::Reporter;
use crate::admin::server::{self, Request};
use crate::admin::socket::{Access, AdminError, AdminSocket};
use crate::config::AdminConfig;
use crate::restart::upgrade;

/// The sockets, which are bound, and the port, which will be.
pub(super) struct Doors {
    socket: AdminSocket,
    /// The socket that changes nothing.
    read_socket: Option<AdminSocket>,
    /// The TCP port of the API.
    listener: Option<Listener>,
    /// The path of the socket for upgrades.
    upgrades: PathBuf,
}

impl Doors {
    /// Binds the sockets and reads the token.
    pub(super) async fn open(admin: &AdminConfig, is_upgrade: bool) -> Result<Self, AdminError> {
        let path = &admin.socket.value;
        let socket = bind(path, Access::of(admin.group.as_ref())?, is_upgrade).await?;
        let read_socket = match &admin.read_socket {
            None => None,
            Some(path) => {
                let access = match &admin.read_group {
                    None => Access::All,
                    group => Access::of(group.as_ref())?,
                };
                Some(bind(&path.value, access, is_upgrade).await?)
            }
        };
        let listener = admin.listen.as_ref().map(Listener::new);
        Ok(Self {
            socket,
            read_socket,
            listener: listener.transpose()?,
            upgrades: upgrade::socket_beside(path),
        })
    }

    /// Serves by all of them, until the tasks are aborted.
    pub(super) fn serve(
        self,
        reporter: &Arc<Reporter>,
        requests: mpsc::Sender<Request>,
        succeeded: &Arc<AtomicBool>,
    ) -> Vec<JoinHandle<()>> {
        let publish = |mut socket: AdminSocket| {
            // Only a process that has taken over publishes so late: it serves on without its sockets.
            if let Err(error) = socket.publish() {
                tracing::error!("commands do not reach this process: {error}; restart waxwing");
            }
            socket.leave_if(succeeded);
            socket
        };
        let socket = publish(self.socket);
        let read_socket = self.read_socket.map(publish);
        let upgrades = serve_upgrades(&self.upgrades, requests.clone(), succeeded);
        let router = server::router(reporter, requests);
        let mut tasks = vec![tokio::spawn(socket.serve(router.clone()))];
        let reading = |socket: AdminSocket| socket.serve(server::read_router(reporter));
        tasks.extend(read_socket.map(|socket| tokio::spawn(reading(socket))));
        tasks.extend(self.listener.map(|it| tokio::spawn(it.serve(router))));
        tasks.extend(upgrades);
        tasks
    }
}

/// Lets other processes take over. Without a socket for it none can.
fn serve_upgrades(
    path: &Path,
    request: mpsc::Sender<Request>,
    succeeded: &Arc<AtomicBool>,
) -> Option<JoinHandle<()>> {
    let bound = AdminSocket::bind_hidden(path, Access::Owner).and_then(|mut socket| {
        socket.publish()?;
        socket.leave_if(succeeded);
        Ok(socket)
    });
    match bound {
        Ok(socket) => Some(tokio::spawn(socket.serve_upgrades(request))),
        Err(error) => {
            tracing::warn!("`waxwing upgrade` will not work: {error}");
            None
        }
    }
}

/// Returns an admin socket. That of a process that takes over is hidden until the other one has ended.
async fn bind(path: &Path, access: Access, is_upgrade: bool) -> Result<AdminSocket, AdminError> {
    match is_upgrade {
        false => AdminSocket::bind(path, access).await,
        true => AdminSocket::bind_hidden(path, access),
    }
}
