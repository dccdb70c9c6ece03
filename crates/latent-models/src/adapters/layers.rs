//! The layers of a network that a LoRA may change, by their names in files.

use latent_nn::layers::{Adaptable, Conv2d, Linear};

/// Shows every linear layer and convolution with its name.
pub(crate) trait Layers {
    /// `at` is this part's own name, without a dot behind it; empty for a whole network.
    fn layers(&mut self, at: &str, visit: &mut dyn FnMut(&str, Adaptable<'_>));
}

impl Layers for Linear {
    fn layers(&mut self, at: &str, visit: &mut dyn FnMut(&str, Adaptable<'_>)) {
        visit(at, Adaptable::Linear(self));
    }
}

impl Layers for Conv2d {
    fn layers(&mut self, at: &str, visit: &mut dyn FnMut(&str, Adaptable<'_>)) {
        visit(at, Adaptable::Conv2d(self));
    }
}

impl<T: Layers> Layers for Vec<T> {
    fn layers(&mut self, at: &str, visit: &mut dyn FnMut(&str, Adaptable<'_>)) {
        for (index, part) in self.iter_mut().enumerate() {
            part.layers(&format!("{at}.{index}"), visit);
        }
    }
}

impl<T: Layers> Layers for Option<T> {
    fn layers(&mut self, at: &str, visit: &mut dyn FnMut(&str, Adaptable<'_>)) {
        if let Some(part) = self {
            part.layers(at, visit);
        }
    }
}

/// The name of a field of the part `at`.
pub(crate) fn below(at: &str, field: &str) -> String {
    if at.is_empty() {
        field.to_owned()
    } else {
        format!("{at}.{field}")
    }
}

/// [`Layers`] of a struct: the fields that hold layers, in its order.
macro_rules! layers {
    ($part:ty { $($field:ident),+ $(,)? }) => {
        impl $crate::adapters::layers::Layers for $part {
            fn layers(
                &mut self,
                at: &str,
                visit: &mut dyn FnMut(&str, latent_nn::layers::Adaptable<'_>),
            ) {
                $(
                    let name = $crate::adapters::layers::below(at, stringify!($field));
                    $crate::adapters::layers::Layers::layers(&mut self.$field, &name, visit);
                )+
            }
        }
    };
}

pub(crate) use layers;
