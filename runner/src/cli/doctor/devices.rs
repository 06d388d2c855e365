//! The devices of this machine.

use lacuna::pattern::SinkAndLocalOptions;
use lacuna::{Arch, Device, Pattern};
use lacuna_runner::report::format_bytes;
use serde::{Serialize, Serializer};

/// A device, or why there is none.
#[derive(Serialize)]
pub struct FoundDevice {
    /// As `--device` takes it; of a missing one, its kind.
    pub name: String,
    pub what: String,
    #[serde(rename = "usable", serialize_with = "is_some")]
    pub device: Option<Device>,
}

fn is_some<S: Serializer>(device: &Option<Device>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(device.is_some())
}

/// Looks for devices: the processor, every GPU, the emulator.
pub fn find() -> Vec<FoundDevice> {
    let mut found =
        vec![FoundDevice { name: "cpu".into(), what: "this processor".into(), device: Some(Device::Cpu) }];
    for ordinal in 0.. {
        let device = Device::Cuda(ordinal);
        match describe(device) {
            Ok(what) => found.push(FoundDevice { name: device.to_string(), what, device: Some(device) }),
            // Past the last one.
            Err(_) if ordinal > 0 => break,
            Err(e) => {
                found.push(FoundDevice { name: "cuda".into(), what: e.to_string(), device: None });
                break;
            }
        }
    }
    let device = Device::Emulated(Arch::Sm80);
    found.push(match describe(device) {
        Ok(what) => FoundDevice { name: device.to_string(), what, device: Some(device) },
        Err(e) => FoundDevice { name: "emulated".into(), what: e.to_string(), device: None },
    });
    found
}

fn describe(device: Device) -> lacuna::Result<String> {
    let Some(context) = device.context()? else { return Ok(String::new()) };
    let info = context.info();
    let (major, minor) = info.compute_capability;
    let memory = match device {
        Device::Cuda(_) => format!(", {}", format_bytes(context.memory()?.total)),
        _ => String::new(),
    };
    Ok(format!("{}, compute capability {major}.{minor}{memory}", info.name))
}

/// A pattern of blocks that GPU kernels take.
pub fn blocks() -> Pattern {
    Pattern::SinkAndLocal(SinkAndLocalOptions { global_window: 32, local_window: 64, block_size: 64 })
}

/// A line for each device.
pub fn render(devices: &[FoundDevice]) -> String {
    let width = devices.iter().map(|found| found.name.len()).max().unwrap_or(0);
    let line = |(i, found): (usize, &FoundDevice)| {
        let heading = if i == 0 { "devices" } else { "" };
        format!("{heading:<18}{:<width$}  {}\n", found.name, found.what)
    };
    devices.iter().enumerate().map(line).collect()
}
