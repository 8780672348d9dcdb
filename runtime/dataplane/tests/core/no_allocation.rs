//! The packet's way allocates nothing once a session exists: counted by the allocator itself.

#![expect(unsafe_code, reason = "counting allocations takes a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::world::{CLIENT_MAC, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_packet::build;
use waxwing_packet::{Link, TcpFlags};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Not even the way of a new flow allocates, as far as the core goes (a policy may, in its own
/// memory): everything has its room from the start.
#[test]
fn neither_hits_nor_misses_allocate() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            plan,
            ..Settings::default()
        });
        world.io(0).recycle_sent();
        let frame = |client_port: u16, flags: u8| {
            build::Tcp {
                link: Link {
                    source: CLIENT_MAC,
                    destination: PORT_MACS[0],
                },
                source: (plan.client, client_port),
                destination: (plan.vip, SERVICE_PORT),
                flags: TcpFlags(flags),
                ..build::Tcp::default()
            }
            .frame()
        };
        let batch = |from: u16, flags| {
            (from..from + 50)
                .map(|p| frame(p, flags))
                .collect::<Vec<_>>()
        };
        world.script().asked.reserve(1000);
        let arrivals = [
            batch(4000, TcpFlags::SYN),
            batch(4000, TcpFlags::ACK),
            batch(5000, TcpFlags::SYN),
        ];

        let before = ALLOCATIONS.get();
        for frames in &arrivals {
            for frame in frames {
                assert!(world.io(0).inject(FRONT, frame));
            }
            world.run(0);
        }
        assert_eq!(
            ALLOCATIONS.get() - before,
            0,
            "allocations on the packet's way"
        );
        assert_eq!(world.sessions().len(), 100);
    }
}
