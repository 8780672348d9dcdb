//! A policy's own state of each backend, which follows the backends over their changes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::Backends;

/// A value for each backend, such as an average. When backends change, a backend keeps its value under
/// its new index.
///
/// ```
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, PerBackend, Pick, Policy};
///
/// /// The backend that this policy has picked least.
/// struct LeastPicked(PerBackend<u64>);
///
/// impl Policy for LeastPicked {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self(PerBackend::new(backends)))
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         let picked = |index: usize| self.0.get(index).copied().unwrap_or_default();
///         let least = backends.available().min_by_key(|backend| picked(backend.index()));
///         if let Some(picked) = least.and_then(|backend| self.0.get_mut(backend.index())) {
///             *picked += 1;
///         }
///         least.into()
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
///         self.0.update(backends);
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct PerBackend<T> {
    /// Ids and values, by index.
    values: Vec<(u32, T)>,
}

impl<T: Default> PerBackend<T> {
    /// Gives each backend a default value.
    #[must_use]
    pub fn new(backends: &Backends<'_>) -> Self {
        let value = |id| (id, T::default());
        let ids = backends.iter().map(|backend| backend.id());
        Self {
            values: ids.map(value).collect(),
        }
    }

    /// Follows changed backends: those that stay, by id, keep their values, new ones get a default
    /// value.
    pub fn update(&mut self, backends: &Backends<'_>) {
        let mut before: BTreeMap<u32, T> = self.values.drain(..).collect();
        let ids = backends.iter().map(|backend| backend.id());
        let values = ids.map(|id| (id, before.remove(&id).unwrap_or_default()));
        self.values.extend(values);
    }

    /// Gives each backend the value of its key, for [`Policy::restore`](crate::Policy::restore); others get a
    /// default value.
    #[must_use]
    pub fn from_keys(backends: &Backends<'_>, values: impl IntoIterator<Item = (u64, T)>) -> Self {
        let mut by_key: BTreeMap<u64, T> = values.into_iter().collect();
        let mut value = |key| by_key.remove(&key).unwrap_or_default();
        let values = backends.iter().map(|b| (b.id(), value(b.key())));
        Self {
            values: values.collect(),
        }
    }

    /// Iterates over the backends' keys and values, for [`Policy::save`](crate::Policy::save).
    pub fn by_key(&self, backends: &Backends<'_>) -> impl Iterator<Item = (u64, &T)> {
        let values = backends.iter().zip(&self.values);
        values.map(|(backend, (_, value))| (backend.key(), value))
    }

    /// Returns the value of the backend at this index; `None` if there is no such backend.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.values.get(index).map(|(_, value)| value)
    }

    /// As [`PerBackend::get`], to change the value.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.values.get_mut(index).map(|(_, value)| value)
    }

    /// Iterates over all values, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::HostFields;
    use crate::testing;

    #[test]
    fn a_backend_keeps_its_value_under_a_new_index() {
        let (mut records, host) = (testing::backends(&[1; 3]), HostFields::default());
        let mut values = PerBackend::<usize>::new(&Backends::without_live(&records, &host));
        for (index, value) in values.iter_mut().enumerate() {
            *value = index + 10;
        }
        records.remove(0);
        records.reverse();
        records.extend(testing::backends(&[1; 4]).pop());
        values.update(&Backends::without_live(&records, &host));
        let now = [0, 1, 2, 3].map(|index| values.get(index).copied());
        assert_eq!(now, [Some(12), Some(11), Some(0), None]);
    }
}
