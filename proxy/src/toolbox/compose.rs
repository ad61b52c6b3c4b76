//! Several components made one, each taking what it imports from the one after it.
//!
//! Control plane. Knows no interface: whatever one component exports and the one before it imports is joined, if the
//! types fit. What nobody takes from anybody is imported by the whole; the whole exports what the first exports.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wac_graph::types::{ItemKind, Package, SubtypeChecker, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

use super::component;
use super::inspect::bytes;

pub const HELP: &str = "\
The first component is the outermost: it sees a request first. Each one's imports are
taken from the next one's exports, by name and type, so a middleware's `wasi:http/handler`
is the handler of the component after it. Versions need not be equal, only compatible:
0.2.10 and 0.2.12 are, 0.2.12 and 0.3.0 are not.

The parts share one store: they have the same grants, limits and metrics, and if one traps
all of them are gone. Filters that stand side by side in a configuration share nothing.

Examples:
  tamis filter compose stamp.wasm hello.wasm -o app.wasm
      a middleware before a service gives a service
  tamis filter compose log.wasm auth.wasm -o both.wasm
      two middlewares give a middleware: log.wasm sees requests first, responses last
  tamis filter compose router.wasm transform.wasm -o filter.wasm
      a filter that imports an interface of yours, and a component in another language
      that exports it, give a filter

`tamis filter inspect` shows what a composed component is made of.";

/// What is composed: a file and the package that it became.
struct Part {
    name: String,
    package: PackageId,
}

/// Says on standard output what was joined.
pub fn run(files: &[PathBuf], out: &Path) -> Result<(), String> {
    refuse_inputs(files, out)?;
    let inputs: Vec<(String, Vec<u8>)> = files.iter().map(|file| read(file)).collect::<Result<_, _>>()?;
    let composed = compose(&inputs)?;
    component::put(out, &composed.component)?;
    crate::tell!(
        "{}: {}\n{}",
        out.display(),
        bytes(composed.component.len()),
        composed.joints
    );
    Ok(())
}

/// Under whatever name: a link to an input is that input.
fn refuse_inputs(files: &[PathBuf], out: &Path) -> Result<(), String> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let target = identity(out);
    match files.iter().find(|file| target.is_some() && identity(file) == target) {
        Some(file) => Err(format!(
            "{}: is {}, which is an input; name another file with `-o`",
            out.display(),
            file.display()
        )),
        None => Ok(()),
    }
}

fn read(file: &Path) -> Result<(String, Vec<u8>), String> {
    let of_file = |error: String| format!("{}: {error}", file.display());
    let bytes = fs::read(file).map_err(|error| of_file(error.to_string()))?;
    component::refuse_core(&bytes).map_err(of_file)?;
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => {
            let name = file.file_name().unwrap_or(file.as_os_str());
            Ok((name.to_string_lossy().into_owned(), bytes))
        }
        _ => Err(of_file("is not a WebAssembly component".to_owned())),
    }
}

struct Composed {
    component: Vec<u8>,
    /// A line for each thing that one takes from the next.
    joints: String,
}

fn compose(inputs: &[(String, Vec<u8>)]) -> Result<Composed, String> {
    let mut graph = CompositionGraph::new();
    let parts = parts(&mut graph, inputs)?;
    let mut joints = String::new();
    // From the inside out: what is joined to must be there.
    let mut inner: Option<(&Part, NodeId)> = None;
    for part in parts.iter().rev() {
        let instance = graph.instantiate(part.package);
        graph.set_node_name(instance, part.name.clone());
        if let Some((next, source)) = inner {
            let mut lines = String::new();
            for (import, export) in fitting(&graph, part, next)? {
                join(&mut graph, (instance, &import), (source, &export))
                    .map_err(|error| format!("{} and {}: {error}", part.name, next.name))?;
                writeln!(lines, "  {} takes {import} from {}", part.name, next.name).expect("a string takes it");
            }
            joints.insert_str(0, &lines);
        }
        inner = Some((part, instance));
    }
    let (outermost, instance) = inner.ok_or("nothing to compose")?;
    for name in exports(&graph, outermost) {
        let export = graph.alias_instance_export(instance, &name).map_err(said)?;
        graph.export(export, &name).map_err(said)?;
    }
    let component = graph
        .encode(EncodeOptions::default())
        .map_err(|error| format!("they cannot be one component: {}", said(error)))?;
    Ok(Composed { component, joints })
}

fn parts(graph: &mut CompositionGraph, inputs: &[(String, Vec<u8>)]) -> Result<Vec<Part>, String> {
    let mut parts: Vec<Part> = Vec::with_capacity(inputs.len());
    for (index, (name, bytes)) in inputs.iter().enumerate() {
        // The same component twice is held once, and instantiated twice.
        let held = inputs[..index].iter().position(|(_, other)| other == bytes);
        let package = match held {
            Some(first) => parts[first].package,
            None => register(graph, index, bytes).map_err(|error| format!("{name}: {error}"))?,
        };
        parts.push(Part {
            name: name.clone(),
            package,
        });
    }
    Ok(parts)
}

fn register(graph: &mut CompositionGraph, index: usize, bytes: &[u8]) -> Result<PackageId, String> {
    let package = Package::from_bytes(&format!("part:n{index}"), None, bytes, graph.types_mut())
        .map_err(|error| format!("is not valid: {error:#}"))?;
    graph.register_package(package).map_err(said)
}

fn join(graph: &mut CompositionGraph, to: (NodeId, &str), from: (NodeId, &str)) -> Result<(), String> {
    let export = graph.alias_instance_export(from.0, from.1).map_err(said)?;
    graph.set_instantiation_argument(to.0, to.1, export).map_err(said)
}

/// Pairs of an import and the export that it takes; refused when there is none, or when one fits by name alone.
fn fitting(graph: &CompositionGraph, outer: &Part, inner: &Part) -> Result<Vec<(String, String)>, String> {
    let types = graph.types();
    let wanted = &types[graph[outer.package].ty()].imports;
    let given = &types[graph[inner.package].ty()].exports;
    let mut cache = Default::default();
    let mut checker = SubtypeChecker::new(&mut cache);
    let mut pairs = Vec::new();
    for (import, want) in wanted {
        let equal = given.get_key_value(import);
        let near = || given.iter().find(|(export, _)| are_semver_compatible(export, import));
        let Some((export, have)) = equal.or_else(near) else {
            continue;
        };
        checker.is_subtype(*have, types, *want, types).map_err(|error| {
            format!(
                "{} imports `{import}`, which {} exports with other types: {error:#}",
                outer.name, inner.name
            )
        })?;
        pairs.push((import.clone(), export.clone()));
    }
    match pairs.is_empty() {
        true => Err(misfit(
            (&outer.name, names(wanted.iter())),
            (&inner.name, names(given.iter())),
        )),
        false => Ok(pairs),
    }
}

fn names<'a>(items: impl Iterator<Item = (&'a String, &'a ItemKind)>) -> Vec<&'a str> {
    items.map(|(name, _)| name.as_str()).collect()
}

/// Why nothing of the one fits the other, and what would.
fn misfit(outer: (&str, Vec<&str>), inner: (&str, Vec<&str>)) -> String {
    let ((outer, imports), (inner, exports)) = (outer, inner);
    let versionless = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
    let near = imports.iter().find_map(|import| {
        let export = exports
            .iter()
            .find(|export| versionless(export) == versionless(import))?;
        Some((import, export))
    });
    let why = match near {
        Some((import, export)) => {
            format!("{outer} imports `{import}`, and {inner} exports `{export}`, of another version")
        }
        None => format!(
            "{outer} imports nothing that {inner} exports; it imports {}, and {inner} exports {}",
            list(&imports),
            list(&exports)
        ),
    };
    let is_service =
        exports_handler(&exports) && !imports.iter().any(|import| import.starts_with("wasi:http/handler@"));
    match near.is_none() && is_service {
        true => format!("{why}. Only a middleware, which imports `wasi:http/handler`, stands before a service"),
        false => why,
    }
}

fn exports_handler(exports: &[&str]) -> bool {
    exports
        .iter()
        .any(|export| export.starts_with("wasi:http/handler@") || export.starts_with("wasi:http/incoming-handler@"))
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    }
}

fn exports(graph: &CompositionGraph, part: &Part) -> Vec<String> {
    graph.types()[graph[part.package].ty()]
        .exports
        .keys()
        .cloned()
        .collect()
}

/// With what it stands on.
fn said(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").expect("a string takes it");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolbox::graph::Graph;

    /// Exports the function `give` of `api:words/NAME@VERSION`, and imports what stands in `imports`.
    fn giving(name: &str, version: &str, imports: &str) -> Vec<u8> {
        let text = format!(
            r#"(component
                {imports}
                (core module $m (func (export "give") (result i32) i32.const 7))
                (core instance $i (instantiate $m))
                (func $give (result u32) (canon lift (core func $i "give")))
                (instance $out (export "give" (func $give)))
                (export "api:words/{name}@{version}" (instance $out)))"#
        );
        wat::parse_str(text).expect("it is a component")
    }

    fn taking(name: &str, version: &str, result: &str) -> String {
        format!(r#"(import "api:words/{name}@{version}" (instance (export "give" (func (result {result})))))"#)
    }

    fn composed(parts: &[(&str, &[u8])]) -> Result<Composed, String> {
        let inputs: Vec<_> = parts
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect();
        compose(&inputs)
    }

    #[test]
    fn each_takes_from_the_next() {
        let first = giving("a", "1.0.0", &taking("b", "1.0.0", "u32"));
        let second = giving("b", "1.2.0", &taking("c", "0.1.0", "u32"));
        let third = giving("c", "0.1.3", &taking("d", "2.0.0", "u32"));
        let whole = composed(&[("a.wasm", &first), ("b.wasm", &second), ("c.wasm", &third)]).expect("they fit");
        assert_eq!(
            whole.joints,
            "  a.wasm takes api:words/b@1.0.0 from b.wasm\n  b.wasm takes api:words/c@0.1.0 from c.wasm\n"
        );
        let graph = Graph::read(&whole.component).expect("it is a component");
        assert_eq!(graph.imports, ["api:words/d@2.0.0"]);
        assert_eq!(graph.exports, ["api:words/a@1.0.0"]);
    }

    #[test]
    fn the_same_component_twice_is_held_once() {
        let link = giving("a", "1.0.0", &taking("a", "1.0.0", "u32"));
        let twice = composed(&[("a.wasm", &link), ("b.wasm", &link)]).expect("they fit");
        assert!(
            twice.component.len() < 2 * link.len() + 600,
            "{}",
            twice.component.len()
        );
        let graph = Graph::read(&twice.component).expect("it is a component");
        assert_eq!(graph.parts.len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let wants = |version, result| giving("a", "1.0.0", &taking("b", version, result));
        let gives = giving("b", "1.0.0", "");
        let nothing = giving("c", "1.0.0", "");
        for (outer, inner, said) in [
            (
                wants("1.0.0", "u32"),
                &nothing,
                "imports nothing that inner.wasm exports",
            ),
            (
                wants("2.0.0", "u32"),
                &gives,
                "imports `api:words/b@2.0.0`, and inner.wasm exports `api:words/b@1.0.0`, of another version",
            ),
            (wants("1.0.0", "string"), &gives, "exports with other types"),
            (b"\0asm\x0d\0\x01\0\xff".to_vec(), &gives, "outer.wasm: is not valid"),
        ] {
            let result = composed(&[("outer.wasm", &outer), ("inner.wasm", inner)]);
            let error = result.err().expect("they do not fit");
            assert!(error.contains(said), "`{said}` is not in: {error}");
        }
    }
}
