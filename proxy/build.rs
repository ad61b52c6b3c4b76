//! Finds the bundled components, which `make filters` builds, and says so when they are not there.

use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters/target/components");
    for name in ["api-key", "tenant", "rewrite"] {
        let component = folder.join(name).with_extension("wasm");
        println!("cargo::rerun-if-changed={}", component.display());
        if !component.is_file() {
            println!("cargo::error=the bundled filter `{name}` is not built; run `make filters` first");
        }
    }
    println!("cargo::rustc-env=TAMIS_COMPONENTS={}", folder.display());
}
