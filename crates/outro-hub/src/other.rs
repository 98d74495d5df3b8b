//! Repositories without config.json that are models nevertheless: GGUF files, of which one is chosen, and adapters.

use outro::checkpoint::files;

/// What is taken of several files where nobody says: llama.cpp's usual one.
const USUAL: &str = "Q4_K_M";

/// The files of a repository that are the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Which of them is opened; `None` for the directory.
    pub(crate) opened: Option<String>,
    /// All that are needed.
    pub(crate) files: Vec<String>,
    /// The towers' file among them.
    pub(crate) towers: Option<String>,
    /// Quantisations that are there, with their files.
    pub(crate) all: Vec<(String, Vec<String>)>,
    /// Which of them this is.
    pub(crate) taken: usize,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Neither a GGUF file nor an adapter is there.
    Nothing,
    /// These are there, and none of them is meant.
    NotAmong(Vec<String>),
}

/// What is meant by a repository with such files, and by the quantisation behind its name.
pub(crate) fn wanted(names: &[String], quant: Option<&str>) -> Result<Wanted, Why> {
    let has = |name: &str| names.iter().any(|n| n == name);
    if quant.is_none() && has(files::ADAPTER) {
        return Ok(Wanted {
            opened: None,
            files: vec![files::ADAPTER.to_owned(), files::ADAPTER_WEIGHTS.to_owned()],
            towers: None,
            all: Vec::new(),
            taken: 0,
        });
    }
    let ggufs = names.iter().filter(|n| n.to_lowercase().ends_with(".gguf"));
    let (towers, models): (Vec<&String>, Vec<&String>) =
        ggufs.partition(|n| n.to_lowercase().contains("mmproj"));
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for name in models {
        let label = label(name);
        match all.iter_mut().find(|(l, _)| *l == label) {
            // Parts of one file; two files of one label are told apart by their names.
            Some((_, files)) if part(name).is_some() => files.push(name.clone()),
            Some(_) => all.push((stem(name).to_owned(), vec![name.clone()])),
            None => all.push((label, vec![name.clone()])),
        }
    }
    for (_, files) in &mut all {
        files.sort();
    }
    let labels = || all.iter().map(|(label, _)| label.clone()).collect();
    let place = |wanted: &str| {
        all.iter()
            .position(|(label, _)| label.eq_ignore_ascii_case(wanted))
    };
    let taken = match quant {
        Some(quant) => place(quant),
        None if all.len() == 1 => Some(0),
        None => place(USUAL),
    };
    let Some(taken) = taken else {
        return Err(if all.is_empty() {
            Why::Nothing
        } else {
            Why::NotAmong(labels())
        });
    };
    let mut files = all.get(taken).map(|(_, files)| files.clone()).unwrap_or_default();
    let opened = files.first().cloned();
    let towers = towers
        .into_iter()
        .max_by_key(|n| (exactness(n), std::cmp::Reverse(n.as_str())))
        .cloned();
    files.extend(towers.clone());
    Ok(Wanted {
        opened,
        files,
        towers,
        all,
        taken,
    })
}

/// The file's name without its ending, and without the number of a part.
fn stem(name: &str) -> &str {
    let stem = name
        .get(..name.len().saturating_sub(".gguf".len()))
        .unwrap_or(name);
    part(name).map_or(stem, |n| stem.get(..n).unwrap_or(stem))
}

/// Where `-00001-of-00003` begins in the name of a part.
fn part(name: &str) -> Option<usize> {
    let stem = name.get(..name.len().checked_sub(".gguf".len())?)?;
    let at = stem.len().checked_sub("-00001-of-00003".len())?;
    let number = |range: std::ops::Range<usize>| {
        stem.get(range)
            .is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()))
    };
    let fits = stem.get(at..=at) == Some("-") && stem.get(at + 6..at + 10) == Some("-of-");
    (fits && number(at + 1..at + 6) && number(at + 10..stem.len())).then_some(at)
}

/// The quantisation, with which names end: `Q4_K_M`, `UD-Q4_K_XL`.
fn label(name: &str) -> String {
    let mut words = stem(name).rsplit(['-', '.']);
    let last = words.next().unwrap_or_default();
    match words.next() {
        Some("UD") => format!("UD-{last}"),
        _ => last.to_owned(),
    }
}

/// How exact a file of towers is, by its name.
fn exactness(name: &str) -> usize {
    let name = name.to_lowercase();
    let order = ["q8_0", "f16", "bf16", "f32"];
    // `bf16` contains `f16`.
    order
        .iter()
        .rposition(|kind| name.contains(kind))
        .map_or(0, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn one_of_several_files_is_meant() {
        let omni = names(&[
            "README.md",
            "Qwen2.5-Omni-3B-Q4_K_M.gguf",
            "Qwen2.5-Omni-3B-Q8_0.gguf",
            "Qwen2.5-Omni-3B-f16.gguf",
            "mmproj-Qwen2.5-Omni-3B-Q8_0.gguf",
            "mmproj-Qwen2.5-Omni-3B-f16.gguf",
        ]);
        let usual = wanted(&omni, None).unwrap();
        assert_eq!(usual.opened.as_deref(), Some("Qwen2.5-Omni-3B-Q4_K_M.gguf"));
        assert_eq!(usual.towers.as_deref(), Some("mmproj-Qwen2.5-Omni-3B-f16.gguf"));
        assert_eq!(usual.files.len(), 2);
        let labels: Vec<_> = usual.all.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["Q4_K_M", "Q8_0", "f16"]);
        let named = wanted(&omni, Some("q8_0")).unwrap();
        assert_eq!(named.opened.as_deref(), Some("Qwen2.5-Omni-3B-Q8_0.gguf"));
        let why = wanted(&omni, Some("Q2_K")).unwrap_err();
        assert_eq!(why, Why::NotAmong(names(&["Q4_K_M", "Q8_0", "f16"])));
        let alone = wanted(&names(&["model.BF16.gguf"]), None).unwrap();
        assert_eq!(
            (alone.opened.as_deref(), alone.towers),
            (Some("model.BF16.gguf"), None)
        );
        assert!(matches!(
            wanted(&names(&["a-Q5_0.gguf", "a-Q8_0.gguf"]), None),
            Err(Why::NotAmong(_))
        ));
        assert_eq!(wanted(&names(&["a.bin"]), None), Err(Why::Nothing));
    }

    #[test]
    fn parts_are_one_file_and_unsloth_has_names_of_its_own() {
        let split = names(&[
            "Big-UD-Q4_K_XL-00002-of-00002.gguf",
            "Big-UD-Q4_K_XL-00001-of-00002.gguf",
            "Big-Q4_K_M.gguf",
            "mmproj-F32.gguf",
            "mmproj-BF16.gguf",
        ]);
        let found = wanted(&split, Some("UD-Q4_K_XL")).unwrap();
        assert_eq!(
            found.opened.as_deref(),
            Some("Big-UD-Q4_K_XL-00001-of-00002.gguf")
        );
        assert_eq!(found.files.len(), 3);
        assert_eq!(found.towers.as_deref(), Some("mmproj-F32.gguf"));
    }

    #[test]
    fn an_adapter_is_its_two_files() {
        let found = wanted(
            &names(&["adapter_config.json", "adapter_model.safetensors", "README.md"]),
            None,
        )
        .unwrap();
        assert_eq!((found.opened, found.files.len()), (None, 2));
    }
}
