//! What a policy sees of its service besides the backends.

use alloc::boxed::Box;
use core::cell::Cell;

use crate::abi::Header;

/// The header is the first field, so that it has the service's address.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Context {
    pub(crate) header: Header,
    /// The shared cells: all totals, then all additions.
    pub(crate) shared: Box<[Cell<u64>]>,
}
