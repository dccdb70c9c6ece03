//! Pictures: eight bits of red, green and blue a pixel, and what is done to them on the host.

mod bicubic;
mod canny;
mod decode;
mod encode;
mod exif_text;
mod measure;
mod pixels;
mod resize;
mod sheet;

pub use encode::PictureFormat;
pub use measure::{psnr, ssim};
pub use pixels::Picture;
pub use resize::Filter;
pub use sheet::Sheet;
