//! Who uses whom inside a crate: paths in `use` trees and in code, resolved to module files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{ItemUse, UseTree};

/// A module, by its names from the crate's root: `["hook", "method", "sinks"]`; the root is empty.
type Module = Vec<String>;

/// Modules of a crate, and for each the modules that its code names, with one of the places where it does.
pub(crate) struct Uses {
    pub(crate) edges: BTreeMap<(Module, Module), String>,
}

impl Uses {
    /// Of sources by their path below `src`.
    pub(crate) fn of(sources: &[(String, String)]) -> Self {
        let all: BTreeSet<Module> = sources.iter().map(|(name, _)| module(name)).collect();
        let mut edges = BTreeMap::new();
        for (name, text) in sources {
            let at = module(name);
            let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut paths = Paths {
                inside: at.clone(),
                found: Vec::new(),
            };
            paths.visit_file(&file);
            for path in paths.found {
                // The longest beginning of the path that is a module.
                let known = (0..=path.len()).rev().map(|n| &path[..n]);
                let used = known.into_iter().find(|m| all.contains(*m)).unwrap_or(&[]);
                let shown = format!("{name} names {}", path.join("::"));
                edges.entry((at.clone(), used.to_vec())).or_insert(shown);
            }
        }
        Self { edges }
    }

    /// Circles among the children of one module, whatever is inside each of them; between a module and its own children
    /// there is none.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut siblings: BTreeMap<Module, BTreeMap<String, BTreeMap<String, &str>>> = BTreeMap::new();
        for ((from, to), place) in &self.edges {
            let alike = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(alike), to.get(alike)) {
                let of = siblings.entry(from[..alike].to_vec()).or_default();
                of.entry(a.clone()).or_default().entry(b.clone()).or_insert(place);
            }
        }
        let mut found = Vec::new();
        for graph in siblings.values() {
            for start in graph.keys() {
                if let Some(way) = way_back(graph, start) {
                    let places = way.windows(2).map(|w| graph[&w[0]][&w[1]]);
                    found.push(format!(
                        "{}: {}",
                        way.join(" -> "),
                        places.collect::<Vec<_>>().join("; ")
                    ));
                }
            }
        }
        found
    }
}

/// The shortest way from a module back to it.
fn way_back(graph: &BTreeMap<String, BTreeMap<String, &str>>, start: &String) -> Option<Vec<String>> {
    let (mut ways, mut seen) = (vec![vec![start.clone()]], BTreeSet::new());
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way
                .last()
                .and_then(|m| graph.get(m))
                .into_iter()
                .flat_map(BTreeMap::keys)
            {
                let mut way = way.clone();
                way.push(next.clone());
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

/// The module of a file below `src`.
fn module(name: &str) -> Module {
    let mut parts: Module = Path::new(name)
        .with_extension("")
        .iter()
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|p| p == "mod")
        || matches!(parts.as_slice(), [one] if one == "lib" || one == "main")
    {
        parts.pop();
    }
    parts
}

/// Paths that begin with `crate`, `super` or `self`, from the crate's root.
struct Paths {
    inside: Module,
    found: Vec<Module>,
}

impl Paths {
    fn add(&mut self, path: &[String]) {
        let (mut from, mut rest) = match path.first().map(String::as_str) {
            Some("crate") => (Vec::new(), &path[1..]),
            Some("self") => (self.inside.clone(), &path[1..]),
            Some("super") => (self.inside.clone(), path),
            _ => return,
        };
        while rest.first().is_some_and(|p| p == "super") {
            from.pop();
            rest = &rest[1..];
        }
        from.extend_from_slice(rest);
        self.found.push(from);
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(p) => self.tree(&with(p.ident.to_string()), &p.tree),
            UseTree::Group(g) => g.items.iter().for_each(|t| self.tree(before, t)),
            UseTree::Name(n) if n.ident == "self" => self.add(before),
            UseTree::Name(n) => self.add(&with(n.ident.to_string())),
            UseTree::Rename(n) => self.add(&with(n.ident.to_string())),
            UseTree::Glob(_) => self.add(before),
        }
    }
}

impl Visit<'_> for Paths {
    fn visit_item_use(&mut self, item: &ItemUse) {
        // What a module offers from inside is no use of it by others.
        self.tree(&[], &item.tree);
    }

    fn visit_visibility(&mut self, _: &syn::Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        let test = item
            .attrs
            .iter()
            .any(|a| a.path().is_ident("cfg") && is_for_tests(a));
        if item.content.is_some() && !test {
            self.inside.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.inside.pop();
        }
    }
}

/// Whether an attribute is `cfg(test)`: tests may look at whatever they test.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute
        .parse_args::<syn::Ident>()
        .is_ok_and(|what| what == "test")
}
