//! `sepo completions`, `sepo man` — the command line for shells and for `man`, from its own definition.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// Completions for a shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// The script that completes `program`.
    pub(super) fn text(&self, mut program: Command) -> String {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "sepo", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

/// The manual page of `program`: all commands with their options.
pub(super) fn manual(mut program: Command) -> String {
    program.build();
    let mut page = Vec::new();
    write_manual(&program, &mut page).expect("memory takes all text");
    String::from_utf8_lossy(&page).into_owned()
}

fn write_manual(program: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    Man::new(program.clone()).render(page)?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        writeln!(page, ".SH sepo {}", command.get_name())?;
        let command = Man::new(command.clone());
        command.render_description_section(page)?;
        command.render_options_section(page)?;
    }
    Ok(())
}
