//! The table of what a policy's pick costs, from criterion's measurements.
//!
//! Invariant: a cell without a measurement stays empty.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const BATCHES: [u32; 4] = [1, 8, 32, 64];
const MORE_BACKENDS: [u32; 3] = [3, 100, 4096];

/// Returns the Markdown table of `policies/README.md`, read from criterion's folder. The empty policy comes
/// first.
pub(crate) fn table(criterion: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(criterion)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("pick_").map(str::to_owned)
        })
        .collect();
    names.sort_by_key(|name| (name != "empty", name.clone()));
    if names.is_empty() {
        return String::new();
    }
    let mut table = "Nanoseconds per flow, with ten backends unless the column says otherwise.\n\n\
        | policy | native, batch 32 | Wasm, 1 | 8 | 32 | 64 | above native, 32 | 3 backends, 64 \
         | 100 | 4096 |\n\
        |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for name in names {
        let pick = |side: &str, batch: u32| {
            let path = criterion.join(format!("pick_{name}/{side}/{batch}"));
            median(&path).map(|nanos| nanos / f64::from(batch))
        };
        let (native, module) = (pick("native", 32), pick("wasm", 32));
        let above = native.zip(module).map(|(native, module)| module - native);
        let mut cells = vec![native];
        cells.extend(BATCHES.map(|batch| pick("wasm", batch)));
        cells.push(above);
        cells.extend(MORE_BACKENDS.map(|count| {
            let path = criterion.join(format!("backends_{name}/{count}"));
            median(&path).map(|nanos| nanos / 64.0)
        }));
        let cells = cells.into_iter().fold(String::new(), |mut row, cell| {
            let text = cell.map_or(String::new(), |nanos| format!("{nanos:.1}"));
            // Writing to a string cannot fail.
            let _ = write!(row, " {text} |");
            row
        });
        let _ = writeln!(table, "| `{name}` |{cells}");
    }
    table
}

/// Returns the median of a measurement, in nanoseconds.
fn median(measurement: &Path) -> Option<f64> {
    let text = fs::read_to_string(measurement.join("new/estimates.json")).ok()?;
    let (_, median) = text.split_once("\"median\":")?;
    let (_, value) = median.split_once("\"point_estimate\":")?;
    let end = value.find([',', '}'])?;
    value[..end].trim().parse().ok()
}
