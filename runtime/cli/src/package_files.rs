//! Manual pages, shell completions and the config's schema, from what the program reads.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Writes them to a folder: `man1`, `completions`, `waxwing.schema.json`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let (manual, completions) = (folder.join("man1"), folder.join("completions"));
    for folder in [&manual, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let schema = folder.join("waxwing.schema.json");
    fs::write(
        &schema,
        format!("{:#}\n", waxwing_control::config::json_schema()),
    )
    .with_context(|| format!("cannot write {}", schema.display()))?;
    let mut command = crate::Arguments::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "waxwing", &completions)
            .with_context(|| format!("cannot write to {}", completions.display()))?;
    }
    clap_mangen::generate_to(command, &manual)
        .with_context(|| format!("cannot write to {}", manual.display()))
}
