//! What a library may say: its string literals, without documentation and tests.

use syn::visit::{self, Visit};
use syn::{Attribute, ItemFn, ItemImpl, ItemMod, LitStr, Macro, Meta};

/// String literals of a source; those of a macro or an attribute come with the tokens around them.
pub(crate) fn of(name: &str, text: &str) -> Vec<String> {
    let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut words = Words(Vec::new());
    words.visit_file(&file);
    words.0
}

/// Whether it has `--` and a letter at its beginning, or behind a space, a quote or a bracket of prose.
pub(crate) fn names_a_flag(word: &str) -> bool {
    word.match_indices("--").any(|(at, _)| {
        let letter = word[at + 2..].starts_with(|c: char| c.is_ascii_lowercase());
        let before = &word[..at];
        letter && (before.is_empty() || before.ends_with([' ', '`', '"', '\'']) || before.ends_with(" ("))
    })
}

struct Words(Vec<String>);

/// Whether these belong to a test.
fn tested(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|a| match &a.meta {
        Meta::List(l) => a.path().is_ident("cfg") && l.tokens.to_string() == "test",
        _ => a.path().is_ident("test"),
    })
}

impl<'a> Visit<'a> for Words {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !tested(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a ItemFn) {
        if !tested(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a ItemImpl) {
        if !tested(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.0.push(list.tokens.to_string());
        }
    }

    fn visit_macro(&mut self, called: &'a Macro) {
        self.0.push(called.tokens.to_string());
    }

    fn visit_lit_str(&mut self, literal: &'a LitStr) {
        self.0.push(literal.value());
    }
}

#[test]
fn flags_are_told_from_other_dashes() {
    for flag in ["--fps", "use --fps", "`--fps`", "less (--fps)"] {
        assert!(names_a_flag(flag), "{flag}");
    }
    for other in ["var(--ink)", "a -- b", "1--x", "-frames:v"] {
        assert!(!names_a_flag(other), "{other}");
    }
    let text = "#[error(\"use --a\")] struct A; /// --b\nfn f() { g(\"--c\"); format!(\"--d\"); }\n\
                #[cfg(test)] mod tests { const E: &str = \"--e\"; }";
    let said = of("a", text);
    assert_eq!(said.iter().filter(|w| names_a_flag(w)).count(), 3, "{said:?}");
}
