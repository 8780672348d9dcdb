//! Texts that stand for a value: durations, addresses, names, keys; and the nearest name to a
//! mistyped one. Each error says what to write.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use waxwing_dataplane::Ports;
use waxwing_packet::{Address, Family, Prefix};

/// The units of a duration, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads `240s`, `2h4m`, `500ms`: whole numbers with units, added up.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "\"{text}\" is not a duration; write whole numbers with the units d, h, m, s or ms, \
             such as \"240s\", \"2h4m\" or \"500ms\""
        )
    };
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let millis = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?
            .1;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number
            .checked_mul(millis)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration as [`duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    let mut text = String::new();
    for (unit, size) in UNITS.iter().rev() {
        let count = millis / u128::from(*size);
        millis %= u128::from(*size);
        if count > 0 {
            text += &format!("{count}{unit}");
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// Reads an address that packets can be sent to: one host's, on a wire.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let ip: IpAddr = text.parse().map_err(|_| not_an_address(text))?;
    let refuse = |why: &str| {
        Err(format!(
            "{ip} is {why}; write the address of one host, such as \"203.0.113.10\" or \
             \"2001:db8::10\""
        ))
    };
    if ip.is_unspecified() {
        return refuse("the unspecified address");
    }
    if ip.is_multicast() {
        return refuse("a multicast address");
    }
    if ip.is_loopback() {
        return refuse("a loopback address, which never leaves a host");
    }
    match ip {
        IpAddr::V4(Ipv4Addr::BROADCAST) => return refuse("the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => {
            return refuse("no host's address (RFC 1122: 0.0.0.0/8 is \"this network\")");
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return Err(format!(
                    "{ip} is an IPv4 address in IPv6 form; write \"{v4}\""
                ));
            }
            if v6.is_unicast_link_local() {
                return refuse("a link-local address, which means nothing beyond one link");
            }
        }
        IpAddr::V4(_) => {}
    }
    Ok(ip.into())
}

/// Reads a network: `10.2.0.0/24`.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    let Some((host, len)) = text.split_once('/') else {
        let host: Address = address(text)?;
        let bits = match host.family() {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        return Err(format!(
            "\"{text}\" is no network; write \"{host}/{bits}\" for this one address"
        ));
    };
    let read = host.parse::<IpAddr>().ok().zip(len.parse::<u8>().ok());
    let fits = |(ip, len): &(IpAddr, u8)| *len <= if ip.is_ipv4() { 32 } else { 128 };
    let prefix = read
        .filter(fits)
        .map(|(ip, len)| Prefix::new(ip.into(), len));
    let prefix = prefix.ok_or_else(|| {
        format!("\"{text}\" is no network; write one such as \"10.2.0.0/24\" or \"fd00:2::/64\"")
    })?;
    if host.parse() != Ok(IpAddr::from(prefix.network())) {
        return Err(format!(
            "{host} is an address within its network; write \"{prefix}\""
        ));
    }
    Ok(prefix)
}

/// Reads `8000-8010` or `all`.
pub(super) fn ports(text: &str) -> Result<Ports, String> {
    let wrong = || {
        format!(
            "\"{}\" is no range of ports; write one such as \"8000-8010\", or \"all\", or a single \
             port without quotes",
            text.escape_debug()
        )
    };
    if text == "all" {
        return Ok(Ports::ALL);
    }
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    Ports::range(port(first)?, port(last)?).ok_or_else(wrong)
}

/// Why a text is no address, with a guess at what was meant.
fn not_an_address(text: &str) -> String {
    if let Ok(endpoint) = text.parse::<std::net::SocketAddr>() {
        return format!(
            "\"{text}\" has a port in it; write the address alone, \"{}\", and the port as \
             `port = {}`",
            endpoint.ip(),
            endpoint.port()
        );
    }
    if let Some((host, _)) = text.split_once('/')
        && host.parse::<IpAddr>().is_ok()
    {
        return format!("\"{text}\" is a network; write one host's address, such as \"{host}\"");
    }
    format!(
        "\"{text}\" is not an IP address; write one such as \"203.0.113.10\" or \"2001:db8::10\" \
         (names are not looked up)"
    )
}

/// Reads a name that is safe in a path, a URL and a metric: letters, digits, `.`, `_`, `-`.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "\"{}\" is not a name; write 1 to 64 of the characters a-z A-Z 0-9 . _ - that do not \
             begin with a dot",
            text.escape_debug()
        )
    })
}

/// Reads an interface's name as Linux allows it (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let fits = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "/:".contains(c));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "\"{}\" cannot be an interface's name (1 to 15 bytes, no space, `/` or `:`); write one \
             that `ip link` lists, such as \"eth0\"",
            text.escape_debug()
        )
    })
}

/// Reads a 128-bit key in hexadecimal. The error does not repeat it: a wrong key may be half right.
pub(super) fn key_128(text: &str) -> Result<u128, String> {
    let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .ok_or_else(|| {
            "a cluster key is 32 hexadecimal digits; write what `openssl rand -hex 16` prints, the \
         same on every balancer"
                .to_owned()
        })
}

/// The candidate that a mistyped name most likely means.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let near = |candidate: &&str| distance(name, candidate);
    let best = candidates.into_iter().min_by_key(near)?;
    (distance(name, best) <= best.len().max(3) / 3).then_some(best)
}

/// Edits (insert, delete, replace, swap of neighbours) between two names; names longer than any
/// key are far from all.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 {
        return usize::MAX;
    }
    // Rows of the optimal string alignment matrix: two above and the one being filled.
    let mut above2 = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(above2[j - 2] + 1);
            }
        }
        above2 = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}
