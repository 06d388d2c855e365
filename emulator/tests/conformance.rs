//! From capture to replay: the emulator stands in for the GPU, and the committed captures are replayed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use lacuna_emulator::Arch;
use lacuna_emulator::conformance::{
    Archive, Emulated, Finding, Form, MAX_ARCHIVE_BYTES, Origin, SEED, capture, form, forms, replay, run,
};
use lacuna_emulator::numerics::Class;

fn origin(arch: Arch) -> Origin {
    Origin {
        gpu: "the emulator itself".into(),
        driver: "none".into(),
        cuda: "none".into(),
        date: "2026-01-01".into(),
        compute_capability: arch.number(),
    }
}

fn captured(arch: Arch, forms: &[Form]) -> Archive {
    capture(&mut Emulated::new(arch), forms, SEED, origin(arch)).unwrap()
}

/// A few forms of every kind: exact and approximate, all in raw words or most under checksums.
fn sample() -> Vec<Form> {
    let ids = [
        "add.rn.f32",
        "ex2.approx.ftz.f32",
        "mul.wide.u32",
        "fma.rn.f16x2",
        "sin.approx.f32 everywhere",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
    ];
    ids.map(|id| form(id).expect("the table has this form")).to_vec()
}

/// Deletes its directory at the end.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lacuna-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // A directory that is left behind harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_form_runs_and_replays() {
    let forms = forms();
    for arch in [Arch::Sm80, Arch::Sm90a] {
        let mut device = Emulated::new(arch);
        let failures: Vec<String> = forms
            .iter()
            .filter_map(|form| run(&mut device, form, SEED).err())
            .map(|e| e.to_string())
            .collect();
        assert!(failures.is_empty(), "{} of {} forms:\n{}", failures.len(), forms.len(), failures.join("\n"));
    }
    let archive = captured(Arch::Sm80, &forms);
    let bytes = archive.to_bytes();
    assert!(bytes.len() < MAX_ARCHIVE_BYTES, "{} bytes", bytes.len());
    let replayed = replay(&Archive::from_bytes(&bytes).unwrap());
    assert_eq!(replayed.findings, []);
    assert_eq!(replayed.forms, forms.len());
}

#[test]
fn a_file_survives_the_disk_and_a_changed_byte_does_not() {
    let directory = TemporaryDirectory::new("conformance");
    let path = directory.0.join("80.bin");
    fs::write(&path, captured(Arch::Sm80, &sample()).to_bytes()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let replayed = replay(&Archive::from_bytes(&bytes).unwrap());
    assert_eq!((replayed.forms, replayed.findings), (sample().len(), vec![]));
    for at in [0, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fs::write(&path, &changed).unwrap();
        assert!(Archive::from_bytes(&fs::read(&path).unwrap()).is_err(), "byte {at}");
    }
}

#[test]
fn a_wrong_result_is_found_where_it_is() {
    let archive = captured(Arch::Sm80, &sample());
    let change = |form: &str, f: &dyn Fn(&mut lacuna_emulator::conformance::Record)| {
        let mut changed = archive.clone();
        f(changed.records.iter_mut().find(|record| record.form == form).unwrap());
        replay(&changed).findings
    };
    let [add, ex2, sin] = ["add.rn.f32", "ex2.approx.ftz.f32", "sin.approx.f32 everywhere"];
    let product = "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32";

    // The last digit of one exact result.
    let [Finding::Differs { form, case: 77, word: 0, expected, got, differing: 1 }] =
        &change(add, &|record| record.raw[77] ^= 1)[..]
    else {
        panic!("one finding for one changed word");
    };
    assert_eq!((form.as_str(), expected ^ got), (add, 1));

    // The second word of the tenth lane of a product, and a checksum.
    let found = change(product, &|record| {
        record.raw[41] ^= 1 << 31;
        record.checksums[3] ^= 1;
    });
    assert!(matches!(found[0], Finding::Differs { case: 10, word: 1, .. }), "{found:?}");
    assert!(matches!(found[1], Finding::ChecksumDiffers { case: 1216, differing: 1, .. }), "{found:?}");

    // An approximate result may be two units off, not five; an unspecified one may be anything.
    let Class::Ulp(units) = form_class(ex2) else { panic!("the class of ex2 is in units") };
    let normal = archive.records.iter().find(|r| r.form == ex2).unwrap().raw.iter();
    let at = normal.clone().position(|&x| (0x3f80_0001..0x4000_0000).contains(&x)).unwrap();
    assert_eq!(change(ex2, &|record| record.raw[at] += units), []);
    assert_eq!(change(ex2, &|record| record.raw[at] += units + 1).len(), 1);
    assert_eq!(change(sin, &|record| record.raw[5] ^= 0x1234), []);

    // What is not what was captured.
    assert!(matches!(change(add, &|record| record.ptx ^= 1)[..], [Finding::Outdated { what: "kernel", .. }]));
    assert!(matches!(
        change(add, &|record| record.inputs ^= 1)[..],
        [Finding::Outdated { what: "operands", .. }]
    ));
    assert!(matches!(change(add, &|record| record.form.push('x'))[..], [Finding::UnknownForm(_)]));
    let mut elsewhere = archive.clone();
    elsewhere.origin.compute_capability = 75;
    assert_eq!(replay(&elsewhere).findings, [Finding::UnknownArchitecture(75)]);
}

fn form_class(id: &str) -> Class {
    form(id).expect("the table has this form").class
}

/// The tensor cores of the two generations differ, so a capture of one must not replay on the other.
#[test]
fn a_capture_belongs_to_its_architecture() {
    let product = form("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32").unwrap();
    let mut archive = captured(Arch::Sm80, &[product]);
    assert_eq!(replay(&archive).findings, []);
    archive.origin.compute_capability = 90;
    assert!(!replay(&archive).findings.is_empty());
}

#[test]
fn committed_captures_replay() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .collect();
    files.sort();
    // Written past the harness's capture: whoever runs the tests should see which devices have spoken.
    let say = |text: String| writeln!(std::io::stderr(), "conformance: {text}").unwrap();
    if files.is_empty() {
        say(format!(
            "no device has been captured yet, {} forms are derived from documentation",
            forms().len()
        ));
    }
    let mut total = 0;
    let mut findings = Vec::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(&path).unwrap();
        total += bytes.len();
        let archive = Archive::from_bytes(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let replayed = replay(&archive);
        let Origin { gpu, driver, date, .. } = &archive.origin;
        say(format!(
            "{name}: {} forms, {} words of {gpu} (driver {driver}, {date})",
            replayed.forms, replayed.words
        ));
        findings.extend(replayed.findings.into_iter().map(|finding| format!("{name}: {finding}")));
    }
    assert!(total <= MAX_ARCHIVE_BYTES, "{total} bytes of captures");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
