//! Validates a module's bytes before anything is compiled.
//!
//! Invariant: validation never panics and takes time linear in the file's size, whatever the bytes
//! are. An accepted module imports only what its kind allows, has the ABI's exports with their
//! exact types, and has sizes that the compiler and the memory limit can take.

use wasmparser::{
    Encoding, ExternalKind, Parser, Payload, ValType, Validator, WasmFeatures,
    types::{EntityType, Types},
};
use waxwing_sdk::abi::{Kind, ModuleInfo, SECTION_NAME, exports};

use crate::build::abi::{AbiFunction, exports_of, import_of_health_check};
use crate::error::Refusal;

/// Size limits of a module: ample for an honest module, tight for an attack on the compiler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModuleLimits {
    /// Size of the file, in bytes.
    pub file_bytes_max: usize,
    /// Size of one function's body, in bytes.
    pub body_bytes_max: u64,
    /// Number of functions.
    pub functions_max: u64,
    /// Number of local variables of one function.
    pub locals_max: u64,
    /// Number of entries of a table.
    pub table_entries_max: u64,
    /// Number of types, of globals, of exports, of data segments and of element segments, each.
    pub items_max: u64,
    /// Initial size of the memory, in bytes.
    pub memory_bytes_max: u64,
}

impl Default for ModuleLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 4 << 20,
            body_bytes_max: 128 << 10,
            functions_max: 10_000,
            locals_max: 2_000,
            table_entries_max: 10_000,
            items_max: 10_000,
            memory_bytes_max: 4 << 20,
        }
    }
}

/// The WebAssembly features that LLVM emits for wasm32-unknown-unknown, and no others.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::FLOATS);

/// Validates a file as a module of this kind. Returns the contents of its section.
///
/// # Errors
/// The first [`Refusal`] found; cheap checks come first.
pub fn validate(bytes: &[u8], kind: Kind, limits: &ModuleLimits) -> Result<ModuleInfo, Refusal> {
    at_most("bytes", bytes.len() as u64, limits.file_bytes_max as u64).map_err(|_| {
        Refusal::TooLarge {
            bytes: bytes.len() as u64,
            max: limits.file_bytes_max as u64,
        }
    })?;
    if !bytes.starts_with(b"\0asm") {
        return Err(Refusal::NotWasm);
    }
    let info = walk(bytes, kind, limits)?;
    let types = Validator::new_with_features(FEATURES)
        .validate_all(bytes)
        .map_err(malformed)?;
    check_import_types(bytes, &types)?;
    check_exports(bytes, &info, &types)?;
    Ok(info)
}

/// Checks sizes and imports by name, and reads the module's section.
fn walk(bytes: &[u8], kind: Kind, limits: &ModuleLimits) -> Result<ModuleInfo, Refusal> {
    let mut info = None;
    let mut imports = Ok(());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => return Err(Refusal::NotWasm),
            Payload::ImportSection(section) => {
                at_most("imports", section.count().into(), limits.items_max)?;
                imports = check_imports(section, kind);
            }
            Payload::TypeSection(s) => at_most("types", s.count().into(), limits.items_max)?,
            Payload::GlobalSection(s) => at_most("globals", s.count().into(), limits.items_max)?,
            Payload::ExportSection(s) => at_most("exports", s.count().into(), limits.items_max)?,
            Payload::DataSection(s) => {
                at_most("data segments", s.count().into(), limits.items_max)?;
            }
            Payload::ElementSection(s) => {
                at_most("element segments", s.count().into(), limits.items_max)?;
            }
            Payload::FunctionSection(s) => {
                at_most("functions", s.count().into(), limits.functions_max)?;
            }
            Payload::MemorySection(section) => {
                at_most("memories", section.count().into(), 1)?;
                for memory in section {
                    let bytes = memory.map_err(malformed)?.initial.saturating_mul(64 << 10);
                    at_most("bytes of memory", bytes, limits.memory_bytes_max)?;
                }
            }
            Payload::TableSection(section) => {
                at_most("tables", section.count().into(), 1)?;
                for table in section {
                    let entries = table.map_err(malformed)?.ty.initial;
                    at_most("table entries", entries, limits.table_entries_max)?;
                }
            }
            Payload::CodeSectionEntry(body) => check_body(&body, limits)?,
            Payload::CustomSection(section) if section.name() == SECTION_NAME => {
                let before = info.replace(ModuleInfo::parse(section.data())?);
                before.map_or(Ok(()), |_| Err(Refusal::SectionTwice))?;
            }
            _ => {}
        }
    }
    // The wrong kind is reported before its imports: those differ by kind, so an error about them
    // would mislead.
    if let Some(ModuleInfo { kind: found, .. }) = info
        && found != kind
    {
        return Err(Refusal::Kind { found });
    }
    imports?;
    info.ok_or(Refusal::SectionMissing)
}

/// Checks imports by name: a policy has none, a health check only those of the ABI.
fn check_imports(section: wasmparser::ImportSectionReader<'_>, kind: Kind) -> Result<(), Refusal> {
    let count = section.count();
    for import in section.into_imports() {
        let import = import.map_err(malformed)?;
        let name = || printable(&format!("{}.{}", import.module, import.name), 80);
        match kind {
            Kind::Policy => {
                let first = name();
                return Err(Refusal::Imports { first, count });
            }
            Kind::Health if import_of_health_check(import.module, import.name).is_none() => {
                return Err(Refusal::Import { name: name() });
            }
            Kind::Health => {}
        }
    }
    Ok(())
}

/// Checks imports by type, after [`check_imports`] has accepted their names.
fn check_import_types(bytes: &[u8], types: &Types) -> Result<(), Refusal> {
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::ImportSection(section) = payload.map_err(malformed)? else {
            continue;
        };
        for import in section.into_imports() {
            let import = import.map_err(malformed)?;
            let Some(function) = import_of_health_check(import.module, import.name) else {
                continue;
            };
            let ty = types.as_ref().entity_type_from_import(&import);
            if let (false, found) = describe(function, types, ty) {
                return Err(Refusal::ImportType {
                    name: function.name,
                    found,
                    expected: signature(function.parameters, function.results),
                });
            }
        }
    }
    Ok(())
}

/// Makes text from the file safe to log: no control characters, limited length.
fn printable(text: &str, chars_max: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(chars_max)
        .collect()
}

fn check_body(body: &wasmparser::FunctionBody<'_>, limits: &ModuleLimits) -> Result<(), Refusal> {
    let bytes = body.range().len() as u64;
    at_most("bytes in one function", bytes, limits.body_bytes_max)?;
    let mut locals = 0_u64;
    for group in body.get_locals_reader().map_err(malformed)? {
        locals += u64::from(group.map_err(malformed)?.0);
        at_most("local variables in one function", locals, limits.locals_max)?;
    }
    Ok(())
}

/// Checks the ABI's exports; a module may have others.
fn check_exports(bytes: &[u8], info: &ModuleInfo, types: &Types) -> Result<(), Refusal> {
    let kind = info.kind;
    let functions = exports_of(kind);
    let mut found: Vec<Option<(bool, String)>> = vec![None; functions.len()];
    let mut memory = false;
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::ExportSection(section) = payload.map_err(malformed)? else {
            continue;
        };
        for export in section {
            let export = export.map_err(malformed)?;
            memory |= export.name == exports::MEMORY && export.kind == ExternalKind::Memory;
            if let Some(at) = functions.iter().position(|f| f.name == export.name) {
                let ty = types.as_ref().entity_type_from_export(&export);
                found[at] = Some(describe(&functions[at], types, ty));
            }
        }
    }
    if !memory {
        return Err(Refusal::ExportMissing {
            kind,
            name: exports::MEMORY,
            expected: "(memory)".into(),
        });
    }
    for (function, found) in functions.iter().zip(found) {
        let expected = || signature(function.parameters, function.results);
        match found {
            Some((true, _)) => {}
            Some((false, found)) => {
                let expected = expected();
                return Err(Refusal::ExportType {
                    name: function.name,
                    found,
                    expected,
                });
            }
            None if function.optional && !(info.saves && is_of_states(function)) => {}
            None => {
                let expected = expected();
                return Err(Refusal::ExportMissing {
                    kind,
                    name: function.name,
                    expected,
                });
            }
        }
    }
    Ok(())
}

/// Returns whether a module that saves states needs this function.
fn is_of_states(function: &AbiFunction) -> bool {
    [exports::SAVE, exports::RESTORE].contains(&function.name)
}

/// Returns whether an import or export is this function, and its actual type.
fn describe(function: &AbiFunction, types: &Types, ty: Option<EntityType>) -> (bool, String) {
    let types = types.as_ref();
    match ty {
        Some(EntityType::Func(id)) => {
            let ty = types[id].unwrap_func();
            let same = ty.params() == function.parameters && ty.results() == function.results;
            (same, signature(ty.params(), ty.results()))
        }
        _ => (false, "not a function".into()),
    }
}

fn signature(parameters: &[ValType], results: &[ValType]) -> String {
    let list = |types: &[ValType]| {
        types
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!("({}) -> ({})", list(parameters), list(results))
}

fn at_most(what: &'static str, count: u64, max: u64) -> Result<(), Refusal> {
    if count > max {
        Err(Refusal::TooMuch { what, count, max })
    } else {
        Ok(())
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err needs"
)]
fn malformed(error: wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Malformed {
        offset: error.offset(),
        // The message may quote a name of the file.
        why: printable(error.message(), 200),
    }
}
