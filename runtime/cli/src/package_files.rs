//! Manual pages and shell completions, from the arguments that the program parses.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Writes them to `man1` and `completions` in a folder.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let (manual, completions) = (folder.join("man1"), folder.join("completions"));
    for folder in [&manual, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = crate::Arguments::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "waxwing", &completions)
            .with_context(|| format!("cannot write to {}", completions.display()))?;
    }
    clap_mangen::generate_to(command, &manual)
        .with_context(|| format!("cannot write to {}", manual.display()))
}
