//! Parsers of single values: durations, addresses, names, keys. Each error says what to write.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use waxwing_dataplane::Ports;
use waxwing_packet::{Address, Family, Prefix};

/// Parses a duration such as `240s`, `2h4m` or `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!(
            "\"{text}\" is not a duration; write numbers with the units d, h, m, s or ms, such as \
             \"240s\", \"2h4m\" or \"500ms\""
        )
    })
}

/// Formats a duration as [`duration`] parses it.
pub(super) fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Parses a path; `what` names it in the error.
pub(super) fn path(text: &str, what: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("this is not a path; write {what}"));
    }
    Ok(PathBuf::from(text))
}

/// Parses the address of one host on a link: neither multicast, loopback, link-local nor reserved.
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
            return refuse("not a host address (RFC 1122: 0.0.0.0/8 is \"this network\")");
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return Err(format!(
                    "{ip} is an IPv4-mapped IPv6 address; write \"{v4}\""
                ));
            }
            if v6.is_unicast_link_local() {
                return refuse("a link-local address, which is valid on one link only");
            }
        }
        IpAddr::V4(_) => {}
    }
    Ok(ip.into())
}

/// Parses an address of this host and a port, to listen on.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse().ok();
    parsed
        .filter(|listen: &SocketAddr| listen.port() > 0)
        .ok_or_else(|| {
            format!(
                "\"{text}\" is not an address and a port; write one such as \"127.0.0.1:9117\" or \
                 \"[::1]:9117\""
            )
        })
}

/// Parses a network such as `10.2.0.0/24`; the bits after the prefix must be 0.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    let Some((host, len)) = text.split_once('/') else {
        let host: Address = address(text)?;
        let bits = match host.family() {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        return Err(format!(
            "\"{text}\" is not a network; write \"{host}/{bits}\" for this one address"
        ));
    };
    let read = host.parse::<IpAddr>().ok().zip(len.parse::<u8>().ok());
    let fits = |(ip, len): &(IpAddr, u8)| *len <= if ip.is_ipv4() { 32 } else { 128 };
    let prefix = read
        .filter(fits)
        .map(|(ip, len)| Prefix::new(ip.into(), len));
    let prefix = prefix.ok_or_else(|| {
        format!("\"{text}\" is not a network; write one such as \"10.2.0.0/24\" or \"fd00:2::/64\"")
    })?;
    if host.parse() != Ok(IpAddr::from(prefix.network())) {
        return Err(format!(
            "{host} is a host address inside its network; write \"{prefix}\""
        ));
    }
    Ok(prefix)
}

/// Parses a port range such as `8000-8010`, or `all`.
pub(super) fn ports(text: &str) -> Result<Ports, String> {
    let wrong = || {
        format!(
            "\"{}\" is not a port range; write one such as \"8000-8010\", or \"all\", or a single \
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

/// Says why a text is not an address, and guesses what was meant.
fn not_an_address(text: &str) -> String {
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        return format!(
            "\"{text}\" contains a port; write the address alone, \"{}\", and the port as \
             `port = {}`",
            endpoint.ip(),
            endpoint.port()
        );
    }
    if let Some((host, _)) = text.split_once('/')
        && host.parse::<IpAddr>().is_ok()
    {
        return format!(
            "\"{text}\" is a network; write the address of one host, such as \"{host}\""
        );
    }
    format!(
        "\"{text}\" is not an IP address; write one such as \"203.0.113.10\" or \"2001:db8::10\" \
         (host names are not resolved)"
    )
}

/// Parses a name that is safe in a path, a URL and a metric: letters, digits, `.`, `_`, `-`.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "\"{}\" is not a valid name; write 1 to 64 of the characters a-z A-Z 0-9 . _ - and do \
             not begin with a dot",
            text.escape_debug()
        )
    })
}

/// Returns whether a text can name a signal: 1 to 32 of `a-z`, `0-9` and `_`, a letter first. (A
/// number would be taken for a signal's index.)
pub(super) fn is_signal_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=32).contains(&text.len())
        && text.bytes().all(plain)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Parses an interface name by the kernel's rule (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let fits = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "/:".contains(c));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "\"{}\" cannot be an interface name (1 to 15 bytes, no space, `/` or `:`); write one \
             that `ip link` lists, such as \"eth0\"",
            text.escape_debug()
        )
    })
}

/// Parses a 128-bit key in hexadecimal. The error does not repeat it: most of a mistyped key is the
/// secret.
pub(super) fn key_128(text: &str) -> Result<u128, String> {
    let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let key = hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    key.ok_or_else(|| {
        "a cluster key has 32 hexadecimal digits; write the output of `openssl rand -hex 16`, the \
         same on every balancer"
            .to_owned()
    })
}
