//! What is wrong with modules, for the config's reader.

use std::sync::Arc;

use waxwing_plugin::{ModuleError, Refusal};

use crate::config::Problem;
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

/// What is wrong with a config's modules.
#[derive(Default)]
pub(crate) struct ModuleProblems {
    pub(crate) problems: Vec<Problem>,
    /// The modules of which no build can serve.
    pub(crate) unusable: Vec<Arc<str>>,
}

impl ModuleProblems {
    /// Adds each module's problem to the rest.
    pub(crate) fn add(&mut self, of_modules: Vec<Option<(Arc<str>, Problem)>>) {
        let (names, problems): (Vec<_>, Vec<_>) = of_modules.into_iter().flatten().unzip();
        self.unusable.extend(names);
        self.problems.extend(problems);
    }
}
