//! PTX images, and which of them a device runs.

use lacuna_core::DeviceError;

use crate::driver::DeviceInfo;

/// Kernels as PTX text.
///
/// A [`Context`](crate::Context) gives a device the kernels one by one, when they are first planned: a driver compiles
/// PTX when it is loaded, and nobody uses all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image<'a> {
    /// The text, as `ptx-builder` writes it.
    pub ptx: &'a str,
    /// Which line of Rust each line comes from, as `ptx-builder` writes it: for what the emulator reports. Empty: not known.
    pub lines: &'a str,
}

impl<'a> From<&'a str> for Image<'a> {
    /// An image without a table of lines.
    fn from(ptx: &'a str) -> Self {
        Self { ptx, lines: "" }
    }
}

/// What begins a kernel, at the start of a line; it ends with the next line that is a closing brace alone.
const ENTRY: &str = ".visible .entry ";

/// The kernel that a line begins.
fn entry_of(line: &str) -> Option<&str> {
    let entry = line.strip_prefix(ENTRY)?;
    let end = entry.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(entry.len());
    Some(&entry[..end])
}

/// The kernels of an image.
pub(crate) fn kernels(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.lines().filter_map(entry_of)
}

/// The text with every kernel but `name` taken out; lines keep their numbers. `None`: there is no such kernel.
pub(crate) fn with_one_kernel(ptx: &str, name: &str) -> Option<String> {
    let mut text = String::new();
    let (mut found, mut skipping) = (false, false);
    for line in ptx.lines() {
        if let Some(entry) = entry_of(line) {
            skipping = entry != name;
            found |= !skipping;
        }
        if !skipping {
            text.push_str(line);
        }
        text.push('\n');
        skipping &= line != "}";
    }
    found.then_some(text)
}

/// The target of a PTX image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    /// Major and minor compute capability.
    capability: (u32, u32),
    /// Whether it runs on that compute capability alone (`sm_90a`), not on later ones (`sm_80`).
    exact: bool,
}

impl Target {
    /// Reads the `.target` directive.
    fn of(image: &str) -> Result<Self, DeviceError> {
        let directive = image.lines().find_map(|line| line.trim_start().strip_prefix(".target"));
        let name =
            directive.unwrap_or("").split([',', ' ', '\t']).find(|word| !word.is_empty()).unwrap_or("");
        let digits = name.strip_prefix("sm_").unwrap_or("");
        let (digits, exact) = match digits.strip_suffix('a') {
            Some(digits) => (digits, true),
            None => (digits, false),
        };
        match digits.parse::<u32>() {
            Ok(n) if n >= 10 => Ok(Self { capability: (n / 10, n % 10), exact }),
            _ => Err(DeviceError::InvalidImage { reason: format!("expected a .target sm_NN, got {name:?}") }),
        }
    }

    fn runs_on(self, capability: (u32, u32)) -> bool {
        if self.exact { self.capability == capability } else { self.capability <= capability }
    }
}

/// The image made for the newest target that runs on the device.
pub(crate) fn choose<'a>(images: &[Image<'a>], device: &DeviceInfo) -> Result<Image<'a>, DeviceError> {
    let mut best: Option<(Target, Image)> = None;
    let mut least: Option<Target> = None;
    for &image in images {
        let target = Target::of(image.ptx)?;
        if least.is_none_or(|least| target < least) {
            least = Some(target);
        }
        if target.runs_on(device.compute_capability) && best.is_none_or(|(best, _)| target > best) {
            best = Some((target, image));
        }
    }
    match (best, least) {
        (Some((_, image)), _) => Ok(image),
        (None, Some(least)) => Err(DeviceError::UnsupportedArch {
            device: device.name.clone(),
            have: device.compute_capability,
            need: least.capability,
        }),
        (None, None) => Err(DeviceError::InvalidImage { reason: "no image was given".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SM_80: &str = "//\n.version 8.0\n.target sm_80\n.address_size 64\n";
    const SM_90A: &str = ".version 8.0\n.target sm_90a, debug\n";

    fn choose<'a>(images: &[&'a str], device: &DeviceInfo) -> Result<&'a str, DeviceError> {
        let images: Vec<Image> = images.iter().map(|&ptx| ptx.into()).collect();
        super::choose(&images, device).map(|image| image.ptx)
    }

    #[test]
    fn one_kernel_keeps_its_lines() {
        let ptx = ".version 8.0\n.target sm_80\n.visible .entry a(\n)\n{\n\t{ .reg .b32 x;\n}\n\n\
                   .visible .entry a_b()\n.maxntid 1\n{\n\tret;\n}\n";
        let only = with_one_kernel(ptx, "a_b").unwrap();
        assert_eq!(
            only,
            ".version 8.0\n.target sm_80\n\n\n\n\n\n\n.visible .entry a_b()\n.maxntid 1\n{\n\tret;\n}\n"
        );
        assert_eq!(with_one_kernel(ptx, "a").unwrap().lines().count(), ptx.lines().count());
        assert!(!with_one_kernel(ptx, "a").unwrap().contains("a_b"));
        assert!(kernels(ptx).eq(["a", "a_b"]));
        assert_eq!(with_one_kernel(ptx, "b"), None);
        assert_eq!(with_one_kernel("", ""), None);
    }

    fn device(compute_capability: (u32, u32)) -> DeviceInfo {
        DeviceInfo {
            name: "a device".into(),
            driver: String::new(),
            compute_capability,
            multiprocessors: 1,
            max_smem_bytes: 0,
        }
    }

    #[test]
    fn a_device_takes_the_newest_image_that_it_runs() {
        for (capability, want) in
            [((8, 0), SM_80), ((8, 9), SM_80), ((9, 0), SM_90A), ((10, 0), SM_80), ((12, 1), SM_80)]
        {
            assert_eq!(choose(&[SM_80, SM_90A], &device(capability)), Ok(want), "{capability:?}");
            assert_eq!(choose(&[SM_90A, SM_80], &device(capability)), Ok(want), "{capability:?}");
        }
    }

    #[test]
    fn an_old_device_is_told_what_is_needed() {
        let why = choose(&[SM_90A, SM_80], &device((7, 5))).unwrap_err().to_string();
        assert_eq!(why, "a device has compute capability 7.5, expected at least 8.0");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for text in ["", ".target\n", ".target sm_\n", ".target compute_80\n", "junk", ".target sm_9x\n"] {
            let why = choose(&[text], &device((8, 0))).unwrap_err();
            assert!(matches!(why, DeviceError::InvalidImage { .. }), "{text:?}: {why}");
        }
        assert!(choose(&[], &device((8, 0))).is_err());
    }
}
