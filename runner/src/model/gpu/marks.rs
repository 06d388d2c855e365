//! The device's clock.

use std::time::Duration;

use lacuna::Report;
use lacuna::gpu::{Context, Event};

use crate::model::LayerReport;

/// Marks in the stream, from one layer to the next.
pub(super) struct Marks {
    pub start: Event,
    pub projected: Event,
    pub searched: Event,
    pub attended: Event,
    pub end: Event,
}

impl Marks {
    pub fn new(context: &Context) -> lacuna::Result<Self> {
        let event = || context.new_event();
        Ok(Self {
            start: event()?,
            projected: event()?,
            searched: event()?,
            attended: event()?,
            end: event()?,
        })
    }

    /// What the device's clock says of a layer. What lies before its attention is counted with the layer before it, but for
    /// the first.
    pub fn report(&self, density: f64) -> lacuna::Result<LayerReport> {
        let between = |from: &Event, to: &Event| -> lacuna::Result<Duration> {
            Ok(Duration::from_secs_f32(from.elapsed_ms(to)?.max(0.0) / 1e3))
        };
        let search = between(&self.projected, &self.searched)?;
        let attention = between(&self.searched, &self.attended)?;
        let total = between(&self.start, &self.end)?;
        Ok(LayerReport::new(Report { density, search, attention }, total))
    }
}
