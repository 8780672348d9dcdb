//! The admin socket's file: made, published, removed.
//!
//! Invariant: at no time can another user open it than `Access` says, and no other process's socket is
//! removed.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use nix::unistd::{Gid, Group};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::admin::connections;
use crate::admin::listener::TokenError;
use crate::admin::server::Request;
use crate::config::Located;

/// The pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Who may open a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Access {
    /// The balancer's user, and root.
    #[default]
    Owner,
    /// The members of this group too.
    Group(Gid),
    /// Every user of this host.
    All,
}

impl Access {
    /// Returns that of a group's members; of the owner alone without a group.
    pub(crate) fn of(group: Option<&Located<String>>) -> Result<Self, AdminError> {
        let Some(name) = group.map(|group| &group.value) else {
            return Ok(Self::Owner);
        };
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Self::Group(group.gid)),
            _ => Err(AdminError::NoGroup(name.clone())),
        }
    }

    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group(_) => 0o660,
            Self::All => 0o666,
        }
    }
}

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process listens on it.
    #[error(
        "admin socket {}: another process listens on it; is waxwing already running? Give each \
         balancer its own `socket` under [admin]",
        .0.display()
    )]
    InUse(PathBuf),
    /// The path is taken by something else.
    #[error(
        "admin socket {}: the path exists and is not a socket; move it or set another `socket`",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// Its folder is missing.
    #[error(
        "admin socket {}: its folder does not exist; create it (mkdir -p {})",
        path.display(), folder.display()
    )]
    NoFolder {
        /// The socket's path.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The group does not exist.
    #[error(
        "there is no group {0}; create it (`groupadd --system {0}`), or write another one under [admin]"
    )]
    NoGroup(String),
    /// The socket cannot be given to the group.
    #[error(
        "cannot give the admin socket {} to its group: {source}; the user that waxwing runs as must be a \
         member of it",
        path.display()
    )]
    NotAMember {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no token for the TCP port.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It could not be created.
    #[error("cannot create admin socket {}: {source}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The listening socket; dropping it removes the socket's file.
pub struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
    inode: u64,
    /// The private folder where it lies until it is published.
    hidden: Option<PathBuf>,
    /// Whether another process has the path now.
    is_left: Arc<AtomicBool>,
}

impl AdminSocket {
    /// Creates the socket, with its mode from the start. A stale socket is replaced, a missing folder made.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) async fn bind(path: &Path, access: Access) -> Result<Self, AdminError> {
        check_path(path).await?;
        let mut socket = Self::bind_hidden(path, access)?;
        socket.publish()?;
        Ok(socket)
    }

    /// Creates the socket, and leaves the path alone until [`AdminSocket::publish`].
    pub(crate) fn bind_hidden(path: &Path, access: Access) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // It fails if there is one.
        let _ = std::fs::DirBuilder::new().mode(0o755).create(folder);
        if !folder.is_dir() {
            return Err(AdminError::NoFolder {
                path: path.to_owned(),
                folder: folder.to_owned(),
            });
        }
        // Created in a private folder and then moved: bound in place, it would be open to other users
        // until its mode is set.
        // Sockets of one process may lie in one folder.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let private = folder.join(format!(".waxwing-{}-{name}", std::process::id()));
        // A process with this id that was killed here may have left one.
        let _ = std::fs::remove_dir_all(&private);
        let bound = bind_in(&private, access);
        if bound.is_err() {
            let _ = std::fs::remove_dir_all(&private);
        }
        let (listener, inode) = bound.map_err(|source| match (access, source.kind()) {
            (Access::Group(_), io::ErrorKind::PermissionDenied) => AdminError::NotAMember {
                path: path.to_owned(),
                source,
            },
            _ => failed(source),
        })?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            inode,
            hidden: Some(private),
            is_left: Arc::default(),
        })
    }

    /// Leaves the path to another process once this holds. Without a word that one could put its socket there
    /// between the look at the file and its removal.
    pub(crate) fn leave_if(&mut self, is_left: &Arc<AtomicBool>) {
        self.is_left = Arc::clone(is_left);
    }

    /// Moves the socket to its path, in place of another one.
    pub(crate) fn publish(&mut self) -> Result<(), AdminError> {
        let Some(private) = self.hidden.take() else {
            return Ok(());
        };
        let moved = std::fs::rename(private.join(NAME), &self.path);
        // Best effort: a folder left behind is harmless.
        let _ = std::fs::remove_dir_all(&private);
        moved.map_err(|source| AdminError::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// Passes the connections of processes that want to take over to the controller, until the future is
    /// dropped. Only this process's user and root may.
    pub(crate) async fn serve_upgrades(mut self, requests: mpsc::Sender<Request>) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        let own = rustix::process::geteuid().as_raw();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let peer = stream.peer_cred();
            let is_ours = peer.is_ok_and(|peer| [0, own].contains(&peer.uid()));
            if let Some(stream) = stream.into_std().ok().filter(|_| is_ours) {
                let _ = requests.send(Request::HandOver(stream)).await;
            }
        }
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(mut self, router: Router) {
        if let Some(listener) = self.listener.take() {
            let max = connections::connections_max();
            connections::serve("the admin socket", listener, max, router).await;
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Some(private) = &self.hidden {
            let _ = std::fs::remove_dir_all(private);
            return;
        }
        // Only if the file is still ours: another balancer may have replaced it.
        if !self.is_left.load(Ordering::Acquire)
            && std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Checks that the path is free or holds a stale socket.
async fn check_path(path: &Path) -> Result<(), AdminError> {
    let file = match std::fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(AdminError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    if !file.file_type().is_socket() {
        return Err(AdminError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AdminError::Io {
            path: path.to_owned(),
            source,
        }),
        Ok(_) => Err(AdminError::InUse(path.to_owned())),
    }
}

/// The socket's name in a private folder.
const NAME: &str = "s";

fn bind_in(private: &Path, access: Access) -> io::Result<(UnixListener, u64)> {
    std::fs::DirBuilder::new().mode(0o700).create(private)?;
    let opened = std::fs::File::open(private)?;
    // By this short name, because the private folder's may be longer than the name of a socket can be.
    let new = format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd());
    let listener = UnixListener::bind(&new)?;
    if let Access::Group(group) = access {
        std::os::unix::fs::chown(&new, None, Some(group.as_raw()))?;
    }
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(access.mode()))?;
    let inode = std::fs::metadata(&new)?.ino();
    Ok((listener, inode))
}
