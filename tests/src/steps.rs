//! What the demos print between the outputs of the product.

use std::time::Instant;

use crate::clock::now;

/// Titles, and how long each step took.
#[derive(Default)]
pub struct Steps {
    began: Option<Instant>,
}

impl Steps {
    /// Ends the step before, and begins one with a title.
    pub fn next(&mut self, title: &str) {
        self.end();
        println!("== {title}");
        self.began = Some(now());
    }

    /// Says how long the step took.
    pub fn end(&mut self) {
        if let Some(began) = self.began.take() {
            println!("   ({:.2} s)", began.elapsed().as_secs_f32());
        }
    }
}
