//! What several of the examples need; the examples themselves are the files beside this folder.

mod guided;
mod shapes;

pub use guided::{Guided, open};
pub use shapes::{COLOURS, FORMS, Form, Shape, draw};
