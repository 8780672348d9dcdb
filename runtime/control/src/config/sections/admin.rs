//! `[admin]`: who may ask the balancer, and who may change it.

use std::path::PathBuf;

use crate::config::model::{AdminConfig, AdminListen};
use crate::config::problem::{Located, Problems, Span};
use crate::config::reader::Table;
use crate::config::schema::{self, Key};
use crate::config::values;

/// Maximum length of a Unix socket path, without the terminating zero byte of `sockaddr_un`.
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn read(root: &Table<'_, '_>, problems: &mut Problems) -> AdminConfig {
    let default = |span| Located::new(PathBuf::from("/run/waxwing/waxwing.sock"), span);
    let Some(table) = root.table(&schema::ADMIN, problems) else {
        return AdminConfig {
            socket: default(Span::default()),
            group: None,
            read_socket: None,
            read_group: None,
            listen: None,
        };
    };
    let socket = socket(&table, &schema::SOCKET, problems);
    let read_socket = self::socket(&table, &schema::READ_SOCKET, problems);
    let read_group = table.parsed(&schema::READ_GROUP, problems, group);
    if let (None, Some(group)) = (&read_socket, &read_group) {
        let text = "`read_group` has no effect without `read_socket`; write one, or remove it";
        problems.error(group.span, text);
    }
    AdminConfig {
        socket: socket.unwrap_or_else(|| default(table.span)),
        group: table.parsed(&schema::GROUP, problems, group),
        read_socket,
        read_group,
        listen: listen(&table, problems),
    }
}

fn socket(
    table: &Table<'_, '_>,
    key: &'static Key,
    problems: &mut Problems,
) -> Option<Located<PathBuf>> {
    let folder = problems.folder();
    table.parsed(key, problems, |text| {
        let path = folder.join(values::path(text, "the socket's path")?);
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(format!(
                "the path of a socket has at most {SOCKET_PATH_MAX} bytes; write a shorter one, such as \
                 \"/run/waxwing/waxwing.sock\""
            ));
        }
        Ok(path)
    })
}

fn group(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("this is not a group; write its name, such as \"waxwing\"".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Reads the TCP port, which is of no use without a token.
fn listen(table: &Table<'_, '_>, problems: &mut Problems) -> Option<AdminListen> {
    let folder = problems.folder();
    let address = table.parsed(&schema::ADMIN_LISTEN, problems, |text| {
        let listen = values::listen(text)?;
        match listen.ip().is_loopback() {
            true => Ok(listen),
            false => Err(format!(
                "{} is no loopback address, and this port has no encryption; write one such as \
                 \"127.0.0.1:9118\"",
                listen.ip()
            )),
        }
    });
    let token_file = table.parsed(&schema::TOKEN_FILE, problems, |text| {
        Ok(folder.join(values::path(text, "the path of a file that has the token")?))
    });
    match (address, token_file) {
        (Some(address), Some(token_file)) => Some(AdminListen {
            address: address.value,
            token_file: token_file.value,
        }),
        (Some(alone), None) => {
            let text = "any user of this host could change the balancer; write `token_file` too";
            problems.error(alone.span, text);
            None
        }
        (None, Some(alone)) => {
            let text = "`token_file` has no effect without `listen`; write one, or remove it";
            problems.error(alone.span, text);
            None
        }
        (None, None) => None,
    }
}
