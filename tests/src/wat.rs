//! Policies as WebAssembly text, in parts: what the tests of the plugin host and of the balancer share.
//!
//! Invariant: [`Wat::GOOD`] is a policy that serves; a test that replaces one part knows what its
//! verdict is about.

/// A policy in parts, each of which a test may replace.
#[derive(Clone, Copy, Debug)]
pub struct Wat {
    /// The custom section's text, as it stands in WAT.
    pub section: &'static str,
    /// The memory, exported.
    pub memory: &'static str,
    /// Offset and value of each field of the service's header, at 0x1000.
    pub header: [(u32, u32); 10],
    /// The body of `waxwing_reserve`.
    pub reserve: &'static str,
    /// The body of `waxwing_init`, after the header is written.
    pub init: &'static str,
    /// The body of `waxwing_pick`.
    pub pick: &'static str,
    /// More fields of the module.
    pub more: &'static str,
}

/// A good section.
pub const SECTION: &str = "kind=policy\\0aabi=1.0\\0aname=test\\0aversion=7\\0apayload=0\\0a";

/// `picks[i] = hash of flow i % backends_count`.
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

/// Stores `value` as every pick.
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
        // abi version and size, then backends, flows, picks.
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
        ],
        reserve: "(i32.const 0x5000)",
        init: "(i32.const 0x1000)",
        pick: PICK_HASH,
        more: "",
    };

    /// A good policy with this body of `waxwing_pick`.
    #[must_use]
    pub fn picking(pick: &'static str) -> Self {
        Self {
            pick,
            ..Self::default()
        }
    }

    /// A good policy but for the header field at this offset.
    #[must_use]
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

    /// The module.
    ///
    /// # Panics
    /// One of the parts is not WebAssembly text.
    #[must_use]
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

    /// The module, for as long as the program runs, as a shipped one.
    #[must_use]
    pub fn shipped(&self) -> &'static [u8] {
        self.bytes().leak()
    }
}
