//! The composition root: builds everything from settings, owns start, drain and stop.
