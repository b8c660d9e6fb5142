//! The files that hold the weights: one, or several and an index of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use serde::Deserialize;

use super::{
    HfError, MAX_JSON,
    header::{self, HeaderTensor},
};
use crate::source::{ReadAt, SourceError, read_small};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Weights in forms that are not read, named where nothing else is found.
const NOT_READ: [&str; 4] = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "consolidated.safetensors",
    "model.gguf",
];

/// The weight files in the order of their names, each with its tensors in the order of their bytes.
pub(super) type Shards = Vec<(ReadAt, Vec<HeaderTensor>)>;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the weight files of `dir` and checks them against the index, where there is one.
pub(super) fn open(dir: &Path) -> Result<Shards, SourceError> {
    let index_path = dir.join(INDEX);
    let single = dir.join(SINGLE);
    let Some(bytes) = read_small(&index_path, MAX_JSON)? else {
        if !single.exists() {
            let instead = NOT_READ.iter().find(|name| dir.join(name).exists());
            let instead = instead.map(|&name| name.to_owned());
            return Err(HfError::NoWeights {
                dir: dir.to_owned(),
                instead,
            }
            .into());
        }
        let file = ReadAt::open(&single)?;
        let tensors = header::read(&file)?;
        return Ok(vec![(file, tensors)]);
    };
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|cause| HfError::Json {
        path: index_path.clone(),
        cause,
    })?;
    let mut by_file = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (tensor, file) in &weight_map {
        by_file.entry(file).or_default().insert(tensor);
    }
    if single.exists() && by_file.keys().any(|&file| file != SINGLE) {
        return Err(HfError::TwoCheckpoints {
            dir: dir.to_owned(),
        }
        .into());
    }
    // All names are checked before the first of them is opened.
    if let Some(&file) = by_file.keys().find(|file| !is_plain_name(file)) {
        let file = file.to_owned();
        return Err(HfError::IndexLeavesDirectory {
            path: index_path,
            file,
        }
        .into());
    }
    let mut shards = Shards::new();
    for (name, mut expected) in by_file {
        let file = ReadAt::open(&dir.join(name))?;
        let tensors = header::read(&file)?;
        for tensor in &tensors {
            if !expected.remove(&*tensor.name) {
                let tensor = tensor.name.clone();
                return Err(HfError::NotInIndex {
                    tensor,
                    file: name.to_owned(),
                }
                .into());
            }
        }
        if let Some(&tensor) = expected.first() {
            let tensor = tensor.to_owned();
            return Err(HfError::NotInShard {
                tensor,
                file: name.to_owned(),
            }
            .into());
        }
        shards.push((file, tensors));
    }
    Ok(shards)
}

/// Whether `file` names a file of the directory itself on every system: no separator of any kind,
/// no drive, no `..`, no stream.
fn is_plain_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    let one =
        matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    one && !file.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_stay_in_the_directory() {
        for good in [
            "model-00001-of-00002.safetensors",
            "a",
            "..a",
            "ü.safetensors",
        ] {
            assert!(is_plain_name(good), "{good}");
        }
        let bad = [
            "", ".", "..", "../a", "/a", "a/b", "a/", "./a", "a/..", "..\\a", "C:a", "a:b", "a\0b",
        ];
        for bad in bad {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
