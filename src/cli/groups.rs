//! The commands in groups, as the first page of help shows them.

use std::fmt::Write as _;

/// What belongs together, most wanted first. A command that is in none is shown last.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Secrets",
        &[
            "put", "get", "list", "describe", "versions", "update", "rollback", "label", "tag", "delete",
        ],
    ),
    ("Who may read", &["policy", "why", "identity", "guardrail"]),
    ("Serving", &["mount", "unmount", "status"]),
    ("The store and its log", &["init", "store", "audit", "config"]),
    ("Around it", &["demo", "completions", "man", "help"]),
];

/// The definition whose help shows its commands in groups.
pub fn grouped(command: clap::Command) -> clap::Command {
    let header = command.get_styles().get_header();
    let literal = command.get_styles().get_literal();
    let shown: Vec<(String, String)> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
        .map(|c| {
            let aliases: Vec<&str> = c.get_visible_aliases().collect();
            let about = c.get_about().map(ToString::to_string).unwrap_or_default();
            let aliases = match aliases.is_empty() {
                true => String::new(),
                false => format!(" [alias: {}]", aliases.join(", ")),
            };
            (c.get_name().to_string(), about + &aliases)
        })
        .chain([(
            "help".to_string(),
            "Print this message or the help of a command".to_string(),
        )])
        .collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut show = |title: &str, commands: &[&(String, String)]| {
        let _ = writeln!(text, "{header}{title}:{header:#}");
        for (name, about) in commands {
            let pad = " ".repeat(width - name.len());
            let _ = writeln!(text, "  {literal}{name}{literal:#}{pad}  {about}");
        }
        text.push('\n');
    };
    for (title, names) in GROUPS {
        let commands: Vec<_> = names
            .iter()
            .filter_map(|n| shown.iter().find(|(name, _)| name == n))
            .collect();
        show(title, &commands);
    }
    let others = shown
        .iter()
        .filter(|(name, _)| !GROUPS.iter().any(|(_, names)| names.contains(&name.as_str())));
    let others: Vec<_> = others.collect();
    if !others.is_empty() {
        show("More", &others);
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}{header}Global options:{header:#}\n{{options}}{{after-help}}"
    );
    command.help_template(clap::builder::StyledStr::from(template))
}
