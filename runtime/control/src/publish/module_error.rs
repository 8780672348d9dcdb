//! The text of a refused module, for the config's reader.

use waxwing_plugin::{ModuleError, Refusal};

use crate::config::names::nearest;

/// Returns the text of a refusal; for a name that no module has, with the nearest one.
pub(crate) fn module_error(name: &str, error: &ModuleError) -> String {
    let known = match &error.refusal {
        Refusal::Unknown { known, .. } => known.iter().map(String::as_str),
        _ => [].iter().map(String::as_str),
    };
    match nearest(name, known) {
        Some(near) => {
            format!("module \"{name}\": there is no such module; did you mean \"{near}\"?")
        }
        None => error.to_string(),
    }
}
