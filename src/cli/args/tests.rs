use super::*;

#[test]
fn the_definition_is_sound() {
    Cli::definition().debug_assert();
}

fn each(command: &clap::Command, path: &str, see: &mut impl FnMut(&clap::Command, &str)) {
    see(command, path);
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        each(sub, &format!("{path} {}", sub.get_name()), see);
    }
}

#[test]
fn every_command_says_what_it_does_with_an_example_that_parses() {
    let mut seen = 0;
    each(&Cli::definition(), "wardfs", &mut |command, path| {
        seen += 1;
        assert!(command.get_about().is_some(), "{path}");
        let help = command
            .get_after_help()
            .unwrap_or_else(|| panic!("{path}: no examples"))
            .to_string();
        assert!(help.contains("Examples:\n"), "{path}");
        let examples = help
            .lines()
            .skip(1)
            .take_while(|l| !l.is_empty())
            .filter(|l| l.contains("wardfs "));
        let examples: Vec<&str> = examples.collect();
        assert!(
            !examples.is_empty() && examples.iter().all(|e| path == "wardfs" || e.contains(path)),
            "{path}"
        );
        for example in examples {
            let typed = example
                .split_once("wardfs ")
                .unwrap()
                .1
                .replace("'TLS key'", "key");
            let typed = typed.split(['#', '>', '<', '&', '|']).next().unwrap();
            let args = std::iter::once("wardfs").chain(typed.split_whitespace());
            assert!(Cli::typed(args).is_ok(), "{path}: {example}");
        }
        for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
            assert!(
                arg.get_help().is_some(),
                "{path}: {} is not explained",
                arg.get_id()
            );
        }
    });
    assert_eq!(seen, 54);
}

#[test]
fn global_flags_may_stand_anywhere() {
    for line in ["wardfs --json --store /s list", "wardfs list --json --store /s"] {
        let cli = Cli::typed(line.split(' ')).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.store, PathBuf::from("/s"));
    }
}
