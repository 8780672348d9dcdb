//! Help with mistyped names.
//!
//! Invariant: a text stays readable however many names there are, and however long the mistyped one is.

/// The longest name that a suggestion is sought for: the search takes time by length.
const SUGGESTION_LEN_MAX: usize = 64;

/// The most names that a remedy lists.
const LISTED_MAX: usize = 10;

/// Returns the candidate that a mistyped name most likely means.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > SUGGESTION_LEN_MAX {
        return None;
    }
    let distance = |candidate: &&str| strsim::osa_distance(name, candidate);
    let best = candidates.into_iter().min_by_key(distance)?;
    (distance(&best) <= best.len().max(3) / 3).then_some(best)
}

/// Returns what to write instead of an unknown name: `did you mean "web"?`, or `{title}: web, dns`.
pub(crate) fn remedy(name: &str, known: &[impl AsRef<str>], title: &str) -> String {
    if known.is_empty() {
        return "there are none".to_owned();
    }
    match nearest(name, known.iter().map(AsRef::as_ref)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("{title}: {}", list(known)),
    }
}

/// Returns the first few names, and how many more there are.
pub(crate) fn list(names: &[impl AsRef<str>]) -> String {
    let shown = &names[..names.len().min(LISTED_MAX)];
    let shown: Vec<&str> = shown.iter().map(AsRef::as_ref).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let rows = [
            ("wieght", &["weight", "port"][..], Some("weight")),
            ("vpi", &["vip", "port"], Some("vip")),
            ("x", &["vip", "port"], None),
            ("web", &[], None),
        ];
        for (name, known, near) in rows {
            assert_eq!(nearest(name, known.iter().copied()), near, "{name}");
        }
    }

    #[test]
    fn a_remedy_is_a_suggestion_or_a_short_list() {
        assert_eq!(
            remedy("wbe", &["web", "dns"], "they are"),
            "did you mean \"web\"?"
        );
        assert_eq!(
            remedy("mail", &["web", "dns"], "they are"),
            "they are: web, dns"
        );
        assert_eq!(remedy("web", &[""; 0], "they are"), "there are none");
        let many: Vec<String> = (1..=1024).map(|n| format!("service-{n}")).collect();
        let text = remedy("web", &many, "they are");
        assert!(text.ends_with("service-10 and 1014 more"), "{text}");
    }
}
