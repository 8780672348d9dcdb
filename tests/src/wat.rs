//! Policies as WebAssembly text, in replaceable parts, for the tests of the plugin host and the balancer.
//!
//! Invariant: [`Wat::GOOD`] is a valid policy, so that the verdict on a module with one part replaced is
//! about that part.

/// The parts of a policy.
#[derive(Clone, Copy, Debug)]
pub struct Wat {
    /// The custom section's text, escaped for WAT.
    pub section: &'static str,
    /// The definition of the exported memory.
    pub memory: &'static str,
    /// Offset and value of each field of the service header, which is at 0x1000.
    pub header: [(u32, u32); 12],
    /// The body of `waxwing_reserve`.
    pub reserve: &'static str,
    /// The body of `waxwing_init` after the stores that write the header.
    pub init: &'static str,
    /// The body of `waxwing_pick`.
    pub pick: &'static str,
    /// Further fields of the module.
    pub more: &'static str,
}

/// The custom section of a valid policy.
pub const SECTION: &str = "kind=policy\\0aabi=1.0\\0aname=test\\0aversion=7\\0apayload=0\\0a";

/// `picks[i] = flows[i].hash % backends_count`.
pub const PICK_HASH: &str = "
  (local $i i32)
  (block $done (loop $next
    (br_if $done (i32.ge_u (local.get $i) (local.get 1)))
    (i32.store
      (i32.add (i32.const 0x4000) (i32.shl (local.get $i) (i32.const 2)))
      (i32.rem_u
        (i32.load offset=0x3020 (i32.shl (local.get $i) (i32.const 6)))
        (i32.load offset=0x1020 (i32.const 0))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br $next)))
  (local.get 1)";

/// Picks backend 9 for the first flow.
pub const PICK_NINE: &str = "(i32.store (i32.const 0x4000) (i32.const 9)) (local.get 1)";

impl Default for Wat {
    fn default() -> Self {
        Self::GOOD
    }
}

impl Wat {
    /// A policy that picks by the flow's hash.
    pub const GOOD: Self = Self {
        section: SECTION,
        memory: "(memory (export \"memory\") 1 1)",
        // ABI version and size, then backends, flows, picks, closed sessions, live records and shared cells.
        header: [
            (0, 1),
            (4, 96),
            (40, 0x2000),
            (44, 64),
            (48, 0x3000),
            (52, 64),
            (56, 0x4000),
            (64, 0),
            (68, 0x4800),
            (72, 0),
            (84, 0),
            (88, 0),
        ],
        reserve: "(i32.const 0x5000)",
        init: "(i32.const 0x1000)",
        pick: PICK_HASH,
        more: "",
    };

    /// Returns a valid policy with this body of `waxwing_pick`.
    pub fn picking(pick: &'static str) -> Self {
        Self {
            pick,
            ..Self::default()
        }
    }

    /// Returns a valid policy with another value in the header field at this offset.
    pub fn field(offset: u32, value: u32) -> Self {
        let mut wat = Self::GOOD;
        wat.set(offset, value);
        wat
    }

    /// Sets the header field at this offset to another value.
    pub fn set(&mut self, offset: u32, value: u32) {
        for field in self.header.iter_mut().filter(|field| field.0 == offset) {
            field.1 = value;
        }
    }

    /// Returns the module in binary form.
    pub fn bytes(&self) -> Vec<u8> {
        let Self {
            section,
            memory,
            header,
            reserve,
            init,
            pick,
            more,
        } = self;
        let stores: String = header
            .iter()
            .map(|(offset, value)| {
                format!("(i32.store offset={offset} (i32.const 0x1000) (i32.const {value}))")
            })
            .collect();
        let text = format!(
            "(module
               (@custom \"waxwing.module\" \"{section}\")
               {memory}
               (func (export \"waxwing_reserve\") (param i32) (result i32) {reserve})
               (func (export \"waxwing_init\") (param i32 i32) (result i32) {stores} {init})
               (func (export \"waxwing_pick\") (param i32 i32) (result i32) {pick})
               {more})"
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Returns the module with a static lifetime, like a shipped one.
    pub fn shipped(&self) -> &'static [u8] {
        self.bytes().leak()
    }
}
