//! `componentize CORE.wasm -o OUT.wasm`: a filter's core module becomes a component.
//!
//! `#[filter]` has left the WIT of what the module imports and exports in the module, so there is nothing to configure.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use wit_component::{ComponentEncoder, DecodedWasm};

const USAGE: &str = "usage: componentize CORE.wasm -o OUT.wasm";

fn main() -> ExitCode {
    let result = arguments().and_then(|(core, component)| componentize(&core, &component));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("componentize: {message}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(PathBuf, PathBuf), String> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [core, option, component] | [option, component, core] if option == "-o" => Ok((core.into(), component.into())),
        _ => Err(USAGE.to_owned()),
    }
}

fn componentize(core: &Path, component: &Path) -> Result<(), String> {
    let module = fs::read(core).map_err(|error| format!("{}: {error}", core.display()))?;
    let encoded = encode(&module).map_err(|error| format!("{}: {error}", core.display()))?;
    if let Some(folder) = component.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    // Renamed into place, so that a proxy which watches the file never reads half of it.
    let unfinished = component.with_extension("wasm.new");
    fs::write(&unfinished, encoded)
        .and_then(|()| fs::rename(&unfinished, component))
        .map_err(|error| format!("{}: {error}", component.display()))
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    match module.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {}
        Some([0, b'a', b's', b'm', ..]) => return Err("is a component already".to_owned()),
        _ => return Err("is not a wasm module".to_owned()),
    }
    let encode = || ComponentEncoder::default().validate(true).module(module)?.encode();
    let component = encode().map_err(|error| format!("{error:#}"))?;
    match wit_component::decode(&component) {
        Ok(DecodedWasm::Component(wit, world)) if !wit.worlds[world].exports.is_empty() => Ok(component),
        _ => Err(
            "exports no hook: is `#[filter]` on the `impl Filter`, and `crate-type = [\"cdylib\"]` in Cargo.toml?"
                .to_owned(),
        ),
    }
}
