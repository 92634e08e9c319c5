//! Manual pages and completion scripts, from the definition of the command line.

use std::path::Path;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use serde_json::json;

use super::args::Cli;
use super::render::Output;
use super::run::Stop;
use crate::config::Config;
use crate::id::printable;
use crate::problem::{Exit, Problem};

/// A manual page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// Of the command with this path; `wardfs` itself if it is empty.
    Command(Vec<String>),
    /// Of the configuration.
    Settings,
}

impl Page {
    /// The page of what was typed after `man`.
    ///
    /// # Errors
    /// [`Exit::NotFound`] if there is no such command.
    pub fn parse(typed: &[String]) -> Result<Page, Problem> {
        if matches!(typed, [one] if one == crate::config::FILE) {
            return Ok(Page::Settings);
        }
        let mut command = Cli::definition();
        let mut path = Vec::new();
        for word in typed {
            let Some(sub) = command.find_subcommand(word).filter(|s| !s.is_hide_set()) else {
                let what = format!("there is no manual page for {}", printable(&typed.join(" ")));
                let why = format!("{} is no command", printable(word));
                return Err(Problem::new(Exit::NotFound, what, why).next("see the commands: wardfs --help"));
            };
            path.push(sub.get_name().to_string());
            command = sub.clone();
        }
        Ok(Page::Command(path))
    }

    /// The file it is installed as, below a directory of manual pages.
    fn file(&self) -> String {
        match self {
            Page::Settings => format!("man5/{}.5", crate::config::FILE),
            Page::Command(path) => format!("man1/{}.1", name(path)),
        }
    }

    /// The page as roff.
    fn render(&self) -> std::io::Result<String> {
        match self {
            Page::Settings => Ok(settings_page()),
            Page::Command(path) => {
                let mut command = Cli::definition();
                command.build();
                for word in path {
                    command = command.find_subcommand(word).cloned().unwrap_or(command);
                }
                let command = command.name(name(path)).display_name(name(path));
                let mut page = Vec::new();
                Man::new(command).manual("wardfs").render(&mut page)?;
                let see = if path.is_empty() {
                    "wardfs.toml(5), and wardfs\\-COMMAND(1) for each command"
                } else {
                    "wardfs(1), wardfs.toml(5)"
                };
                page.extend_from_slice(format!(".SH \"SEE ALSO\"\n{see}\n").as_bytes());
                // The definition keeps its examples where the generator expects anything.
                Ok(String::from_utf8_lossy(&page).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n"))
            }
        }
    }
}

fn name(path: &[String]) -> String {
    std::iter::once("wardfs")
        .chain(path.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join("-")
}

/// Every page.
fn pages() -> Vec<Page> {
    fn add(command: &clap::Command, path: &[String], pages: &mut Vec<Page>) {
        pages.push(Page::Command(path.to_vec()));
        for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
            add(sub, &[path, &[sub.get_name().to_string()]].concat(), pages);
        }
    }
    let mut pages = vec![Page::Settings];
    add(&Cli::definition(), &[], &mut pages);
    pages
}

/// wardfs.toml(5), from the template that `init` writes: comments before a key explain it.
fn settings_page() -> String {
    let mut roff = Roff::new();
    roff.control("TH", [crate::config::FILE, "5", "", "wardfs", "wardfs"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("wardfs.toml \u{2013} the settings of a wardfs store")]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut words: Vec<&str> = Vec::new();
    for line in Config::TEMPLATE.lines().chain([""]) {
        if let Some(text) = line.strip_prefix("# ") {
            words.push(text);
        } else if let Some(section) = line.strip_prefix('[') {
            flush(&mut roff, &mut words);
            roff.control("SH", [format!("[{section}").as_str()]);
        } else if let Some(setting) = line.strip_prefix('#').filter(|s| !s.is_empty()) {
            roff.control("TP", []);
            roff.text([bold(setting)]);
            match words.is_empty() {
                true => roff.text([roman("Another example.")]),
                false => roff.text([roman(words.join(" "))]),
            };
            words.clear();
        } else {
            flush(&mut roff, &mut words);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("wardfs(1), wardfs-config-check(1)")]);
    roff.to_roff()
}

fn flush(roff: &mut Roff, words: &mut Vec<&str>) {
    if !words.is_empty() {
        roff.control("PP", []);
        roff.text([roman(words.join(" "))]);
        words.clear();
    }
}

/// Prints one page.
///
/// # Errors
/// If the output cannot be written.
pub fn print(page: &Page, output: &mut Output) -> Result<(), Stop> {
    let text = page.render()?;
    if output.json {
        return Ok(output.json(&json!({ "page": page.file(), "roff": text }))?);
    }
    Ok(output.text(&text)?)
}

/// Writes every page below `dir`, over those that are there.
///
/// # Errors
/// If one cannot be written.
pub fn write_all(dir: &Path, output: &mut Output) -> Result<(), Stop> {
    let mut written = Vec::new();
    for page in pages() {
        let path = dir.join(page.file());
        let text = page.render()?;
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|e| {
                let what = format!("the page {} was not written", printable(&path.to_string_lossy()));
                Problem::new(Exit::Failed, what, e).next("name a directory that you may write")
            })?;
        written.push(path.to_string_lossy().into_owned());
    }
    if output.json {
        return Ok(output.json(&json!({ "written": written }))?);
    }
    output.line(&format!(
        "Wrote {} pages below {}",
        written.len(),
        printable(&dir.to_string_lossy())
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let pages = pages();
        assert!(pages.len() > 30, "{}", pages.len());
        for page in pages {
            let text = page.render().unwrap();
            assert!(text.contains(".SH NAME") && text.contains("SEE ALSO"), "{page:?}");
            if page != Page::Settings {
                assert!(text.contains(".SH EXAMPLES\n  "), "{page:?}");
            }
        }
    }

    #[test]
    fn the_page_of_the_settings_names_every_key() {
        let text = Page::Settings.render().unwrap();
        let config = serde_json::to_value(Config::default()).unwrap();
        let audit = config["audit"].as_object().unwrap();
        for key in config.as_object().unwrap().keys().chain(audit.keys()) {
            assert!(text.contains(key), "{key}");
        }
        assert!(!text.contains("Another example"), "each key is explained");
    }

    #[test]
    fn a_page_that_is_none_is_not_found() {
        for typed in [&["polcy"][..], &["policy", "sett"], &["__notifier"]] {
            let typed: Vec<String> = typed.iter().map(|s| s.to_string()).collect();
            assert_eq!(Page::parse(&typed).unwrap_err().exit, Exit::NotFound);
        }
    }
}
