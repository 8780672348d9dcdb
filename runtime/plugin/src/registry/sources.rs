//! Where a module's bytes come from: a file of the watched folder, else the shipped modules.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::build::module::{ModuleSource, label};
use crate::build::read::{file_name, module_name, read_capped};
use crate::error::{ModuleError, Refusal};

/// The shipped modules and the watched folder.
pub(super) struct Sources {
    shipped: Vec<(&'static str, &'static [u8])>,
    folder: Option<PathBuf>,
    file_bytes_max: usize,
}

/// A module's bytes and their source.
pub(super) struct ModuleBytes {
    pub(super) source: ModuleSource,
    pub(super) bytes: Cow<'static, [u8]>,
}

impl Sources {
    pub(super) fn new(
        shipped: &[(&'static str, &'static [u8])],
        folder: Option<PathBuf>,
        file_bytes_max: usize,
    ) -> Self {
        Self {
            shipped: shipped.to_vec(),
            folder,
            file_bytes_max,
        }
    }

    /// Reads the file of this name, else returns the shipped module; `None` if there is neither.
    pub(super) fn find(&self, name: &str) -> Result<Option<ModuleBytes>, ModuleError> {
        if let Some(path) = self.file(name) {
            let bytes = read_capped(&path, self.file_bytes_max);
            let source = ModuleSource::File(path);
            match bytes {
                Ok(bytes) => {
                    let bytes = bytes.into();
                    return Ok(Some(ModuleBytes { source, bytes }));
                }
                Err(Refusal::Read(error)) if error.kind() == ErrorKind::NotFound => {}
                Err(refusal) => return Err(refusal.of(label(name, &source))),
            }
        }
        Ok(self.shipped(name).map(|bytes| ModuleBytes {
            source: ModuleSource::Shipped,
            bytes: bytes.into(),
        }))
    }

    /// The shipped module of this name.
    pub(super) fn shipped(&self, name: &str) -> Option<&'static [u8]> {
        self.shipped
            .iter()
            .find(|(shipped, _)| *shipped == name)
            .map(|(_, bytes)| *bytes)
    }

    /// The path at which the folder would hold this module; `None` without a folder.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(file_name(name)))
    }

    /// The error for a name that no source knows.
    pub(super) fn unknown(&self, name: &str) -> ModuleError {
        let shipped = self.shipped.iter().map(|(name, _)| (*name).to_owned());
        let mut known: Vec<String> = shipped.chain(self.files()).collect();
        known.sort_unstable();
        known.dedup();
        Refusal::Unknown {
            folder: self.folder.clone(),
            known,
        }
        .of(format!("\"{name}\""))
    }

    /// The names of the modules in the folder.
    fn files(&self) -> impl Iterator<Item = String> {
        let folder = self
            .folder
            .as_ref()
            .and_then(|folder| folder.read_dir().ok());
        let files = folder.into_iter().flatten().flatten();
        files.filter_map(|file| module_name(&file.file_name()).map(str::to_owned))
    }
}
