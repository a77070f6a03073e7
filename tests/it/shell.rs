//! The command line for shells and for `man`.

use crate::harness::Folder;

#[test]
fn every_command_has_completions_and_a_place_in_the_manual() {
    let folder = Folder::new();
    let help = folder.succeeds(&["--help"]);
    let commands =
        help.split_once("Commands:").unwrap().1.lines().skip(1).map_while(|line| line.split_whitespace().next());
    let commands: Vec<&str> = commands.filter(|command| *command != "help").collect();
    assert!(commands.len() > 8, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = folder.succeeds(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let page = folder.succeeds(&["man"]);
    for command in &commands {
        assert!(page.contains(&format!(".SH sepo {command}\n")), "{command}");
    }
    assert!(page.contains("\\-\\-units"), "{page}");
    assert!(folder.fails(&["completions", "tcsh"], 2).contains("invalid value 'tcsh'"));
}
