//! Reads what a policy saved.

use crate::ConfigError;

/// The bytes of [`Policy::save`](crate::Policy::save), read in the order in which they were written.
///
/// ```
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, Saved};
///
/// /// Serves ten sessions, whatever build and config it has.
/// struct Ten(u64);
///
/// /// Stands in front of the state, and changes with its form.
/// const FORM: u32 = 1;
///
/// impl Policy for Ten {
///     type Config = NoConfig;
///     const SAVES: bool = true;
///
///     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self(0))
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         self.0 += 1;
///         match self.0 {
///             0..=10 => backends.by_hash(flow.hash()).into(),
///             _ => Pick::Drop,
///         }
///     }
///
///     fn save(&self, _: &Backends<'_>, out: &mut Vec<u8>) {
///         out.extend(FORM.to_le_bytes());
///         out.extend(self.0.to_le_bytes());
///     }
///
///     fn restore(_: NoConfig, _: &Backends<'_>, saved: &[u8]) -> Result<Self, ConfigError> {
///         let mut saved = Saved::of_form(FORM, saved)?;
///         Ok(Self(saved.u64()?))
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Saved<'a>(&'a [u8]);

impl<'a> Saved<'a> {
    /// Reads from the start.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads a state that starts with the number of its form, a `u32`.
    ///
    /// # Errors
    /// It has another number.
    pub fn of_form(form: u32, bytes: &'a [u8]) -> Result<Self, ConfigError> {
        let mut saved = Self(bytes);
        match saved.u32()? {
            found if found == form => Ok(saved),
            found => Err(alloc::format!("the state has form {found}; expected {form}").into()),
        }
    }

    /// Returns whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// Fewer are left; so do the other functions.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ConfigError> {
        let (first, rest) = self
            .0
            .split_first_chunk()
            .ok_or("the state ends too early")?;
        self.0 = rest;
        Ok(*first)
    }

    /// Reads a little-endian number.
    ///
    /// # Errors
    /// As [`Saved::bytes`].
    pub fn u32(&mut self) -> Result<u32, ConfigError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// Reads a little-endian number.
    ///
    /// # Errors
    /// As [`Saved::bytes`].
    pub fn u64(&mut self) -> Result<u64, ConfigError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
}
