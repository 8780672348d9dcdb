//! TCP packets as text: `>` from the client, `<` from the server, then a letter for each flag.

use waxwing_dataplane::session::Direction;
use waxwing_packet::TcpFlags;

/// The packets of a text such as `>S <SA >A`: a handshake.
pub fn packets(text: &str) -> impl Iterator<Item = (Direction, TcpFlags)> + '_ {
    text.split_whitespace().map(packet)
}

/// The packet of a word such as `<SA`.
pub fn packet(word: &str) -> (Direction, TcpFlags) {
    let (direction, flags) = match word.split_at(1) {
        (">", flags) => (Direction::Forward, flags),
        ("<", flags) => (Direction::Reply, flags),
        _ => panic!("neither > nor <: {word}"),
    };
    let bits = flags.chars().map(|flag| match flag {
        'S' => TcpFlags::SYN,
        'A' => TcpFlags::ACK,
        'F' => TcpFlags::FIN,
        'R' => TcpFlags::RST,
        'P' => TcpFlags::PSH,
        other => panic!("no such flag: {other}"),
    });
    (direction, TcpFlags(bits.fold(0, |all, bit| all | bit)))
}
