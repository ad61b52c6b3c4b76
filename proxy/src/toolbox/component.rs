//! A component out of a core module that holds the WIT which it speaks.
//!
//! Control plane. Knows no language: whatever leaves the custom sections of wit-bindgen in a module will do.

use std::fs;
use std::path::Path;

use wit_component::ComponentEncoder;

pub fn make(core: &Path, out: &Path) -> Result<(), String> {
    let of_file = |error: String| format!("{}: {error}", core.display());
    let module = fs::read(core).map_err(|error| of_file(error.to_string()))?;
    put(out, &encode(&module).map_err(of_file)?)
}

/// Renamed into place, so that a proxy which watches the file never reads half of it.
pub fn put(out: &Path, component: &[u8]) -> Result<(), String> {
    let unfinished = out.with_extension("wasm.new");
    fs::write(&unfinished, component)
        .and_then(|()| fs::rename(&unfinished, out))
        .map_err(|error| format!("{}: {error}", out.display()))
}

/// In the place of a component. Whatever else is none, its reader will say.
pub fn refuse_core(bytes: &[u8]) -> Result<(), String> {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(
            "is a core module, not a component; make one of it with `tamis filter component MODULE -o COMPONENT`"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    match module.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {}
        Some([0, b'a', b's', b'm', ..]) => return Err("is a component already".to_owned()),
        _ => return Err("is not a wasm module".to_owned()),
    }
    let encoder = ComponentEncoder::default().validate(true).module(module);
    encoder
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("does not become a component: {error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_core_modules_are_taken() {
        let module = wat::parse_str("(module)").expect("it is one");
        assert!(encode(&module).is_ok());
        let component = wat::parse_str("(component)").expect("it is one");
        assert!(encode(&component).is_err_and(|error| error.contains("already")));
        assert!(encode(b"\x7fELF....").is_err_and(|error| error.contains("not a wasm module")));
        let wasi = wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "f" (func)))"#).expect("it is one");
        assert!(encode(&wasi).is_err_and(|error| error.contains("wasi_snapshot_preview1")));
    }
}
