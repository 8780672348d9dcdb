//! Reads `[[source_nat]]`. Invalid entries are skipped; the valid rest applies.

use waxwing_dataplane::Ports;

use crate::config::model::service::SourceNat;
use crate::config::problem::Problems;
use crate::config::reader::Table;
use crate::config::schema;
use crate::config::values;

/// Lowest default port; the ports below are for servers (RFC 6056 section 3.2).
const PORT_MIN: u16 = 1024;

pub(super) fn read(root: &Table<'_, '_>, problems: &mut Problems) -> Vec<SourceNat> {
    let tables = root.tables(&schema::SOURCE_NAT, problems);
    let read = |table: &Table<'_, '_>| {
        let clients = table.strings(&schema::CLIENTS, problems, values::prefix);
        let before = problems.list.len();
        let addresses = table.strings(&schema::ADDRESSES, problems, values::address);
        let all_valid = problems.list.len() == before;
        let ports = table.ports(&schema::SOURCE_PORTS, problems);
        if all_valid && addresses.as_ref().is_some_and(Vec::is_empty) {
            let text = "`addresses` is empty; write `addresses = [\"10.2.0.9\"]`, with an address \
                        that the servers reach through this host";
            problems.error(table.span, text);
        }
        SourceNat {
            clients: clients.unwrap_or_default(),
            addresses: addresses.unwrap_or_default(),
            ports: ports.map_or_else(default_ports, |ports| ports.value),
            span: table.span,
        }
    };
    tables.iter().map(read).collect()
}

fn default_ports() -> Ports {
    Ports::range(PORT_MIN, u16::MAX).unwrap_or(Ports::ALL)
}
