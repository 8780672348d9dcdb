//! The addresses of a service's records in guest memory.
//!
//! Invariant: a [`Regions`] value was checked against the memory's size, the ABI's alignment and
//! itself (no two regions overlap). It stays valid, because memory never shrinks. The header is
//! read once and never again.

use waxwing_sdk::abi::{
    ABI_MAJOR, ALIGNMENT, BATCH_MAX, BackendRecord, ClosedRecord, FlowRecord, HOST_FIELDS_OFFSET,
    Header, LiveRecord, PAYLOAD_MAX,
};

/// The size of a module's counter, a `u64`.
pub(crate) const COUNTER_SIZE: usize = 8;

/// Checked addresses in guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Regions {
    /// The header's address, which is the service's handle.
    pub(crate) header: i32,
    pub(crate) host: usize,
    /// The backend records, and room for how many.
    pub(crate) backends: usize,
    pub(crate) backends_capacity: usize,
    /// The live records, as many as backend records; `None` if the module has none.
    pub(crate) live: Option<usize>,
    pub(crate) flows: usize,
    pub(crate) picks: usize,
    pub(crate) payload: usize,
    /// Bytes of payload per flow.
    pub(crate) payload_stride: usize,
    pub(crate) closed: usize,
    /// Room for how many ended sessions; 0 if the service wants no reports of them.
    pub(crate) closed_capacity: usize,
    pub(crate) counters: usize,
    /// The totals of the shared cells, and behind them the additions.
    pub(crate) shared: usize,
}

/// The sizes that a header must provide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequiredSizes {
    pub(crate) backends: usize,
    /// The payload bytes that the module's section requests.
    pub(crate) payload: usize,
    /// The number of counters and gauges in the module's section.
    pub(crate) counters: usize,
    /// Whether the module's ABI has live records (1.1). In a header of 1.0 that field is reserved.
    pub(crate) has_live: bool,
    /// The number of shared cells in the module's section.
    pub(crate) shared: usize,
}

impl Regions {
    /// Reads and checks the header at `address`. The error names the wrong field and its value.
    pub(crate) fn read(
        memory: &[u8],
        address: u32,
        required: RequiredSizes,
    ) -> Result<Self, String> {
        let header = read_header(memory, address)?;
        check_counts(&header, required)?;
        let live = Some(header.live_address).filter(|address| required.has_live && *address != 0);
        let regions = [
            Region::new("the header", address, Header::SIZE, 1),
            Region::new(
                "backends",
                header.backends_address,
                BackendRecord::SIZE,
                header.backends_capacity,
            ),
            Region::new(
                "live records",
                live.unwrap_or(0),
                LiveRecord::SIZE,
                live.map_or(0, |_| header.backends_capacity),
            ),
            Region::new(
                "flows",
                header.flows_address,
                FlowRecord::SIZE,
                header.flows_capacity,
            ),
            Region::new("picks", header.picks_address, 4, header.flows_capacity),
            Region::new(
                "payload",
                header.payload_address,
                place(header.payload_stride),
                header.flows_capacity,
            ),
            Region::new(
                "closed",
                header.closed_address,
                ClosedRecord::SIZE,
                header.closed_capacity,
            ),
            Region::new(
                "counters",
                header.counters_address,
                COUNTER_SIZE,
                header.counters_count,
            ),
            Region::new(
                "shared cells",
                header.shared_address,
                2 * COUNTER_SIZE * required.shared,
                1,
            ),
        ];
        for (at, region) in regions.iter().enumerate() {
            region.check(memory.len() as u64)?;
            if let Some(other) = regions[..at].iter().find(|other| other.overlaps(region)) {
                return Err(format!("{} and {} overlap", other.name, region.name));
            }
        }
        Ok(Self {
            header: address.cast_signed(),
            host: place(address) + HOST_FIELDS_OFFSET,
            backends: place(header.backends_address),
            backends_capacity: place(header.backends_capacity),
            live: live.map(place),
            flows: place(header.flows_address),
            picks: place(header.picks_address),
            payload: place(header.payload_address),
            payload_stride: place(header.payload_stride),
            closed: place(header.closed_address),
            closed_capacity: place(header.closed_capacity),
            counters: place(header.counters_address),
            shared: place(header.shared_address),
        })
    }
}

fn read_header(memory: &[u8], address: u32) -> Result<Header, String> {
    if !address.is_multiple_of(ALIGNMENT) {
        return Err(format!(
            "the header at {address:#x} is not a multiple of {ALIGNMENT}"
        ));
    }
    let bytes = memory
        .get(place(address)..)
        .and_then(|rest| rest.first_chunk::<{ Header::SIZE }>())
        .ok_or_else(|| format!("the header at {address:#x} lies outside of memory"))?;
    Ok(Header::from_le_bytes(bytes))
}

fn check_counts(header: &Header, required: RequiredSizes) -> Result<(), String> {
    if header.abi_major != ABI_MAJOR {
        return Err(format!(
            "abi_major is {}; it must be {ABI_MAJOR}",
            header.abi_major
        ));
    }
    if place(header.size) < Header::SIZE {
        return Err(format!(
            "size is {}; it must be {} or more",
            header.size,
            Header::SIZE
        ));
    }
    at_least(
        "backends_capacity",
        header.backends_capacity,
        required.backends,
    )?;
    at_least("flows_capacity", header.flows_capacity, BATCH_MAX)?;
    if place(header.payload_stride) != required.payload || required.payload > PAYLOAD_MAX {
        return Err(format!(
            "payload_stride is {}, but the module's section requests {}",
            header.payload_stride, required.payload
        ));
    }
    if header.closed_capacity > 0 {
        at_least("closed_capacity", header.closed_capacity, BATCH_MAX)?;
    }
    if place(header.counters_count) != required.counters {
        return Err(format!(
            "counters_count is {}, but the module's section names {}",
            header.counters_count, required.counters
        ));
    }
    if header.shared_address == 0 && required.shared > 0 {
        return Err(format!(
            "shared_address is 0, but the module's section requests {} cells",
            required.shared
        ));
    }
    Ok(())
}

fn at_least(what: &str, found: u32, min: usize) -> Result<(), String> {
    if place(found) < min {
        Err(format!("{what} is {found}; it must be {min} or more"))
    } else {
        Ok(())
    }
}

/// Converts a guest address or count to an index.
const fn place(value: u32) -> usize {
    value as usize
}

struct Region {
    name: &'static str,
    start: u64,
    end: u64,
}

impl Region {
    fn new(name: &'static str, address: u32, size: usize, count: u32) -> Self {
        let start = u64::from(address);
        // Both factors are below 2^32, so this does not overflow.
        Self {
            name,
            start,
            end: start + size as u64 * u64::from(count),
        }
    }

    fn check(&self, memory: u64) -> Result<(), String> {
        let Self { name, start, end } = self;
        if start == end {
            Ok(())
        } else if !start.is_multiple_of(u64::from(ALIGNMENT)) {
            Err(format!(
                "{name} at {start:#x} is not a multiple of {ALIGNMENT}"
            ))
        } else if *end > memory {
            Err(format!(
                "{name} at {start:#x} to {end:#x} lies outside of memory"
            ))
        } else {
            Ok(())
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start.max(other.start) < self.end.min(other.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUIRED: RequiredSizes = RequiredSizes {
        backends: 2,
        payload: 16,
        counters: 2,
        has_live: true,
        shared: 4,
    };

    fn valid_header() -> Header {
        Header {
            abi_major: 1,
            size: 96,
            backends_address: 0x1000,
            backends_capacity: 2,
            flows_address: 0x2000,
            flows_capacity: 64,
            picks_address: 0x3000,
            payload_address: 0x4000,
            payload_stride: 16,
            closed_address: 0x5000,
            closed_capacity: 64,
            counters_address: 0x6000,
            counters_count: 2,
            live_address: 0x7000,
            shared_address: 0x8000,
            ..Header::default()
        }
    }

    fn read(header: &Header) -> Result<Regions, String> {
        read_as(header, REQUIRED)
    }

    fn read_as(header: &Header, required: RequiredSizes) -> Result<Regions, String> {
        let mut memory = vec![0; 1 << 16];
        memory[64..64 + Header::SIZE].copy_from_slice(&header.to_le_bytes());
        Regions::read(&memory, 64, required)
    }

    #[test]
    fn a_valid_header_is_accepted() {
        let regions = read(&valid_header()).expect("the header is valid");
        assert_eq!(
            (regions.host, regions.flows, regions.closed),
            (72, 0x2000, 0x5000)
        );
        assert_eq!(regions.live, Some(0x7000));
    }

    #[test]
    fn a_header_may_have_no_live_records() {
        let mut header = valid_header();
        header.live_address = 0;
        let regions = read(&header).expect("they are optional");
        assert_eq!(regions.live, None);
    }

    /// The field was reserved: whatever a module wrote there says nothing.
    #[test]
    fn a_header_of_abi_1_0_has_no_live_records() {
        let required = RequiredSizes {
            has_live: false,
            ..REQUIRED
        };
        for address in [0x7000, 0x7001, u32::MAX] {
            let mut header = valid_header();
            header.live_address = address;
            let regions = read_as(&header, required).expect("it is not looked at");
            assert_eq!(regions.live, None);
        }
    }

    #[test]
    fn the_error_names_the_invalid_field() {
        type Change = fn(&mut Header);
        let cases: &[(Change, &str)] = &[
            (|h| h.abi_major = 2, "abi_major"),
            (|h| h.size = 8, "size"),
            (|h| h.backends_capacity = 1, "backends_capacity"),
            (|h| h.flows_capacity = 63, "flows_capacity"),
            (|h| h.payload_stride = 8, "payload_stride"),
            (|h| h.closed_capacity = 63, "closed_capacity"),
            (|h| h.counters_count = 3, "counters_count"),
            (|h| h.counters_address = 0xfff8, "counters at 0xfff8"),
            (
                |h| h.live_address = 0x7004,
                "live records at 0x7004 is not a multiple",
            ),
            (
                |h| h.live_address = 0xffc0,
                "live records at 0xffc0 to 0x10040 lies outside",
            ),
            (
                |h| h.live_address = 0x1040,
                "backends and live records overlap",
            ),
            (|h| h.shared_address = 0, "requests 4 cells"),
            (
                |h| h.shared_address = 0xffc8,
                "shared cells at 0xffc8 to 0x10008 lies outside",
            ),
            (
                |h| h.shared_address = 0x6fe0,
                "live records and shared cells overlap",
            ),
            (
                |h| h.flows_address = 0x2004,
                "flows at 0x2004 is not a multiple",
            ),
            (
                |h| h.picks_address = 0x3002,
                "picks at 0x3002 is not a multiple",
            ),
            (
                |h| h.flows_address = 0xff00,
                "flows at 0xff00 to 0x10f00 lies outside",
            ),
            (|h| h.closed_address = u32::MAX - 7, "closed at 0xfffffff8"),
            (|h| h.backends_capacity = u32::MAX, "backends at 0x1000"),
            (|h| h.picks_address = 0x2fc0, "flows and picks overlap"),
            (
                |h| h.backends_address = 64,
                "the header and backends overlap",
            ),
        ];
        for (change, expected) in cases {
            let mut header = valid_header();
            change(&mut header);
            let error = read(&header).expect_err(expected);
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
        assert!(
            Regions::read(&[0; 100], 8, REQUIRED).is_err(),
            "a header past the end"
        );
    }

    proptest! {
        #[test]
        fn accepted_regions_lie_within_memory(bytes: [u8; Header::SIZE], address in 0_u32..70_000) {
            let mut memory = vec![0; 1 << 16];
            if let Some(place) = memory.get_mut(address as usize..address as usize + Header::SIZE) {
                place.copy_from_slice(&bytes);
            }
            if let Ok(regions) = Regions::read(&memory, address, REQUIRED) {
                prop_assert!(regions.flows + BATCH_MAX * FlowRecord::SIZE <= memory.len());
                prop_assert!(regions.picks + BATCH_MAX * 4 <= memory.len());
                prop_assert!(regions.payload + BATCH_MAX * regions.payload_stride <= memory.len());
                let live = regions.live.unwrap_or(0);
                prop_assert!(live + REQUIRED.backends * LiveRecord::SIZE <= memory.len());
                prop_assert!(regions.shared + 2 * REQUIRED.shared * COUNTER_SIZE <= memory.len());
            }
        }
    }
}
