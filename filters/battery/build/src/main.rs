//! What building the battery needs beside each language's compiler. WIT is a folder with a world and what it stands on.
//!
//! `.ci/battery` calls it. The crates that it stands on are also to be had as command lines (`wit-bindgen`,
//! `wasm-tools`), which take ten times as long to install.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_bindgen_core::{Files, WorldGenerator};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};

const USAGE: &str = "usage:
  battery-build bindings c|go WIT FOLDER             writes the world as source of that language
  battery-build embed WIT CORE                       says in a core module which world it speaks; for C it is said already
  battery-build component CORE OUT [ADAPTER]         makes a component of a core module; ADAPTER stands in for what it
                                                     imports of wasi_snapshot_preview1
  battery-build check WIT COMPONENT                  fails if it imports what the world does not, or lacks an export";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["bindings", "c", wit, folder] => bindings(wit, wit_bindgen_c::Opts::default().build().as_mut(), folder),
        ["bindings", "go", wit, folder] => bindings(wit, wit_bindgen_go::Opts::default().build().as_mut(), folder),
        ["embed", wit, core] => embed(wit, core),
        ["component", core, out] => component(core, out, None),
        ["component", core, out, adapter] => component(core, out, Some(adapter)),
        ["check", wit, component] => check(wit, component),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("battery-build: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bindings(wit: &str, generator: &mut dyn WorldGenerator, folder: &str) -> Result<()> {
    let (mut resolve, world) = world(wit)?;
    let mut files = Files::default();
    generator.generate(&mut resolve, world, &mut files)?;
    for (name, contents) in files.iter() {
        write(&Path::new(folder).join(name), contents)?;
    }
    Ok(())
}

fn embed(wit: &str, core: &str) -> Result<()> {
    let (resolve, world) = world(wit)?;
    let mut module = fs::read(core).context(core.to_owned())?;
    let canonical_names = false;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, canonical_names)?;
    write(Path::new(core), &module)
}

fn component(core: &str, out: &str, adapter: Option<&str>) -> Result<()> {
    let module = fs::read(core).context(core.to_owned())?;
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&module)?;
    if let Some(adapter) = adapter {
        encoder.adapter("wasi_snapshot_preview1", &wat::parse_file(adapter)?)?;
    }
    write(Path::new(out), &encoder.encode().context(core.to_owned())?)
}

fn check(wit: &str, component: &str) -> Result<()> {
    let (allowed, world) = world(wit)?;
    let allowed_imports: Vec<String> = imports(&allowed, world);
    let DecodedWasm::Component(resolve, built) =
        wit_component::decode(&fs::read(component).context(component.to_owned())?)?
    else {
        bail!("{component}: is no component");
    };
    for import in imports(&resolve, built) {
        ensure!(allowed_imports.contains(&import), "{component}: imports {import}");
    }
    let built_exports = exports(&resolve, built);
    for export in exports(&allowed, world) {
        ensure!(built_exports.contains(&export), "{component}: does not export {export}");
    }
    Ok(())
}

fn world(wit: &str) -> Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], None)?;
    Ok((resolve, world))
}

fn imports(resolve: &Resolve, world: WorldId) -> Vec<String> {
    resolve.worlds[world]
        .imports
        .keys()
        .map(|key| resolve.name_world_key(key))
        .collect()
}

fn exports(resolve: &Resolve, world: WorldId) -> Vec<String> {
    resolve.worlds[world]
        .exports
        .keys()
        .map(|key| resolve.name_world_key(key))
        .collect()
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(path, contents).with_context(|| path.display().to_string())
}
