//! Health checks as WebAssembly text, in replaceable parts.
//!
//! Invariant: [`CheckWat::GOOD`] passes without a connection, so that the verdict on a module with one part
//! replaced is about that part.

/// The parts of a health check.
#[derive(Clone, Copy, Debug)]
pub struct CheckWat {
    /// The custom section's text, escaped for WAT.
    pub section: &'static str,
    /// The imports.
    pub imports: &'static str,
    /// The definition of the exported memory.
    pub memory: &'static str,
    /// The body of `waxwing_reserve`.
    pub reserve: &'static str,
    /// The body of `waxwing_configure`.
    pub configure: &'static str,
    /// The body of `waxwing_check`.
    pub check: &'static str,
    /// Further fields of the module.
    pub more: &'static str,
}

/// The custom section of a valid health check.
pub const SECTION: &str = "kind=health\\0aabi=1.0\\0aname=test\\0aversion=7\\0a";

/// All imports that the host provides.
pub const IMPORTS: &str = "
  (import \"waxwing\" \"connect\" (func $connect (param i32) (result i32)))
  (import \"waxwing\" \"tls\" (func $tls (param i32 i32 i32) (result i32)))
  (import \"waxwing\" \"send\" (func $send (param i32 i32 i32) (result i32)))
  (import \"waxwing\" \"recv\" (func $recv (param i32 i32 i32) (result i32)))
  (import \"waxwing\" \"close\" (func $close (param i32)))
  (import \"waxwing\" \"now_ms\" (func $now_ms (result i64)))
  (import \"waxwing\" \"sleep_ms\" (func $sleep_ms (param i32)))
  (import \"waxwing\" \"log\" (func $log (param i32 i32)))
  (import \"waxwing\" \"error_text\" (func $error_text (param i32 i32) (result i32)))";

/// The function `$say` returns the verdict "up", with a number as first signal and the last error's text as
/// reason.
const SAY: &str = "
  (func $say (param $number i32) (result i32)
    (i32.store (i32.const 0x1000) (i32.const 1))
    (i32.store (i32.const 0x1004) (i32.const 16))
    (i32.store (i32.const 0x1010) (local.get $number))
    (i32.store (i32.const 0x1020) (i32.const 0x2000))
    (i32.store (i32.const 0x1024) (call $error_text (i32.const 0x2000) (i32.const 512)))
    (i32.const 0x1000))";

impl Default for CheckWat {
    fn default() -> Self {
        Self::GOOD
    }
}

impl CheckWat {
    /// A valid check that passes, with 7 as its first signal.
    pub const GOOD: Self = Self {
        section: SECTION,
        imports: IMPORTS,
        memory: "(memory (export \"memory\") 1 1)",
        reserve: "(i32.const 0x5000)",
        configure: "(i32.const 1)",
        check: "(call $say (i32.const 7))",
        more: SAY,
    };

    /// Returns a valid check with this body of `waxwing_check`.
    pub fn checking(check: &'static str) -> Self {
        Self {
            check,
            ..Self::GOOD
        }
    }

    /// Returns a valid check with this body of `waxwing_configure`.
    pub fn configuring(configure: &'static str) -> Self {
        Self {
            configure,
            ..Self::GOOD
        }
    }

    /// Returns the module in binary form.
    pub fn bytes(&self) -> Vec<u8> {
        let Self {
            section,
            imports,
            memory,
            reserve,
            configure,
            check,
            more,
        } = self;
        let text = format!(
            "(module
               (@custom \"waxwing.module\" \"{section}\")
               {imports}
               {memory}
               (func (export \"waxwing_reserve\") (param i32) (result i32) {reserve})
               (func (export \"waxwing_configure\") (param i32) (result i32) {configure})
               (func (export \"waxwing_check\") (param i32) (result i32) {check})
               {more})"
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Returns the module with a static lifetime, like a shipped one.
    pub fn shipped(&self) -> &'static [u8] {
        self.bytes().leak()
    }
}
