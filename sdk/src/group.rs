//! Groups of a service's backends, by tag: for policies that choose a group first and a backend in
//! it then.
//!
//! Invariant: which backend of a group a hash belongs to depends on nothing but the keys and weights
//! of the group's available backends; so workers and balancers agree on it. A look-up in 4096
//! backends scores some fifty nodes, about half a microsecond, where [`Backends::by_hash`] scores
//! them all.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use crate::{Backend, Backends, Flow, Pick, hash};

/// What a policy's choice for a flow hangs on: the key `by` in the configs of the shipped policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Addresses, ports and protocol: each session of a client for itself.
    #[default]
    Flow,
    /// The client's address: all of a client's sessions alike.
    Source,
}

impl By {
    /// The hash to choose by.
    #[must_use]
    pub fn hash(self, flow: &Flow<'_>) -> u64 {
        match self {
            Self::Flow => flow.hash(),
            Self::Source => hash::bytes(flow.source_octets()),
        }
    }
}

/// A service's available backends, all together and by tag.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    all: Group,
    tagged: BTreeMap<u32, Group>,
}

impl Groups {
    /// The backends as they are; make it anew in [`crate::Policy::backends_changed`].
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

    /// The available backends with this tag; `None` if there are none.
    #[must_use]
    pub fn tagged(&self, tag: u32) -> Option<&Group> {
        self.tagged.get(&tag)
    }

    /// All available backends.
    #[must_use]
    pub const fn all(&self) -> &Group {
        &self.all
    }
}

/// The tags of groups that serve one after another: those listed, or every tag there is, the lowest
/// first, if none is.
///
/// # Errors
/// If a tag is listed twice, or a backend's is not listed: a text for the operator, for whom the list
/// is `policy_config.order`.
pub fn order(listed: &[u32], backends: &Backends<'_>) -> Result<Vec<u32>, String> {
    if listed.is_empty() {
        let mut tags: Vec<_> = backends.iter().map(|backend| backend.tag()).collect();
        tags.sort_unstable();
        tags.dedup();
        return Ok(tags);
    }
    for (at, tag) in listed.iter().enumerate() {
        if listed[..at].contains(tag) {
            return Err(format!(
                "policy_config.order has tag {tag} twice; write each once, the first to serve in \
                 front"
            ));
        }
    }
    let of_none = |backend: &Backend<'_>| !listed.contains(&backend.tag());
    match backends.iter().find(of_none) {
        Some(backend) => Err(format!(
            "a backend has tag {0}, which is not in policy_config.order = {listed:?}: it would never \
             serve. Add {0} to the order, or give the backend another tag",
            backend.tag()
        )),
        None => Ok(listed.to_vec()),
    }
}

/// How many bits of a backend's place choose the way at each of the two upper levels.
const WAY_BITS: u32 = 4;

/// Some backends, of which each hash belongs to one, in proportion to their weights: weighted
/// rendezvous hashing in a tree (Wang, Ravishankar 2009), so that few of many are looked at.
///
/// A backend that goes moves the hashes that it had, and of others' hashes at most twice as many:
/// the parts of the tree above it weigh less then.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// From the top down; the last are the backends.
    levels: [Vec<Node>; 3],
}

#[derive(Clone, Debug)]
struct Node {
    key: u64,
    /// Of all backends below: a sum of integers below 2^53, and so exact.
    weight: f64,
    /// Of the children in the next level; of a backend, its index.
    first: usize,
    count: usize,
}

impl Group {
    /// Those of these backends that take new sessions.
    #[must_use]
    pub fn new<'a>(backends: impl IntoIterator<Item = Backend<'a>>) -> Self {
        let mut available: Vec<_> = backends
            .into_iter()
            .filter(Backend::is_available)
            .map(|backend| (hash::mix(backend.key()), backend))
            .collect();
        available.sort_unstable_by_key(|(place, backend)| (*place, backend.id()));
        let mut group = Self::default();
        for (place, backend) in available {
            group.add(place, &backend);
        }
        group
    }

    /// Adds a backend behind those before it in place.
    fn add(&mut self, place: u64, backend: &Backend<'_>) {
        let weight = f64::from(backend.weight());
        for above in 0..2 {
            let way = place >> (u64::BITS - WAY_BITS * (above + 1));
            let key = hash::mix(!(way << 1 | u64::from(above)));
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

    /// How many backends there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels[2].len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels[2].is_empty()
    }

    /// The index of the backend that a hash belongs to; `None` if there are none.
    #[must_use]
    pub fn by_hash(&self, hash: u64) -> Option<usize> {
        let [top, middle, backends] = &self.levels;
        let node = best(top, hash)?;
        let node = best(&middle[node.first..][..node.count], hash)?;
        let node = best(&backends[node.first..][..node.count], hash)?;
        Some(node.first)
    }

    /// [`Group::by_hash`] as a pick; [`Pick::Fallback`] if there are no backends.
    #[must_use]
    pub fn pick(&self, hash: u64) -> Pick {
        self.by_hash(hash).map_or(Pick::Fallback, Pick::Backend)
    }
}

/// The node with the highest score; a single one without working it out.
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

    /// One group of all backends.
    struct One(Group);

    impl Policy for One {
        type Config = NoConfig;

        fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
            Ok(Self(Group::new(backends.iter())))
        }

        fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
            self.0.pick(By::Flow.hash(flow))
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
    fn thousands_have_their_shares() {
        let counts = testing::counts(&picks(&testing::backends(&vec![1; 4096]), 409_600), 4096);
        // A hundred each, ten of standard deviation.
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
    fn a_backend_that_goes_moves_at_most_twice_its_share_of_others() {
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
    fn a_look_up_scores_few_of_many() {
        let records = testing::backends(&vec![1; 4096]);
        let host = HostFields::default();
        let group = Group::new(Backends::new(&records, &host).iter());
        let widest = |level: &[Node]| level.iter().map(|node| node.count).max();
        let [top, middle, backends] = &group.levels;
        assert!(top.len() <= 16 && widest(top) <= Some(16) && widest(middle) <= Some(40));
        assert_eq!(backends.len(), 4096);
    }
}
