//! Frames that reach a client or a server, and their answers.

use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Tuple;
use waxwing_packet::{Protocol, TcpFlags};

use super::connection::{Connection, Side, Socket};
use super::tcp::{Segment, State, TcpEnd, refuse};
use super::{Departure, FORGED, Hosts, mark};
use crate::addresses::{BACK, FRONT, source_address};
use crate::oracle::is_client_syn;
use crate::random::Random;
use crate::view::{TCP, UDP, View};

/// A TCP segment as its receiver sees it.
struct Arrival<'a> {
    tuple: Tuple,
    /// Flags, sequence number, acknowledgment number.
    header: (u8, u32, u32),
    payload: &'a [u8],
    now_us: u64,
}

impl Hosts {
    /// Handles a frame that reaches the hosts behind a port. Returns the end whose wake-up time may have
    /// changed.
    pub(crate) fn arrive(
        &mut self,
        port: PortId,
        (frame, view): (&[u8], &View),
        now_us: u64,
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let protocol = match view.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return Ok(None),
        };
        if !view.has_valid_checksums(frame) {
            return Ok(None);
        }
        // As seen by the receiver.
        let tuple = Tuple {
            source: view.destination,
            destination: view.source,
            source_port: view.destination_port,
            destination_port: view.source_port,
            protocol,
        };
        let payload = &frame[view.payload..view.end];
        match (protocol, port) {
            (Protocol::Udp, _) => self
                .datagram_arrives(&tuple, port, payload, out)
                .map(|()| None),
            (Protocol::Tcp, port) => {
                let arrival = Arrival {
                    tuple,
                    header: (view.flags, view.sequence, view.acknowledgment),
                    payload,
                    now_us,
                };
                match port {
                    FRONT => self.segment_to_client(&arrival, out),
                    _ => self.segment_to_server(&arrival, random, out),
                }
            }
        }
    }

    fn datagram_arrives(
        &mut self,
        tuple: &Tuple,
        port: PortId,
        payload: &[u8],
        out: &mut Vec<Departure>,
    ) -> Result<(), String> {
        if payload.starts_with(FORGED) {
            return Ok(());
        }
        if port == BACK {
            out.push((BACK, self.datagram(tuple, BACK, payload, false)));
            return Ok(());
        }
        // Another client may have the source port by now if the session ended early.
        let may_be_anothers = self.sessions_may_end_early && source_address(tuple.source).is_some();
        if !payload.starts_with(&mark(tuple).to_be_bytes()) && !may_be_anothers {
            return Err(format!("{tuple:?} received the answer of another flow"));
        }
        self.completed += 1;
        Ok(())
    }

    fn segment_to_client(
        &mut self,
        arrival: &Arrival<'_>,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let Arrival {
            tuple,
            header,
            payload,
            now_us,
        } = *arrival;
        let mut segments = Vec::new();
        let number = self.by_client.get(&tuple).copied();
        let Some(number) = number.filter(|at| self.connections[*at].client.is_alive()) else {
            // An address without any connection belongs to an attacker, who does not answer.
            if number.is_some() {
                segments.extend(refuse(header, payload.len() as u32));
                self.depart(&tuple, FRONT, segments, out);
            }
            return Ok(None);
        };
        let connection = &mut self.connections[number];
        let was_done = connection.client.is_done();
        connection
            .client
            .receive(header, payload, now_us, &mut segments)?;
        self.completed += u64::from(!was_done && connection.client.is_done());
        let state = connection.client.state;
        connection.check_state(Side::Client(number), state)?;
        self.depart(&tuple, FRONT, segments, out);
        Ok(Some(Side::Client(number)))
    }

    fn segment_to_server(
        &mut self,
        arrival: &Arrival<'_>,
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let tuple = arrival.tuple;
        let (flags, sequence, _) = arrival.header;
        let opening = is_client_syn(flags);
        let has_socket = self.sockets.get(&tuple).is_some_and(|socket| {
            let end = &socket.end;
            end.is_alive() && !(opening && end.is_done())
        });
        if has_socket {
            return self.segment_to_socket(arrival, out);
        }
        let mut segments = Vec::new();
        let connection = self.by_initial.get(&sequence).copied();
        if let Some(number) = connection.filter(|_| opening) {
            segments = self.open_socket(number, arrival, random);
        } else if !opening || random.chance(200) {
            segments.extend(refuse(arrival.header, arrival.payload.len() as u32));
        } else if random.chance(800) {
            // An attacker's SYN: the server answers and keeps no state.
            segments.push(Segment {
                flags: TcpFlags::SYN | TcpFlags::ACK,
                sequence: random.next() as u32,
                acknowledgment: sequence.wrapping_add(1),
                payload: Vec::new(),
            });
        }
        self.depart(&tuple, BACK, segments, out);
        Ok(connection.map(|_| Side::Server(tuple)))
    }

    /// Handles a segment to an existing socket of a server.
    fn segment_to_socket(
        &mut self,
        arrival: &Arrival<'_>,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let Arrival {
            tuple,
            header,
            payload,
            now_us,
        } = *arrival;
        let Some(socket) = self.sockets.get_mut(&tuple) else {
            return Ok(None);
        };
        let mut segments = Vec::new();
        let number = socket.connection;
        socket.end.receive(header, payload, now_us, &mut segments)?;
        let state = socket.end.state;
        let connection = &mut self.connections[number];
        if state == State::Open {
            let here = (tuple.source, tuple.source_port);
            let server = *connection.accepted_by.get_or_insert(here);
            if server != here {
                return Err(format!(
                    "connection {number} was accepted by {server:?} and {here:?}"
                ));
            }
        }
        connection.check_state(Side::Server(tuple), state)?;
        self.depart(&tuple, BACK, segments, out);
        Ok(Some(Side::Server(tuple)))
    }

    /// Opens a server's socket at the SYN of this connection. Returns the segments that it sends.
    fn open_socket(
        &mut self,
        number: usize,
        arrival: &Arrival<'_>,
        random: &mut Random,
    ) -> Vec<Segment> {
        let (_, sequence, _) = arrival.header;
        let initial = self.initial_sequence(random);
        let Connection {
            server_behaviour,
            client,
            ..
        } = &self.connections[number];
        let stream = (number as u32, client.total());
        let mut segments = Vec::new();
        let end = TcpEnd::server(
            stream,
            *server_behaviour,
            (initial, sequence),
            arrival.now_us,
            &mut segments,
        );
        let socket = Socket {
            connection: number,
            end,
        };
        self.sockets.insert(arrival.tuple, socket);
        segments
    }
}
