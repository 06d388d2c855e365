//! What people read: numbers with units, aligned tables, pictures of masks, files that are whole or not there.

mod mask_picture;
mod number;
mod table;
mod write_file;

pub use mask_picture::{MAX_SIDE, MaskPicture};
pub use number::{format_bytes, format_count, format_density, format_duration, format_rate, format_speedup};
pub use table::{Align, Style, Table};
pub use write_file::write_file;
