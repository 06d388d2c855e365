//! A checkpoint's safetensors files, mapped into memory, checked before anything is read from them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use lacuna::{DType, Element};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::config::Config;
use super::json::read_object;
use super::tensors::expected_tensors;
use crate::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The length of the header stands in this many bytes at the start of a file.
const PREFIX: usize = 8;
/// What the format's own library takes.
const MAX_HEADER: usize = 100_000_000;
/// Names that one error lists of each kind before it counts the rest.
const MAX_LISTED: usize = 8;
/// Elements that one task converts.
const CONVERT_CHUNK: usize = 1 << 16;

/// The mapped files of a checkpoint and where each tensor lies in them.
///
/// The files must not change while they are mapped: as with every memory map, truncating one under a running program
/// makes the system end it.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name to shard.
    tensors: BTreeMap<String, usize>,
    /// Names the index promises but no shard holds, with that shard; names in shards that the index lacks.
    absent: Vec<String>,
    unlisted: Vec<String>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    data_start: usize,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` names, and checks their headers.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Malformed`] for one that is truncated or corrupt, for an
    /// index that points outside the directory, and for a directory without safetensors.
    pub fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.is_file() {
            let shard = Shard::open(single)?;
            let tensors = shard.header.offset_keys().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self {
                dir: dir.to_owned(),
                shards: vec![shard],
                tensors,
                absent: Vec::new(),
                unlisted: Vec::new(),
            });
        }
        if !index.is_file() {
            return Err(Error::malformed(dir, advice(dir)));
        }
        let mut names: BTreeMap<String, String> = read_weight_map(&index)?;
        let files: BTreeSet<&String> = names.values().collect();
        if let Some(missing) = files.iter().find(|file| !dir.join(file).is_file()) {
            return Err(Error::malformed(
                &index,
                format_args!("the shard {missing} it names does not exist"),
            ));
        }
        let number: HashMap<String, usize> =
            files.iter().enumerate().map(|(i, &file)| (file.clone(), i)).collect();
        let shards: Vec<Shard> =
            files.iter().map(|file| Shard::open(dir.join(file))).collect::<Result<_>>()?;
        let mut tensors = BTreeMap::new();
        let mut unlisted = Vec::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.header.offset_keys() {
                if names.get(&name).is_some_and(|file| number[file] == i) {
                    names.remove(&name);
                    tensors.insert(name, i);
                } else {
                    unlisted.push(name);
                }
            }
        }
        let absent = names.into_iter().map(|(name, file)| format!("{name} (in {file})")).collect();
        Ok(Self { dir: dir.to_owned(), shards, tensors, absent, unlisted })
    }

    /// Checks that the tensors are exactly those of a Llama model of this configuration, in name, shape and type.
    /// Frequencies of the rotary embedding may be there beside them, and so may the output matrix of a model that ties
    /// it to the embedding: some checkpoints carry what follows from the rest.
    ///
    /// # Errors
    /// [`Error::Tensors`] that lists all that is wrong.
    pub fn check(&self, config: &Config) -> Result<()> {
        let expected = expected_tensors(config);
        let ignored = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
        };
        let wanted: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<String> = expected
            .iter()
            .filter(|(name, _)| !self.tensors.contains_key(name))
            .map(|(name, _)| name.clone())
            .collect();
        let unexpected: Vec<String> = self
            .tensors
            .keys()
            .chain(&self.unlisted)
            .filter(|name| !wanted.contains(name.as_str()) && !ignored(name))
            .cloned()
            .collect();
        let (mut shapes, mut dtypes) = (Vec::new(), Vec::new());
        for (name, shape) in &expected {
            let Some(&shard) = self.tensors.get(name) else { continue };
            let info = self.shards[shard].info(name);
            if info.shape != *shape {
                shapes.push(format!("{name} has {:?}, expected {shape:?}", info.shape));
            }
            if element_type(info.dtype).is_none() {
                dtypes.push(format!("{name} is {:?}, expected BF16, F16 or F32", info.dtype));
            }
        }
        let problems: Vec<String> = [
            ("missing", missing),
            ("absent from their shards", self.absent.clone()),
            ("unexpected", unexpected),
            ("wrong shape", shapes),
            ("wrong type", dtypes),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| {
            let more = names.len().saturating_sub(MAX_LISTED);
            let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{what}: {}{tail}", names[..names.len() - more].join(", "))
        })
        .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Tensors { path: self.dir.clone(), problems: problems.join("; ") })
        }
    }

    /// The type most of the weights are in, by bytes; `None` when there are none in a known type.
    pub fn dtype(&self) -> Option<DType> {
        let mut bytes = [(DType::F32, 0usize), (DType::Bf16, 0), (DType::F16, 0)];
        for (name, &shard) in &self.tensors {
            let info = self.shards[shard].info(name);
            if let Some((_, n)) = bytes.iter_mut().find(|(dtype, _)| Some(*dtype) == element_type(info.dtype))
            {
                *n += info.data_offsets.1 - info.data_offsets.0;
            }
        }
        bytes.into_iter().filter(|(_, n)| *n > 0).max_by_key(|(_, n)| *n).map(|(dtype, _)| dtype)
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.map.len() as u64).sum()
    }

    /// Appends a tensor to `out`, converted to `T`, and says how many bytes that took from the file.
    ///
    /// # Errors
    /// [`Error::Io`] where the system cannot read the file any more, [`Error::Malformed`] for a finite weight that
    /// overflows `T`, [`Error::OutOfMemory`].
    pub(crate) fn read_into<T: Element>(&self, name: &str, out: &mut Vec<T>) -> Result<u64> {
        let Some(&shard) = self.tensors.get(name) else {
            return Err(Error::Tensors { path: self.dir.clone(), problems: format!("missing: {name}") });
        };
        let shard = &self.shards[shard];
        let bytes = shard.data(name)?;
        let not_finite = match element_type(shard.info(name).dtype) {
            Some(DType::F32) => convert(bytes, f32::from_le_bytes, out)?,
            Some(DType::Bf16) => convert(bytes, bf16::from_le_bytes, out)?,
            Some(DType::F16) => convert(bytes, f16::from_le_bytes, out)?,
            None => {
                return Err(Error::malformed(
                    &shard.path,
                    format_args!("{name} is {:?}, expected BF16, F16 or F32", shard.info(name).dtype),
                ));
            }
        };
        if let Some(i) = not_finite {
            return Err(Error::malformed(
                &shard.path,
                format_args!("{name} has a weight at index {i} that is not finite as {}", T::DTYPE),
            ));
        }
        Ok(bytes.len() as u64)
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
        // SAFETY: the map is only read; that nobody truncates the file meanwhile is the documented condition of
        // `Checkpoint`, which no program can check.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", &path, e))?;
        prefault(&map, 0, map.len().min(PREFIX), &path)?;
        let malformed = |reason: String| Error::malformed(&path, reason);
        if map.starts_with(b"version https://git-lfs") {
            return Err(malformed(
                "this is a Git LFS pointer, not the file: fetch it with `git lfs pull`".into(),
            ));
        }
        let Some(prefix) = map.first_chunk::<PREFIX>() else {
            return Err(malformed(format!(
                "truncated: {} bytes are too few for a safetensors file",
                map.len()
            )));
        };
        let header_len = u64::from_le_bytes(*prefix);
        let rest = map.len() - PREFIX;
        let header_len = match usize::try_from(header_len) {
            Ok(n) if n <= rest && n <= MAX_HEADER => n,
            Ok(n) if n <= MAX_HEADER => {
                return Err(malformed(format!(
                    "truncated: a header of {n} bytes, but only {rest} bytes follow"
                )));
            }
            _ => {
                return Err(malformed(format!(
                    "not a safetensors file: byte 0 announces a header of {header_len} bytes"
                )));
            }
        };
        prefault(&map, PREFIX, header_len, &path)?;
        let data_start = PREFIX + header_len;
        let header: Metadata = serde_json::from_slice(&map[PREFIX..data_start])
            .map_err(|e| malformed(format!("corrupt header (bytes {PREFIX}..{data_start}): {e}")))?;
        let (want, got) = (header.data_len(), map.len() - data_start);
        if want != got {
            let what = if got < want { "truncated" } else { "corrupt" };
            return Err(malformed(format!(
                "{what}: the header describes {want} bytes of tensors, got {got}"
            )));
        }
        Ok(Self { path, map, header, data_start })
    }

    fn info(&self, name: &str) -> &TensorInfo {
        self.header.info(name).expect("`Checkpoint::tensors` is made from the headers")
    }

    fn data(&self, name: &str) -> Result<&[u8]> {
        let (start, end) = self.info(name).data_offsets;
        prefault(&self.map, self.data_start + start, end - start, &self.path)?;
        Ok(&self.map[self.data_start + start..self.data_start + end])
    }
}

/// Has the system read a part of a file now, so that a disk error comes back as an error; met in passing, it would
/// end the program (SIGBUS).
fn prefault(map: &Mmap, offset: usize, len: usize, path: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    if len > 0
        && let Err(e) = map.advise_range(memmap2::Advice::PopulateRead, offset, len)
        // Kernels before 5.14 do not know the request.
        && e.kind() != std::io::ErrorKind::InvalidInput
    {
        return Err(Error::io("read", path, e));
    }
    let _ = (map, offset, len, path);
    Ok(())
}

fn element_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::BF16 => Some(DType::Bf16),
        Dtype::F16 => Some(DType::F16),
        _ => None,
    }
}

/// Appends room for `len` elements to `out`, and gives that part.
pub(super) fn grow<T: Element>(out: &mut Vec<T>, len: usize) -> Result<&mut [T]> {
    out.try_reserve_exact(len)
        .map_err(|_| Error::OutOfMemory { what: "weights", bytes: len as u128 * size_of::<T>() as u128 })?;
    let start = out.len();
    out.resize(start + len, T::default());
    Ok(&mut out[start..])
}

/// Appends little-endian `S` elements as `T`, and finds the first that is not finite there.
fn convert<S: Element, T: Element, const N: usize>(
    bytes: &[u8],
    from_le_bytes: impl Fn([u8; N]) -> S + Sync,
    out: &mut Vec<T>,
) -> Result<Option<usize>> {
    let out = grow(out, bytes.len() / N)?;
    let parts = out.par_chunks_mut(CONVERT_CHUNK).zip(bytes.par_chunks(CONVERT_CHUNK * N));
    let not_finite = parts.enumerate().filter_map(|(i, (out, part))| {
        let mut finite = true;
        for (o, x) in out.iter_mut().zip(part.as_chunks::<N>().0) {
            *o = cast(from_le_bytes(*x));
            finite &= o.to_f32().is_finite();
        }
        let first = || out.iter().position(|x| !x.to_f32().is_finite());
        if finite { None } else { first().map(|at| i * CONVERT_CHUNK + at) }
    });
    Ok(not_finite.min())
}

/// Widens and rounds, but leaves an element alone whose type is right already. The type test folds away.
fn cast<S: Element, T: Element>(x: S) -> T {
    (&x as &dyn Any).downcast_ref::<T>().copied().unwrap_or_else(|| T::from_f32(x.to_f32()))
}

fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let mut root = read_object(index)?;
    let Some(serde_json::Value::Object(map)) = root.remove("weight_map") else {
        return Err(Error::malformed(index, "no object under the key weight_map"));
    };
    map.into_iter()
        .map(|(name, file)| match file {
            serde_json::Value::String(file) if is_plain_file_name(&file) => Ok((name, file)),
            other => Err(Error::malformed(
                index,
                format_args!("weight_map.{name} must name a .safetensors file beside the index, got {other}"),
            )),
        })
        .collect()
}

/// Whether the name stays in its directory and says what it is.
fn is_plain_file_name(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == file);
    plain && file.ends_with(".safetensors") && !file.contains(['/', '\\', '\0'])
}

/// What to do about a directory without safetensors.
fn advice(dir: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let pickled =
        names.iter().filter(|n| n.ends_with(".bin") || n.ends_with(".pth") || n.ends_with(".pt")).min();
    match pickled {
        Some(file) => format!(
            "{file} is a pickled checkpoint, which can run code when opened and is not read here: save it again as \
             safetensors, in Python with AutoModelForCausalLM.from_pretrained(dir).save_pretrained(out)"
        ),
        None => format!("expected {SINGLE} or {INDEX}, got a directory with neither"),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SINGLE);
        let data = vec![0u8; 1 << 20];
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![1 << 18], &data).unwrap();
        std::fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        if checkpoint.shards[0].map.advise(memmap2::Advice::PopulateRead).is_err() {
            println!("skipped: this kernel cannot read a map ahead (Linux 5.14 can)");
            return;
        }
        File::options().write(true).open(&path).unwrap().set_len(1 << 16).unwrap();
        let error = checkpoint.read_into("x", &mut Vec::<f32>::new()).unwrap_err();
        assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
    }
}
