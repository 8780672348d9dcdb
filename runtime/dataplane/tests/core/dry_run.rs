//! Dry runs foretell what happens to a packet, and change nothing.

use crate::frames::{ACK, SYN, establish, ip, request, request_to};
use crate::world::{
    BACK, BACKEND_PORT, EACH, FRONT, SERVICE_PORT, Settings, V4, World, backend_mac,
};
use waxwing_dataplane::dry_run::{DryRun, Fate, Outcome, is_decided_by_flow, no_policy};
use waxwing_dataplane::model::Release;
use waxwing_dataplane::model::{Faces, NoBackend, SessionAction};
use waxwing_dataplane::session::Tuple;
use waxwing_dataplane::{BackendId, DropReason, Epoch, Pick, SourceLimit};

const CLIENT_PORT: u16 = 4000;
/// The length of the large packet that is asked for.
const LARGE: u16 = 1400;

fn flow(world: &World, client_port: u16) -> Tuple {
    let plan = world.settings.plan;
    Tuple {
        source: plan.client,
        destination: plan.vip,
        source_port: client_port,
        destination_port: SERVICE_PORT,
        protocol: world.settings.protocol,
    }
}

impl World {
    fn next_epoch(&self) -> Epoch {
        self.epoch(self.settings.snapshot(1), Release::default())
    }

    fn dry<T>(&self, ask: impl FnOnce(&DryRun<'_>) -> T) -> T {
        let epoch = self.next_epoch();
        ask(&DryRun {
            shared: &self.shared,
            snapshot: &epoch.snapshot,
            cluster_key: [0; 4],
            now: self.now(),
        })
    }

    /// Asks with the world's policy.
    fn foretell(&self, client_port: u16) -> Outcome {
        let policy = self.next_epoch().policies.remove(0);
        self.dry(|run| run.run((&flow(self, client_port), FRONT, LARGE), policy))
            .expect("there is memory")
    }
}

#[test]
fn a_new_flow_is_foretold_and_nothing_changes() {
    for (plan, protocol) in EACH {
        let world = World::new(Settings::new(plan, protocol));
        world.script().picks = vec![Pick::Backend(1)];
        let foretold = world.foretell(CLIENT_PORT);
        assert_eq!(foretold.request.fate, Fate::Forwarded);
        assert!(is_decided_by_flow(&foretold.picks));
        let sent = foretold.request.sent.expect("it is forwarded");
        let tuple = sent.tuple.expect("it has ports");
        assert_eq!(
            (sent.port, sent.ethernet.destination),
            (BACK, backend_mac(1))
        );
        assert_eq!(
            (tuple.destination, tuple.destination_port),
            (plan.backend(1), BACKEND_PORT)
        );
        let reply = foretold.reply.expect("the backend is reached");
        assert_eq!((reply.port, reply.fate), (BACK, Fate::Forwarded));
        let sent = reply.sent.expect("it is forwarded");
        assert_eq!(
            (sent.port, sent.tuple),
            (FRONT, Some(flow(&world, CLIENT_PORT).reversed()))
        );
        assert_eq!(foretold.large.expect("it is asked").fate, Fate::Forwarded);

        assert!(world.sessions().is_empty(), "nothing is opened");
        assert_eq!(world.shared.gauges.sessions(BackendId(1)).total(), 0);
        assert_eq!(world.drops(), []);
        assert!(world.shared.next_hops.take_wanted().is_empty());
    }
}

/// Brings about a drop.
type Prepare = fn(&mut World);

#[test]
fn what_is_dropped_is_foretold_with_its_reason() {
    let drops: [(DropReason, Prepare); 4] = [
        (DropReason::Policy, |world| {
            world.script().picks = vec![Pick::Drop];
        }),
        (DropReason::NoBackend, |world| {
            world.change(|settings| settings.weights = vec![0, 0, 0]);
        }),
        (DropReason::NeighborUnresolved, |world| {
            world.shared.next_hops.set(BackendId(0), None);
        }),
        (DropReason::SourceLimit, |world| {
            world.change(|settings| {
                settings.source_limit = Some(SourceLimit {
                    sessions_per_s: 1,
                    prefix_v4: 24,
                    prefix_v6: 64,
                });
            });
            world.frame(FRONT, &request(V4, CLIENT_PORT - 1, SYN));
        }),
    ];
    for (reason, prepare) in drops {
        let mut world = World::new(Settings::default());
        prepare(&mut world);
        let foretold = world.foretell(CLIENT_PORT).request.fate;
        assert_eq!(foretold, Fate::Dropped(reason));
        let before = world.dropped(reason);
        world.frame(FRONT, &request(V4, CLIENT_PORT, SYN));
        assert_eq!(world.dropped(reason), before + 1, "{reason:?} comes true");
    }
}

#[test]
fn a_rejection_and_a_port_that_faces_servers_are_foretold() {
    let mut world = World::new(Settings::default());
    world.change(|settings| {
        settings.weights = vec![0, 0, 0];
        settings.no_backend = NoBackend::Reject;
    });
    assert_eq!(world.foretell(CLIENT_PORT).request.fate, Fate::Rejected);

    let mut world = World::new(Settings::default());
    assert_eq!(world.dry(|run| run.arrival(None)), FRONT);
    world.change(|settings| settings.faces = [Some(Faces::Servers), Some(Faces::Clients)]);
    assert_eq!(world.dry(|run| run.arrival(None)), BACK);
}

#[test]
fn a_large_packet_is_told_the_mtu() {
    let mut world = World::new(Settings::default());
    world.change(|settings| settings.mtu = 1300);
    let foretold = world.foretell(CLIENT_PORT);
    assert_eq!(foretold.request.fate, Fate::Forwarded);
    assert_eq!(foretold.large.expect("it is asked").fate, Fate::TooBig);
}

#[test]
fn an_open_session_goes_on_as_foretold_or_ends() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(2)];
    establish(&mut world, CLIENT_PORT, 2);
    let calls = world.script().calls;
    let open = world.dry(|run| run.session(&flow(&world, CLIENT_PORT)));
    assert_eq!(open.expect("it is open").session, world.session());
    let foretold = world.foretell(CLIENT_PORT);
    assert_eq!(foretold.session, Some(world.session()));
    assert!(foretold.picks.is_empty() && !foretold.has_ended);
    assert_eq!(world.script().calls, calls, "no policy is asked");
    let sent = foretold.request.sent.expect("it is forwarded");
    assert_eq!(sent.ethernet.destination, backend_mac(2));

    // Its backend goes down and its sessions are to be reset.
    let down = (false, SessionAction::Reset);
    let up = (true, SessionAction::Keep);
    world.change(|settings| settings.health = vec![up, up, down]);
    assert_eq!(world.foretell(CLIENT_PORT).request.fate, Fate::Rejected);
    assert_eq!(world.sessions().len(), 1, "not yet");
    let sent = world.frame(FRONT, &request(V4, CLIENT_PORT, ACK));
    assert_eq!(ip(&sent[0].1).destination, V4.client, "it comes true");
}

/// Two services of one server: the second session of a client's port gets another one towards it.
#[test]
fn a_clash_of_source_ports_is_foretold() {
    let mut world = World::new(Settings {
        second_service: true,
        ..Settings::default()
    });
    world.script().picks = vec![Pick::Backend(0)];
    world.frame(FRONT, &request_to(V4, CLIENT_PORT, SERVICE_PORT + 1, SYN));
    let foretold = world.foretell(CLIENT_PORT).session.expect("it opens");
    assert_ne!(foretold.source_port, CLIENT_PORT);
    world.frame(FRONT, &request(V4, CLIENT_PORT, SYN));
    let ports: Vec<u16> = world.sessions().iter().map(|it| it.source_port).collect();
    assert!(
        ports.contains(&foretold.source_port),
        "{ports:?}, {}",
        foretold.source_port
    );
}

#[test]
fn shares_are_what_the_backends_would_get() {
    let world = World::new(Settings::default());
    world.script().picks = vec![
        Pick::Backend(0),
        Pick::Backend(1),
        Pick::Backend(0),
        Pick::Drop,
    ];
    let ask = |world: &World, policy| {
        let flow = flow(world, CLIENT_PORT);
        let mut shares = world
            .dry(|run| run.shares((&flow, FRONT), 100, policy))
            .expect("there is memory");
        shares.sort_unstable();
        shares.iter().map(|(_, count)| *count).collect::<Vec<_>>()
    };
    assert_eq!(ask(&world, world.next_epoch().policies.remove(0)), [50, 25]);
    let picks = world.foretell(CLIENT_PORT).picks;
    assert!(!is_decided_by_flow(&picks), "{picks:?}");
    // Without a policy the fallback chooses, by weight.
    let by_fallback = ask(&world, no_policy());
    assert_eq!(by_fallback.iter().sum::<usize>(), 100);
}
