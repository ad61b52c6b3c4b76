//! A new filter's project: the files of a language, with the name filled in.
//!
//! Control plane. All of it is in the binary, the contract included, so that a project needs no copy of Tamis. A file
//! that is there already stays, and then nothing is written at all.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

/// Longer ones are no use in logs and metrics.
const MAX_NAME_BYTES: usize = 64;

const CONTRACT: &str = include_str!("../../../filter-abi/wit/tamis.wit");

/// What every project has, whatever it is written in.
const SHARED: [(&str, &str); 3] = [
    ("wit/world.wit", include_str!("../../templates/shared/world.wit")),
    ("CASES.yaml", include_str!("../../templates/shared/CASES.yaml")),
    ("README.md", include_str!("../../templates/shared/README.md")),
];

const RUST: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.template")),
    ("src/lib.rs", include_str!("../../templates/rust/lib.rs")),
    ("Makefile", include_str!("../../templates/rust/Makefile")),
    (".gitignore", "/target/\n/*.wasm\n"),
];

const JS: [(&str, &str); 4] = [
    ("filter.js", include_str!("../../templates/js/filter.js")),
    ("package.json", include_str!("../../templates/js/package.json")),
    ("Makefile", include_str!("../../templates/js/Makefile")),
    (".gitignore", "/node_modules/\n/*.wasm\n"),
];

const PYTHON: [(&str, &str); 4] = [
    ("app.py", include_str!("../../templates/python/app.py")),
    (
        "requirements.txt",
        include_str!("../../templates/python/requirements.txt"),
    ),
    ("Makefile", include_str!("../../templates/python/Makefile")),
    (".gitignore", "/.venv/\n/__pycache__/\n/*.wasm\n"),
];

const C: [(&str, &str); 3] = [
    ("filter.c", include_str!("../../templates/c/filter.c")),
    ("Makefile", include_str!("../../templates/c/Makefile")),
    (".gitignore", "/bindings/\n/*.wasm\n"),
];

const GO: [(&str, &str); 4] = [
    (
        "export_tamis_filter_request_head/hooks.go",
        include_str!("../../templates/go/hooks.go"),
    ),
    ("nowasi.wat", include_str!("../../templates/go/nowasi.wat")),
    ("Makefile", include_str!("../../templates/go/Makefile")),
    (".gitignore", "/build/\n/*.wasm\n"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    Rust,
    Js,
    Python,
    C,
    Go,
}

impl Language {
    fn title(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::Js => "JavaScript",
            Language::Python => "Python",
            Language::C => "C",
            Language::Go => "Go",
        }
    }

    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Language::Rust => &RUST,
            Language::Js => &JS,
            Language::Python => &PYTHON,
            Language::C => &C,
            Language::Go => &GO,
        }
    }

    /// Besides make and Tamis.
    fn tools(self) -> &'static str {
        match self {
            Language::Rust => "cargo, and `rustup target add wasm32-unknown-unknown`",
            Language::Js => "node and npm, which fetch componentize-qjs",
            Language::Python => "python3 with venv and pip, which fetch componentize-py",
            Language::C => {
                "`apt-get install clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc`, \
                 and `cargo install wit-bindgen-cli@0.63.0`"
            }
            Language::Go => "go 1.27, and `cargo install wit-bindgen-cli@0.63.0 wasm-tools`",
        }
    }

    /// A configuration's `limits.memory`; `None` when the default will do.
    fn memory(self) -> Option<&'static str> {
        match self {
            Language::Python => Some("64MiB"),
            Language::Rust | Language::Js | Language::C | Language::Go => None,
        }
    }
}

/// Writes the project and prints what to do next.
pub fn create(name: &str, language: Language, folder: Option<&Path>) -> Result<(), String> {
    check_name(name)?;
    let folder = folder.unwrap_or(Path::new(name));
    let files = files(name, language);
    let present = files
        .iter()
        .map(|(path, _)| folder.join(path))
        .find(|path| path.exists());
    if let Some(present) = present {
        return Err(format!("{}: is there already; nothing was written", present.display()));
    }
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    crate::tell_line!("{}: {} files, in {}", folder.display(), files.len(), language.title());
    crate::tell_line!("It needs {}. Next:\n", language.tools());
    crate::tell_line!("  cd {}", folder.display());
    crate::tell_line!("  tamis filter build");
    crate::tell_line!("  tamis filter test {name}.wasm --case CASES.yaml");
    Ok(())
}

/// Names of files, packages and modules are made of it, in every language.
fn check_name(name: &str) -> Result<(), String> {
    let sound = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.contains("--")
        && name.len() <= MAX_NAME_BYTES;
    match sound {
        true => Ok(()),
        false => Err(format!(
            "`{name}`: a filter's name is lower-case letters, digits and single dashes, begins with a letter, and has at \
             most {MAX_NAME_BYTES} characters"
        )),
    }
}

/// Path in the project, and text.
fn files(name: &str, language: Language) -> Vec<(PathBuf, String)> {
    let limits = language
        .memory()
        .map(|memory| format!("limits: {{ memory: {memory} }}\n"))
        .unwrap_or_default();
    let memory = language
        .memory()
        .map(|memory| {
            format!(
                " Give the filter\n`limits: {{ memory: {memory} }}`: the interpreter begins with most of the default."
            )
        })
        .unwrap_or_default();
    let fill = |text: &str| {
        text.replace("@NAME@", name)
            .replace("@CRATE@", &name.replace('-', "_"))
            .replace("@LANGUAGE@", language.title())
            .replace("@TOOLS@", language.tools())
            .replace("@LIMITS@", &limits)
            .replace("@MEMORY@", &memory)
    };
    let templates = SHARED.iter().chain(language.files());
    let mut files: Vec<_> = templates
        .map(|(path, text)| (PathBuf::from(path), fill(text)))
        .collect();
    files.push((PathBuf::from("wit/deps/tamis.wit"), CONTRACT.to_owned()));
    files
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["a", "gate", "my-gate-2"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "a--b", "2a", "A", "a_b", "a/b", "..", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn no_placeholder_is_left() {
        for language in Language::value_variants() {
            for (path, text) in files("my-gate", *language) {
                let left = ["@NAME@", "@CRATE@", "@LANGUAGE@", "@TOOLS@", "@LIMITS@", "@MEMORY@"]
                    .into_iter()
                    .find(|placeholder| text.contains(placeholder));
                assert_eq!(left, None, "{language:?}: {}", path.display());
            }
        }
    }

    #[test]
    fn the_cases_are_sound() {
        for language in Language::value_variants() {
            let files = files("gate", *language);
            let (_, cases) = files
                .iter()
                .find(|(path, _)| path.ends_with("CASES.yaml"))
                .expect("every project has them");
            let cases = super::super::cases::Cases::parse(cases, "CASES.yaml").expect("they are sound");
            assert_eq!(cases.cases.len(), 3);
        }
    }
}
