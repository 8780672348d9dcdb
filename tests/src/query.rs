//! A query to each kind of server in its own protocol, independent of the health checks under test.
//!
//! Invariant: each step of a query ends within [`PATIENCE`], and a query succeeds only with a healthy
//! server's answer.

use std::io::{self, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{
    SockFlag, SockType, SockaddrLike as _, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::server_kind::Kind;

/// The longest time for connecting, and for each read.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// The name that our dnsmasq resolves.
pub const DNS_NAME: &str = "up.test";

/// Queries a server and returns its answer as text.
pub fn ask(kind: Kind, server: SocketAddr) -> io::Result<String> {
    match kind {
        Kind::Nginx | Kind::Moody => http(server, "/healthz"),
        Kind::Redis => redis(server),
        Kind::Dnsmasq => dns(server),
        Kind::Postgres => postgres(server),
        Kind::Mariadb => mysql(server),
    }
}

/// Connects with [`PATIENCE`].
pub fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&server, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Connects from a local port, with ten times [`PATIENCE`]. An earlier connection may have left the port in
/// TIME-WAIT.
pub fn connect_from(port: u16, server: SocketAddr) -> io::Result<TcpStream> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let [from, server] = [SocketAddr::new(any, port), server].map(SockaddrStorage::from);
    let family = from.family().ok_or(io::ErrorKind::InvalidInput)?;
    let patience = 10 * PATIENCE;
    let seconds = TimeVal::new(patience.as_secs().cast_signed(), 0);
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::SendTimeout, &seconds)?;
    bind(socket.as_raw_fd(), &from)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &server)?;
    let connection = TcpStream::from(socket);
    connection.set_read_timeout(Some(patience))?;
    Ok(connection)
}

/// Closes a connection and waits until the server has closed it.
pub fn close(mut connection: TcpStream) -> io::Result<()> {
    connection.shutdown(Shutdown::Write)?;
    let rest = connection.read(&mut [0])?;
    expect(rest == 0, "unexpected bytes after the answer")
}

/// Returns a UDP socket connected to a server, with [`PATIENCE`].
pub fn connect_udp(server: SocketAddr) -> io::Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    Ok(socket)
}

/// Fetches a page over a keep-alive connection and returns the body.
pub fn get(connection: &mut TcpStream, path: &str) -> io::Result<String> {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: waxwing\r\n\r\n")?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let [byte] = read(connection)?;
        head.push(char::from(byte));
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body)?;
    expect(head.starts_with("HTTP/1.1 200"), &head)?;
    Ok(String::from_utf8_lossy(&body).trim().to_owned())
}

fn http(server: SocketAddr, path: &str) -> io::Result<String> {
    get(&mut connect(server)?, path)
}

fn redis(server: SocketAddr) -> io::Result<String> {
    let mut connection = connect(server)?;
    connection.write_all(b"PING\r\n")?;
    let answer: [u8; 7] = read(&mut connection)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    expect(answer == "+PONG\r\n", &answer)?;
    Ok(answer)
}

/// A query of type A (RFC 1035, section 4.1).
fn dns(server: SocketAddr) -> io::Result<String> {
    let socket = connect_udp(server)?;
    let mut query = vec![0x57, 0x57, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in DNS_NAME.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer)?;
    let (code, answers) = (answer[3] & 15, answer[7]);
    let said = format!("{len} bytes, code {code}, {answers} answers");
    expect(len > 12 && answer[..2] == query[..2], &said)?;
    expect(code == 0 && answers > 0, &said)?;
    Ok(said)
}

/// Sends a start-up message of protocol 3.0; a healthy server answers that no password is needed.
fn postgres(server: SocketAddr) -> io::Result<String> {
    let mut connection = connect(server)?;
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap_or(0);
    connection.write_all(&[&length.to_be_bytes()[..], body].concat())?;
    let answer: [u8; 9] = read(&mut connection)?;
    expect(answer == *b"R\0\0\0\x08\0\0\0\0", &format!("{answer:?}"))?;
    Ok("authentication ok".to_owned())
}

/// Reads the server's greeting: a header of four bytes, protocol version 10, server version.
fn mysql(server: SocketAddr) -> io::Result<String> {
    let mut connection = connect(server)?;
    let [_, _, _, _, version]: [u8; 5] = read(&mut connection)?;
    let mut name = String::new();
    loop {
        let [byte] = read(&mut connection)?;
        if byte == 0 {
            break;
        }
        name.push(char::from(byte));
    }
    expect(version == 10, &name)?;
    Ok(name)
}

fn read<const N: usize>(connection: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    connection.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn expect(is_well: bool, said: &str) -> io::Result<()> {
    let error = || io::Error::other(format!("it said {said:?}"));
    if is_well { Ok(()) } else { Err(error()) }
}
