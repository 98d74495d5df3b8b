//! Arguments of filters and methods in templates, and what is wrong with them.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Arguments by name, as Python takes them: those without a name have the names in their order.
#[expect(
    clippy::needless_pass_by_value,
    reason = "filters own their arguments and hand them on"
)]
pub(super) fn named(plain: &[Value], own: Kwargs, names: &[&str]) -> Result<Kwargs> {
    if plain.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let (first, rest) = names.split_at(plain.len());
    if let Some(name) = own.args().find(|name| !rest.contains(name)) {
        return Err(wrong(format!("unexpected argument `{name}`")));
    }
    let mut all: Vec<(String, Value)> = Vec::new();
    for (name, value) in first.iter().zip(plain) {
        all.push(((*name).to_owned(), value.clone()));
    }
    for name in own.args() {
        all.push((name.to_owned(), own.get(name)?));
    }
    Ok(all.into_iter().collect())
}

pub(super) fn wrong(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}
