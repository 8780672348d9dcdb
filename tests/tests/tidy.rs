//! The tree stays tidy: no circles among a crate's files, no file too long to read, no line too wide, one
//! module style.
//!
//! Clippy keeps the length of functions (`too_many_lines`, see `clippy.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The most lines of a source file, without its unit tests.
const FILE_LINES_MAX: usize = 500;
/// The widest line, in columns.
const LINE_COLUMNS_MAX: usize = 110;
/// The most files that may import each other in a circle.
const CIRCLE_FILES_MAX: usize = 2;

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|path| has_part(path, "src") && !has_part(path, "tests.rs"))
        .filter_map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a source is text");
            let lines = without_unit_tests(&text).lines().count();
            (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(
        long.is_empty(),
        "split along their sense (at most {FILE_LINES_MAX} lines without tests):\n{}",
        long.join("\n")
    );
}

#[test]
fn no_line_is_too_wide() {
    let mut wide = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(root().join(&path)).expect("a source is text");
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX {
                wide.push(format!("{}:{number}: {columns} columns", path.display()));
            }
        }
    }
    assert!(
        wide.is_empty(),
        "wrap (at most {LINE_COLUMNS_MAX} columns):\n{}",
        wide.join("\n")
    );
}

#[test]
fn a_module_with_a_folder_is_its_mod_rs() {
    let has_folder = |path: &PathBuf| root().join(path).with_extension("").is_dir();
    let beside: Vec<PathBuf> = sources().into_iter().filter(has_folder).collect();
    assert!(
        beside.is_empty(),
        "move to `mod.rs` in its folder: {beside:?}"
    );
}

#[test]
fn no_crate_has_a_circle_of_files() {
    let mut circles = Vec::new();
    for directory in crate_directories() {
        let graph = imports(&directory);
        for circle in circles_of(&graph) {
            let arrow = |from: &PathBuf| {
                let inside = graph[from].iter().filter(|to| circle.contains(*to));
                let names: Vec<String> = inside.map(|to| to.display().to_string()).collect();
                format!("    {} imports {}", from.display(), names.join(", "))
            };
            let arrows: Vec<String> = circle.iter().map(arrow).collect();
            circles.push(format!(
                "{}: {} files\n{}",
                directory.display(),
                circle.len(),
                arrows.join("\n")
            ));
        }
    }
    assert!(
        circles.is_empty(),
        "move what is shared into a file that imports none of the others:\n{}",
        circles.join("\n")
    );
}

#[test]
fn circles_are_found() {
    let graph = |arrows: &[(&str, &str)]| {
        let mut graph: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for (from, to) in arrows {
            graph.entry(to.into()).or_default();
            graph.entry(from.into()).or_default().insert(to.into());
        }
        graph
    };
    let found = |arrows| circles_of(&graph(arrows)).len();
    assert_eq!(found(&[("a", "b"), ("b", "c"), ("a", "c")]), 0);
    assert_eq!(found(&[("a", "b"), ("b", "a"), ("a", "c")]), 0, "two may");
    assert_eq!(found(&[("a", "b"), ("b", "c"), ("c", "a")]), 1);
    assert_eq!(found(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]), 1);
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Each Rust and C source of the workspace, relative to the root.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("the folder is readable") {
            let entry = entry.expect("the entry is readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            if entry.path().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if matches!(path.extension(), Some(end) if end == "rs" || end == "c") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn has_part(path: &Path, name: &str) -> bool {
    path.components().any(|part| part.as_os_str() == name)
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "rs")
}

/// A file's text up to its unit tests, which come last.
fn without_unit_tests(text: &str) -> &str {
    let start = text
        .match_indices("#[cfg(")
        .filter(|(at, _)| text[..*at].ends_with('\n') || *at == 0)
        .find(|(at, _)| {
            let mut lines = text[*at..].lines();
            lines.next().is_some_and(|line| line.contains("test"))
                && lines
                    .next()
                    .is_some_and(|line| line.ends_with("mod tests {"))
        });
    start.map_or(text, |(at, _)| &text[..at])
}

/// The folders of the workspace's crates that have sources.
fn crate_directories() -> Vec<PathBuf> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is text");
    let manifest: toml::Table = manifest.parse().expect("the manifest is TOML");
    let members = manifest["workspace"]["members"].as_array();
    let members = members.expect("the workspace has members").iter();
    members
        .map(|member| Path::new(member.as_str().expect("members are paths")).join("src"))
        .filter(|directory| root().join(directory).is_dir())
        .collect()
}

/// A module of a crate: its file, what it defines or re-exports there, and what it imports.
struct Module {
    file: PathBuf,
    /// Re-exported names, with the paths that they stand for.
    exports: BTreeMap<String, Vec<String>>,
    /// Absolute paths inside the crate that the file names.
    names: Vec<Vec<String>>,
}

/// Which of a crate's files import which. Re-exports count as imports of the file that defines the name, by
/// the file that uses it; unit tests count for nothing.
fn imports(directory: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut modules = BTreeMap::new();
    let sources = sources();
    // Templates of crates are not compiled here.
    let is_of = |file: &&PathBuf| {
        file.starts_with(directory) && is_rust(file) && !has_part(file, "template")
    };
    for file in sources.iter().filter(is_of) {
        let relative = file.strip_prefix(directory).expect("just filtered");
        let mut path: Vec<String> = relative
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if matches!(path.last(), Some(last) if ["mod", "lib", "main"].contains(&last.as_str())) {
            path.pop();
        }
        if path.last().is_some_and(|last| last == "tests")
            || path.first().is_some_and(|first| first == "bin")
        {
            continue;
        }
        let text = fs::read_to_string(root().join(file)).expect("a source is text");
        let syntax = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{} is Rust: {error}", file.display()));
        let mut reader = Reader {
            path: path.clone(),
            exports: BTreeMap::new(),
            names: Vec::new(),
        };
        reader.visit_file(&syntax);
        modules.insert(
            path,
            Module {
                file: file.clone(),
                exports: reader.exports,
                names: reader.names,
            },
        );
    }
    let mut graph = BTreeMap::new();
    for module in modules.values() {
        let files = module
            .names
            .iter()
            .filter_map(|name| file_of(&modules, name));
        let files: BTreeSet<PathBuf> = files.filter(|file| *file != module.file).collect();
        graph.insert(module.file.clone(), files);
    }
    for module in modules.values() {
        graph
            .entry(module.file.clone())
            .or_insert_with(BTreeSet::new);
    }
    graph
}

/// The file that defines what a path names.
fn file_of(modules: &BTreeMap<Vec<String>, Module>, name: &[String]) -> Option<PathBuf> {
    let mut name = name.to_vec();
    // A re-export may name another; real chains are short.
    for _ in 0..8 {
        let depth = (0..=name.len())
            .rev()
            .find(|depth| modules.contains_key(&name[..*depth]))?;
        let module = &modules[&name[..depth]];
        let Some(target) = name.get(depth).and_then(|next| module.exports.get(next)) else {
            // A path that ends at a folder's front names nothing of its own there.
            return (depth < name.len() || module.exports.is_empty()).then(|| module.file.clone());
        };
        name = target.iter().chain(&name[depth + 1..]).cloned().collect();
    }
    None
}

/// Reads one file's names. `path` is its module's.
struct Reader {
    path: Vec<String>,
    exports: BTreeMap<String, Vec<String>>,
    names: Vec<Vec<String>>,
}

impl Reader {
    /// A path inside the crate made absolute; `None` for other crates' and local names.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut base = match segments.first()?.as_str() {
            "crate" => return Some(segments[1..].to_vec()),
            "self" | "super" => self.path.clone(),
            _ => return None,
        };
        let mut rest = segments;
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop()?;
                }
                _ => break,
            }
            rest = others;
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// Each name of a `use`, with the name that it gets.
    fn leaves(tree: &syn::UseTree, prefix: &[String], into: &mut Vec<(String, Vec<String>)>) {
        let with = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => Self::leaves(&path.tree, &with(&path.ident), into),
            syn::UseTree::Name(name) if name.ident == "self" => {
                let last = prefix.last().cloned().unwrap_or_default();
                into.push((last, prefix.to_vec()));
            }
            syn::UseTree::Name(name) => into.push((name.ident.to_string(), with(&name.ident))),
            syn::UseTree::Rename(rename) => {
                into.push((rename.rename.to_string(), with(&rename.ident)));
            }
            syn::UseTree::Glob(_) => into.push(("*".to_owned(), prefix.to_vec())),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    Self::leaves(tree, prefix, into);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test_only(&item.attrs) {
            return;
        }
        let mut leaves = Vec::new();
        Self::leaves(&item.tree, &[], &mut leaves);
        let is_private = matches!(item.vis, syn::Visibility::Inherited);
        for (name, segments) in leaves {
            let exported = [&["self".to_owned()], segments.as_slice()].concat();
            match self.absolute(&segments) {
                Some(path) if is_private => self.names.push(path),
                Some(path) => drop(self.exports.insert(name, path)),
                // A name of a child module.
                None if !is_private => {
                    drop(
                        self.exports
                            .insert(name, self.absolute(&exported).unwrap_or_default()),
                    );
                }
                None => self.names.extend(self.absolute(&exported)),
            }
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        if segments.len() > 1 {
            self.names.extend(self.absolute(&segments));
        }
        visit::visit_path(self, path);
    }
}

/// Whether an item is compiled for tests, or for the documentation, alone.
fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| {
                let text = list.tokens.to_string();
                text.contains("test") || text.contains("doc")
            })
    })
}

/// The strongly connected components of more than [`CIRCLE_FILES_MAX`] files.
fn circles_of(graph: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<BTreeSet<PathBuf>> {
    let reached = |from: &PathBuf| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&PathBuf> = graph[from].iter().collect();
        while let Some(file) = next.pop() {
            if reached.insert(file.clone()) {
                next.extend(graph.get(file).into_iter().flatten());
            }
        }
        reached
    };
    let all: BTreeMap<&PathBuf, BTreeSet<PathBuf>> =
        graph.keys().map(|file| (file, reached(file))).collect();
    let mut circles: Vec<BTreeSet<PathBuf>> = Vec::new();
    for (file, reaches) in &all {
        if !reaches.contains(*file) || circles.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let circle = reaches.iter().filter(|other| all[*other].contains(*file));
        let circle: BTreeSet<PathBuf> = circle.cloned().collect();
        if circle.len() > CIRCLE_FILES_MAX {
            circles.push(circle);
        }
    }
    circles
}
