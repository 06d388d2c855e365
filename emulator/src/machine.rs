//! The machine: memory, modules, launches.

use std::collections::HashMap;

use crate::ir::Kernel;
use crate::lines::LineTable;
use crate::memory::{Checked, Global, Place};
use crate::{Arch, Arg, Fault, FaultKind, LaunchShape, Options, Profile, ReadError, Report, launch, reader};

/// An address in the machine's global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePtr(u64);

impl DevicePtr {
    /// The null pointer: what a kernel gets for an output that is not wanted.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The pointer with this address.
    pub const fn from_address(address: u64) -> Self {
        DevicePtr(address)
    }

    /// The address as a kernel sees it.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The pointer `bytes` further on.
    pub const fn offset(self, bytes: u64) -> Self {
        DevicePtr(self.0.wrapping_add(bytes))
    }
}

/// A module loaded into a [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(u32);

/// A kernel of a loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelId(u32);

/// A kernel and the module it came with.
#[derive(Debug)]
struct Loaded {
    kernel: Kernel,
    module: usize,
}

#[derive(Debug)]
struct Module {
    kernels: HashMap<String, KernelId>,
    names: Vec<String>,
    lines: LineTable,
}

/// A GPU with its memory.
#[derive(Debug)]
pub struct Machine {
    profile: Profile,
    options: Options,
    global: Global,
    modules: Vec<Module>,
    kernels: Vec<Loaded>,
}

impl Machine {
    /// A machine with every check on.
    pub fn new(arch: Arch) -> Self {
        Machine::with_options(arch, Options::default())
    }

    /// A machine with these settings.
    pub fn with_options(arch: Arch, options: Options) -> Self {
        Machine {
            profile: Profile::of(arch),
            options,
            global: Global::default(),
            modules: Vec::new(),
            kernels: Vec::new(),
        }
    }

    /// The limits of this machine.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The settings of the launches to come.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Changes the settings of the launches to come.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Allocates `bytes` of global memory, uninitialised and 2^40 bytes away from everything else. `name` is what faults
    /// call it.
    pub fn alloc(&mut self, bytes: usize, name: &str) -> DevicePtr {
        DevicePtr(self.global.allocate(bytes, name))
    }

    /// Frees an allocation; `ptr` is its start. Later accesses to it are faults. Freeing null does nothing.
    pub fn free(&mut self, ptr: DevicePtr) -> Result<(), Fault> {
        if ptr == DevicePtr::NULL { Ok(()) } else { outside(self.global.free(ptr.0)) }
    }

    /// Marks an allocation as read-only for kernels, or as writable again.
    pub fn set_read_only(&mut self, ptr: DevicePtr, read_only: bool) -> Result<(), Fault> {
        let place = self.place(ptr, 0)?;
        self.global.allocation_mut(place.slot).read_only = read_only;
        Ok(())
    }

    /// Copies `src` to the machine.
    pub fn copy_in(&mut self, dst: DevicePtr, src: &[u8]) -> Result<(), Fault> {
        let Place { slot, offset } = self.place(dst, src.len())?;
        let range = offset..offset + src.len();
        let allocation = self.global.allocation_mut(slot);
        allocation.bytes[range.clone()].copy_from_slice(src);
        allocation.mark(range, true);
        Ok(())
    }

    /// Copies from the machine into `dst`. Bytes that nothing has written are a fault.
    pub fn copy_out(&self, src: DevicePtr, dst: &mut [u8]) -> Result<(), Fault> {
        let Place { slot, offset } = self.place(src, dst.len())?;
        let range = offset..offset + dst.len();
        let allocation = self.global.allocation(slot);
        outside(allocation.require_valid(range.clone()))?;
        dst.copy_from_slice(&allocation.bytes[range]);
        Ok(())
    }

    /// Copies within the machine; the ranges may overlap. Bytes that nothing has written stay so.
    pub fn copy_device(&mut self, src: DevicePtr, dst: DevicePtr, bytes: usize) -> Result<(), Fault> {
        let (from, to) = (self.place(src, bytes)?, self.place(dst, bytes)?);
        outside(self.global.copy(from, to, bytes))
    }

    /// Sets `bytes` bytes to `value`.
    pub fn fill(&mut self, dst: DevicePtr, value: u8, bytes: usize) -> Result<(), Fault> {
        let Place { slot, offset } = self.place(dst, bytes)?;
        let allocation = self.global.allocation_mut(slot);
        allocation.bytes[offset..offset + bytes].fill(value);
        allocation.mark(offset..offset + bytes, true);
        Ok(())
    }

    /// Reads a module. `lines` is the table from PTX lines to Rust lines that `ptx-builder` writes next to the text; with
    /// it, faults name both.
    pub fn load_module(&mut self, ptx: &str, lines: Option<&str>) -> Result<ModuleId, ReadError> {
        let lines = LineTable::read(lines.unwrap_or_default())?;
        let first = self.global.len();
        let module = reader::read(ptx, &|index| Global::address_of(first + index))?;
        let arch = self.profile.arch;
        if module.target > arch.number() {
            let message = format!("the module is for sm_{}, and this machine is {arch}", module.target);
            return Err(ReadError::new(1, message));
        }
        for variable in &module.globals {
            let address = DevicePtr(self.global.allocate(variable.bytes.len(), &variable.name));
            let written = self.copy_in(address, &variable.bytes);
            debug_assert_eq!(written, Ok(()));
            if let Ok(place) = self.place(address, 0) {
                self.global.allocation_mut(place.slot).read_only = variable.read_only;
            }
        }
        let id = self.modules.len();
        let mut loaded = Module { kernels: HashMap::new(), names: Vec::new(), lines };
        for kernel in module.kernels {
            let kernel_id = KernelId(self.kernels.len() as u32);
            loaded.names.push(kernel.name.clone());
            loaded.kernels.insert(kernel.name.clone(), kernel_id);
            self.kernels.push(Loaded { kernel, module: id });
        }
        self.modules.push(loaded);
        Ok(ModuleId(id as u32))
    }

    /// The kernel called `name`.
    pub fn kernel(&self, module: ModuleId, name: &str) -> Option<KernelId> {
        self.modules.get(module.0 as usize)?.kernels.get(name).copied()
    }

    /// Names of a module's kernels, in the order of the text.
    pub fn kernel_names(&self, module: ModuleId) -> impl Iterator<Item = &str> {
        self.modules
            .get(module.0 as usize)
            .into_iter()
            .flat_map(|module| module.names.iter().map(String::as_str))
    }

    /// Runs a kernel to its end, or to the first fault.
    pub fn launch(&mut self, kernel: KernelId, shape: &LaunchShape, args: &[Arg]) -> Result<Report, Fault> {
        let Some(loaded) = self.kernels.get(kernel.0 as usize) else {
            return Err(Fault::new(FaultKind::BadLaunch, "the kernel belongs to another machine"));
        };
        let lines = &self.modules[loaded.module].lines;
        launch::run(&loaded.kernel, lines, &self.profile, &self.options, &mut self.global, shape, args)
    }

    fn place(&self, ptr: DevicePtr, bytes: usize) -> Result<Place, Fault> {
        outside(self.global.place(ptr.0, bytes))
    }
}

/// The fault of something that no kernel did.
fn outside<T>(result: Checked<T>) -> Result<T, Fault> {
    result.map_err(|trouble| Fault::from_trouble(*trouble, None))
}
