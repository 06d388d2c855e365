//! Cosines and sines of positions, in device memory.

use lacuna::gpu::{Context, DeviceBuffer, DeviceView};

use super::operations::matrix;
use crate::Result;
use crate::model::rope;

/// The table of the positions from 0 on, `[positions, rotary_dim]`: a row holds the cosines, then the sines. Made by the host,
/// whose angles are in `f64`.
pub(super) struct RotaryTable {
    table: DeviceBuffer<f32>,
    positions: usize,
    rotary_dim: usize,
}

impl RotaryTable {
    /// The table of `positions` positions.
    pub fn new(context: &Context, inv_freq: &[f64], positions: usize) -> Result<Self> {
        let position_ids: Vec<u32> = (0..positions as u32).collect();
        let host = rope::RotaryTable::new(inv_freq, &position_ids);
        let table = DeviceBuffer::from_host(context, host.as_slice(), "the rotary table")?;
        Ok(Self { table, positions, rotary_dim: 2 * inv_freq.len() })
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// All of it.
    pub fn view(&self) -> lacuna::Result<DeviceView<'_, f32>> {
        matrix(&self.table, 0, self.positions, self.rotary_dim)
    }
}
