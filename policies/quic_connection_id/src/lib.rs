//! QUIC connection id: a connection stays with its server when its client's address changes,
//! because the connection ids that the server issues contain the server's id.
//!
//! A client chooses the destination connection id of its first packets at random; the server
//! chooses all later ones. So only the server can put into an id what identifies it. The servers
//! must do so as QUIC-LB describes for plaintext ids (draft-ietf-quic-load-balancers): a first
//! byte, the server id, a nonce. There is no mode that hashes connection ids, because each of a
//! connection's ids, the client's first one included, would hash to another server.
//!
//! Invariant: a packet with a server's id goes to that server, whatever its addresses. All others
//! (new connections, ids that no backend has, payloads that are not QUIC) are hashed by flow, so no
//! client can choose the server of a new connection.

mod header;

use std::collections::BTreeMap;

use serde::Deserialize;
use waxwing_sdk::group::Group;
use waxwing_sdk::{Backends, ConfigError, Flow, Pick, Policy, export_policy};

use crate::header::CONNECTION_ID_MAX;

/// `policy_config = { server_id_offset = 1, server_id_length = 4 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Offset of the server id in a connection id, in bytes. If it is not 0 and the top three bits
    /// of the first byte are all set, the connection id has no server id.
    server_id_offset: usize,
    /// Length of the server id, 1 to 15 bytes.
    server_id_length: usize,
    /// Server ids in hexadecimal digits, each with the tag of its backend. Empty: a server's id is
    /// its backend's tag, in network byte order.
    server_ids: BTreeMap<String, u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_id_offset: 1,
            server_id_length: 4,
            server_ids: BTreeMap::new(),
        }
    }
}

/// Longest server id: with a first byte and a nonce of four bytes it fills a connection id.
const SERVER_ID_MAX: usize = 15;

/// Finds servers by id.
pub struct QuicConnectionId {
    offset: usize,
    length: usize,
    /// Server ids and tags, as configured.
    listed: Vec<(u128, u32)>,
    /// Server ids and backend indices, sorted by id. Includes draining backends: their connections
    /// are not new, even from a new address.
    servers: Vec<(u128, usize)>,
    /// For packets without a server id.
    backends: Group,
    by_id: u64,
    by_flow: u64,
    unknown_id: u64,
}

impl Policy for QuicConnectionId {
    type Config = Config;
    const PAYLOAD_BYTES: usize = header::LEN_MAX;
    const COUNTERS: &'static [&'static str] = &["by_id", "by_flow", "unknown_id"];

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        let (offset, length) = (config.server_id_offset, config.server_id_length);
        if !(1..=SERVER_ID_MAX).contains(&length) {
            return Err(format!(
                "policy_config.server_id_length = {length}: expected 1 to {SERVER_ID_MAX} bytes"
            )
            .into());
        }
        if offset > CONNECTION_ID_MAX - length {
            return Err(format!(
                "policy_config.server_id_offset = {offset}: a connection id has at most \
                 {CONNECTION_ID_MAX} bytes; expected up to {}",
                CONNECTION_ID_MAX - length
            )
            .into());
        }
        let mut quic = Self {
            offset,
            length,
            listed: listed(&config.server_ids, length)?,
            servers: Vec::new(),
            backends: Group::default(),
            by_id: 0,
            by_flow: 0,
            unknown_id: 0,
        };
        quic.backends_changed(backends)?;
        Ok(quic)
    }

    fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
        let id = header::server_chosen_id(flow.payload()).and_then(|id| self.server_id(id));
        let server = id.map(|id| self.servers.binary_search_by_key(&id, |(id, _)| *id));
        match server {
            Some(Ok(at)) => {
                self.by_id += 1;
                return Pick::Keep(self.servers[at].1);
            }
            Some(Err(_)) => self.unknown_id += 1,
            None => self.by_flow += 1,
        }
        self.backends.pick(flow.hash())
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        check_tags(backends, self.length, self.listed.is_empty())?;
        self.servers = if self.listed.is_empty() {
            let with_id = backends.healthy().filter(|backend| backend.tag() != 0);
            with_id.map(|b| (b.tag().into(), b.index())).collect()
        } else {
            let of_tag = |tag| backends.healthy().find(|backend| backend.tag() == tag);
            let listed = self.listed.iter();
            listed
                .filter_map(|(id, tag)| Some((*id, of_tag(*tag)?.index())))
                .collect()
        };
        self.servers.sort_unstable();
        self.backends = Group::new(backends.iter());
        Ok(())
    }

    fn counters(&self, values: &mut [u64]) {
        values.copy_from_slice(&[self.by_id, self.by_flow, self.unknown_id]);
    }
}

impl QuicConnectionId {
    /// Returns the server id in a connection id; `None` if the connection id is too short or has
    /// none.
    fn server_id(&self, connection_id: &[u8]) -> Option<u128> {
        let has_none = self.offset > 0 && *connection_id.first()? >> 5 == 0b111;
        let id = connection_id.get(self.offset..self.offset + self.length)?;
        (!has_none).then(|| number(id))
    }
}

/// Returns a server id as a number, which compares fast.
fn number(id: &[u8]) -> u128 {
    id.iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Returns the config's server ids with their tags.
fn listed(
    server_ids: &BTreeMap<String, u32>,
    length: usize,
) -> Result<Vec<(u128, u32)>, ConfigError> {
    let mut listed = BTreeMap::new();
    for (text, tag) in server_ids {
        let id = from_hex(text, length).ok_or_else(|| {
            format!(
                "policy_config.server_ids has {text:?}; expected {} hexadecimal digits, since \
                 server_id_length = {length}",
                length * 2
            )
        })?;
        if listed.insert(id, *tag).is_some() {
            return Err(format!(
                "policy_config.server_ids has one id in two spellings: {text:?}; write each once"
            )
            .into());
        }
    }
    Ok(listed.into_iter().collect())
}

fn from_hex(text: &str, length: usize) -> Option<u128> {
    let is_hex = text.len() == length * 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

/// Checks that each server has its own tag, and that the tag fits into a server id if it is one.
/// Tag 0 is none.
fn check_tags(backends: &Backends<'_>, length: usize, is_id: bool) -> Result<(), ConfigError> {
    let mut tags: Vec<_> = backends.iter().map(|backend| backend.tag()).collect();
    tags.sort_unstable();
    if let Some(twice) = tags
        .windows(2)
        .find(|pair| pair[0] == pair[1] && pair[0] != 0)
    {
        return Err(format!(
            "two backends have tag {}; each needs its own tag, which its server id refers to",
            twice[0]
        )
        .into());
    }
    let bits = u32::try_from(length * 8).unwrap_or(u32::MAX);
    let max = u32::MAX
        .checked_shr(u32::BITS.saturating_sub(bits))
        .unwrap_or(0);
    match tags.last().filter(|tag| is_id && **tag > max) {
        Some(tag) => Err(format!(
            "a backend has tag {tag}, which does not fit into a server id of {length} bytes; \
             expected tags up to {max}, or a larger policy_config.server_id_length"
        )
        .into()),
        None => Ok(()),
    }
}

export_policy!(QuicConnectionId);

#[cfg(test)]
mod tests;
