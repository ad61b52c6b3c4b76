//! What a component is made of: the components in it that have code, and what each takes from where.
//!
//! Control plane. Reads the outermost layer of a binary; validates nothing, so that a component that no engine here
//! would load is described all the same. Tools put components without code around what they export; these are none of
//! the parts, and what they hand on is followed to where it comes from.

use std::fmt;

use serde_json::{Value, json};
use wasmparser::{
    BinaryReaderError as Error, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentInstantiationArg,
    ComponentName, ComponentNameSectionReader, ComponentOuterAliasKind, KnownCustom, Name, Parser, Payload,
};

use super::inspect::bytes;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Graph {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// In the order of instantiation. Empty for a component that is one piece.
    pub parts: Vec<Part>,
    /// The exports of parts, by the names of the whole.
    pub exported: Vec<Link>,
}

/// An instance of a component within.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub bytes: usize,
    /// What it takes, by its own names.
    pub takes: Vec<Link>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub from: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The number of a part.
    Part(usize),
    /// Whoever runs the whole.
    Outside,
    /// What is put together of several, and what this reader does not follow.
    Within,
}

/// A component in the index space of components.
struct Inner {
    name: Option<String>,
    bytes: usize,
    has_code: bool,
}

/// What fills while the sections are read, in their order.
#[derive(Default)]
struct Reader {
    graph: Graph,
    components: Vec<Option<Inner>>,
    /// Where each instance comes from.
    instances: Vec<Source>,
    /// The number among all instances of each part, by which names are given.
    part_instances: Vec<usize>,
}

impl Graph {
    /// The error is for the operator, and does not name the file.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader::default();
        reader.read(bytes).map_err(|error| format!("cannot be read: {error}"))?;
        Ok(reader.graph)
    }
}

impl Graph {
    /// In the order of instantiation, whose numbers the links name.
    pub fn to_json(&self) -> Value {
        let source = |from: Source| match from {
            Source::Part(number) => json!({ "part": number }),
            Source::Outside => json!("outside"),
            Source::Within => json!("within"),
        };
        let links = |links: &[Link]| -> Vec<Value> {
            links
                .iter()
                .map(|link| json!({ "name": link.name, "from": source(link.from) }))
                .collect()
        };
        self.parts
            .iter()
            .map(|part| json!({ "name": part.name, "size_bytes": part.bytes, "takes": links(&part.takes) }))
            .collect()
    }

    fn part(&self, number: usize) -> &str {
        self.parts.get(number).map_or("", |part| &part.name)
    }
}

/// Lines of a report, the outermost part first; nothing for a component that is one piece.
impl fmt::Display for Graph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.parts.iter().enumerate().rev() {
            let title = if number + 1 == self.parts.len() { "parts" } else { "" };
            writeln!(formatter, "  {title:<9} {:<34} {}", part.name, bytes(part.bytes))?;
            for link in &part.takes {
                if let Source::Part(from) = link.from {
                    let name = &link.name;
                    writeln!(formatter, "  {:<11} takes {name} from {}", "", self.part(from))?;
                }
            }
            for link in self.exported.iter().filter(|link| link.from == Source::Part(number)) {
                writeln!(formatter, "  {:<11} gives {}", "", link.name)?;
            }
        }
        Ok(())
    }
}

impl Reader {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            match &payload {
                Payload::ComponentSection { unchecked_range, .. } => {
                    if depth == 0 {
                        let inner = bytes.get(unchecked_range.clone()).unwrap_or_default();
                        self.components.push(Some(Inner::read(inner)));
                    }
                    depth += 1;
                }
                Payload::ModuleSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                _ if depth == 0 => self.section(&payload)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn section(&mut self, payload: &Payload<'_>) -> Result<(), Error> {
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    let import = import?;
                    self.graph.imports.push(import.name.name.to_owned());
                    self.define(import.ty.kind(), Source::Outside);
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    let from = self.instantiate(&instance?);
                    self.instances.push(from);
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(&alias?);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let export = export?;
                    let name = export.name.name.to_owned();
                    self.graph.exports.push(name.clone());
                    let from = self.source(export.kind, export.index);
                    if let Source::Part(_) = from {
                        self.graph.exported.push(Link { name, from });
                    }
                    // An export has an index of its own.
                    self.define(export.kind, from);
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::ComponentName(names) = section.as_known() {
                    self.name(names)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn define(&mut self, kind: ComponentExternalKind, from: Source) {
        match kind {
            ComponentExternalKind::Instance => self.instances.push(from),
            ComponentExternalKind::Component => self.components.push(None),
            _ => {}
        }
    }

    fn instantiate(&mut self, instance: &ComponentInstance<'_>) -> Source {
        let ComponentInstance::Instantiate { component_index, args } = instance else {
            return Source::Within;
        };
        let component = usize::try_from(*component_index)
            .ok()
            .and_then(|index| self.components.get(index))
            .and_then(Option::as_ref);
        let (name, bytes) = match component {
            Some(inner) if inner.has_code => (inner.name.clone(), inner.bytes),
            _ => return Source::Within,
        };
        let number = self.graph.parts.len();
        let takes = args.iter().map(|argument| self.link(argument)).collect();
        self.graph.parts.push(Part {
            name: name.unwrap_or_else(|| format!("part {}", number + 1)),
            bytes,
            takes,
        });
        self.part_instances.push(self.instances.len());
        Source::Part(number)
    }

    fn link(&self, argument: &ComponentInstantiationArg<'_>) -> Link {
        Link {
            name: argument.name.to_owned(),
            from: self.source(argument.kind, argument.index),
        }
    }

    /// Of an export and an argument only instances are followed: interfaces are instances.
    fn source(&self, kind: ComponentExternalKind, index: u32) -> Source {
        match kind {
            ComponentExternalKind::Instance => self.instance(index),
            _ => Source::Within,
        }
    }

    fn instance(&self, index: u32) -> Source {
        let index = usize::try_from(index).ok();
        index
            .and_then(|index| self.instances.get(index).copied())
            .unwrap_or(Source::Within)
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match alias {
            ComponentAlias::InstanceExport {
                kind, instance_index, ..
            } => {
                let from = self.instance(*instance_index);
                self.define(*kind, from);
            }
            ComponentAlias::Outer {
                kind: ComponentOuterAliasKind::Component,
                ..
            } => self.components.push(None),
            _ => {}
        }
    }

    /// The names that whoever composed it gave the instances are better than those in the parts.
    fn name(&mut self, names: ComponentNameSectionReader<'_>) -> Result<(), Error> {
        for names in names {
            if let ComponentName::Instances(instances) = names? {
                for naming in instances {
                    let naming = naming?;
                    let part = self
                        .part_instances
                        .iter()
                        .position(|instance| u32::try_from(*instance) == Ok(naming.index));
                    if let Some(part) = part.and_then(|part| self.graph.parts.get_mut(part)) {
                        naming.name.clone_into(&mut part.name);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Inner {
    /// What cannot be read has no name; reading the whole says why.
    fn read(bytes: &[u8]) -> Self {
        let mut inner = Self {
            name: None,
            bytes: bytes.len(),
            has_code: false,
        };
        for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
            match payload {
                Payload::ModuleSection { .. } => inner.has_code = true,
                Payload::CustomSection(section) if inner.name.is_none() => {
                    inner.name = own_name(&section.as_known());
                }
                _ => {}
            }
        }
        inner
    }
}

/// The component's, or that of the first module in it.
fn own_name(section: &KnownCustom<'_>) -> Option<String> {
    match section {
        KnownCustom::ComponentName(names) => names.clone().flatten().find_map(|name| match name {
            ComponentName::Component { name, .. } => Some(name.to_owned()),
            _ => None,
        }),
        KnownCustom::Name(names) => names.clone().flatten().find_map(|name| match name {
            Name::Module { name, .. } => Some(name.to_owned()),
            _ => None,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_of_one_piece_has_no_parts() {
        // With a component around its export, as wit-component writes it: that one has no code.
        let text = r#"(component
            (import "a:b/c" (instance $c))
            (core module (func))
            (component $shim (import "c" (instance $c)) (export "c" (instance $c)))
            (instance $out (instantiate $shim (with "c" (instance $c))))
            (export "a:b/d" (instance $out)))"#;
        let graph = Graph::read(&wat::parse_str(text).expect("it is a component")).expect("it can be read");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let expected = Graph {
            imports: names(&["a:b/c"]),
            exports: names(&["a:b/d"]),
            ..Graph::default()
        };
        assert_eq!(graph, expected);
    }

    #[test]
    fn links_are_followed_from_part_to_part() {
        let text = r#"(component
            (import "a:b/c" (instance $c))
            (component $inner (import "a:b/c" (instance)) (core module (func)) (instance $i) (export "a:b/d" (instance $i)))
            (component $outer (import "a:b/d" (instance)) (core module $code) (instance $i) (export "a:b/e" (instance $i)))
            (instance $in (instantiate $inner (with "a:b/c" (instance $c))))
            (alias export $in "a:b/d" (instance $d))
            (instance $out (instantiate $outer (with "a:b/d" (instance $d))))
            (alias export $out "a:b/e" (instance $e))
            (export "a:b/e" (instance $e)))"#;
        let graph = Graph::read(&wat::parse_str(text).expect("it is a component")).expect("it can be read");
        let takes: Vec<_> = graph
            .parts
            .iter()
            .map(|part| (&*part.name, part.takes[0].from))
            .collect();
        assert_eq!(takes, [("in", Source::Outside), ("out", Source::Part(0))]);
        assert_eq!(graph.exported[0].from, Source::Part(1));
        let text = graph.to_string();
        assert!(text.contains("takes a:b/d from in\n"), "{text}");
        assert!(text.contains("gives a:b/e\n"), "{text}");
    }

    #[test]
    fn what_is_no_component_is_refused() {
        assert!(Graph::read(b"not wasm").is_err());
    }
}
