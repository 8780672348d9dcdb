//! Groups of backends by tag, for policies that first choose a group and then a backend in it.
//!
//! Invariant: the backend of a hash depends only on the keys and weights of the group's available
//! backends, so workers and balancers agree. A lookup among 4096 backends computes about fifty
//! scores, half a microsecond; [`Backends::by_hash`] computes them all.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::{Backend, Backends, ConfigError, Flow, Pick, hash};

/// What a policy hashes to choose a backend: the key `by` in the configs of the shipped policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// Addresses, ports and protocol: each session of a client is chosen for separately.
    #[default]
    Flow,
    /// The client's address: all sessions of a client go the same way.
    Source,
}

impl HashBy {
    /// Returns the flow's hash for the choice.
    #[must_use]
    pub fn hash(self, flow: &Flow<'_>) -> u64 {
        match self {
            Self::Flow => flow.hash(),
            Self::Source => hash::bytes(flow.source_octets()),
        }
    }
}

/// A service's available backends: all of them, and by tag.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    all: Group,
    tagged: BTreeMap<u32, Group>,
}

impl Groups {
    /// Groups the backends as they are now.
    #[must_use]
    pub fn new(backends: &Backends<'_>) -> Self {
        let mut tagged = BTreeMap::<_, Vec<_>>::new();
        for backend in backends.available() {
            tagged.entry(backend.tag()).or_default().push(backend);
        }
        Self {
            all: Group::new(backends.available()),
            tagged: tagged
                .into_iter()
                .map(|(tag, backends)| (tag, Group::new(backends)))
                .collect(),
        }
    }

    /// Returns the available backends with this tag; `None` if there are none.
    #[must_use]
    pub fn tagged(&self, tag: u32) -> Option<&Group> {
        self.tagged.get(&tag)
    }

    /// Returns all available backends.
    #[must_use]
    pub const fn all(&self) -> &Group {
        &self.all
    }
}

/// Returns the tags of groups in the order in which they serve: the listed tags, or if none is
/// listed all tags in ascending order.
///
/// # Errors
/// Fails if a tag is listed twice, or a backend's tag is not listed. The text names the config key
/// `policy_config.order`.
pub fn order(listed: &[u32], backends: &Backends<'_>) -> Result<Vec<u32>, ConfigError> {
    if listed.is_empty() {
        let mut tags: Vec<_> = backends.iter().map(|backend| backend.tag()).collect();
        tags.sort_unstable();
        tags.dedup();
        return Ok(tags);
    }
    for (at, tag) in listed.iter().enumerate() {
        if listed[..at].contains(tag) {
            return Err(format!(
                "policy_config.order lists tag {tag} twice; list each tag once, in the order of \
                 service"
            )
            .into());
        }
    }
    let is_unlisted = |backend: &Backend<'_>| !listed.contains(&backend.tag());
    match backends.iter().find(is_unlisted) {
        Some(backend) => Err(format!(
            "a backend has tag {0}, which is not in policy_config.order = {listed:?}: it would never \
             serve. Add {0} to the order, or give the backend another tag",
            backend.tag()
        ).into()),
        None => Ok(listed.to_vec()),
    }
}

/// Bits of a backend's position that select the child at each of the two upper levels.
const CHILD_BITS: u32 = 4;

/// A set of backends that maps each hash to one of them, in proportion to their weights.
///
/// The mapping is weighted rendezvous hashing in a tree (Wang, Ravishankar 2009), which scores few
/// of many backends. When a backend goes, its hashes move, and at most twice as many of other
/// backends, because the subtrees above it lose weight.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// From the root down; the last level has the backends.
    levels: [Vec<Node>; 3],
}

#[derive(Clone, Debug)]
struct Node {
    key: u64,
    /// Sum over all backends below. Exact: integers below 2^53.
    weight: f64,
    /// Index of the first child in the next level; for a backend, its index.
    first: usize,
    count: usize,
}

impl Group {
    /// Makes a group of those of the backends that take new sessions.
    #[must_use]
    pub fn new<'a>(backends: impl IntoIterator<Item = Backend<'a>>) -> Self {
        let mut available: Vec<_> = backends
            .into_iter()
            .filter(Backend::is_available)
            .map(|backend| (hash::mix(backend.key()), backend))
            .collect();
        available.sort_unstable_by_key(|(position, backend)| (*position, backend.id()));
        let mut group = Self::default();
        for (position, backend) in available {
            group.add(position, &backend);
        }
        group
    }

    /// Adds a backend. Backends are added in ascending order of position.
    fn add(&mut self, position: u64, backend: &Backend<'_>) {
        let weight = f64::from(backend.weight());
        for above in 0..2 {
            let path = position >> (u64::BITS - CHILD_BITS * (above + 1));
            let key = hash::mix(!(path << 1 | u64::from(above)));
            let [this, next] = [above as usize, above as usize + 1];
            let first = self.levels[next].len();
            match self.levels[this].last_mut().filter(|last| last.key == key) {
                Some(last) => last.weight += weight,
                None => self.levels[this].push(Node {
                    key,
                    weight,
                    first,
                    count: 0,
                }),
            }
        }
        self.levels[2].push(Node {
            key: backend.key(),
            weight,
            first: backend.index(),
            count: 0,
        });
        for above in 0..2 {
            let end = self.levels[above + 1].len();
            if let Some(last) = self.levels[above].last_mut() {
                last.count = end - last.first;
            }
        }
    }

    /// Returns the number of backends.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels[2].len()
    }

    /// Returns whether there are no backends.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels[2].is_empty()
    }

    /// Returns the index of the backend for a hash; `None` if there are no backends.
    #[must_use]
    pub fn by_hash(&self, hash: u64) -> Option<usize> {
        let [top, middle, backends] = &self.levels;
        let node = best(top, hash)?;
        let node = best(&middle[node.first..][..node.count], hash)?;
        let node = best(&backends[node.first..][..node.count], hash)?;
        Some(node.first)
    }

    /// Returns [`Group::by_hash`] as a pick; [`Pick::Fallback`] if there are no backends.
    #[must_use]
    pub fn pick(&self, hash: u64) -> Pick {
        self.by_hash(hash).map_or(Pick::Fallback, Pick::Backend)
    }
}

/// Returns the node with the highest score. A single node needs no score.
fn best(nodes: &[Node], hash: u64) -> Option<&Node> {
    if let [only] = nodes {
        return Some(only);
    }
    let score = |node: &Node| hash::score(node.key ^ hash, node.weight);
    nodes
        .iter()
        .map(|node| (score(node), node))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::abi::{BackendRecord, HostFields};
    use crate::testing::{self, Driver};
    use crate::{NoConfig, Policy};

    /// All backends in one group.
    struct One(Group);

    impl Policy for One {
        type Config = NoConfig;

        fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
            Ok(Self(Group::new(backends.iter())))
        }

        fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
            self.0.pick(HashBy::Flow.hash(flow))
        }
    }

    fn picks(backends: &[BackendRecord], n: usize) -> Vec<Pick> {
        Driver::<One>::start("", backends, 1).map_or_else(
            |_| Vec::new(),
            |mut driver| driver.pick_all(testing::flows(5).take(n)),
        )
    }

    #[test]
    fn shares_follow_weights() {
        for weights in [
            &[1, 2, 3, 4][..],
            &[1; 40],
            &[9, 0, 1],
            &[u32::MAX, 1 << 30],
        ] {
            let picks = picks(&testing::backends(weights), 200_000);
            let counts = testing::counts(&picks, weights.len());
            let over = testing::overload(&counts, weights);
            assert!(
                over < 0.05,
                "{weights:?}: {counts:?}, {over} over its share"
            );
        }
    }

    #[test]
    fn shares_follow_weights_among_thousands() {
        let counts = testing::counts(&picks(&testing::backends(&vec![1; 4096]), 409_600), 4096);
        // A hundred each; the standard deviation is ten.
        assert!(counts.iter().all(|count| (40..180).contains(count)));
    }

    #[test]
    fn the_order_of_backends_changes_nothing() {
        let before = testing::backends(&[3; 200]);
        let mut after = before.clone();
        after.reverse();
        let moved = testing::disruption(
            (&picks(&before, 10_000), &before),
            (&picks(&after, 10_000), &after),
        );
        assert!(moved == 0.0, "{moved} moved");
    }

    #[test]
    fn removing_a_backend_moves_at_most_twice_its_share_of_others() {
        for n in [2_u32, 5, 16, 100, 1000] {
            let before = testing::backends(&vec![1; n as usize]);
            let mut after = before.clone();
            after.remove(1);
            let moved = testing::disruption(
                (&picks(&before, 50_000), &before),
                (&picks(&after, 50_000), &after),
            );
            let share = 1.0 / f64::from(n);
            assert!(moved <= 2.0 * share, "{n} backends: {moved} moved");
        }
    }

    #[test]
    fn a_lookup_scores_few_of_many() {
        let records = testing::backends(&vec![1; 4096]);
        let host = HostFields::default();
        let group = Group::new(Backends::without_live(&records, &host).iter());
        let widest = |level: &[Node]| level.iter().map(|node| node.count).max();
        let [top, middle, backends] = &group.levels;
        assert!(top.len() <= 16 && widest(top) <= Some(16) && widest(middle) <= Some(40));
        assert_eq!(backends.len(), 4096);
    }
}
