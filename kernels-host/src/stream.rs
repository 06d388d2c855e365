//! Streams and events that free themselves.

use std::sync::Arc;

use lacuna_core::{DeviceError, Result};

use crate::driver::{Driver, EventHandle, RawStream};

/// A queue of device work, in order.
#[derive(Debug)]
pub struct Stream {
    driver: Arc<dyn Driver>,
    raw: RawStream,
}

impl Stream {
    pub(crate) fn default_of(driver: Arc<dyn Driver>) -> Self {
        Self { driver, raw: RawStream::DEFAULT }
    }

    pub(crate) fn new(driver: Arc<dyn Driver>) -> Result<Self, DeviceError> {
        let raw = driver.create_stream()?;
        Ok(Self { driver, raw })
    }

    /// Its handle, for the raw level.
    pub fn raw(&self) -> RawStream {
        self.raw
    }

    /// Waits until all work on it is done.
    ///
    /// # Errors
    /// What the driver reports, errors of the work waited for among them.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        Ok(unsafe { self.driver.synchronize(self.raw) }?)
    }

    /// Makes what is queued from now on wait for `event`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both live as long as their owners.
        Ok(unsafe { self.driver.wait_event(self.raw, event.handle) }?)
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.raw != RawStream::DEFAULT {
            // SAFETY: made by `new`. A failure has nowhere to go.
            let _ = unsafe { self.driver.destroy_stream(self.raw) };
        }
    }
}

/// A mark in a stream, and the time at which the device came to it.
#[derive(Debug)]
pub struct Event {
    driver: Arc<dyn Driver>,
    handle: EventHandle,
}

impl Event {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Result<Self, DeviceError> {
        let handle = driver.create_event()?;
        Ok(Self { driver, handle })
    }

    /// Sets the mark behind what is queued on `stream`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live as long as their owners.
        Ok(unsafe { self.driver.record_event(self.handle, stream.raw) }?)
    }

    /// Waits for `end`, and gives the milliseconds from `self` to it; on the emulator, those of emulation.
    ///
    /// # Errors
    /// What the driver reports; marks that were never set among it.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        // SAFETY: both live as long as their owners; the driver refuses an event that was not recorded.
        Ok(unsafe { self.driver.elapsed_ms(self.handle, end.handle) }?)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`. A failure has nowhere to go.
        let _ = unsafe { self.driver.destroy_event(self.handle) };
    }
}
