//! The file format of captured results.
//!
//! Little-endian throughout. A file is a header, one record for every form, and a CRC-32 of everything before it:
//!
//! ```text
//! "LACUNA-V"  version u32
//! gpu  driver  cuda  date          each: length u16, UTF-8
//! compute capability u32 (80, 90)  seed u64  number of records u32
//! per record:
//!   form id                        length u16, UTF-8
//!   fingerprint of the PTX u64     fingerprint of the inputs u64
//!   words in all u32               raw words u32
//!   raw words                      u32 each
//!   CRC-32 of every further 256 words, the last group perhaps shorter
//! CRC-32 u32
//! ```
//!
//! The words of a form are the results of lane after lane, without padding.

use std::fmt;

/// Committed captures together may be this large; a longer file is refused unread.
pub const MAX_ARCHIVE_BYTES: usize = 3 << 20;

/// Words under one checksum.
pub const WORDS_PER_CHECKSUM: usize = 256;

const MAGIC: &[u8; 8] = b"LACUNA-V";
const VERSION: u32 = 1;
const MAX_STRING_BYTES: usize = 256;

/// Where and when results were captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Name of the GPU.
    pub gpu: String,
    /// Version of the driver.
    pub driver: String,
    /// Version of the CUDA interface that the driver offers, whose assembler compiled the PTX.
    pub cuda: String,
    /// Day of the capture, year first.
    pub date: String,
    /// Compute capability times ten, which decides the tensor-core model.
    pub compute_capability: u32,
}

/// Results of one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The form's id.
    pub form: String,
    /// Fingerprint of the PTX that ran.
    pub ptx: u64,
    /// Fingerprint of the operands.
    pub inputs: u64,
    /// Words in all.
    pub words: u32,
    /// The leading words.
    pub raw: Vec<u32>,
    /// CRC-32 of every further [`WORDS_PER_CHECKSUM`] words.
    pub checksums: Vec<u32>,
}

impl Record {
    /// Keeps the first `raw` of `words` and checksums of the rest.
    pub(super) fn of(form: String, ptx: u64, inputs: u64, words: &[u32], raw: usize) -> Self {
        let (raw, rest) = words.split_at(raw);
        let checksums = rest.chunks(WORDS_PER_CHECKSUM).map(crc32_of_words).collect();
        Self { form, ptx, inputs, words: words.len() as u32, raw: raw.to_vec(), checksums }
    }
}

/// A capture: its origin, its seed, and a record for every form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// Where it comes from.
    pub origin: Origin,
    /// Seed of all inputs.
    pub seed: u64,
    /// The results.
    pub records: Vec<Record>,
}

/// Why a file is not an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The file is longer than [`MAX_ARCHIVE_BYTES`].
    TooLong(usize),
    /// It does not begin as an archive does.
    NotAnArchive,
    /// It is of another version of the format.
    Version(u32),
    /// Its checksum does not fit its contents.
    Damaged,
    /// It ends within the named field.
    Truncated(&'static str),
    /// The named field holds what it may not.
    Invalid(&'static str),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => {
                write!(f, "a capture has {bytes} bytes, expected at most {MAX_ARCHIVE_BYTES}")
            }
            Self::NotAnArchive => f.write_str("a capture does not begin with the letters LACUNA-V"),
            Self::Version(version) => write!(f, "a capture has format version {version}, expected {VERSION}"),
            Self::Damaged => f.write_str("a capture's checksum does not fit its contents"),
            Self::Truncated(field) => write!(f, "a capture ends within its {field}"),
            Self::Invalid(field) => write!(f, "a capture has an invalid {field}"),
        }
    }
}

impl std::error::Error for FormatError {}

impl Archive {
    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let Origin { gpu, driver, cuda, date, compute_capability } = &self.origin;
        for text in [gpu, driver, cuda, date] {
            put_text(&mut out, text);
        }
        out.extend_from_slice(&compute_capability.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        for record in &self.records {
            put_text(&mut out, &record.form);
            out.extend_from_slice(&record.ptx.to_le_bytes());
            out.extend_from_slice(&record.inputs.to_le_bytes());
            out.extend_from_slice(&record.words.to_le_bytes());
            out.extend_from_slice(&(record.raw.len() as u32).to_le_bytes());
            for word in record.raw.iter().chain(&record.checksums) {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        let checksum = crc32(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a file. Whatever the bytes are, the answer is an archive or an error, and no more memory is taken than the
    /// file is long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() > MAX_ARCHIVE_BYTES {
            return Err(FormatError::TooLong(bytes.len()));
        }
        if !bytes.starts_with(MAGIC) {
            return Err(FormatError::NotAnArchive);
        }
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(FormatError::Truncated("checksum"))?;
        let mut reader = Reader { rest: body.get(MAGIC.len()..).unwrap_or_default() };
        // The version comes first: another version may have another checksum.
        let version = reader.u32("version")?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        if crc32(body) != u32::from_le_bytes(*checksum) {
            return Err(FormatError::Damaged);
        }
        let origin = Origin {
            gpu: reader.text("GPU name")?,
            driver: reader.text("driver version")?,
            cuda: reader.text("CUDA version")?,
            date: reader.text("date")?,
            compute_capability: reader.u32("compute capability")?,
        };
        let seed = reader.u64("seed")?;
        let count = reader.u32("number of records")?;
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(reader.record()?);
        }
        if !reader.rest.is_empty() {
            return Err(FormatError::Invalid("number of records"));
        }
        Ok(Self { origin, seed, records })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // A name longer than the format takes is cut at a character, so that what is written can be read.
    let mut end = text.len().min(MAX_STRING_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(FormatError::Truncated(field))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(FormatError::Truncated(field))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn text(&mut self, field: &'static str) -> Result<String, FormatError> {
        let bytes = u16::from_le_bytes(self.array(field)?) as usize;
        if bytes > MAX_STRING_BYTES {
            return Err(FormatError::Invalid(field));
        }
        let text = std::str::from_utf8(self.take(bytes, field)?).map_err(|_| FormatError::Invalid(field))?;
        Ok(text.to_owned())
    }

    fn words(&mut self, count: usize, field: &'static str) -> Result<Vec<u32>, FormatError> {
        let bytes = self.take(count.checked_mul(4).ok_or(FormatError::Invalid(field))?, field)?;
        Ok(bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect())
    }

    fn record(&mut self) -> Result<Record, FormatError> {
        let form = self.text("form id")?;
        let (ptx, inputs) = (self.u64("PTX fingerprint")?, self.u64("input fingerprint")?);
        let (words, raw) = (self.u32("number of words")?, self.u32("number of raw words")?);
        let rest = words.checked_sub(raw).ok_or(FormatError::Invalid("number of raw words"))?;
        let raw = self.words(raw as usize, "raw words")?;
        let checksums = self.words((rest as usize).div_ceil(WORDS_PER_CHECKSUM), "checksums")?;
        Ok(Record { form, ptx, inputs, words, raw, checksums })
    }
}

/// CRC-32 of the words' little-endian bytes.
pub(super) fn crc32_of_words(words: &[u32]) -> u32 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    crc32(&bytes)
}

/// The reflected CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut entry = i as u32;
            let mut bit = 0;
            while bit < 8 {
                entry = entry >> 1 ^ if entry & 1 != 0 { 0xedb8_8320 } else { 0 };
                bit += 1;
            }
            table[i] = entry;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, &byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archives() -> impl Strategy<Value = Archive> {
        let record = ("[a-z.0-9 ]{0,40}", any::<u64>(), any::<u64>(), 0u32..2000, 0usize..2000).prop_map(
            |(form, ptx, inputs, words, raw)| {
                let all: Vec<u32> = (0..words).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
                Record::of(form, ptx, inputs, &all, raw.min(all.len()))
            },
        );
        let origin = ("\\PC{0,20}", "[0-9.]{0,9}", "[0-9.]{0,9}", "[0-9-]{0,10}", any::<u32>());
        (origin, any::<u64>(), prop::collection::vec(record, 0..5)).prop_map(|(origin, seed, records)| {
            let (gpu, driver, cuda, date, compute_capability) = origin;
            Archive { origin: Origin { gpu, driver, cuda, date, compute_capability }, seed, records }
        })
    }

    /// Puts the right checksum under a changed file, so that the fields themselves are read.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some((body, checksum)) = bytes.split_last_chunk_mut::<4>() {
            *checksum = crc32(body).to_le_bytes();
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(archive in archives()) {
            prop_assert_eq!(Archive::from_bytes(&archive.to_bytes()), Ok(archive));
        }

        #[test]
        fn any_changed_byte_is_an_error(archive in archives(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = archive.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Archive::from_bytes(&bytes).is_err());
        }

        #[test]
        fn any_cut_is_an_error(archive in archives(), at in any::<prop::sample::Index>()) {
            let bytes = archive.to_bytes();
            let cut = &bytes[..at.index(bytes.len())];
            prop_assert!(Archive::from_bytes(cut).is_err());
        }

        #[test]
        fn hostile_files_are_errors_or_archives(
            archive in archives(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = archive.to_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len() - 12) + 12;
                bytes[at.min(archive.to_bytes().len() - 1)] = byte;
            }
            bytes.truncate(16 + cut.index(bytes.len() - 15));
            // A valid checksum lets the damage through to the fields: an archive that is read must be one that is written.
            let bytes = sealed(bytes);
            if let Ok(read) = Archive::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
            }
        }

        #[test]
        fn random_bytes_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Archive::from_bytes(&bytes).is_err());
            let begun = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat();
            let _ = Archive::from_bytes(&sealed(begun));
        }
    }

    #[test]
    fn each_error_says_what_is_wrong() {
        let bytes = Archive::default().to_bytes();
        assert_eq!(
            Archive::from_bytes(&vec![0; MAX_ARCHIVE_BYTES + 1]),
            Err(FormatError::TooLong(MAX_ARCHIVE_BYTES + 1))
        );
        assert_eq!(Archive::from_bytes(b"LACUNA-W"), Err(FormatError::NotAnArchive));
        assert_eq!(Archive::from_bytes(MAGIC), Err(FormatError::Truncated("version")));
        let mut other = bytes.clone();
        other[8] = 9;
        assert_eq!(
            Archive::from_bytes(&other).unwrap_err().to_string(),
            "a capture has format version 9, expected 1"
        );
        // A record count without records.
        let mut counted = bytes.clone();
        let at = counted.len() - 8;
        counted[at] = 7;
        assert_eq!(Archive::from_bytes(&sealed(counted)), Err(FormatError::Truncated("form id")));
        // Four thousand million words in a short file.
        let record = Record {
            words: 3,
            raw: vec![1, 2, 3],
            checksums: vec![],
            form: String::new(),
            ptx: 0,
            inputs: 0,
        };
        let mut huge = Archive { records: vec![record], ..Archive::default() }.to_bytes();
        let at = huge.len() - 4 - 12 - 8;
        huge[at..at + 8].fill(0xff);
        assert_eq!(Archive::from_bytes(&sealed(huge)), Err(FormatError::Truncated("raw words")));
    }

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
